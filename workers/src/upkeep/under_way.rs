//! Stages whose shards somebody is making: what is finished of them is in no table yet, and neither are its plans and slices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manifests::attempts::{Attempts, Object};
use manifests::{Artifact, Plan};

use crate::error::WorkerError;
use crate::lease;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Whoever works on a shard is heard of within so long, however little is kept.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3600);

/// No stage takes longer.
const LONGEST_STAGE: Duration = Duration::from_secs(30 * 86_400);

/// Names of a country's stages that are under way, with the tables that they write. Of such a stage somebody has tried a
/// shard since the horizon, and it is neither made nor closed as failed; or a run is at work, and one of its plans is as
/// yet unpublished: who maps in its own process claims nothing. Who takes no lease either is not seen.
pub(super) async fn under_way(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    horizon_millis: u64,
) -> Result<BTreeMap<String, Option<Artifact>>, WorkerError> {
    let mut shards: BTreeMap<(String, String), Attempts> = BTreeMap::new();
    for (name, meta) in work.list_metas(&format!("markers/{country}")).await? {
        let Some((stage, file)) = name.rsplit_once('/') else { continue };
        if let Some((key, object)) = Object::of_name(file) {
            let shard = shards.entry((stage.to_owned(), key.to_owned())).or_default();
            shard.add(object, meta.last_modified.timestamp_millis());
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::min(horizon_millis, now.saturating_sub(SIGN_OF_LIFE).as_millis() as u64);
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let tried = shards.into_iter().filter(|(_, shard)| shard.is_open_since(since)).map(|((stage, _), _)| stage);
    let tried: BTreeSet<String> = tried.collect();
    let is_held = lease::is_held(work, country).await?;
    let mut under_way: BTreeMap<String, Option<Artifact>> = tried.iter().map(|stage| (stage.clone(), None)).collect();
    let folder = format!("plans/{country}");
    let oldest = i64::try_from(now.saturating_sub(LONGEST_STAGE).as_millis()).unwrap_or(i64::MAX);
    for (name, meta) in work.list_metas(&folder).await? {
        // a run that was lost with its machine holds its lease for ever
        if meta.last_modified.timestamp_millis() < oldest {
            continue;
        }
        let stage = name.split('/').next().unwrap_or_default();
        let is_open = matches!(under_way.get(stage), Some(None)) || (is_held && !under_way.contains_key(stage));
        if !is_open {
            continue;
        }
        let Some(plan) = work.get_sealed::<Plan>(&format!("{folder}/{name}")).await? else { continue };
        if tried.contains(stage) || is_unpublished(&plan, tables, country).await? {
            under_way.insert(stage.to_owned(), Some(plan.output.artifact));
        }
    }
    Ok(under_way)
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
