//! Rows that failed, by why.

use std::collections::BTreeMap;

use manifests::paths;
use report::{Block, Cell, Column, Table};
use stages::Step;
use workers::WorkerError;
use workers::publish::{Of, QuarantineLine};

use super::captions::reason_of;
use crate::build::Build;

/// What is read of a stage's listing: many thousand rows.
const MOST_BYTES: u64 = 8 << 20;

/// Rows that failed, of all stages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AllFailed {
    /// Those of most rows first.
    by_reason: Vec<Failed>,
    /// Stages of whose listing only the beginning was read.
    cut: Vec<&'static str>,
}

/// Rows of one stage that failed for one reason, or problems of the source alike.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failed {
    stage: String,
    of: Of,
    lines: u64,
    /// One of them, with its whole reason.
    example: (String, String),
}

pub(super) async fn gather(build: &Build) -> Result<AllFailed, WorkerError> {
    let mut all = AllFailed::default();
    for step in stages::steps(&build.spec) {
        let Step::Map(stage) = step else { continue };
        let path = paths::quarantine(&build.spec.country, stage.name);
        let Some(meta) = build.work.head(&path).await? else { continue };
        let bytes = build.work.get_range(&path, 0..meta.size.min(MOST_BYTES), None).await?;
        all.by_reason.extend(by_reason(stage.name, &String::from_utf8_lossy(&bytes)));
        if meta.size > MOST_BYTES {
            all.cut.push(stage.name);
        }
    }
    all.by_reason.sort_by_key(|failed: &Failed| std::cmp::Reverse(failed.lines));
    Ok(all)
}

/// A last line that was cut is left out.
fn by_reason(stage: &str, listing: &str) -> Vec<Failed> {
    let mut reasons: BTreeMap<(Of, String), Failed> = BTreeMap::new();
    for QuarantineLine { what, why, of } in listing.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        let example = (what, why.clone());
        let of_reason = || Failed { stage: stage.to_owned(), of, lines: 0, example };
        reasons.entry((of, reason_of(&why))).or_insert_with(of_reason).lines += 1;
    }
    reasons.into_values().collect()
}

/// Reasons shown at most.
const SHOWN: usize = 30;

/// A table if any row has failed, and one of the source's problems.
pub(super) fn blocks(all: &AllFailed) -> Vec<Block> {
    let cut = match all.cut.is_empty() {
        true => String::new(),
        false => format!(" Counted in the first {} MiB of the listing of {}.", MOST_BYTES >> 20, all.cut.join(", ")),
    };
    let rows = "Rows that failed, with an example for each reason. `urbancross run --retry-errors` tries them again.";
    let source = "Problems of the source, with an example of each. They may have cost no row.";
    [(Of::Row, "rows", rows), (Of::Source, "lines", source)]
        .into_iter()
        .filter_map(|(of, unit, caption)| table(&all.by_reason, of, unit, format!("{caption}{cut}")))
        .collect()
}

fn table(all: &[Failed], of: Of, unit: &str, caption: String) -> Option<Block> {
    let rows = all.iter().filter(|failed| failed.of == of).take(SHOWN);
    let rows: Vec<_> = rows
        .map(|Failed { stage, lines, example: (what, why), .. }| {
            vec![
                Cell::Text(stage.clone()),
                Cell::Number(*lines as f64),
                Cell::Text(what.clone()),
                Cell::Text(why.chars().take(300).collect()),
            ]
        })
        .collect();
    let columns = vec![Column::text("stage"), Column::number(unit), Column::text("for example"), Column::text("why")];
    (!rows.is_empty()).then_some(Block::Table(Table { caption, columns, rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_reasons_count_together_and_a_cut_line_is_left_out() {
        let listing = concat!(
            r#"{"what":"a","why":"12 bytes of 100"}"#,
            "\n",
            r#"{"what":"b","why":"13 bytes of 100"}"#,
            "\n",
            r#"{"what":"c","why":"no picture"}"#,
            "\n",
            r#"{"what":"d","wh"#
        );
        let found = by_reason("images", listing);
        let rows: Vec<(u64, &str)> = found.iter().map(|failed| (failed.lines, failed.example.0.as_str())).collect();
        assert_eq!(rows.len(), 2, "{found:?}");
        assert!(rows.contains(&(2, "a")) && rows.contains(&(1, "c")));
        assert_eq!(blocks(&AllFailed { by_reason: found, cut: Vec::new() }).len(), 1);
        assert!(blocks(&AllFailed::default()).is_empty());
    }

    /// They may cost no row: `--retry-errors` does nothing for them.
    #[test]
    fn problems_of_the_source_are_told_apart_and_a_cut_listing_is_called_one() {
        let listing = concat!(
            r#"{"what":"x.zip","why":"holds it twice; the last one counts","of":"source"}"#,
            "\n",
            r#"{"what":"a","why":"no picture","of":"row"}"#,
            "\n"
        );
        let all = AllFailed { by_reason: by_reason("geotags", listing), cut: vec!["geotags"] };
        let captions: Vec<String> = blocks(&all)
            .into_iter()
            .map(|block| match block {
                Block::Table(table) if table.rows.len() == 1 => table.caption,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(captions[0].starts_with("Rows that failed") && captions[1].starts_with("Problems of the source"));
        assert!(captions.iter().all(|caption| caption.contains("first 8 MiB of the listing of geotags")));
    }
}
