//! Workers that share a plan: each takes its own shards first and then those that nobody works on, until all are closed.
//!
//! Nothing is agreed but through the store, and claims are hints: see [`manifests::attempts`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use manifests::attempts::{End, ShardTurn};
use manifests::spec::DeviceName;
use manifests::{Plan, ShardPlan};
use stages::stage::{Stage, StageContext};

use crate::backoff::Backoff;
use crate::claims::{Attempted, Beats, ClaimBoard, Claimant, FailedShard, Look, pause_between_looks};
use crate::compute::ComputeThreads;
use crate::error::WorkerError;
use crate::map::shard::{finished_by_anybody, map_with_retries};
use crate::map::{FinishedShard, MapContext, SHARDS_AROUND, devices_of};
use crate::metrics::{self, Metric};
use crate::stores::WorkStore;
use crate::tables::Tables;

/// A worker's part of a plan.
#[derive(Debug, Clone)]
pub struct Share {
    /// Its number, from 0; it may exceed the shards.
    pub index: u32,
    /// How many workers there are.
    pub count: u32,
    /// How long a silent worker keeps its shards.
    pub lease: Duration,
    /// Who it is.
    pub claimant: Claimant,
    /// Whether it leaves once nothing is to be had, rather than when the plan is closed: others have work for its place.
    pub leaves: bool,
}

impl Share {
    /// Is a shard its own? It is taken by others only when theirs are done.
    fn is_home(&self, shard: u32) -> bool {
        shard % self.count.max(1) == self.index % self.count.max(1)
    }
}

/// Longest pause between two looks at shards that others work on, where a look takes no time.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
/// Fewest shards of others that are tried after one look.
const STOLEN_PER_LOOK: usize = 4;

/// How a worker's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullEnd {
    /// Every stale shard of the plan is done or closed as failed; or somebody works on it, and the worker has left; or the
    /// plan was withdrawn.
    Closed,
    /// The worker was asked to stop; what it had begun is left for others.
    Stopped,
}

/// Works on a plan's stale shards together with others. Waits until all are closed: an exit tells the engine that the
/// plan is, unless the worker is one that leaves.
///
/// # Errors
/// [`WorkerError::Configuration`] for what this worker can never do, [`WorkerError::Outdated`] where what the plan was made on
/// is there no longer, [`WorkerError::Transient`] for a store or a device that fails. Rows and shards that cannot be made are no error of a worker.
pub async fn pull(
    context: &MapContext<'_>,
    stage: &Stage,
    plan: &Plan,
    stage_context: StageContext<'_>,
    devices: &[DeviceName],
    share: &Share,
) -> Result<PullEnd, WorkerError> {
    let board = ClaimBoard::new(context.work, plan, share.lease);
    let look = board.look().await?;
    if look.is_over() {
        return Ok(PullEnd::Closed);
    }
    let devices = devices_of(stage, devices);
    let computes = plan.counts.stale.iter().any(|shard| shard.computed() > 0);
    let compute = if computes { Some(ComputeThreads::start(stage, &stage_context, devices)?) } else { None };
    let pull = Pull {
        context,
        stage,
        plan,
        share,
        beats: board.beats(),
        board,
        compute,
        queue: tokio::sync::Mutex::default(),
        failed_here: Mutex::default(),
        sizes: plan.counts.stale.iter().map(|shard| (shard.shard, size(shard))).collect(),
    };
    pull.queue_open(look, &mut *pull.queue.lock().await).await?;
    let slots = devices.len() + SHARDS_AROUND;
    let pull = &pull;
    let ends = (0..slots).map(|slot| async move {
        let end = pull.work_in_slot(slot, slots, devices.len()).await;
        // the other slots give back what they have begun
        end.inspect_err(|_| context.stop.store(true, Ordering::Relaxed))
    });
    let ends = futures::future::join_all(ends).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(if ends.contains(&PullEnd::Stopped) { PullEnd::Stopped } else { PullEnd::Closed })
}

/// How much a shard is to be feared by whoever is last.
fn size(shard: &ShardPlan) -> u64 {
    shard.computed() * 1000 + shard.kept
}

struct Pull<'a> {
    context: &'a MapContext<'a>,
    stage: &'a Stage,
    plan: &'a Plan,
    share: &'a Share,
    board: ClaimBoard<'a>,
    beats: Beats,
    compute: Option<ComputeThreads>,
    /// Shards that were open at the last look, with their next epochs.
    queue: tokio::sync::Mutex<VecDeque<(u32, u32)>>,
    /// Shards that failed here, and when: somebody else should try them.
    failed_here: Mutex<BTreeMap<u32, Instant>>,
    sizes: BTreeMap<u32, u64>,
}

enum Taken {
    Shard(Attempted),
    /// Nothing is left for this slot.
    Nothing,
    /// All shards of the plan are closed, or it was withdrawn.
    Closed,
    Stopped,
}

impl Pull<'_> {
    /// Takes shard after shard. The first slots, one for each device, stay until the plan is closed; the others read ahead
    /// while there are shards enough.
    async fn work_in_slot(&self, slot: usize, slots: usize, devices: usize) -> Result<PullEnd, WorkerError> {
        loop {
            let attempted = match self.take(slot < devices, slots).await? {
                Taken::Shard(attempted) => attempted,
                Taken::Nothing | Taken::Closed => return Ok(PullEnd::Closed),
                Taken::Stopped => return Ok(PullEnd::Stopped),
            };
            let path = self.board.beat_path(&attempted);
            self.beats.add(path.clone(), attempted.clone());
            let worked = self.work_on(&attempted).await;
            self.beats.remove(&path);
            if !worked? {
                return Ok(PullEnd::Stopped);
            }
        }
    }

    /// Claims a shard, once there is one.
    async fn take(&self, waits: bool, slots: usize) -> Result<Taken, WorkerError> {
        let longest = (self.share.lease / 2).min(LONGEST_WAIT);
        let mut pauses = Backoff::new(longest / 16, longest);
        loop {
            let mut queue = self.queue.lock().await;
            if self.context.stop.load(Ordering::Relaxed) {
                // whoever was told to stop after the last shard has done its work
                let closed = self.look(&mut queue).await?;
                return Ok(if closed { Taken::Closed } else { Taken::Stopped });
            }
            if !waits && queue.len() < slots {
                return Ok(Taken::Nothing);
            }
            while let Some((shard, epoch)) = queue.pop_front() {
                let attempted = Attempted { shard, epoch, by: self.share.claimant.clone(), why: None };
                let claimed = self.board.claim(&attempted).await;
                let result = match claimed {
                    Ok(true) if self.share.is_home(shard) => "home",
                    Ok(true) => "stolen",
                    Ok(false) => "lost",
                    Err(_) => "refused",
                };
                metrics::add(Metric::Claims, &[("result", result)], 1.0);
                if claimed? {
                    return Ok(Taken::Shard(attempted));
                }
            }
            let began = Instant::now();
            if self.look(&mut queue).await? {
                return Ok(Taken::Closed);
            }
            let least = pause_between_looks(began.elapsed(), self.share.count, self.share.lease);
            if queue.is_empty() {
                if self.share.leaves {
                    return Ok(Taken::Nothing);
                }
                drop(queue);
                self.wait(pauses.next().max(least)).await;
            }
        }
    }

    /// Looks what is open, and queues it; whether nothing is left to do by the plan.
    async fn look(&self, queue: &mut VecDeque<(u32, u32)>) -> Result<bool, WorkerError> {
        let look = self.board.look().await?;
        self.queue_open(look, queue).await
    }

    /// Queues what was open at a look: this worker's own shards, or else its portion of those of others.
    async fn queue_open(&self, look: Look, queue: &mut VecDeque<(u32, u32)>) -> Result<bool, WorkerError> {
        let (mut home, mut others, mut open) = (Vec::new(), Vec::new(), false);
        if look.withdrawn.is_some() {
            return Ok(true);
        }
        for (shard, (turn, attempts)) in look.shards {
            match turn {
                ShardTurn::Done | ShardTurn::Failed => {}
                ShardTurn::Running { .. } => open = true,
                ShardTurn::Poisoned => {
                    self.board.close(shard, &attempts).await?;
                    self.context.observer.note(&format!("shard {shard} of {} is closed as failed", self.stage.name));
                }
                ShardTurn::Open { epoch } => {
                    open = true;
                    if self.failed_lately(shard) {
                        continue;
                    }
                    if self.share.is_home(shard) { home.push((shard, epoch)) } else { others.push((shard, epoch)) }
                }
            }
        }
        let largest_first = |(shard, _): &(u32, u32)| (std::cmp::Reverse(self.sizes.get(shard).copied()), *shard);
        home.sort_by_key(largest_first);
        if home.is_empty() && !others.is_empty() {
            // each worker begins elsewhere, so that they do not all ask for the same; a look lists all attempts of the stage, and
            // whoever tried a few shards after each would look more often than it works
            others.sort_by_key(largest_first);
            let count = self.share.count.max(1) as usize;
            let begin = others.len() * (self.share.index as usize % count) / count;
            others.rotate_left(begin);
            others.truncate((others.len() / count).max(STOLEN_PER_LOOK));
            home = others;
        }
        queue.extend(home);
        Ok(!open)
    }

    fn failed_lately(&self, shard: u32) -> bool {
        let failed = self.failed_here.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.share.count > 1 && failed.get(&shard).is_some_and(|at| at.elapsed() < self.share.lease)
    }

    async fn wait(&self, pause: Duration) {
        let began = Instant::now();
        let pause = pause.max(SHORTEST_WAIT);
        while began.elapsed() < pause && !self.context.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        metrics::add(Metric::WorkerIdle, &[("reason", "claims")], began.elapsed().as_secs_f64());
    }

    /// Works on a claimed shard; `false`: a stop came first.
    async fn work_on(&self, attempted: &Attempted) -> Result<bool, WorkerError> {
        let (shard, key) = (attempted.shard, self.board.key(attempted.shard));
        // somebody may have finished it between the look and the claim
        if attempted.epoch > 1 {
            let horizon = self.context.tables.horizon_millis(self.plan.output.artifact, &self.plan.country).await?;
            if finished_by_anybody(self.context.work, self.plan, shard, key, horizon).await?.is_some() {
                return Ok(true);
            }
        }
        let mapped = map_with_retries(self.context, self.stage, self.plan, shard, key, self.compute.as_ref()).await;
        match mapped {
            Ok(Some((marker, by_others))) => {
                let (epoch, seconds) = (attempted.epoch, marker.seconds);
                tracing::info!(event = "shard", shard, epoch, seconds, by_others, "done");
                Ok(true)
            }
            Ok(None) | Err(WorkerError::Stopped) => {
                self.board.end(attempted, End::Released, None).await?;
                Ok(false)
            }
            Err(error @ (WorkerError::Broken(_) | WorkerError::Missing { .. })) => {
                self.context.observer.note(&format!("shard {shard} of {}: {error}", self.stage.name));
                self.failed_here
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .insert(shard, Instant::now());
                self.board.end(attempted, End::Permanent, Some(error.to_string())).await?;
                Ok(true)
            }
            // the thread is gone, and this worker with it; the shard may be why
            Err(WorkerError::Panicked(why)) => {
                self.board.end(attempted, End::Transient, Some(why.clone())).await?;
                Err(WorkerError::Transient(why))
            }
            Err(error) => {
                // a store that does not answer, a full disk and wrong settings say nothing of the shard; and the store may
                // be what fails
                _ = self.board.end(attempted, End::Released, Some(error.to_string())).await;
                Err(error)
            }
        }
    }
}

/// What became of a plan that workers share.
#[derive(Debug, Default)]
pub struct Collected {
    /// Shards whose parts are written, by number.
    pub finished: Vec<FinishedShard>,
    /// Shards that are closed as failed.
    pub failed: Vec<FailedShard>,
    /// Shards that somebody works on.
    pub running: BTreeSet<u32>,
    /// Shards that nobody works on.
    pub open: BTreeSet<u32>,
    /// From the first claim to the last marker since the plan was published, in seconds since 1970 by the store's
    /// clock; `None`: nobody has worked on it since.
    pub span: Option<(f64, f64)>,
}

impl Collected {
    /// Is every stale shard of the plan done, or closed as failed?
    pub fn is_closed(&self) -> bool {
        self.running.is_empty() && self.open.is_empty()
    }
}

/// Looks what became of a plan. Markers whose parts are gone count for nothing.
///
/// # Errors
/// A store that does not answer.
pub async fn collect(
    work: &WorkStore,
    tables: &Tables,
    plan: &Plan,
    lease: Duration,
    at_once: usize,
) -> Result<Collected, WorkerError> {
    let board = ClaimBoard::new(work, plan, lease);
    let horizon = tables.horizon_millis(plan.output.artifact, &plan.country).await?;
    let mut collected = Collected::default();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    // what a run has left that was stopped long ago lies under the same keys
    let published = board.published_millis().await?.unwrap_or(i64::MIN);
    let mut span: Option<(i64, i64)> = None;
    for (shard, (turn, attempts)) in board.look().await?.shards {
        if let Some((first, last)) = attempts.span_millis().filter(|(_, last)| *last >= published) {
            let first = first.max(published);
            span = Some(span.map_or((first, last), |of_all| (of_all.0.min(first), of_all.1.max(last))));
        }
        match turn {
            ShardTurn::Done => done.push(shard),
            ShardTurn::Failed => failed.push(shard),
            ShardTurn::Running { .. } => _ = collected.running.insert(shard),
            // whoever looks next closes what is poisoned
            ShardTurn::Open { .. } | ShardTurn::Poisoned => _ = collected.open.insert(shard),
        }
    }
    collected.failed =
        futures::stream::iter(failed).map(|shard| board.failed(shard)).buffered(at_once.max(1)).try_collect().await?;
    collected.span = span.map(|(first, last)| (first as f64 / 1000.0, last as f64 / 1000.0));
    let mut markers = futures::stream::iter(done)
        .map(|shard| {
            let key = board.key(shard);
            async move { Ok::<_, WorkerError>((shard, finished_by_anybody(work, plan, shard, key, horizon).await?)) }
        })
        .buffered(at_once.max(1));
    while let Some((shard, marker)) = markers.try_next().await? {
        match marker {
            Some(marker) => collected.finished.push(FinishedShard::of(plan, marker, false)),
            None => _ = collected.open.insert(shard),
        }
    }
    Ok(collected)
}
