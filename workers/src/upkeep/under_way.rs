//! Stages whose shards somebody is making: what is finished of them is in no table yet, and neither are its plans and slices.

use std::collections::{BTreeMap, BTreeSet};

use manifests::attempts::{Attempts, Object};
use manifests::{Artifact, Plan};

use crate::error::WorkerError;
use crate::lease;
use crate::stores::WorkStore;

/// Names of a country's stages that are under way, with the tables that they write. Of such a stage somebody has tried a shard since the
/// horizon, and it is neither made nor closed as failed.
pub(super) async fn under_way(
    work: &WorkStore,
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
    let horizon_millis = i64::try_from(horizon_millis).unwrap_or(i64::MAX);
    let stages: BTreeSet<String> = shards
        .into_iter()
        .filter(|(_, shard)| shard.is_open_since(horizon_millis))
        .map(|((stage, _), _)| stage)
        .collect();
    let mut tables = BTreeMap::new();
    // who maps in its own process claims nothing: whatever it has finished may be unpublished
    let stages = match lease::is_held(work, country).await? {
        true => work
            .list(&format!("plans/{country}"))
            .await?
            .iter()
            .filter_map(|name| name.split('/').next())
            .map(str::to_owned)
            .collect(),
        false => stages,
    };
    for stage in stages {
        let folder = format!("plans/{country}/{stage}");
        let mut table = None;
        for name in work.list(&folder).await? {
            table = work.get_sealed::<Plan>(&format!("{folder}/{name}")).await?.map(|plan| plan.output.artifact);
            if table.is_some() {
                break;
            }
        }
        tables.insert(stage, table);
    }
    Ok(tables)
}
