//! Plans: which rows of a stage are stale, and why.

use std::collections::BTreeMap;
use std::path::PathBuf;

use manifests::recipe::RowAction;
use manifests::{Artifact, Plan, PlanCounts, Reason, ShardPlan, digest, paths};
use serde::Serialize;
use stages::stage::{ModelUse, Stage};
use stages::{Step, Training};
use workers::WorkerError;
use workers::join::ShardJoin;
use workers::train;

use crate::build::Build;
use crate::preflight;
use crate::trainings::{TrainingState, standing_record, training_state};

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
    let mut plan = empty_plan(build, stage, model, retry_errors).await?;
    let stored = paths::plan(&plan.country, stage.name, &plan.key());
    if let Some(counts) = build.work.get_hint::<PlanCounts>(&stored).await?.filter(|counts| counts.is_of(plan.shards)) {
        return Ok(Plan { counts, ..plan });
    }
    let mut counts = PlanCounts::default();
    for shard in 0..plan.shards {
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

async fn empty_plan(build: &Build, stage: &Stage, model: &Model, retry_errors: bool) -> Result<Plan, WorkerError> {
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

/// One line of `urbancross plan`.
#[derive(Debug, Serialize)]
pub struct PlanLine {
    pub step: &'static str,
    /// Rows to compute; an upper bound where `exact` is false.
    pub rows: u64,
    pub exact: bool,
    pub kept: u64,
    pub reasons: BTreeMap<Reason, u64>,
    pub note: String,
}

/// What a run would do. Exact for stages whose inputs stand; "at most" below a stage that will run.
pub async fn preview(build: &mut Build, retry_errors: bool, retrain: bool) -> Result<Vec<PlanLine>, WorkerError> {
    let mut lines = Vec::new();
    // upper bound of changed rows per artifact that will be rewritten
    let mut moving: BTreeMap<Artifact, u64> = BTreeMap::new();
    let mut moving_models: Vec<Training> = Vec::new();
    let listed = build.virtual_inputs.listing.rows();
    build.assign_splits().await?;
    for step in stages::steps(&build.spec) {
        let name = step.name();
        match step {
            Step::Map(stage) => {
                let model_moves = match stage.model {
                    ModelUse::Scoring => moving_models.contains(&Training::Bootstrap),
                    ModelUse::Retrieval => moving_models.contains(&Training::Pretrain),
                    ModelUse::None | ModelUse::Named(_) => false,
                };
                let model = if model_moves { None } else { model_of(build, &stage).await? };
                let above: u64 = stage.tables().filter_map(|a| moving.get(&a)).sum();
                let mut line = match &model {
                    None => PlanLine {
                        step: name,
                        rows: listed,
                        exact: false,
                        kept: 0,
                        reasons: BTreeMap::new(),
                        note: "its model will be another".into(),
                    },
                    Some(model) => {
                        let plan = plan_stage(build, &stage, model, retry_errors).await?;
                        let kept = plan.kept();
                        PlanLine {
                            step: name,
                            rows: plan.computed(),
                            exact: above == 0,
                            kept,
                            reasons: plan.reasons(),
                            note: String::new(),
                        }
                    }
                };
                if !line.exact {
                    line.rows = (line.rows + above).min(listed);
                    line.kept = 0;
                    if line.note.is_empty() {
                        line.note = "depends on what the stages above find".into();
                    }
                }
                if line.rows > 0 || line.reasons.contains_key(&Reason::Deleted) {
                    moving.insert(stage.output, line.rows.max(1));
                }
                lines.push(line);
            }
            Step::Train(training) => {
                let above: u64 =
                    train::training_inputs(&build.spec, training).iter().filter_map(|a| moving.get(a)).sum();
                let state = training_state(build, training, retrain).await?;
                let (rows, note) = match &state {
                    TrainingState::Due(due) => {
                        preflight::batch(&build.spec, None, preflight::training_rows(&build.virtual_inputs))?;
                        moving_models.push(training);
                        (listed, due.run.begins.clone())
                    }
                    TrainingState::Stands { record, changed } => {
                        // a row that changed already may change again: never more than all of them
                        let rows = changed.rows.max(1);
                        let share = (changed.changed + above).min(rows) as f64 / rows as f64;
                        if share > build.spec.pretrain.retrain_above {
                            moving_models.push(training);
                            (
                                record.trained.train_rows,
                                format!("may run again: up to {:.1} % of its rows change", 100.0 * share),
                            )
                        } else {
                            (0, format!("stands; {:.1} % of its rows changed since", 100.0 * share))
                        }
                    }
                };
                lines.push(PlanLine { step: name, rows, exact: false, kept: 0, reasons: BTreeMap::new(), note });
            }
            Step::Evaluate => {
                let moves = !moving.is_empty() || !moving_models.is_empty();
                let stands = crate::evaluate::stored(build).await?.is_some();
                let note = match (moves, stands) {
                    (true, _) => "after the stages above",
                    (false, true) => "stands",
                    (false, false) => "runs: its tables are new",
                };
                lines.push(PlanLine {
                    step: name,
                    rows: 0,
                    exact: !moves,
                    kept: 0,
                    reasons: BTreeMap::new(),
                    note: note.into(),
                });
            }
        }
    }
    Ok(lines)
}
