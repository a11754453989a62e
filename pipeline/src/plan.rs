//! Plans: which rows of a stage are stale, and why.

use std::path::PathBuf;

use manifests::recipe::RowAction;
use manifests::{Artifact, Plan, PlanCounts, Reason, ShardPlan, digest, paths};
use stages::Training;
use stages::stage::{ModelUse, Stage};
use workers::WorkerError;
use workers::join::ShardJoin;
use workers::train;

use crate::build::Build;
use crate::trainings::standing_record;

/// The model that a stage runs with.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub digest: String,
    pub place: ModelPlace,
}

/// Where a model lies.
#[derive(Debug, Clone, Default)]
pub enum ModelPlace {
    /// The stage asks none, or loads what the spec names itself.
    #[default]
    None,
    Folder(PathBuf),
    /// The result of a training, in the work store.
    Run(Training, String),
}

/// The folder of a trained CLIP on this machine; brought here first where the work store lies elsewhere.
pub async fn model_folder(build: &Build, model: &Model) -> Result<Option<PathBuf>, WorkerError> {
    Ok(match &model.place {
        ModelPlace::None => None,
        ModelPlace::Folder(folder) => Some(folder.clone()),
        ModelPlace::Run(training, key) => {
            Some(train::fetch_result(&build.work, &build.spec, *training, key, &build.scratch).await?)
        }
    })
}

/// The model of a stage: the newest finished training, or a named checkpoint. `None`: there is none yet.
pub async fn model_of(build: &Build, stage: &Stage) -> Result<Option<Model>, WorkerError> {
    let training = match stage.model {
        ModelUse::None => return Ok(Some(Model::default())),
        ModelUse::Named(fields) => {
            let digests: Vec<&str> = fields.iter().map(|f| build.weights.digest(f)).filter(|d| !d.is_empty()).collect();
            return Ok(Some(Model { digest: digest::of_value(&digests), place: ModelPlace::None }));
        }
        ModelUse::Scoring if build.spec.score.clip != "bootstrap" => {
            let folder = build.weights.path("score.clip").map(PathBuf::from);
            let place = folder.map_or(ModelPlace::None, ModelPlace::Folder);
            return Ok(Some(Model { digest: build.weights.digest("score.clip").to_owned(), place }));
        }
        ModelUse::Scoring => Training::Bootstrap,
        ModelUse::Retrieval => Training::Pretrain,
    };
    let Some(record) = standing_record(build, training).await? else { return Ok(None) };
    Ok(Some(Model { digest: record.trained.model_digest, place: ModelPlace::Run(training, record.key) }))
}

/// Plans one stage at the parts that the build has pinned. What somebody has counted already under the same key is
/// taken over.
pub async fn plan_stage(build: &Build, stage: &Stage, model: &Model, retry_errors: bool) -> Result<Plan, WorkerError> {
    let plan = uncounted_plan(build, stage, model, retry_errors).await?;
    let stored = paths::plan(&plan.country, stage.name, &plan.key());
    // a key does not tell whether a part was lost since
    let is_whole = plan.inputs.iter().chain([&plan.output]).all(|table| table.lost.is_empty());
    if is_whole
        && let Some(counts) = build.work.get_hint::<PlanCounts>(&stored).await?
        && counts.is_of(plan.shards)
    {
        return Ok(Plan { counts, ..plan });
    }
    counted(build, stage, plan, |_| true).await
}

/// Counts what is to be done in some shards of a plan.
pub(crate) async fn counted(
    build: &Build,
    stage: &Stage,
    mut plan: Plan,
    wanted: impl Fn(u32) -> bool,
) -> Result<Plan, WorkerError> {
    let mut counts = PlanCounts::default();
    for shard in (0..plan.shards).filter(|shard| wanted(*shard)) {
        let join = ShardJoin::load(&build.work, stage, &plan, shard, &build.virtual_inputs, None).await?;
        let mut counted = ShardPlan { shard, ..ShardPlan::default() };
        for task in &join.tasks {
            match task.action {
                RowAction::Keep => counted.kept += 1,
                RowAction::Compute(reason) => *counted.changes.entry(reason).or_default() += 1,
                RowAction::Delete => *counted.changes.entry(Reason::Deleted).or_default() += 1,
            }
        }
        if counted.is_stale() {
            counts.stale.push(counted);
        } else {
            counts.kept_rows += counted.kept;
        }
    }
    // the largest shards first: the last worker to finish then has little left
    counts.stale.sort_by_key(|s| (std::cmp::Reverse(s.computed()), s.shard));
    plan.counts = counts;
    Ok(plan)
}

/// A plan of which nothing is counted yet.
pub(crate) async fn uncounted_plan(
    build: &Build,
    stage: &Stage,
    model: &Model,
    retry_errors: bool,
) -> Result<Plan, WorkerError> {
    let (mut inputs, mut slices) = (Vec::new(), Vec::new());
    for input in stage.inputs {
        match input.artifact {
            artifact @ (Artifact::Listing | Artifact::Assignment) => {
                slices.push((artifact.name(), build.virtual_inputs.slices(artifact)));
            }
            table => inputs.push(build.pin(table).await?),
        }
    }
    Ok(Plan {
        stage: stage.name.to_owned(),
        stage_version: stage.version,
        country: build.spec.country.clone(),
        shards: build.spec.work.shards,
        output: build.pin(stage.output).await?,
        inputs,
        slices,
        model: model.digest.clone(),
        parameters: digest::canonical_json(&(stage.parameters)(&build.spec)),
        retry_errors,
        counts: PlanCounts::default(),
    })
}
