//! What is written down of stages that have nothing left to do.
//!
//! One object for each country, overwritten, and only a hint: without it everything is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use manifests::{Digest, Plan, RowStatuses, paths};
use serde::{Deserialize, Serialize};
use stages::stage::Stage;
use workers::WorkerError;
use workers::stores::WorkStore;

/// A stage of which every row is as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Everything that decides about its rows ([`key`](crate::settled::key)).
    pub(crate) key: Digest,
    /// Keys of its shards: after a change elsewhere these have nothing to do.
    #[serde(default)]
    pub(crate) shards: Vec<Digest>,
    pub rows: u64,
    pub statuses: RowStatuses,
}

/// By stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SettledStages(BTreeMap<String, Settled>);

impl SettledStages {
    pub async fn read(work: &WorkStore, country: &str) -> Result<Self, WorkerError> {
        Ok(work.get_sealed(&paths::settled(country)).await?.unwrap_or_default())
    }

    /// Writes down that a stage is settled.
    ///
    /// # Errors
    /// The store's.
    pub async fn put(
        &mut self,
        work: &WorkStore,
        country: &str,
        stage: &Stage,
        settled: Settled,
    ) -> Result<(), WorkerError> {
        self.0.insert(stage.name.to_owned(), settled);
        work.put_sealed(&paths::settled(country), self).await
    }

    /// The stage, if it was settled with this key.
    pub fn get(&self, stage: &Stage, key: &str) -> Option<&Settled> {
        self.0.get(stage.name).filter(|settled| settled.key == key)
    }

    /// The shards of a plan that have nothing to do.
    pub fn shards(&self, plan: &Plan) -> BTreeSet<u32> {
        let Some(settled) = self.0.get(&plan.stage) else { return BTreeSet::new() };
        let lost = |shard: &u32| plan.inputs.iter().chain([&plan.output]).any(|table| table.lost.contains(shard));
        let shards = (0..plan.shards).zip(&settled.shards).filter(|(shard, key)| plan.shard_key(*shard) == **key);
        shards.map(|(shard, _)| shard).filter(|shard| !lost(shard)).collect()
    }
}
