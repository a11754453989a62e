//! The loop of a worker: take a planned shard, read its rows, compute what is stale, copy what
//! stands, write the part file, put the marker.
//!
//! More shards are under way than there are devices, so that fetching one, computing others and writing one
//! overlap; each device has one compute thread, which keeps it and all its memory to itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use futures::{StreamExt, TryStreamExt};
use manifests::build::DeviceName;
use manifests::recipe::RowAction;
use manifests::{Marker, Plan, ShardPlan, paths};
use stages::stage::{InputRows, MapOutput, ModelUse, Opening, Outcome, SourceBytes, Stage};
use stages::table;

use crate::compute::ComputeThreads;
use crate::error::WorkerError;
use crate::fetch::{FetchSettings, fetch};
use crate::join::{RowTask, ShardJoin, VirtualInputs, reorder};
use crate::listing::Place;
use crate::parts::PartWriter;
use crate::stores::{SourceStore, WorkStore};

/// Shards under way beside those that are computed: one fetched, one written.
const SHARDS_AROUND: usize = 2;
/// Rows handed to the stage at once.
const CHUNK_ROWS: usize = 128;
/// Source bytes of one chunk.
const CHUNK_SOURCE_BYTES: u64 = 32 << 20;
/// Tries of a shard whose store does not answer.
const SHARD_ATTEMPTS: u32 = 4;

/// Watches the work; called from worker threads.
pub trait Observer: Send + Sync {
    /// `rows` rows are done (computed, copied, failed).
    fn rows(&self, computed: u64, kept: u64, errors: u64);
    fn note(&self, text: &str);
}

/// What a worker works with.
pub struct MapContext<'a> {
    pub work: &'a WorkStore,
    pub source: &'a SourceStore,
    pub virtual_inputs: &'a VirtualInputs,
    pub fetch: FetchSettings,
    pub stop: &'a AtomicBool,
    pub observer: &'a dyn Observer,
}

/// What became of a plan.
pub struct MapResult {
    /// One per finished shard, by shard.
    pub markers: Vec<Marker>,
    /// A stop was asked for: `markers` are not all, and some hold a shard's rows only in part.
    pub stopped: bool,
}

/// Works on all stale shards of a plan, on `devices` where the stage asks a network. Shards that have a marker are done
/// and only counted. No row depends on the devices.
pub async fn map_plan(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    opening: Opening<'_>,
    devices: &[DeviceName],
) -> Result<MapResult, WorkerError> {
    let key = plan.key();
    let done = context.work.list(&paths::markers(&plan.country, stage.name, &key)).await?;
    let is_done = |shard: u32| done.iter().any(|name| name.trim_end_matches(".json").parse() == Ok(shard));
    let todo = plan.stale.iter().any(|s| !is_done(s.shard));
    // what asks no network has all cores already
    let devices = if stage.model == ModelUse::None { &devices[..devices.len().min(1)] } else { devices };
    let compute =
        if todo && plan.computed() > 0 { Some(ComputeThreads::start(stage, &opening, devices)?) } else { None };
    let marker_path = |shard: u32| paths::marker(&plan.country, stage.name, &key, shard);
    let mut markers: Vec<Marker> = futures::stream::iter(&plan.stale)
        .map(|shard| {
            let (compute, path, done) = (compute.as_ref(), marker_path(shard.shard), is_done(shard.shard));
            async move {
                if done {
                    return finished_marker(context, &path).await.map(Some);
                }
                if context.stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                map_with_retries(context, stage, plan, shard, compute, &path).await.map(Some)
            }
        })
        .buffer_unordered(devices.len() + SHARDS_AROUND)
        .try_filter_map(|marker| async move { Ok(marker) })
        .try_collect()
        .await?;
    markers.sort_by_key(|m| m.shard);
    Ok(MapResult { markers, stopped: context.stop.load(Ordering::Relaxed) })
}

async fn finished_marker(context: &MapContext<'_>, path: &str) -> Result<Marker, WorkerError> {
    let marker: Marker = context
        .work
        .get_json(path)
        .await?
        .ok_or_else(|| WorkerError::Missing { what: "marker", path: path.to_owned() })?;
    context.observer.rows(marker.computed, marker.kept, marker.errors);
    Ok(marker)
}

async fn map_with_retries(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    shard: &ShardPlan,
    compute: Option<&ComputeThreads>,
    marker_path: &str,
) -> Result<Marker, WorkerError> {
    let mut attempt = 1;
    loop {
        match map_shard(context, stage, plan, shard, compute, marker_path).await {
            Err(WorkerError::Transient(why)) if attempt < SHARD_ATTEMPTS && !context.stop.load(Ordering::Relaxed) => {
                let wait = Duration::from_millis(500 << attempt);
                context
                    .observer
                    .note(&format!("shard {} of {}: {why}; trying again in {wait:?}", shard.shard, stage.name));
                tokio::time::sleep(wait).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn map_shard(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    shard: &ShardPlan,
    compute: Option<&ComputeThreads>,
    marker_path: &str,
) -> Result<Marker, WorkerError> {
    let began = Instant::now();
    let join = ShardJoin::load(context.work, stage, plan, shard.shard, context.virtual_inputs).await?;
    let mut writer = PartWriter::create(context.work, plan.output.artifact, &plan.country, shard.shard)?;
    let mut marker =
        Marker { shard: shard.shard, part: None, computed: 0, kept: 0, deleted: 0, errors: 0, seconds: 0.0 };
    let mut whole = true;
    for chunk in chunks(&join, stage.source) {
        let (mut compute_rows, mut copy_rows) = (Vec::new(), Vec::new());
        let stopped = context.stop.load(Ordering::Relaxed);
        for task in chunk {
            match (&task.action, task.committed) {
                (RowAction::Delete, _) => marker.deleted += 1,
                (RowAction::Keep, Some(_)) => copy_rows.push(task),
                (RowAction::Compute(_), _) if !stopped => compute_rows.push(task),
                // stopped: a stale row stays as it was, a new one waits for the next run
                (RowAction::Compute(_), Some(_)) => {
                    whole = false;
                    copy_rows.push(task);
                }
                _ => whole = false,
            }
        }
        let (batch, errors) = chunk_batch(context, stage, plan, &join, compute, &compute_rows, &copy_rows).await?;
        marker.computed += compute_rows.len() as u64;
        marker.kept += copy_rows.len() as u64;
        marker.errors += errors;
        if batch.num_rows() > 0 {
            writer.write(&batch).await?;
        }
        context.observer.rows(compute_rows.len() as u64, copy_rows.len() as u64, errors);
    }
    marker.part = writer.finish().await?;
    marker.seconds = began.elapsed().as_secs_f64();
    if !whole {
        // published as what it is, a shard with some stale rows; no marker: the shard is not done
        return Ok(marker);
    }
    if !context.work.put_json_if_absent(marker_path, &marker).await? {
        // another worker was faster: its file counts, ours is an orphan
        return finished_marker(context, marker_path).await;
    }
    Ok(marker)
}

/// Cuts a shard's tasks into chunks of bounded rows and source bytes, in order of image id.
fn chunks<'t>(join: &'t ShardJoin<'_>, source: Option<SourceBytes>) -> Vec<&'t [RowTask]> {
    let bytes_of = |task: &RowTask| -> u64 {
        let place = source_place(join, source, task);
        place.and_then(|p| p.member.as_ref().map(|m| m.compressed_bytes.max(m.uncompressed_bytes))).unwrap_or(0)
    };
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, task) in join.tasks.iter().enumerate() {
        let next = bytes_of(task);
        if i > start && (i - start == CHUNK_ROWS || bytes.saturating_add(next) > CHUNK_SOURCE_BYTES) {
            chunks.push(&join.tasks[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(next);
    }
    chunks.push(&join.tasks[start..]);
    chunks
}

fn source_place<'p>(join: &'p ShardJoin<'_>, source: Option<SourceBytes>, task: &RowTask) -> Option<&'p Place> {
    if !matches!(task.action, RowAction::Compute(_)) {
        return None;
    }
    let listed = join.listed(task)?;
    match source? {
        SourceBytes::Image => Some(&listed.image),
        SourceBytes::Meta => listed.meta.as_ref(),
    }
}

/// The rows of one chunk, computed and copied, in order of image id; and how many failed.
async fn chunk_batch(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    join: &ShardJoin<'_>,
    compute: Option<&ComputeThreads>,
    compute_rows: &[&RowTask],
    copy_rows: &[&RowTask],
) -> Result<(RecordBatch, u64), WorkerError> {
    let schema = table::schema(plan.output.artifact);
    let mut batches = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut errors = 0;
    if !compute_rows.is_empty() {
        let Some(compute) = compute else {
            return Err(WorkerError::Broken(format!(
                "{}: the plan names rows to compute in none of its shards",
                stage.name
            )));
        };
        let tables = join.read_inputs(compute_rows).await?;
        let source = match stage.source {
            None => Vec::new(),
            Some(_) => {
                let places: Vec<Option<Place>> =
                    compute_rows.iter().map(|t| source_place(join, stage.source, t).cloned()).collect();
                fetch(context.source, &context.virtual_inputs.listing, &places, context.fetch).await?
            }
        };
        let rows = InputRows { image_ids: compute_rows.iter().map(|t| t.image_id.clone()).collect(), tables, source };
        let output = compute.map(rows).await?;
        errors = output.outcomes.iter().filter(|o| matches!(o, Outcome::Failed(_))).count() as u64;
        batches.push(with_identity(stage, plan, compute_rows, &output)?);
        ids.extend(compute_rows.iter().map(|t| t.image_id.as_str()));
    }
    if !copy_rows.is_empty() {
        let positions: Vec<usize> = copy_rows.iter().filter_map(|t| t.committed).collect();
        batches.push(join.read_committed(&positions).await?);
        ids.extend(copy_rows.iter().map(|t| t.image_id.as_str()));
    }
    let batch = concat_batches(&schema, &batches).map_err(|e| {
        WorkerError::Broken(format!("{}: computed and copied rows do not fit together: {e}", stage.name))
    })?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&i| ids[i as usize]);
    Ok((reorder(&batch, &order)?, errors))
}

/// Puts the identity columns before what the stage computed.
fn with_identity(
    stage: &Stage,
    plan: &Plan,
    tasks: &[&RowTask],
    output: &MapOutput,
) -> Result<RecordBatch, WorkerError> {
    let broken = |why: String| WorkerError::Broken(format!("{}: {why}", stage.name));
    if output.outcomes.len() != tasks.len() || output.content.num_rows() != tasks.len() {
        return Err(broken(format!("{} rows in, {} out", tasks.len(), output.content.num_rows())));
    }
    let recipes: Vec<_> = tasks
        .iter()
        .map(|t| t.recipe.as_ref().ok_or_else(|| broken(format!("{} has no recipe", t.image_id))))
        .collect::<Result<_, _>>()?;
    let digests: Vec<String> = recipes.iter().map(|r| r.digest()).collect();
    let status = output.outcomes.iter().map(|o| {
        Some(match o {
            Outcome::Good => "ok",
            Outcome::Failed(_) => "error",
            Outcome::Excluded(_) => "excluded",
        })
    });
    let reasons = output.outcomes.iter().map(|o| match o {
        Outcome::Good => None,
        Outcome::Failed(why) | Outcome::Excluded(why) => Some(bounded(why)),
    });
    let mut columns: Vec<ArrayRef> = vec![
        table::texts(tasks.iter().map(|t| Some(t.image_id.clone()))),
        table::texts(status),
        table::texts(reasons),
        table::texts(digests.iter().map(|d| Some(d.clone()))),
        table::int32s(tasks.iter().map(|_| Some(stage.version as i32))),
        table::texts(tasks.iter().map(|_| Some(plan.model.clone()))),
        table::texts(tasks.iter().map(|_| Some(plan.parameters.clone()))),
        table::texts(recipes.iter().map(|r| Some(manifests::digest::canonical_json(&r.inputs)))),
    ];
    for (field, column) in output.content.schema().fields().iter().zip(output.content.columns()) {
        let is_recipe = stage.recipe_digest == Some(field.name().as_str());
        columns.push(if is_recipe { table::texts(digests.iter().map(|d| Some(d.clone()))) } else { column.clone() });
    }
    RecordBatch::try_new(table::schema(plan.output.artifact), columns).map_err(|e| broken(e.to_string()))
}

/// Error texts quote hostile input: they are cut.
fn bounded(why: &str) -> String {
    const MOST: usize = 500;
    match why.char_indices().nth(MOST) {
        None => why.to_owned(),
        Some((at, _)) => format!("{}…", &why[..at]),
    }
}

/// Shared by everything that may be stopped.
pub type StopFlag = Arc<AtomicBool>;
