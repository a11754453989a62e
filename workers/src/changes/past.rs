//! What a table said of one image, version after version.

use manifests::plan::PinnedTable;
use manifests::{Artifact, shard_of};

use super::{content_columns, rows_of, shown_column};
use crate::WorkerError;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// What a table said of an image, from a version on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The earliest version, of those that were looked at, that said it.
    pub since: u64,
    /// The value that people read.
    pub shown: Option<String>,
    content: Vec<(&'static str, Option<String>)>,
}

impl Said {
    /// Whether a digest of its content is this one; `field` is the digest's name without `_digest`.
    pub fn has(&self, field: &str, digest: &str) -> bool {
        let is = |(name, value): &(&str, Option<String>)| {
            name.strip_suffix("_digest") == Some(field) && value.as_deref() == Some(digest)
        };
        self.content.iter().any(is)
    }
}

/// Whether the values of a table can be shown in a line.
pub fn is_shown(artifact: Artifact) -> bool {
    shown_column(artifact).is_some()
}

/// What a table has said of an image: newest first, one after another where it changed, from at most `most` versions. It
/// ends where the log or the parts of older versions are cleared away.
///
/// # Errors
/// [`WorkerError::Broken`] for the newest part, if it cannot be read; a store that does not answer.
pub async fn past(
    work: &WorkStore,
    tables: &Tables,
    newest: &PinnedTable,
    (country, shards): (&str, u32),
    image_id: &str,
    most: u64,
) -> Result<Vec<Said>, WorkerError> {
    let artifact = newest.artifact;
    let Some(last) = newest.version else { return Ok(Vec::new()) };
    let shard = shard_of(image_id, shards);
    let (mut all, mut read): (Vec<Said>, Option<String>) = (Vec::new(), None);
    for version in (last.saturating_sub(most)..=last).rev() {
        let table = match version == last {
            true => newest.clone(),
            false => match tables.pin(artifact, country, Some(version)).await {
                Ok(table) => table,
                Err(WorkerError::Transient(why)) => return Err(WorkerError::Transient(why)),
                Err(_) => break,
            },
        };
        let Some(part) = table.part(shard) else { break };
        if read.as_ref() == Some(&part.path) {
            if let Some(said) = all.last_mut() {
                said.since = version;
            }
            continue;
        }
        let mut rows = match rows_of(work, artifact, Some(part)).await {
            Err(error) if version == last => return Err(error),
            Err(_) => break,
            Ok(rows) => rows,
        };
        read = Some(part.path.clone());
        let Some(row) = rows.remove(image_id) else { break };
        let content = content_columns(artifact).into_iter().zip(row.content).collect();
        let said = Said { since: version, shown: row.shown, content };
        match all.last_mut() {
            Some(later) if later.content == said.content => later.since = version,
            _ => all.push(said),
        }
    }
    Ok(all)
}
