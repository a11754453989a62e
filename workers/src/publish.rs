//! Folding finished shards into a Delta commit, and writing down what happened.

use manifests::{Artifact, Marker, Plan, paths};
use serde::{Deserialize, Serialize};
use stages::table::{Columns, option_text};

use crate::error::WorkerError;
use crate::listing::Problem;
use crate::parts::{PartReader, attempt_id};
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
    pub reasons: std::collections::BTreeMap<String, u64>,
    pub version: Option<u64>,
    /// Everything else that a stage tells about itself, for people.
    #[serde(default)]
    pub notes: std::collections::BTreeMap<String, String>,
}

/// Commits the shards of a plan. The whole plan is one transaction that changes nothing when it is
/// repeated; after a stop the finished part is a transaction of its own.
pub async fn publish(tables: &Tables, plan: &Plan, markers: &[Marker], stopped: bool) -> Result<u64, WorkerError> {
    let mut transaction = format!("{}/{}/{}", plan.country, plan.stage, plan.key());
    if stopped {
        transaction = format!("{transaction}/{}", attempt_id());
    }
    tables
        .commit(Change {
            artifact: plan.output.artifact,
            country: plan.country.clone(),
            transaction,
            shards: markers.iter().map(|m| m.shard).collect(),
            add: markers.iter().filter_map(|m| m.part.clone()).collect(),
        })
        .await
}

/// Rows of a country's table by status, and the failed ones by name. Also written to the
/// quarantine listing of the stage.
pub struct Statuses {
    pub ok: u64,
    pub errors: u64,
    pub excluded: u64,
    /// The first failed row, with its reason.
    pub first_error: Option<String>,
}

/// Reads the status column of a table and rewrites the stage's quarantine listing.
pub async fn quarantine(
    work: &WorkStore,
    tables: &Tables,
    artifact: Artifact,
    stage: &str,
    country: &str,
    problems: &[Problem],
) -> Result<Statuses, WorkerError> {
    let pinned = tables.pin(artifact, country, None).await?;
    let mut statuses = Statuses { ok: 0, errors: 0, excluded: 0, first_error: None };
    let mut lines = String::new();
    for problem in problems {
        push_line(&mut lines, &problem.what, &problem.why);
    }
    for part in &pinned.parts {
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
                    let (what, why) = (ids.value(row), option_text(errors, row).unwrap_or_default());
                    push_line(&mut lines, what, why);
                    statuses.first_error.get_or_insert_with(|| format!("{what}: {why}"));
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

fn push_line(lines: &mut String, what: &str, why: &str) {
    lines.push_str(&serde_json::json!({ "what": what, "why": why }).to_string());
    lines.push('\n');
}
