//! The loop of a worker: take a planned shard, read its rows, compute what is stale, copy what
//! stands, write the part file, put the marker. Nothing becomes live here.
//!
//! More shards are under way than there are devices, so that fetching one, computing others and writing one
//! overlap; each device has one compute thread, which keeps it and all its memory to itself.

pub(crate) mod shard;

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt};
use manifests::commit::Replacement;
use manifests::spec::DeviceName;
use manifests::{Digest, Marker, Plan, ShardPlan};
use stages::stage::{ModelUse, Stage, StageContext};

use crate::claims::FailedShard;
use crate::compute::ComputeThreads;
use crate::error::WorkerError;
use crate::fetch::FetchSettings;
use crate::metrics::{self, Metric};
use crate::stores::{SourceStore, WorkStore};
use crate::tables::Tables;
use shard::{finished_by_anybody, map_with_retries};

/// Shards under way beside those that are computed: one fetched, one written.
pub(crate) const SHARDS_AROUND: usize = 2;

/// Watches the work; called from worker threads.
pub trait Observer: Send + Sync {
    /// `rows` rows are done (computed, copied, failed).
    fn rows(&self, computed: u64, kept: u64, errors: u64);
    /// Something that people should read, such as another try.
    fn note(&self, text: &str);
}

/// What a worker works with.
pub struct MapContext<'a> {
    /// Where tables and markers are.
    pub work: &'a WorkStore,
    /// Where slices are read from: the work store, or the planner's own memory.
    pub slices: &'a WorkStore,
    /// Delta tables of the work store.
    pub tables: &'a Tables,
    /// Where source bytes are read from.
    pub source: &'a SourceStore,
    /// How they are fetched.
    pub fetch: FetchSettings,
    /// Set when the run is to end: finished shards are kept.
    pub stop: &'a AtomicBool,
    /// Told how far the work is.
    pub observer: &'a dyn Observer,
}

/// A shard whose rows are all as they should be, in a part that is not live yet.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedShard {
    /// The new part, and the one that it replaces.
    pub replacement: Replacement,
    /// Says which part finished the shard's work, and what it took.
    pub marker: Marker,
    /// Another run made its rows, at the same time or earlier.
    pub by_other_runs: bool,
}

/// What became of a plan.
pub struct MapResult {
    /// By shard.
    pub finished: Vec<FinishedShard>,
    /// Shards that workers elsewhere could not make.
    pub failed: Vec<FailedShard>,
    /// From when until when workers elsewhere were at it, in seconds since 1970 by the store's clock; `None`: nobody was.
    pub span: Option<(f64, f64)>,
    /// A stop was asked for: `finished` are not all.
    pub stopped: bool,
    /// Why the plan was given up before all were finished: what it was made on is there no longer.
    pub outdated: Option<String>,
}

impl FinishedShard {
    /// A finished shard of a plan, as its marker says.
    pub(crate) fn of(plan: &Plan, marker: Marker, by_other_runs: bool) -> Self {
        let base = plan.output.part_name(marker.part.shard).map(str::to_owned);
        Self { replacement: Replacement { base, part: marker.part.clone() }, marker, by_other_runs }
    }
}

/// A shard with what is known of its work.
struct ShardWork<'p> {
    plan: &'p ShardPlan,
    key: Digest,
    done: Option<Marker>,
}

/// Works on all stale shards of a plan, on `devices` where the stage asks a network. Shards that somebody has finished
/// already are only counted. No row depends on the devices.
///
/// # Errors
/// [`WorkerError::Configuration`] if a stage cannot be opened, [`WorkerError::Broken`] for inputs that cannot be
/// read, [`WorkerError::DiskFull`], [`WorkerError::Transient`] if a store does not answer. Being stopped is no error.
pub async fn map_plan(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    stage_context: StageContext<'_>,
    devices: &[DeviceName],
) -> Result<MapResult, WorkerError> {
    let horizon = context.tables.horizon_to_write(plan.output.artifact, &plan.country).await?;
    let work: Vec<ShardWork<'_>> = futures::stream::iter(&plan.counts.stale)
        .map(|shard| async move {
            let key = plan.shard_key(shard.shard);
            let done = finished_by_anybody(context.work, plan, shard.shard, &key, horizon).await?;
            Ok::<_, WorkerError>(ShardWork { plan: shard, key, done })
        })
        .buffered(context.fetch.concurrency)
        .try_collect()
        .await?;
    let devices = devices_of(stage, devices);
    let computes = work.iter().any(|w| w.done.is_none() && w.plan.computed() > 0);
    let compute = if computes { Some(ComputeThreads::start(stage, &stage_context, devices)?) } else { None };
    let mut finished: Vec<FinishedShard> = futures::stream::iter(work)
        .map(|shard| {
            let compute = compute.as_ref();
            async move {
                let number = shard.plan.shard;
                let made = match shard.done {
                    Some(marker) => {
                        context.observer.rows(marker.computed, marker.kept + marker.carried, marker.errors);
                        Some((marker, true))
                    }
                    None if context.stop.load(Ordering::Relaxed) => None,
                    None => map_with_retries(context, stage, plan, number, &shard.key, compute).await?,
                };
                if let Some((marker, by_others)) = &made {
                    let seconds = marker.seconds;
                    tracing::info!(event = "shard", stage = stage.name, shard = number, seconds, by_others, "done");
                    metrics::add(Metric::Shards, &[("stage", stage.name), ("state", "done")], 1.0);
                }
                Ok::<_, WorkerError>(made.map(|(marker, by_others)| FinishedShard::of(plan, marker, by_others)))
            }
        })
        .buffer_unordered(devices.len() + SHARDS_AROUND)
        .try_filter_map(|finished| async move { Ok(finished) })
        .try_collect()
        .await?;
    finished.sort_by_key(|f| f.marker.part.shard);
    let stopped = finished.len() < plan.counts.stale.len();
    Ok(MapResult { stopped, finished, failed: Vec::new(), span: None, outdated: None })
}

/// Threads that ask a server: while the last answers of one chunk are awaited, the server has those of another to work on.
const ASKING: [DeviceName; 3] = [DeviceName::Cpu; 3];

/// The devices that a stage computes on: what asks no network has all cores already, and who asks a server computes
/// nothing.
pub(crate) fn devices_of<'d>(stage: &Stage, devices: &'d [DeviceName]) -> &'d [DeviceName] {
    match stage.model {
        ModelUse::None => &devices[..devices.len().min(1)],
        ModelUse::Served => &ASKING,
        ModelUse::Scoring | ModelUse::Retrieval | ModelUse::Named(_) => devices,
    }
}
