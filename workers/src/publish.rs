//! Committing finished shards to a Delta table, and recording what was done.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use manifests::commit::Replacement;
use manifests::plan::{PinnedTable, Usage};
use manifests::{Artifact, PartFile, Plan, RowStatuses, digest, paths};
use serde::{Deserialize, Serialize};
use stages::table::{Columns, TableError, option_text};

use crate::error::WorkerError;
use crate::listing::Problem;
use crate::map::FinishedShard;
use crate::parts::PartReader;
use crate::stores::WorkStore;
use crate::tables::{Change, Tables};

/// What a stage did last. Advisory: read by `status` and the report, never by a planner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the stage.
    pub stage: String,
    /// Country of the build.
    pub country: String,
    /// When it began, by the clock of the machine that ran it, or of the store where workers elsewhere did.
    pub started_unix_seconds: f64,
    /// How long it took: it ended so long after it began.
    pub seconds: f64,
    /// Rows of the table afterwards.
    pub rows: u64,
    /// Rows that were computed, errors included.
    pub computed: u64,
    /// Rows that were to be computed, and that another run made first.
    pub by_other_runs: u64,
    /// Rows that were copied.
    pub kept: u64,
    /// Rows that were copied under a new recipe: their words are the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// Rows that left.
    pub deleted: u64,
    /// Rows of the table that could not be made.
    pub errors: u64,
    /// Rows of the table that are left out on purpose.
    pub excluded: u64,
    /// Rows to compute or delete by reason, in words.
    pub reasons: BTreeMap<String, u64>,
    /// Version of the table afterwards.
    pub version: Option<u64>,
    /// What a server was asked for; without what stopped runs asked.
    #[serde(default, skip_serializing_if = "Usage::is_none")]
    pub usage: Usage,
    /// The program that did it, and where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub made_by: String,
    /// Everything else that a stage tells about itself, for people.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// What a publication left.
pub struct Published {
    /// The output as it is live now, as far as this plan's shards go.
    pub live: PinnedTable,
    /// Shards that others changed since they were planned: plan again.
    pub overtaken: Vec<u32>,
}

/// Makes finished shards live, each where the part that its plan read is live still.
///
/// # Errors
/// [`WorkerError::Configuration`] for a table of another program, [`WorkerError::Transient`] if the store does not
/// answer or others commit all the time.
pub async fn publish(tables: &Tables, plan: &Plan, finished: &[FinishedShard]) -> Result<Published, WorkerError> {
    let replacements: Vec<Replacement> = finished.iter().map(|f| f.replacement.clone()).collect();
    let artifact = plan.output.artifact;
    let change = Change { artifact, country: plan.country.clone(), replacements: replacements.clone() };
    let committed = tables.commit(change).await?;
    let (table, version, overtaken) = (artifact.name(), committed.version, committed.overtaken.len());
    tracing::debug!(table, version, parts = replacements.len(), overtaken, "committed");
    let mut parts: BTreeMap<u32, PartFile> = plan.output.parts.iter().map(|p| (p.shard, p.clone())).collect();
    let mut lost = plan.output.lost.clone();
    for replacement in replacements.into_iter().filter(|r| !committed.overtaken.contains(&r.part.shard)) {
        lost.remove(&replacement.part.shard);
        parts.insert(replacement.part.shard, replacement.part);
    }
    let live = PinnedTable { artifact, version: Some(committed.version), parts: parts.into_values().collect(), lost };
    Ok(Published { live, overtaken: committed.overtaken })
}

/// Reads the status column of a country's table and rewrites the stage's quarantine listing: failed rows by name, after
/// the source's `problems`. Reads `at_once` parts at a time, and none that are lost.
///
/// # Errors
/// [`WorkerError::Broken`] for a part that cannot be read; a store that does not answer.
pub async fn quarantine(
    work: &WorkStore,
    live: &PinnedTable,
    stage: &str,
    country: &str,
    problems: &[Problem],
    at_once: usize,
) -> Result<RowStatuses, WorkerError> {
    let mut statuses = RowStatuses { problems: problems_digest(problems), ..RowStatuses::default() };
    let mut lines = String::new();
    for problem in problems {
        push_line(&mut lines, &problem.what, &problem.why, Of::Source);
    }
    // a shard that nobody could make again, where that is allowed
    let there: Vec<&PartFile> = live.parts.iter().filter(|part| !live.lost.contains(&part.shard)).collect();
    let mut parts =
        futures::stream::iter(there).map(|part| part_statuses(work, live.artifact, part)).buffered(at_once.max(1));
    while let Some(part) = parts.try_next().await? {
        statuses.ok += part.ok;
        statuses.excluded += part.excluded;
        statuses.first_excluded = statuses.first_excluded.or(part.first_excluded);
        statuses.errors += part.failed.len() as u64;
        for (what, why) in part.failed {
            push_line(&mut lines, &what, &why, Of::Row);
            statuses.first_error.get_or_insert_with(|| format!("{what}: {why}"));
        }
    }
    let path = paths::quarantine(country, stage);
    if lines.is_empty() {
        work.delete(&path).await?;
    } else {
        work.put(&path, lines.into()).await?;
    }
    Ok(statuses)
}

/// Rows of a part by status.
#[derive(Default)]
struct PartStatuses {
    ok: u64,
    excluded: u64,
    first_excluded: Option<String>,
    /// Image and reason.
    failed: Vec<(String, String)>,
}

async fn part_statuses(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<PartStatuses, WorkerError> {
    let batch = PartReader::open(work, artifact, part).await?.read(&["image_id", "status", "error"]).await?;
    let read = || {
        let columns = Columns::new(artifact, &batch);
        let (ids, status, errors) = (columns.text("image_id")?, columns.text("status")?, columns.text("error")?);
        let mut of_part = PartStatuses::default();
        for row in 0..batch.num_rows() {
            match status.value(row) {
                "ok" => of_part.ok += 1,
                "excluded" => {
                    of_part.excluded += 1;
                    let why = || format!("{}: {}", ids.value(row), option_text(errors, row).unwrap_or_default());
                    of_part.first_excluded.get_or_insert_with(why);
                }
                _ => {
                    let why = option_text(errors, row).unwrap_or_default();
                    of_part.failed.push((ids.value(row).to_owned(), why.to_owned()));
                }
            }
        }
        Ok::<_, TableError>(of_part)
    };
    read().map_err(|e| WorkerError::Broken(e.to_string()))
}

/// Says whether a quarantine listing has these problems of the source already.
pub fn problems_digest(problems: &[Problem]) -> String {
    digest::of_value(&problems)
}

/// What a line of a quarantine listing tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// A row that failed.
    #[default]
    Row,
    /// A problem of the source, which may have cost no row.
    Source,
}

/// One line of a quarantine listing, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineLine {
    /// An image, or a file of the source.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// Listings of earlier versions do not say.
    #[serde(default)]
    pub of: Of,
}

fn push_line(lines: &mut String, what: &str, why: &str, of: Of) {
    let line = QuarantineLine { what: what.to_owned(), why: why.to_owned(), of };
    lines.push_str(&serde_json::json!(line).to_string());
    lines.push('\n');
}
