//! Which stages earlier runs left up to date, so that a later run finds that out without reading a table.

use std::collections::BTreeSet;

use manifests::{Artifact, Digest, Plan, RowStatuses, digest};
use stages::stage::{ModelUse, Stage};
use workers::WorkerError;

use crate::build::Build;
use crate::plan::{Model, model_of, uncounted_plan};
use crate::settled_stages::Settled;

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
    let settled = Settled { key, shards, rows, statuses };
    build.settled.put(&build.work, &build.spec.country, stage, settled).await
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

/// The same, with the model that the stage has by now.
pub async fn has_nothing_left(build: &Build, stage: &Stage) -> Result<bool, WorkerError> {
    match model_of(build, stage).await? {
        Some(model) => is_settled(build, stage, &model).await,
        None => Ok(false),
    }
}

/// Everything that decides about a stage's rows, by whole tables. `None`: a part was lost, so that nothing is settled.
pub async fn key(build: &Build, stage: &Stage, model: &Model) -> Result<Option<Digest>, WorkerError> {
    let output = build.pin(stage.output).await?;
    let mut lost = !output.lost.is_empty();
    let mut inputs = Vec::new();
    for artifact in stage.tables() {
        let pinned = build.pin(artifact).await?;
        if artifact.is_sparse() && pinned.parts.is_empty() {
            continue;
        }
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

/// Stages with rows that no run has looked at since something changed that they are made from, in order. Nothing is
/// said of stages that read the source where it was not listed, nor of those that ask weights from elsewhere where these are not at
/// hand.
///
/// # Errors
/// A store that does not answer.
pub async fn behind(build: &Build) -> Result<Vec<&'static str>, WorkerError> {
    let mut behind = Vec::new();
    for stage in stages::map_stages(&build.spec) {
        let is_known = match stage.model {
            ModelUse::None | ModelUse::Served | ModelUse::Retrieval => true,
            ModelUse::Named(fields) => fields.iter().any(|field| !build.weights.digest(field).is_empty()),
            ModelUse::Scoring => {
                ["bootstrap", "none"].contains(&build.spec.score.clip.as_str())
                    || !build.weights.digest("score.clip").is_empty()
            }
        };
        if !is_known || build.pin(stage.output).await?.parts.is_empty() || !is_listed(build, &stage).await? {
            continue;
        }
        if !has_nothing_left(build, &stage).await? {
            behind.push(stage.name);
        }
    }
    Ok(behind)
}

/// Is all there that a stage reads beside tables?
async fn is_listed(build: &Build, stage: &Stage) -> Result<bool, WorkerError> {
    for input in stage.inputs.iter().filter(|input| input.artifact == Artifact::Listing) {
        if build.pin(input.artifact).await?.parts.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}
