//! Stages that earlier runs left up to date, so that a later run finds that out without reading a table.
//!
//! One object for each country, overwritten, and only a hint: without it everything is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use manifests::{Artifact, Digest, Plan, RowStatuses, digest, paths};
use serde::{Deserialize, Serialize};
use stages::stage::Stage;
use workers::WorkerError;
use workers::stores::WorkStore;

use crate::build::Build;
use crate::plan::{Model, uncounted_plan};

/// A stage of which every row is as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Everything that decides about its rows ([`key`]).
    key: Digest,
    /// Keys of its shards: after a change elsewhere these have nothing to do.
    #[serde(default)]
    shards: Vec<Digest>,
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

/// Writes down that nothing is left to do for a stage.
pub async fn put(
    build: &mut Build,
    stage: &Stage,
    model: &Model,
    key: Digest,
    rows: u64,
    statuses: RowStatuses,
) -> Result<(), WorkerError> {
    let plan = uncounted_plan(build, stage, model, false).await?;
    let shards = (0..plan.shards).map(|shard| plan.shard_key(shard)).collect();
    build.settled.0.insert(stage.name.to_owned(), Settled { key, shards, rows, statuses });
    build.work.put_sealed(&paths::settled(&build.spec.country), &build.settled).await
}

/// The shards of a stage's plan that have nothing to do. Where all of the stage is settled, no slice is needed to tell.
pub async fn shards(build: &Build, stage: &Stage, model: &Model, plan: &Plan) -> Result<BTreeSet<u32>, WorkerError> {
    Ok(if is_settled(build, stage, model).await? { (0..plan.shards).collect() } else { build.settled.shards(plan) })
}

/// Is nothing left to do for a stage?
pub async fn is_settled(build: &Build, stage: &Stage, model: &Model) -> Result<bool, WorkerError> {
    let key = key(build, stage, model).await?;
    Ok(key.is_some_and(|key| build.settled.get(stage, &key).is_some()))
}

/// Everything that decides about a stage's rows, by whole tables. `None`: a part was lost, so that nothing is settled.
pub async fn key(build: &Build, stage: &Stage, model: &Model) -> Result<Option<Digest>, WorkerError> {
    let output = build.pin(stage.output).await?;
    let mut lost = !output.lost.is_empty();
    let mut inputs = Vec::new();
    for artifact in stage.tables() {
        let pinned = build.pin(artifact).await?;
        lost |= !pinned.lost.is_empty();
        inputs.push(pinned.digest());
    }
    // the assignment is a function of its tables and the spec
    let assigned = stage.inputs.iter().any(|input| input.artifact == Artifact::Assignment);
    inputs.extend(assigned.then(|| digest::of_value(&build.spec.split)));
    let parameters = digest::canonical_json(&(stage.parameters)(&build.spec));
    let of_stage = (stage.name, stage.version, build.spec.work.shards, &model.digest, parameters);
    Ok((!lost).then(|| digest::of_value(&(of_stage, output.digest(), inputs))))
}
