//! Claims of workers on the shards of a plan, the beats by which others see that they are alive, and the word that ends a plan
//! before its shards are done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use manifests::attempts::{Attempts, End, Object, ShardTurn};
use manifests::{Artifact, Digest, PartFile, Plan, paths};
use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::metrics::{self, Metric};
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Who works, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// Name of the worker within its stage, such as `3`.
    pub worker: String,
    /// Host that it runs on.
    pub node: String,
    /// The job by which the engine knows it, if one has started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_job: Option<String>,
}

/// Name of the node that a process runs on: as its engine has it in the environment, or else the machine's own.
pub fn node(variable: &dyn Fn(&str) -> Option<String>) -> String {
    variable("NODE_NAME").or_else(|| variable("SLURMD_NODENAME")).unwrap_or_else(crate::process::host)
}

/// What a claim, a beat or the end of an attempt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// The shard, for people: its key is in the name.
    pub shard: u32,
    /// From 1.
    pub epoch: u32,
    /// Who tried.
    pub by: Claimant,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A shard that is closed as failed, with what became of its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedShard {
    /// Its number.
    pub shard: u32,
    /// Those that told how they ended; the others were lost with their workers.
    pub attempts: Vec<Attempted>,
    /// How often it was tried.
    pub epochs: u32,
}

impl FailedShard {
    /// Why, in words.
    pub fn why(&self) -> String {
        let last = self
            .attempts
            .iter()
            .rev()
            .find_map(|attempt| attempt.why.as_ref().map(|why| format!("{why} (on {})", attempt.by.node)));
        last.unwrap_or_else(|| "each of its workers was lost with it, as when memory does not suffice".to_owned())
    }
}

/// Word of a worker that a plan cannot be done: what it was made on is there no longer. All others leave it, and whoever
/// drives the build plans again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// When the plan that its worker has read was published, in milliseconds of the store's clock. A plan that was published
    /// again since, on what is there now, may have the same key: of that one it says nothing.
    pub published_millis: i64,
    /// Who found it.
    pub by: Claimant,
    /// What is there no longer.
    pub why: String,
}

/// What has become of a plan so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Whose turn it is, and the attempts, by number of the stale shard.
    pub shards: BTreeMap<u32, (ShardTurn, Attempts)>,
    /// Why the plan cannot be done.
    pub withdrawn: Option<Withdrawal>,
}

impl Look {
    /// Is nothing left to do by this plan?
    pub fn is_over(&self) -> bool {
        self.withdrawn.is_some() || self.shards.values().all(|(turn, _)| turn.is_closed())
    }
}

/// A look takes at most one of so many parts of whoever looks again and again.
const LOOKS_SHARE: u32 = 10;

/// A look that took long because the store was away says nothing of the next one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long to wait after a look before the next one, where so many look: a look lists every attempt of the stage, which
/// is many pages of a large country. All together keep a store no busier than one who looks without a pause, as far as
/// that goes within half a lease: nobody hears later of what a lost worker has left.
pub fn pause_between_looks(took: Duration, lookers: u32, lease: Duration) -> Duration {
    took.saturating_mul(lookers.max(LOOKS_SHARE)).min(lease / 2).min(LONGEST_PAUSE)
}

/// Attempts on the stale shards of a plan.
pub struct ClaimBoard<'a> {
    work: &'a WorkStore,
    country: String,
    stage: String,
    folder: String,
    plan_key: Digest,
    plan_path: String,
    shards: BTreeMap<Digest, u32>,
    keys: BTreeMap<u32, Digest>,
    lease: Duration,
}

impl<'a> ClaimBoard<'a> {
    /// The board of a plan, on which attempts that were silent for `lease` are lost.
    pub fn new(work: &'a WorkStore, plan: &Plan, lease: Duration) -> Self {
        let keys: BTreeMap<u32, Digest> =
            plan.counts.stale.iter().map(|stale| (stale.shard, plan.shard_key(stale.shard))).collect();
        let plan_key = plan.key();
        let shards = keys.iter().map(|(shard, key)| (key.clone(), *shard)).collect();
        Self {
            work,
            country: plan.country.clone(),
            stage: plan.stage.clone(),
            folder: paths::markers(&plan.country, &plan.stage),
            plan_path: paths::plan(&plan.country, &plan.stage, &plan_key),
            plan_key,
            shards,
            keys,
            lease,
        }
    }

    /// Key of one of the plan's stale shards.
    pub(crate) fn key(&self, shard: u32) -> &str {
        self.keys.get(&shard).map_or("", String::as_str)
    }

    fn path(&self, shard: u32, object: Object) -> String {
        format!("{}/{}", self.folder, object.name(self.key(shard)))
    }

    /// Looks at all attempts: one listing, three requests more where somebody works, and two where somebody has withdrawn the
    /// plan.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn look(&self) -> Result<Look, WorkerError> {
        let mut is_withdrawn = false;
        let mut attempts: BTreeMap<u32, Attempts> =
            self.keys.keys().map(|shard| (*shard, Attempts::default())).collect();
        for (name, meta) in self.work.list_metas(&self.folder).await? {
            let Some((key, object)) = Object::of_name(&name) else { continue };
            is_withdrawn |= object == Object::Withdrawn && key == self.plan_key;
            let of_shard = self.shards.get(key).and_then(|shard| attempts.get_mut(shard));
            if let Some(of_shard) = of_shard {
                of_shard.add(object, meta.last_modified.timestamp_millis());
            }
        }
        let lease = self.lease.as_millis() as i64;
        let somebody_works = attempts.values().any(|a| matches!(a.turn(0, i64::MAX), ShardTurn::Running { .. }));
        let now = if somebody_works { self.work.now_millis().await? } else { 0 };
        let shards =
            attempts.into_iter().map(|(shard, attempts)| (shard, (attempts.turn(now, lease), attempts))).collect();
        self.tell(&shards);
        let withdrawn = if is_withdrawn { self.withdrawal().await? } else { None };
        Ok(Look { shards, withdrawn })
    }

    /// When the plan was published last, in milliseconds of the store's clock; `None`: it was not.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn published_millis(&self) -> Result<Option<i64>, WorkerError> {
        Ok(self.work.head(&self.plan_path).await?.map(|meta| meta.last_modified.timestamp_millis()))
    }

    async fn withdrawal(&self) -> Result<Option<Withdrawal>, WorkerError> {
        let Some(found) = self.work.get_hint::<Withdrawal>(&self.withdrawal_path()).await? else { return Ok(None) };
        let published = self.published_millis().await?;
        Ok(published.is_none_or(|millis| millis == found.published_millis).then_some(found))
    }

    /// Says that the plan cannot be done.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn withdraw(&self, withdrawal: &Withdrawal) -> Result<(), WorkerError> {
        self.work.put_json(&self.withdrawal_path(), withdrawal).await
    }

    /// Takes back what was said of the plan as it was before.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn forget_withdrawal(&self) -> Result<(), WorkerError> {
        self.work.delete(&self.withdrawal_path()).await
    }

    fn withdrawal_path(&self) -> String {
        format!("{}/{}", self.folder, Object::Withdrawn.name(&self.plan_key))
    }

    fn tell(&self, shards: &BTreeMap<u32, (ShardTurn, Attempts)>) {
        let mut states = BTreeMap::from([("open", 0), ("running", 0), ("done", 0), ("failed", 0)]);
        for (turn, _) in shards.values() {
            let state = match turn {
                ShardTurn::Open { .. } | ShardTurn::Poisoned => "open",
                ShardTurn::Running { .. } => "running",
                ShardTurn::Done => "done",
                ShardTurn::Failed => "failed",
            };
            *states.entry(state).or_default() += 1;
        }
        for (state, shards) in states {
            metrics::set(Metric::Shards, &[("stage", &self.stage), ("state", state)], f64::from(shards));
        }
    }

    /// Claims a shard under an epoch; `false`: somebody else was faster.
    pub(crate) async fn claim(&self, attempted: &Attempted) -> Result<bool, WorkerError> {
        let path = self.path(attempted.shard, Object::Claim(attempted.epoch));
        self.work.put_json_if_absent(&path, attempted).await
    }

    /// Writes down how an attempt ended.
    pub(crate) async fn end(&self, attempted: &Attempted, end: End, why: Option<String>) -> Result<(), WorkerError> {
        let path = self.path(attempted.shard, Object::End(attempted.epoch, end));
        self.work.put_json(&path, &Attempted { why, ..attempted.clone() }).await
    }

    /// Closes a shard as failed.
    pub(crate) async fn close(&self, shard: u32, attempts: &Attempts) -> Result<(), WorkerError> {
        let mut failed = FailedShard { shard, attempts: Vec::new(), epochs: attempts.epoch() };
        for epoch in 1..=attempts.epoch() {
            for end in [End::Transient, End::Permanent] {
                let path = self.path(shard, Object::End(epoch, end));
                failed.attempts.extend(self.work.get_hint::<Attempted>(&path).await?);
            }
        }
        self.work.put_json(&self.path(shard, Object::Failed), &failed).await
    }

    /// What became of a shard that is closed as failed.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn failed(&self, shard: u32) -> Result<FailedShard, WorkerError> {
        let known = self.work.get_hint(&self.path(shard, Object::Failed)).await?;
        Ok(known.unwrap_or(FailedShard { shard, attempts: Vec::new(), epochs: 0 }))
    }

    /// Rows of a shard that were put aside: whoever goes on with it takes them from there.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn put_aside(&self, shard: u32) -> Result<u64, WorkerError> {
        let partial = self.work.get_sealed::<PartFile>(&self.path(shard, Object::Partial)).await?;
        Ok(partial.filter(|part| part.is_of(&self.country, shard)).map_or(0, |part| part.rows))
    }

    /// Ends the attempts of a worker whose process is known to be gone, so that nobody waits until it has been silent for long
    /// enough.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn end_lost(&self, worker: &str, node: &str) -> Result<(), WorkerError> {
        for (shard, (turn, attempts)) in self.look().await?.shards {
            if !matches!(turn, ShardTurn::Running { .. }) {
                continue;
            }
            let claim = self.path(shard, Object::Claim(attempts.epoch()));
            let claim = self.work.get_hint::<Attempted>(&claim).await?;
            if let Some(attempted) = claim.filter(|claim| claim.by.worker == worker && claim.by.node == node) {
                self.end(&attempted, End::Transient, Some("its worker was killed".into())).await?;
            }
        }
        Ok(())
    }

    /// The claim of a shard's newest attempt.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn claimed_by(&self, shard: u32, epoch: u32) -> Result<Option<Claimant>, WorkerError> {
        let claim = self.work.get_hint::<Attempted>(&self.path(shard, Object::Claim(epoch))).await?;
        Ok(claim.map(|claim| claim.by))
    }

    /// Begins to beat for attempts, on a thread of its own: a long computation is no silence.
    pub(crate) fn beats(&self) -> Beats {
        Beats::start(self.work.clone(), self.lease / 4)
    }

    pub(crate) fn beat_path(&self, attempted: &Attempted) -> String {
        self.path(attempted.shard, Object::Beat(attempted.epoch))
    }
}

/// Opens shards of a stage again that were closed as failed and are still to be made, all or those of one number; says
/// which.
///
/// # Errors
/// A store that does not answer, and a table of the stage's output that another program has changed.
pub async fn reopen(
    work: &WorkStore,
    country: &str,
    (stage, output): (&str, Artifact),
    wanted: Option<u32>,
) -> Result<Vec<FailedShard>, WorkerError> {
    let folder = paths::markers(country, stage);
    let names = work.list(&folder).await?;
    let objects: Vec<(&str, &str, Object)> = names
        .iter()
        .filter_map(|name| Object::of_name(name).map(|(key, object)| (name.as_str(), key, object)))
        .collect();
    let of_kind = |kind: Object| objects.iter().filter(move |(.., object)| *object == kind);
    // what somebody has made since, such as a run, has a marker beside that word
    let mut over: BTreeSet<Digest> = of_kind(Object::Marker).map(|(_, key, _)| (*key).to_owned()).collect();
    if of_kind(Object::Failed).next().is_some() {
        over.extend(superseded(work, country, (stage, output)).await?);
    }
    let mut reopened = Vec::new();
    for (name, key, _) in of_kind(Object::Failed).filter(|(_, key, _)| !over.contains(*key)) {
        let failed = work.get_hint::<FailedShard>(&format!("{folder}/{name}")).await?;
        let failed = failed.unwrap_or(FailedShard { shard: 0, attempts: Vec::new(), epochs: 0 });
        if wanted.is_some_and(|wanted| wanted != failed.shard) {
            continue;
        }
        // the word that closes it goes last: until then it stays closed
        let of_shard = objects.iter().filter(|(_, of, object)| of == key && *object != Object::Failed);
        for (attempt, ..) in of_shard.filter(|(.., object)| !matches!(object, Object::Marker | Object::Partial)) {
            work.delete(&format!("{folder}/{attempt}")).await?;
        }
        work.delete(&format!("{folder}/{name}")).await?;
        reopened.push(failed);
    }
    Ok(reopened)
}

/// Keys of shards whose part is another by now than the one that their plan was to replace: nobody wants that work.
async fn superseded(
    work: &WorkStore,
    country: &str,
    (stage, output): (&str, Artifact),
) -> Result<BTreeSet<Digest>, WorkerError> {
    let live = Tables::new(work).pin(output, country, None).await?;
    let folder = format!("plans/{country}/{stage}");
    let mut keys = BTreeSet::new();
    for name in work.list(&folder).await? {
        let plan = work.get_sealed::<Plan>(&format!("{folder}/{name}")).await?;
        let Some(plan) = plan.filter(|plan| plan.is_of(country)) else { continue };
        let shards = plan.counts.stale.iter().map(|stale| stale.shard);
        let replaced = shards.filter(|shard| plan.output.part_name(*shard) != live.part_name(*shard));
        keys.extend(replaced.map(|shard| plan.shard_key(shard)));
    }
    Ok(keys)
}

type Held = Arc<Mutex<BTreeMap<String, Attempted>>>;

/// The beats of all attempts of this process; dropping it ends them.
pub(crate) struct Beats {
    held: Held,
    stop: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
}

impl Beats {
    fn start(work: WorkStore, pause: Duration) -> Self {
        let (held, (stop, stopped)) = (Held::default(), channel());
        let (runtime, of_thread) = (tokio::runtime::Handle::current(), held.clone());
        let beating = std::thread::spawn(move || {
            let mut next = Instant::now() + pause;
            while stopped.recv_timeout(next.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout)
            {
                next = Instant::now() + pause;
                let held = of_thread.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let puts = held.iter().map(|(path, attempted)| work.put_json(path, attempted));
                let all = futures::stream::FuturesUnordered::from_iter(puts).try_collect::<()>();
                match runtime.block_on(all) {
                    Ok(()) => metrics::beat(),
                    Err(error) => {
                        tracing::warn!(%error, "others do not see that this worker is alive; they may take its shards");
                    }
                }
            }
        });
        Self { held, stop: Some(stop), beating: Some(beating) }
    }

    pub(crate) fn add(&self, path: String, attempted: Attempted) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(path, attempted);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.beating.take() {
            crate::process::join(thread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_leave_a_store_time_and_miss_nobody_who_is_lost() {
        let lease = Duration::from_secs(60);
        let pause = |took: u64, lookers| pause_between_looks(Duration::from_millis(took), lookers, lease).as_millis();
        assert_eq!((pause(0, 64), pause(20, 1), pause(500, 1)), (0, 200, 5_000));
        // thirty pages
        assert_eq!((pause(900, 1), pause(900, 20), pause(900, 64)), (9_000, 18_000, 30_000));
        assert_eq!(pause_between_looks(Duration::MAX, u32::MAX, Duration::from_secs(8)), Duration::from_secs(4));
        assert_eq!(pause_between_looks(Duration::from_secs(30), 64, Duration::from_secs(86_400)), LONGEST_PAUSE);
    }
}
