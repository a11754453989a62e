//! Plans: which rows of a stage are stale, and why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use manifests::weights::Weights;
use manifests::{Plan, PlanCounts, digest, paths};
use stages::Training;
use stages::stage::{ModelUse, Stage};
use workers::WorkerError;
use workers::train;

use crate::build::Build;
use crate::trainings::current_record;

/// The model that a stage runs with.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Digest of its weights and configuration; empty where there is no model.
    pub digest: String,
    /// Where its files are.
    pub location: ModelLocation,
}

/// Where a model lies.
#[derive(Debug, Clone, Default)]
pub enum ModelLocation {
    /// The stage asks none, or loads what the spec names itself.
    #[default]
    None,
    /// A folder that the spec names, on this machine.
    Folder(PathBuf),
    /// The result of a training, in the work store.
    Run(Training, String),
}

/// The folder of a trained CLIP on this machine; brought here first where the work store lies elsewhere.
///
/// # Errors
/// [`WorkerError::Missing`] if the training left no result; a store that does not answer.
pub async fn model_folder(build: &Build, model: &Model) -> Result<Option<PathBuf>, WorkerError> {
    Ok(match &model.location {
        ModelLocation::None => None,
        ModelLocation::Folder(folder) => Some(folder.clone()),
        ModelLocation::Run(training, key) => {
            Some(train::fetch_result(&build.work, &build.spec, *training, key, &build.scratch).await?)
        }
    })
}

/// Digest of external weights that some fields name.
pub(crate) fn named_digest(fields: &[&str], weights: &Weights) -> String {
    let digests: Vec<&str> = fields.iter().map(|field| weights.digest(field)).filter(|d| !d.is_empty()).collect();
    digest::of_value(&digests)
}

/// The model of a stage: the newest finished training, or a named checkpoint. `None`: there is none yet.
pub(crate) async fn model_of(build: &Build, stage: &Stage) -> Result<Option<Model>, WorkerError> {
    let training = match stage.model {
        ModelUse::None | ModelUse::Served => return Ok(Some(Model::default())),
        ModelUse::Named(fields) => {
            return Ok(Some(Model { digest: named_digest(fields, &build.weights), location: ModelLocation::None }));
        }
        ModelUse::Scoring if build.spec.score.clip != "bootstrap" => {
            let folder = build.weights.path("score.clip").map(PathBuf::from);
            let location = folder.map_or(ModelLocation::None, ModelLocation::Folder);
            return Ok(Some(Model { digest: build.weights.digest("score.clip").to_owned(), location }));
        }
        ModelUse::Scoring => Training::Bootstrap,
        ModelUse::Retrieval => Training::Pretrain,
    };
    let Some(record) = current_record(build, training).await? else { return Ok(None) };
    Ok(Some(Model { digest: record.trained.model_digest, location: ModelLocation::Run(training, record.key) }))
}

/// Plans one stage at the parts that the build has pinned. What somebody has counted already under the same key is
/// used again.
///
/// # Errors
/// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
pub async fn plan_stage(build: &Build, stage: &Stage, model: &Model, retry_errors: bool) -> Result<Plan, WorkerError> {
    let plan = uncounted_plan(build, stage, model, retry_errors).await?;
    let settled = build.settled.shards(&plan);
    // a key does not tell whether a part was lost since
    let is_whole = plan.inputs.iter().chain([&plan.output]).all(|table| table.lost.is_empty());
    if is_whole && settled.len() < plan.shards as usize {
        let key = plan.key();
        let stored = build.work.get_sealed::<Plan>(&paths::plan(&plan.country, stage.name, &key)).await?;
        if let Some(known) = stored.filter(|known| known.is_of(&plan.country) && known.key() == key) {
            return Ok(Plan { counts: known.counts, ..plan });
        }
    }
    counted(build, stage, plan, settled, |_| true).await
}

/// Counts what is to be done in some shards of a plan. Those that are settled are not read.
pub(crate) async fn counted(
    build: &Build,
    stage: &Stage,
    plan: Plan,
    settled: BTreeSet<u32>,
    wanted: impl Fn(u32) -> bool,
) -> Result<Plan, WorkerError> {
    let plan = Arc::new(plan);
    let (slices, at_once) = (&build.virtual_inputs.slices, build.spec.work.concurrency);
    let is_open = |shard: u32| wanted(shard) && !settled.contains(&shard);
    let mut counts = workers::planning::count(&build.work, slices, *stage, &plan, is_open, at_once).await?;
    let up_to_date = settled.iter().filter(|shard| wanted(**shard));
    counts.kept_rows += up_to_date.filter_map(|shard| plan.output.part(*shard)).map(|part| part.rows).sum::<u64>();
    Ok(Plan { counts, ..Arc::unwrap_or_clone(plan) })
}

/// A plan of which nothing is counted yet.
pub(crate) async fn uncounted_plan(
    build: &Build,
    stage: &Stage,
    model: &Model,
    retry_errors: bool,
) -> Result<Plan, WorkerError> {
    let mut inputs = Vec::with_capacity(stage.inputs.len());
    for input in stage.inputs {
        let pinned = build.pin(input.artifact).await?;
        if !input.artifact.is_sparse() || !pinned.parts.is_empty() {
            inputs.push(pinned);
        }
    }
    Ok(Plan {
        stage: stage.name.to_owned(),
        stage_version: stage.version,
        country: build.spec.country.clone(),
        shards: build.spec.work.shards,
        output: build.pin(stage.output).await?,
        inputs,
        model: model.digest.clone(),
        parameters: digest::canonical_json(&(stage.parameters)(&build.spec)),
        retry_errors,
        counts: PlanCounts::default(),
    })
}
