//! Folding finished shards into a Delta commit, and writing down what happened.

use std::collections::BTreeMap;

use manifests::commit::Replacement;
use manifests::plan::PinnedTable;
use manifests::{PartFile, Plan, RowStatuses, digest, paths};
use serde::{Deserialize, Serialize};
use stages::table::{Columns, option_text};

use crate::error::WorkerError;
use crate::listing::Problem;
use crate::map::FinishedShard;
use crate::parts::PartReader;
use crate::stores::WorkStore;
use crate::tables::{Change, Tables};

/// What a stage did last. Advisory: read by `status` and the report, never by a planner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub stage: String,
    pub country: String,
    pub started_unix_seconds: f64,
    pub seconds: f64,
    pub rows: u64,
    pub computed: u64,
    pub kept: u64,
    pub deleted: u64,
    pub errors: u64,
    pub excluded: u64,
    pub reasons: BTreeMap<String, u64>,
    pub version: Option<u64>,
    /// Everything else that a stage tells about itself, for people.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

/// What a publication left.
pub struct Published {
    /// The output as it is live now, as far as this plan's shards go.
    pub live: PinnedTable,
    /// Shards that others changed since they were planned: plan again.
    pub overtaken: Vec<u32>,
}

/// Makes finished shards live, each where the part that its plan read is live still.
pub async fn publish(tables: &Tables, plan: &Plan, finished: &[FinishedShard]) -> Result<Published, WorkerError> {
    let replacements: Vec<Replacement> = finished.iter().map(|f| f.replacement.clone()).collect();
    let artifact = plan.output.artifact;
    let change = Change { artifact, country: plan.country.clone(), replacements: replacements.clone() };
    let committed = tables.commit(change).await?;
    let mut parts: BTreeMap<u32, PartFile> = plan.output.parts.iter().map(|p| (p.shard, p.clone())).collect();
    for replacement in replacements.into_iter().filter(|r| !committed.overtaken.contains(&r.part.shard)) {
        parts.insert(replacement.part.shard, replacement.part);
    }
    let live = PinnedTable {
        version: Some(committed.version),
        parts: parts.into_values().collect(),
        ..PinnedTable::empty(artifact)
    };
    Ok(Published { live, overtaken: committed.overtaken })
}

/// Reads the status column of a country's table and rewrites the stage's quarantine listing: failed rows by name, after
/// the source's `problems`.
pub async fn quarantine(
    work: &WorkStore,
    live: &PinnedTable,
    stage: &str,
    country: &str,
    problems: &[Problem],
) -> Result<RowStatuses, WorkerError> {
    let artifact = live.artifact;
    let mut statuses = RowStatuses { problems: problems_digest(problems), ..RowStatuses::default() };
    let mut lines = String::new();
    for problem in problems {
        push_line(&mut lines, &problem.what, &problem.why);
    }
    for part in &live.parts {
        let batch = PartReader::open(work, artifact, part).await?.read(&["image_id", "status", "error"]).await?;
        let columns = Columns::new(artifact, &batch);
        let read = || {
            Ok::<_, stages::table::TableError>((
                columns.text("image_id")?,
                columns.text("status")?,
                columns.text("error")?,
            ))
        };
        let (ids, status, errors) = read().map_err(|e| WorkerError::Broken(e.to_string()))?;
        for row in 0..batch.num_rows() {
            match status.value(row) {
                "ok" => statuses.ok += 1,
                "excluded" => statuses.excluded += 1,
                _ => {
                    statuses.errors += 1;
                    push_line(&mut lines, ids.value(row), option_text(errors, row).unwrap_or_default());
                }
            }
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

/// Says whether a quarantine listing has these problems of the source already.
pub fn problems_digest(problems: &[Problem]) -> String {
    digest::of_value(&problems)
}

fn push_line(lines: &mut String, what: &str, why: &str) {
    lines.push_str(&serde_json::json!({ "what": what, "why": why }).to_string());
    lines.push('\n');
}
