//! One shard: its rows read, computed and copied, in a part that is not live yet.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use manifests::plan::{Phases, Usage};
use manifests::recipe::RowAction;
use manifests::spec::DeviceKind;
use manifests::{Artifact, Marker, PartFile, Plan, paths};
use stages::stage::{InputRows, MapOutput, ModelUse, Outcome, Stage};
use stages::table;

use super::MapContext;
use crate::backoff::Backoff;
use crate::compute::{CHUNK_ROWS, ComputeThreads, Computed, Portions};
use crate::error::WorkerError;
use crate::fetch::fetch;
use crate::join::{RowTask, ShardJoin, is_unreadable, reorder};
use crate::listing::ObjectRange;
use crate::metrics::{self, Metric};
use crate::parts::{PartReader, PartWriter, is_before};
use crate::slices::InputStores;
use crate::stores::{Hint, WorkStore};

/// Tries of a shard whose store does not answer, each of which asks the store again and again by itself.
const SHARD_TRIES: u32 = 3;
/// Source bytes of one chunk.
const CHUNK_SOURCE_BYTES: u64 = 32 << 20;

/// The marker of a shard's key, if the part that it names is still there and may still be committed: not from before the
/// `horizon` of `gc`, which may be deleting it. One that is not sound is removed.
pub(crate) async fn finished_by_anybody(
    work: &WorkStore,
    plan: &Plan,
    shard: u32,
    key: &str,
    horizon: u64,
) -> Result<Option<Marker>, WorkerError> {
    let marker = match sound_marker(work, plan, shard, key, horizon).await? {
        None => return Ok(None),
        Some(marker) => marker,
    };
    if marker.is_none() {
        // cleared away by `gc` or by another program, or damaged: the marker only stands in the way of a new one
        work.delete(&paths::marker(&plan.country, &plan.stage, key)).await?;
    }
    Ok(marker)
}

/// The same, which removes nothing: `Some(None)` is a marker that is not sound.
pub(crate) async fn sound_marker(
    work: &WorkStore,
    plan: &Plan,
    shard: u32,
    key: &str,
    horizon: u64,
) -> Result<Option<Option<Marker>>, WorkerError> {
    let path = paths::marker(&plan.country, &plan.stage, key);
    let marker = match work.look_at::<Marker>(&path).await? {
        Hint::Sealed(marker) => marker,
        Hint::Absent => return Ok(None),
        Hint::Unsealed(_) | Hint::Damaged => return Ok(Some(None)),
    };
    let is_sound = marker.is_of(&plan.country, shard)
        && !is_before(&marker.part, horizon)
        && part_is_there(work, plan.output.artifact, &marker.part).await?;
    Ok(Some(is_sound.then_some(marker)))
}

async fn part_is_there(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<bool, WorkerError> {
    let object = format!("{}/{}", paths::table(artifact), part.path);
    Ok(work.head(&object).await?.is_some_and(|meta| meta.size == part.size_bytes))
}

/// Whether every byte of a part is as it was written.
async fn is_whole(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<bool, WorkerError> {
    let read = async { PartReader::open(work, artifact, part).await?.verify().await };
    match read.await {
        Err(error) if is_unreadable(&error) => Ok(false),
        read => read.map(|()| true),
    }
}

/// Parts that are uploaded in pieces cannot be sent again piece by piece: the shard begins again.
pub(crate) async fn map_with_retries(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    shard: u32,
    key: &str,
    compute: Option<&ComputeThreads>,
) -> Result<Option<(Marker, bool)>, WorkerError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
    // who asks a server has tried again and again by itself
    let tries = if stage.model == ModelUse::Served { 1 } else { SHARD_TRIES };
    let (mut failures, mut legs) = (0, Legs::new());
    loop {
        match map_shard(context, stage, plan, shard, key, compute, &mut legs).await {
            Ok(ShardEnd::PutAside) => {}
            Ok(ShardEnd::Stopped) => return Ok(None),
            Ok(ShardEnd::Done(marker, by_others)) => return Ok(Some((*marker, by_others))),
            Err(WorkerError::Transient(why)) if failures + 1 < tries && !context.stop.load(Ordering::Relaxed) => {
                failures += 1;
                metrics::add(Metric::Retries, &[("kind", "shard")], 1.0);
                context.observer.note(&format!("shard {shard} of {}: {why}; trying again", stage.name));
                tokio::time::sleep(backoff.next()).await;
            }
            Err(error @ (WorkerError::Broken(_) | WorkerError::Missing { .. })) => {
                return Err(cleared_away(context, plan, shard).await?.map_or(error, WorkerError::Outdated));
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a plan has pinned of a shard and is there no longer, though no table has lost it: others have replaced it since, and it
/// was cleared away.
async fn cleared_away(context: &MapContext<'_>, plan: &Plan, shard: u32) -> Result<Option<String>, WorkerError> {
    for table in plan.inputs.iter().chain([&plan.output]).filter(|table| table.artifact.is_table()) {
        let Some(part) = table.part(shard) else { continue };
        let path = format!("{}/{}", paths::table(table.artifact), part.path);
        if context.work.head(&path).await?.is_some() {
            continue;
        }
        let live = context.tables.pin(table.artifact, &plan.country, None).await?;
        if live.part_name(shard) != Some(part.path.as_str()) {
            return Ok(Some(format!("{path} was replaced after the plan was made, and is cleared away by now")));
        }
    }
    Ok(None)
}

/// What the legs of one shard took together, in this process.
pub(crate) struct Legs {
    began: Instant,
    phases: Phases,
    usage: Usage,
    devices: BTreeSet<DeviceKind>,
    errors: u64,
    /// Chunks that the observer was told of: the next leg copies them.
    told: usize,
    /// Rows that the last leg put aside.
    aside: usize,
    /// Rows that somebody else had put aside before the first leg.
    taken_over: Option<u64>,
    /// What is put aside is not found again, or somebody else's lies there: the shard is made in one go.
    in_one_go: bool,
}

impl Legs {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            phases: Phases::default(),
            usage: Usage::default(),
            devices: BTreeSet::new(),
            errors: 0,
            told: 0,
            aside: 0,
            taken_over: None,
            in_one_go: false,
        }
    }

    fn add(&mut self, leg: &WrittenRows) {
        self.phases.fetch += leg.phases.fetch;
        self.phases.map += leg.phases.map;
        self.phases.publish += leg.phases.publish;
        self.usage += leg.usage;
        self.devices.extend(&leg.devices);
        self.errors += leg.errors;
    }
}

/// How far a shard has come.
enum ShardEnd {
    /// All rows are made, perhaps by somebody else.
    Done(Box<Marker>, bool),
    /// What was made lies where whoever goes on finds it: there is more to do.
    PutAside,
    /// The same, and the run is to end.
    Stopped,
}

/// Makes rows of one shard, and puts them aside before too many could be lost: one leg.
async fn map_shard(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    shard: u32,
    key: &str,
    compute: Option<&ComputeThreads>,
    legs: &mut Legs,
) -> Result<ShardEnd, WorkerError> {
    let partial_path = paths::partial(&plan.country, stage.name, key);
    let partial = context.work.get_sealed::<PartFile>(&partial_path).await?;
    let partial = partial.filter(|part| part.is_of(&plan.country, shard));
    let stores = InputStores { tables: context.work, slices: context.slices };
    let join = ShardJoin::load(stores, stage, plan, shard, partial.as_ref()).await?;
    let aside = join.tasks.iter().filter(|task| task.partial.is_some()).count();
    legs.taken_over.get_or_insert(aside as u64);
    // otherwise the same rows would be made for ever
    legs.in_one_go |= aside < legs.aside;
    let places = join.places(stage.source).await?;
    let mut writer = PartWriter::create(context.work, plan.output.artifact, &plan.country, shard)?;
    let written = write_rows(context, stage, plan, (&join, &places), compute, (&mut writer, Some(legs))).await;
    if let (Err(error), Some(part)) = (&written, &partial)
        && is_unreadable(error)
        && !is_whole(context.work, plan.output.artifact, part).await?
    {
        // what names its rows could be read, and they cannot: they are made again
        tracing::warn!(stage = stage.name, shard, %error, "what a stopped worker left is damaged");
        context.work.delete(&partial_path).await?;
        legs.taken_over = None;
        return Ok(ShardEnd::PutAside);
    }
    let written = written?;
    legs.add(&written);
    let WrittenRows { computed, kept, carried, deleted, stopped, put_aside, .. } = written;
    if stopped || put_aside {
        // a stop may come while rows of before are copied: what holds more of them stays
        if put_aside || computed > aside as u64 {
            context.work.put_sealed(&partial_path, &writer.finish().await?).await?;
            legs.aside = computed as usize;
        }
        return Ok(if stopped { ShardEnd::Stopped } else { ShardEnd::PutAside });
    }
    let part = timed(&mut legs.phases.publish, writer.finish()).await?;
    let (seconds, mut phases) = (legs.began.elapsed().as_secs_f64(), legs.phases);
    phases.wait = (seconds - phases.fetch - phases.map - phases.publish).max(0.0);
    for (phase, seconds) in phases.named() {
        metrics::observe(Metric::ShardSeconds, &[("stage", stage.name), ("phase", phase)], seconds);
    }
    let (errors, usage) = (legs.errors, legs.usage);
    let device = legs.devices.first().filter(|_| legs.devices.len() == 1).copied();
    let taken_over = legs.taken_over.unwrap_or(0).min(computed);
    let settings = compute.map(|compute| compute.settings.clone()).unwrap_or_default();
    let marker =
        Marker { part, computed, taken_over, kept, carried, deleted, errors, seconds, phases, usage, device, settings };
    let path = paths::marker(&plan.country, stage.name, key);
    if !context.work.put_sealed_if_absent(&path, &marker).await? {
        // another worker was faster: its part serves, and ours is an orphan; or it is gone, or damaged, and ours serves
        let horizon = context.tables.horizon_millis(plan.output.artifact, &plan.country).await?;
        if let Some(theirs) = finished_by_anybody(context.work, plan, shard, key, horizon).await? {
            metrics::add(Metric::DuplicateShards, &[], 1.0);
            return Ok(ShardEnd::Done(Box::new(theirs), true));
        }
        context.work.put_sealed(&path, &marker).await?;
    }
    Ok(ShardEnd::Done(Box::new(marker), false))
}

/// What was written of a shard.
#[derive(Default)]
pub(crate) struct WrittenRows {
    pub(crate) computed: u64,
    pub(crate) kept: u64,
    pub(crate) carried: u64,
    pub(crate) deleted: u64,
    pub(crate) errors: u64,
    /// A stop came before the end.
    pub(crate) stopped: bool,
    /// Enough was made that must not be lost.
    put_aside: bool,
    pub(crate) phases: Phases,
    pub(crate) usage: Usage,
    /// What kinds of devices computed.
    devices: BTreeSet<DeviceKind>,
}

/// Makes and copies the rows of a shard, whose source bytes lie in `places`, chunk after chunk; to the end of it, unless
/// there may be several `legs`.
pub(crate) async fn write_rows(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    (join, places): (&ShardJoin, &[Option<ObjectRange>]),
    compute: Option<&ComputeThreads>,
    (writer, mut legs): (&mut PartWriter, Option<&mut Legs>),
) -> Result<WrittenRows, WorkerError> {
    let mut written = WrittenRows::default();
    let portions = compute.map(|compute| compute.portions);
    let (mut fresh, mut fresh_since) = (0, None::<Instant>);
    let chunks = chunks(&join.tasks, places, portions.map_or(CHUNK_ROWS, |portions| portions.rows));
    for (number, chunk) in chunks.into_iter().enumerate() {
        written.stopped = context.stop.load(Ordering::Relaxed);
        let keeps =
            |p: Portions| fresh >= p.kept_after_rows || fresh_since.is_some_and(|since| since.elapsed() > p.kept_after);
        written.put_aside = legs.as_ref().is_some_and(|legs| !legs.in_one_go) && portions.is_some_and(keeps);
        if written.stopped || written.put_aside {
            break;
        }
        let rows = Chunk::of(&join.tasks[chunk.clone()], &places[chunk]);
        let began = Instant::now();
        let made = chunk_batch(context, stage, plan, join, compute, &rows, &mut written).await;
        let (batch, failed) = match made {
            Err(WorkerError::Stopped) => {
                written.stopped = true;
                break;
            }
            made => made?,
        };
        if !rows.compute.is_empty() {
            fresh += rows.compute.len();
            fresh_since.get_or_insert(began);
        }
        let (made, kept) = ((rows.compute.len() + rows.partial.len()) as u64, rows.keep.len() as u64);
        let carried = rows.carry.len() as u64;
        written.computed += made;
        written.kept += kept;
        written.carried += carried;
        written.deleted += rows.deleted;
        written.errors += failed;
        if batch.num_rows() > 0 {
            timed(&mut written.phases.publish, writer.write(&batch)).await?;
        }
        if let Some(legs) = &mut legs {
            if number < legs.told {
                continue;
            }
            legs.told = number + 1;
        }
        for (outcome, rows) in [("computed", made - failed), ("kept", kept), ("carried", carried), ("error", failed)] {
            metrics::add(Metric::Rows, &[("stage", stage.name), ("outcome", outcome)], rows as f64);
        }
        context.observer.rows(made, kept + carried, failed);
    }
    Ok(written)
}

/// Waits for something, and adds what it took.
async fn timed<T>(seconds: &mut f64, act: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = act.await;
    *seconds += began.elapsed().as_secs_f64();
    done
}

/// The rows of a chunk by what becomes of them.
struct Chunk<'t> {
    compute: Vec<&'t RowTask>,
    /// Where the source bytes of the rows to compute lie.
    places: Vec<Option<ObjectRange>>,
    /// Copied from what a stopped worker left.
    partial: Vec<&'t RowTask>,
    keep: Vec<&'t RowTask>,
    /// Copied under a new recipe.
    carry: Vec<&'t RowTask>,
    deleted: u64,
}

impl<'t> Chunk<'t> {
    fn of(tasks: &'t [RowTask], places: &[Option<ObjectRange>]) -> Self {
        let mut chunk =
            Chunk { compute: vec![], places: vec![], partial: vec![], keep: vec![], carry: vec![], deleted: 0 };
        for (task, place) in tasks.iter().zip(places) {
            match task.action {
                RowAction::Delete => chunk.deleted += 1,
                RowAction::Keep => chunk.keep.push(task),
                RowAction::Carry => chunk.carry.push(task),
                RowAction::Compute(_) if task.partial.is_some() => chunk.partial.push(task),
                RowAction::Compute(_) => {
                    chunk.compute.push(task);
                    chunk.places.push(place.clone());
                }
            }
        }
        chunk
    }
}

/// Cuts a shard's tasks into chunks of bounded rows and source bytes, in order of image id.
fn chunks(tasks: &[RowTask], places: &[Option<ObjectRange>], rows: usize) -> Vec<Range<usize>> {
    let bytes_of = |(task, place): (&RowTask, &Option<ObjectRange>)| -> u64 {
        let computed = place.as_ref().filter(|_| matches!(task.action, RowAction::Compute(_)));
        computed.map_or(0, ObjectRange::weight)
    };
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, next) in tasks.iter().zip(places).map(bytes_of).enumerate() {
        if i > start && (i - start == rows || bytes.saturating_add(next) > CHUNK_SOURCE_BYTES) {
            chunks.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(next);
    }
    chunks.push(start..tasks.len());
    chunks
}

/// The rows of one chunk, computed and copied, in order of image id; and how many failed.
async fn chunk_batch(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    join: &ShardJoin,
    compute: Option<&ComputeThreads>,
    rows: &Chunk<'_>,
    written: &mut WrittenRows,
) -> Result<(RecordBatch, u64), WorkerError> {
    let schema = table::schema(plan.output.artifact);
    let mut batches = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut errors = 0;
    if !rows.compute.is_empty() {
        let Some(compute) = compute else {
            return Err(WorkerError::Broken(format!(
                "{}: the plan names rows to compute in none of its shards",
                stage.name
            )));
        };
        let inputs = async {
            let tables = join.read_inputs(&rows.compute).await?;
            let source = match stage.source {
                None => Vec::new(),
                Some(_) => fetch(context.source, &rows.places, context.fetch).await?,
            };
            Ok::<_, WorkerError>((tables, source))
        };
        let (tables, source) = timed(&mut written.phases.fetch, inputs).await?;
        let image_ids = rows.compute.iter().map(|t| t.image_id.clone()).collect();
        let Computed { output, seconds, usage, device } = compute.map(InputRows { image_ids, tables, source }).await?;
        written.phases.map += seconds;
        written.usage += usage;
        written.devices.insert(device);
        for (kind, counted) in [("in", usage.tokens_in), ("out", usage.tokens_out)] {
            if counted > 0 {
                metrics::add(Metric::Tokens, &[("stage", stage.name), ("kind", kind)], counted as f64);
            }
        }
        errors = output.outcomes.iter().filter(|o| matches!(o, Outcome::Failed(_))).count() as u64;
        batches.push(add_lineage_columns(stage, plan, &rows.compute, &output, Floats::Made)?);
        ids.extend(rows.compute.iter().map(|t| t.image_id.as_str()));
    }
    if !rows.keep.is_empty() {
        let positions: Vec<usize> = rows.keep.iter().filter_map(|t| t.committed).collect();
        batches.push(join.read_committed(&positions).await?);
        ids.extend(rows.keep.iter().map(|t| t.image_id.as_str()));
    }
    if let Some(told) = stage.told.as_ref().filter(|_| !rows.carry.is_empty()) {
        let content = timed(&mut written.phases.fetch, join.read_carried(told, &rows.carry)).await?;
        let output = MapOutput { outcomes: vec![Outcome::Good; rows.carry.len()], content };
        batches.push(add_lineage_columns(stage, plan, &rows.carry, &output, Floats::Stand)?);
        ids.extend(rows.carry.iter().map(|t| t.image_id.as_str()));
    }
    if !rows.partial.is_empty() {
        let positions: Vec<usize> = rows.partial.iter().filter_map(|t| t.partial).collect();
        batches.push(join.read_partial(&positions).await?);
        ids.extend(rows.partial.iter().map(|t| t.image_id.as_str()));
    }
    let batch = concat_batches(&schema, &batches).map_err(|e| {
        WorkerError::Broken(format!("{}: computed and copied rows do not fit together: {e}", stage.name))
    })?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&i| ids[i as usize]);
    Ok((reorder(&batch, &order)?, errors))
}

/// Whether a row's floats are new: their digest is the row's recipe then, and otherwise that by which they were made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floats {
    Made,
    Stand,
}

/// Puts the identity columns before what the stage computed.
pub(crate) fn add_lineage_columns(
    stage: &Stage,
    plan: &Plan,
    tasks: &[&RowTask],
    output: &MapOutput,
    floats: Floats,
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
        let is_recipe = floats == Floats::Made && stage.recipe_digest == Some(field.name().as_str());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_are_objects_of_their_own_weigh_what_they_are() {
        let tasks: Vec<RowTask> = (0..128).map(|number| RowTask::to_compute(&number.to_string())).collect();
        let chunks_of = |bytes: Option<u64>| {
            let place = ObjectRange { object: "a.tif".into(), etag: None, bytes, member: None };
            chunks(&tasks, &vec![Some(place); 128], 128).len()
        };
        assert_eq!([Some(40 << 20), Some(8 << 20), None].map(chunks_of), [128, 32, 1]);
    }
}
