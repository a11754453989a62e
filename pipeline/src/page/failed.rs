//! Rows that failed, by why.

use std::collections::BTreeMap;

use manifests::paths;
use report::{Block, Cell, Column, Table};
use serde::Deserialize;
use stages::Step;
use workers::WorkerError;

use super::captions::reason_of;
use crate::build::Build;

/// What is read of a stage's listing: many thousand rows.
const MOST_BYTES: u64 = 8 << 20;

/// One line of a quarantine listing.
#[derive(Deserialize)]
struct Line {
    what: String,
    why: String,
}

/// Rows of one stage that failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    stage: String,
    rows: u64,
    /// One of them, with its whole reason.
    example: (String, String),
}

/// Of all stages, those of most rows first.
pub(super) async fn gather(build: &Build) -> Result<Vec<Failed>, WorkerError> {
    let mut failed = Vec::new();
    for step in stages::steps(&build.spec) {
        let Step::Map(stage) = step else { continue };
        let path = paths::quarantine(&build.spec.country, stage.name);
        let Some(meta) = build.work.head(&path).await? else { continue };
        let bytes = build.work.get_range(&path, 0..meta.size.min(MOST_BYTES), None).await?;
        failed.extend(by_reason(stage.name, &String::from_utf8_lossy(&bytes)));
    }
    failed.sort_by_key(|failed: &Failed| std::cmp::Reverse(failed.rows));
    Ok(failed)
}

/// A last line that was cut is left out.
fn by_reason(stage: &str, listing: &str) -> Vec<Failed> {
    let mut reasons: BTreeMap<String, Failed> = BTreeMap::new();
    for Line { what, why } in listing.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        let example = (what, why.clone());
        let of_reason = || Failed { stage: stage.to_owned(), rows: 0, example };
        reasons.entry(reason_of(&why)).or_insert_with(of_reason).rows += 1;
    }
    reasons.into_values().collect()
}

/// Reasons shown at most.
const SHOWN: usize = 30;

/// A table, if any row has failed.
pub(super) fn block(failed: &[Failed]) -> Option<Block> {
    if failed.is_empty() {
        return None;
    }
    let rows = failed.iter().take(SHOWN).map(|Failed { stage, rows, example: (what, why) }| {
        vec![
            Cell::Text(stage.clone()),
            Cell::Number(*rows as f64),
            Cell::Text(what.clone()),
            Cell::Text(why.chars().take(300).collect()),
        ]
    });
    Some(Block::Table(Table {
        caption: "Rows that failed, with an example for each reason. `urbancross run --retry-errors` tries them again."
            .into(),
        columns: vec![Column::text("stage"), Column::number("rows"), Column::text("for example"), Column::text("why")],
        rows: rows.collect(),
    }))
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
        let rows: Vec<(u64, &str)> = found.iter().map(|failed| (failed.rows, failed.example.0.as_str())).collect();
        assert_eq!(rows.len(), 2, "{found:?}");
        assert!(rows.contains(&(2, "a")) && rows.contains(&(1, "c")));
        assert!(block(&found).is_some() && block(&[]).is_none());
    }
}
