//! Stages whose shards somebody is making: what is finished of them is in no table yet, and neither are its plans and slices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use manifests::attempts::{Attempts, Object, ShardTurn};
use manifests::{Artifact, Plan};

use crate::error::WorkerError;
use crate::lease;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Whoever works on a shard is heard of within so long, however little is kept.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3600);

/// No stage takes longer.
const LONGEST_STAGE: Duration = Duration::from_secs(30 * 86_400);

/// A driver that comes back to publish what its workers have finished waits no longer in a queue, however little is kept.
const LONGEST_QUEUE: Duration = Duration::from_secs(7 * 86_400);

/// Plans that are read at once.
const AT_ONCE: usize = 16;

/// What of a country somebody is making, and from what.
#[derive(Default)]
pub(super) struct UnderWay {
    /// Names of the stages, with the tables that they write.
    pub(super) stages: BTreeMap<String, Option<Artifact>>,
    /// Parts that their plans read: others may have taken their place in the tables since.
    pub(super) read: BTreeSet<(Artifact, String)>,
}

/// The stages of a country that are under way, by the store's clock. Of such a stage somebody has tried a shard since
/// the horizon, and it is neither made nor closed as failed. Or one of its plans is as yet unpublished, and a run is at
/// work, as who maps in its own process claims nothing, or all of its shards are closed, and whoever publishes them has
/// yet to come back. Who takes no lease either is not seen.
pub(super) async fn under_way(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    (horizon_millis, now_millis): (u64, i64),
) -> Result<UnderWay, WorkerError> {
    let mut stages: BTreeMap<String, BTreeMap<String, Attempts>> = BTreeMap::new();
    for (name, meta) in work.list_metas(&format!("markers/{country}")).await? {
        let Some((stage, file)) = name.rsplit_once('/') else { continue };
        if let Some((key, object)) = Object::of_name(file) {
            let shard = stages.entry(stage.to_owned()).or_default().entry(key.to_owned()).or_default();
            shard.add(object, meta.last_modified.timestamp_millis());
        }
    }
    let ago = |longest: Duration| now_millis.saturating_sub(longest.as_millis() as i64);
    let since = |longest: Duration| ago(longest).min(i64::try_from(horizon_millis).unwrap_or(i64::MAX));
    let is_tried =
        |shards: &BTreeMap<String, Attempts>| shards.values().any(|shard| shard.is_open_since(since(SIGN_OF_LIFE)));
    let mut under_way = UnderWay::default();
    under_way.stages.extend(stages.iter().filter(|(_, shards)| is_tried(shards)).map(|(name, _)| (name.clone(), None)));
    let is_held = lease::is_held(work, country, now_millis).await?;
    let folder = format!("plans/{country}");
    let of_stage = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let plans = work.list_metas(&folder).await?.into_iter().filter(|(name, meta)| {
        let is_young = meta.last_modified.timestamp_millis() >= ago(LONGEST_STAGE);
        is_young && (is_held || stages.contains_key(&of_stage(name)))
    });
    let mut plans = futures::stream::iter(plans)
        .map(|(name, _)| {
            let (stage, path) = (of_stage(&name), format!("{folder}/{name}"));
            async move { Ok::<_, WorkerError>((stage, work.get_sealed::<Plan>(&path).await?)) }
        })
        .buffered(AT_ONCE);
    while let Some((stage, plan)) = plans.try_next().await? {
        let Some(plan) = plan else { continue };
        let attempts = |stale: u32| stages.get(&stage)?.get(&plan.shard_key(stale));
        let shards: Vec<Option<&Attempts>> = plan.counts.stale.iter().map(|stale| attempts(stale.shard)).collect();
        let is_tried = shards.iter().flatten().any(|shard| shard.is_open_since(since(SIGN_OF_LIFE)));
        let is_open = is_held || is_finished(&shards, since(LONGEST_QUEUE));
        if is_tried || (is_open && is_unpublished(&plan, tables, country).await?) {
            for table in &plan.inputs {
                under_way.read.extend(table.parts.iter().map(|part| (table.artifact, part.path.clone())));
            }
        } else if !under_way.stages.contains_key(&stage) {
            continue;
        }
        under_way.stages.insert(stage, Some(plan.output.artifact));
    }
    Ok(under_way)
}

/// Are all shards of a plan closed, and some of them made, the last one since a moment?
fn is_finished(shards: &[Option<&Attempts>], since_millis: i64) -> bool {
    let turn = |shard: &Attempts| shard.turn(0, 0);
    let is_of_now = |shard: &&Attempts| shard.span_millis().is_some_and(|(_, last)| last >= since_millis);
    shards.iter().all(|shard| shard.is_some_and(|shard| turn(shard).is_closed()))
        && shards.iter().flatten().copied().filter(is_of_now).any(|shard| turn(shard) == ShardTurn::Done)
}

/// Is the table as it was when the plan was made, though there was something to do?
async fn is_unpublished(plan: &Plan, tables: &Tables, country: &str) -> Result<bool, WorkerError> {
    if plan.counts.stale.is_empty() {
        return Ok(false);
    }
    let live = tables.live_files(plan.output.artifact, country).await?.unwrap_or_default();
    let live: BTreeSet<&str> = live.parts.iter().map(|part| part.path.as_str()).collect();
    Ok(live == plan.output.parts.iter().map(|part| part.path.as_str()).collect())
}
