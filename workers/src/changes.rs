//! How a table differs between two of its versions.

mod past;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, RecordBatch};
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::recipe::{CommittedRow, causes, differs_only_in};
use manifests::{Artifact, Digest, PartFile};
use serde::Serialize;
use stages::reviews;
use stages::table::{Columns, TableError, option_text};

use crate::WorkerError;
use crate::accept::{Acceptance, recipes_of};
use crate::concurrently::in_order;
use crate::join::{COMMITTED_COLUMNS, committed_rows};
use crate::parts::PartReader;
use crate::stores::WorkStore;

pub use past::{Said, is_shown, past};

/// How the rows of a table differ between two versions. A row of another content has *changed*; one that was computed again
/// and came out as it was is *remade*.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct TableChanges {
    /// Rows that have come in.
    pub added: u64,
    /// Rows that have left.
    pub removed: u64,
    /// Rows of another content or status.
    pub changed: u64,
    /// Rows that were made again and are what they were.
    pub remade: u64,
    /// Rows that were not made again though their tags are others: their words are the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// Rows that were not made again since somebody let them stand.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted: u64,
    /// Rows with nothing new.
    pub kept: u64,
    /// Why rows were made again, with the number of each.
    pub causes: BTreeMap<String, u64>,
    /// Some of the rows that have changed, by image.
    pub examples: Vec<RowChange>,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// What a row said before and says now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowChange {
    /// The row's image.
    pub image_id: String,
    /// Nothing: the row was not there.
    pub before: Option<String>,
    /// Nothing: it is not there any more.
    pub after: Option<String>,
}

/// What a table says of an image, if it can be shown in a line.
struct Row {
    committed: CommittedRow,
    /// Status and digests of the content.
    content: Vec<Option<String>>,
    shown: Option<String>,
    /// Digest of what its captioner was told.
    told: Option<String>,
}

impl Row {
    /// Whether the row that it was before stands: its tags are others, and what a captioner is told of them is not.
    fn is_carried_from(&self, before: &Row) -> bool {
        let only_tags = || differs_only_in(&before.committed, &self.committed.parts(""), Artifact::Geotags.name());
        self.told.is_some() && self.told == before.told && self.content == before.content && only_tags()
    }
}

/// The column of a table that people read.
fn shown_column(artifact: Artifact) -> Option<&'static str> {
    match artifact {
        Artifact::Geotags | Artifact::TagRefreshes => Some("center_tags"),
        Artifact::Splits => Some("split"),
        Artifact::Captions | Artifact::CaptionReviews => Some("captions"),
        _ => None,
    }
}

/// Shards that are read ahead, in both versions.
const SHARDS_AHEAD: usize = 8;

/// Column with a digest of what a captioner was told.
const TOLD: &str = "told";

/// Columns whose values are the same exactly where the content is.
fn content_columns(artifact: Artifact) -> Vec<&'static str> {
    let digests =
        artifact.content_fields().into_iter().map(|field| field.name).filter(|name| name.ends_with("_digest"));
    ["status", "error"].into_iter().chain(digests).collect()
}

/// Compares two versions of a country's table; at most `examples` changed rows are shown. Parts that both versions have are
/// not read. `accepted` is what people let stand of the stage of a country meanwhile.
///
/// # Errors
/// [`WorkerError::Broken`] for a part that is gone, as old ones are after `gc`; a store that does not answer.
pub async fn between(
    work: &WorkStore,
    artifact: Artifact,
    (before, after): (&PinnedTable, &PinnedTable),
    (of, accepted): ((&str, &str), &[Acceptance]),
    examples: usize,
) -> Result<TableChanges, WorkerError> {
    let mut changes = TableChanges::default();
    let shards: BTreeSet<u32> = before.parts.iter().chain(&after.parts).map(|part| part.shard).collect();
    let (same, others): (Vec<u32>, Vec<u32>) =
        shards.into_iter().partition(|shard| before.part(*shard) == after.part(*shard));
    changes.kept = same.into_iter().filter_map(|shard| after.part(shard)).map(|part| part.rows).sum();
    let read = others.into_iter().map(|shard| {
        let (work, old, new) = (work.clone(), before.part(shard).cloned(), after.part(shard).cloned());
        async move {
            let (old, new) =
                tokio::try_join!(rows_of(&work, artifact, old.as_ref()), rows_of(&work, artifact, new.as_ref()))?;
            Ok::<_, WorkerError>((shard, old, new))
        }
    });
    let mut read = in_order(read, SHARDS_AHEAD, "changes of a table");
    while let Some((shard, old, new)) = read.try_next().await? {
        let accepted = recipes_of(work, of, accepted, shard).await?;
        changes.add(&old, &new, &accepted, examples);
    }
    Ok(changes)
}

/// Images whose rows are others in two versions of a country's table, by id, at most so many; and how many there are of them.
///
/// # Errors
/// As [`between`].
pub async fn changed_images(
    work: &WorkStore,
    artifact: Artifact,
    (before, after): (&PinnedTable, &PinnedTable),
    most: usize,
) -> Result<(BTreeSet<String>, u64), WorkerError> {
    let (mut images, mut count) = (BTreeSet::new(), 0);
    let shards: BTreeSet<u32> = before.parts.iter().chain(&after.parts).map(|part| part.shard).collect();
    for shard in shards.into_iter().filter(|shard| before.part(*shard) != after.part(*shard)) {
        let old = rows_of(work, artifact, before.part(shard)).await?;
        let new = rows_of(work, artifact, after.part(shard)).await?;
        let is_other = |id: &&String| old.get(*id).map(|row| &row.content) != new.get(*id).map(|row| &row.content);
        for id in old.keys().chain(new.keys().filter(|id| !old.contains_key(*id))).filter(is_other) {
            count += 1;
            if images.len() < most {
                images.insert(id.clone());
            }
        }
    }
    Ok((images, count))
}

async fn rows_of(
    work: &WorkStore,
    artifact: Artifact,
    part: Option<&PartFile>,
) -> Result<BTreeMap<String, Row>, WorkerError> {
    let Some(part) = part else { return Ok(BTreeMap::new()) };
    let mut columns: Vec<&'static str> = COMMITTED_COLUMNS.to_vec();
    let more: &[&str] =
        if artifact == Artifact::CaptionReviews { &["decision", "captioner", "author", "decided_at"] } else { &[] };
    let told = artifact.content_fields().iter().any(|field| field.name == TOLD).then_some(TOLD);
    for column in
        content_columns(artifact).into_iter().chain(shown_column(artifact)).chain(more.iter().copied()).chain(told)
    {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let batch = PartReader::open(work, artifact, part).await?.read(&columns).await?;
    rows(artifact, &batch).map_err(|error| WorkerError::Broken(error.to_string()))
}

fn rows(artifact: Artifact, batch: &RecordBatch) -> Result<BTreeMap<String, Row>, TableError> {
    let columns = Columns::new(artifact, batch);
    let content =
        content_columns(artifact).into_iter().map(|name| columns.text(name)).collect::<Result<Vec<_>, _>>()?;
    let shown: Vec<Option<String>> = match shown_column(artifact) {
        None => vec![None; batch.num_rows()],
        Some("captions") => {
            let decisions = (artifact == Artifact::CaptionReviews).then(|| reviews::read(batch)).transpose()?;
            let decided = |row: usize| {
                let review = decisions.as_ref()?.get(row)?.as_ref()?.as_ref().ok()?;
                Some(if review.captions.is_empty() { review.in_words() } else { format!("{}: ", review.in_words()) })
            };
            let all = columns.texts("captions")?.into_iter().enumerate();
            all.map(|(row, all)| Some(decided(row).unwrap_or_default() + &all.join(" | "))).collect()
        }
        Some(name) => {
            let texts = columns.text(name)?;
            (0..texts.len()).map(|row| option_text(texts, row).map(str::to_owned)).collect()
        }
    };
    let told = batch.column_by_name(TOLD).map(|_| columns.text(TOLD)).transpose()?;
    let committed = committed_rows(artifact, batch)?;
    let row = |(image_id, (at, committed)): (String, (usize, CommittedRow))| {
        let content = content.iter().map(|column| option_text(column, at).map(str::to_owned)).collect();
        let told = told.and_then(|told| option_text(told, at)).map(str::to_owned);
        (image_id, Row { committed, content, shown: shown[at].clone(), told })
    };
    Ok(committed.into_iter().map(row).collect())
}

impl TableChanges {
    fn add(
        &mut self,
        old: &BTreeMap<String, Row>,
        new: &BTreeMap<String, Row>,
        accepted: &BTreeSet<(String, Digest)>,
        examples: usize,
    ) {
        for image_id in old.keys().chain(new.keys().filter(|id| !old.contains_key(*id))) {
            let (before, after) = (old.get(image_id), new.get(image_id));
            let is_other = match (before, after) {
                (None, _) => {
                    self.added += 1;
                    true
                }
                (_, None) => {
                    self.removed += 1;
                    true
                }
                (Some(before), Some(after))
                    if before.committed == after.committed && before.content == after.content =>
                {
                    self.kept += 1;
                    false
                }
                (Some(before), Some(after))
                    if before.content == after.content
                        && accepted.contains(&(image_id.clone(), after.committed.recipe.clone())) =>
                {
                    self.accepted += 1;
                    false
                }
                (Some(before), Some(after)) => {
                    for cause in causes(&before.committed, &after.committed) {
                        *self.causes.entry(cause).or_default() += 1;
                    }
                    let is_other = before.content != after.content;
                    let counted = match is_other {
                        true => &mut self.changed,
                        false if after.is_carried_from(before) => &mut self.carried,
                        false => &mut self.remade,
                    };
                    *counted += 1;
                    is_other
                }
            };
            let [before, after] = [before, after].map(|row| row.and_then(|row| row.shown.clone()));
            if is_other && self.examples.len() < examples && before != after {
                self.examples.push(RowChange { image_id: image_id.clone(), before, after });
            }
        }
    }

    /// Whether anything is another than it was.
    pub fn is_nothing(&self) -> bool {
        self.added + self.removed + self.changed + self.remade + self.carried + self.accepted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(recipe: &str, inputs: &str, digest: &str, shown: &str) -> Row {
        Row {
            committed: CommittedRow {
                recipe: recipe.to_owned(),
                stage_version: 1,
                model: String::new(),
                parameters: "{}".to_owned(),
                inputs: inputs.to_owned(),
                failed: false,
            },
            content: vec![Some("ok".to_owned()), None, Some(digest.to_owned())],
            shown: Some(shown.to_owned()),
            told: None,
        }
    }

    #[test]
    fn a_row_that_stands_is_told_from_one_that_was_made_again() {
        let told = |recipe: &str, inputs: &str, told: &str| Row {
            told: Some(told.to_owned()),
            ..row(recipe, inputs, "x", "a park")
        };
        let after = told("s", r#"{"geotags.tags":"2"}"#, "a park");
        assert!(after.is_carried_from(&told("r", r#"{"geotags.tags":"1"}"#, "a park")));
        assert!(!after.is_carried_from(&told("r", r#"{"geotags.tags":"1"}"#, "a lake")));
        assert!(!after.is_carried_from(&told("r", r#"{"geotags.tags":"1","images.bytes":"1"}"#, "a park")));
        assert!(!after.is_carried_from(&row("r", r#"{"geotags.tags":"1"}"#, "x", "a park")));
    }

    #[test]
    fn rows_are_told_apart_by_content_and_recipe() {
        let table = |rows: Vec<(&str, Row)>| -> BTreeMap<String, Row> {
            rows.into_iter().map(|(id, row)| (id.to_owned(), row)).collect()
        };
        let tags = |digest: &str| format!(r#"{{"geotags.tags":"{digest}"}}"#);
        let old = table(vec![
            ("a", row("r", &tags("1"), "x", "a park")),
            ("b", row("r", &tags("1"), "x", "a park")),
            ("c", row("r", &tags("1"), "x", "a park")),
            ("d", row("r", &tags("1"), "x", "a park")),
            ("f", row("r", &tags("1"), "x", "a park")),
            ("g", row("r", &tags("1"), "x", "a park")),
        ]);
        let new = table(vec![
            ("a", row("r", &tags("1"), "x", "a park")),
            ("b", row("s", &tags("2"), "x", "a park")),
            ("c", row("s", &tags("2"), "y", "a lake")),
            ("e", row("r", &tags("1"), "x", "a pier")),
            ("f", row("s", &tags("2"), "x", "a park")),
            ("g", row("s", &tags("2"), "x", "a park")),
        ]);
        // one that stands, one that was accepted for another recipe, and one that changed before somebody accepted it
        let accepted = [("f", "s"), ("g", "t"), ("c", "s")].map(|(id, recipe)| (id.to_owned(), recipe.to_owned()));
        let mut changes = TableChanges::default();
        changes.add(&old, &new, &accepted.into(), 2);
        let TableChanges { added, removed, changed, remade, kept, .. } = changes;
        assert_eq!((added, removed, changed, remade, kept), (1, 1, 1, 2, 1));
        assert_eq!((changes.carried, changes.accepted), (0, 1));
        assert_eq!(changes.causes, BTreeMap::from([("geotags.tags changed".to_owned(), 3)]));
        let example = |id: &str, before: Option<&str>, after: Option<&str>| RowChange {
            image_id: id.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let expected = [example("c", Some("a park"), Some("a lake")), example("d", Some("a park"), None)];
        assert_eq!(changes.examples, expected);
    }
}
