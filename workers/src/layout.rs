//! What must not change about a country in a work store: written once, checked by everyone.

use manifests::plan::PinnedTable;
use manifests::{BuildSpec, paths, shard_of};
use serde::{Deserialize, Serialize};
use stages::table::Columns;

use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Raised when an older program would misread what this one writes.
const FORMAT: u32 = 1;
/// Writers that create one object at the same moment, when a store is tried.
const RACERS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    format: u32,
    shards: u32,
}

/// Compares a spec with what the store says of its country, and tells whether it says anything.
///
/// # Errors
/// [`WorkerError::Configuration`] for another number of shards or a newer format.
pub async fn check(work: &WorkStore, spec: &BuildSpec) -> Result<bool, WorkerError> {
    let layout = work.get_json::<Layout>(&paths::layout(&spec.country)).await?;
    layout.as_ref().map_or(Ok(()), |layout| agree(work, spec, layout))?;
    Ok(layout.is_some())
}

/// Compares a spec with the tables of an older program, which wrote no layout: their rows must lie in the shards that
/// the spec says.
///
/// # Errors
/// [`WorkerError::Configuration`] for another number of shards.
pub async fn check_tables(
    work: &WorkStore,
    spec: &BuildSpec,
    live: impl IntoIterator<Item = &PinnedTable>,
) -> Result<(), WorkerError> {
    for table in live {
        if !lies_in_shards(work, spec, table).await? {
            return Err(disagreement(work, spec, "another number of shards"));
        }
    }
    Ok(())
}

/// [`check`], and writes the layout where nobody has: before the first commit. A store that is new is tried first.
///
/// # Errors
/// [`WorkerError::Configuration`] as with [`check`], and for a store that does not keep its word on conditional writes.
pub async fn claim(work: &WorkStore, spec: &BuildSpec) -> Result<(), WorkerError> {
    let path = paths::layout(&spec.country);
    if let Some(layout) = work.get_json::<Layout>(&path).await? {
        return agree(work, spec, &layout);
    }
    if !work.probe_put_if_absent(RACERS).await? {
        return Err(WorkerError::Configuration(format!(
            "work store {}: it accepts conditional writes (If-None-Match) and does not keep them, so that two runs would \
             overwrite each other's rows; use another store or another version of its server",
            work.url()
        )));
    }
    let layout = Layout { format: FORMAT, shards: spec.work.shards };
    if work.put_json_if_absent(&path, &layout).await? {
        return Ok(());
    }
    check(work, spec).await.map(|_| ())
}

fn agree(work: &WorkStore, spec: &BuildSpec, layout: &Layout) -> Result<(), WorkerError> {
    if layout.format > FORMAT {
        return Err(WorkerError::Configuration(format!(
            "{} in {} was built by a newer urbancross (format {}, this one writes {FORMAT}): use that one",
            spec.country,
            work.url(),
            layout.format
        )));
    }
    if layout.shards != spec.work.shards {
        return Err(disagreement(work, spec, &format!("work.shards = {}", layout.shards)));
    }
    Ok(())
}

fn disagreement(work: &WorkStore, spec: &BuildSpec, built_with: &str) -> WorkerError {
    WorkerError::Configuration(format!(
        "work.shards = {}: {} in {} was built with {built_with}, and a row's shard follows from that number; set it back, \
         or build into another work store (work.url) and delete this one when it is done",
        spec.work.shards,
        spec.country,
        work.url()
    ))
}

/// Looks at the ids of one part.
async fn lies_in_shards(work: &WorkStore, spec: &BuildSpec, table: &PinnedTable) -> Result<bool, WorkerError> {
    let shards = spec.work.shards;
    if table.parts.iter().any(|part| part.shard >= shards) {
        return Ok(false);
    }
    let Some(part) = table.parts.iter().filter(|p| p.rows > 0).find_map(|p| table.part(p.shard)) else {
        return Ok(true);
    };
    let batch = PartReader::open(work, table.artifact, part).await?.read(&["image_id"]).await?;
    let ids = Columns::new(table.artifact, &batch);
    let ids = ids.text("image_id").map_err(|e| WorkerError::Broken(e.to_string()))?;
    Ok((0..batch.num_rows()).all(|row| shard_of(ids.value(row), shards) == part.shard))
}
