//! Plans: which rows of a stage are stale and why; and whether a training still stands.

use std::collections::BTreeMap;
use std::path::PathBuf;

use manifests::recipe::RowAction;
use manifests::{Artifact, Plan, Reason, ShardPlan, digest, paths};
use serde::Serialize;
use stages::stage::{ModelUse, Stage};
use stages::{Step, Training, pretrain};
use workers::WorkerError;
use workers::join::ShardJoin;
use workers::train::{self, ChangedShare, TrainingRecord};

use crate::build::Build;

/// The model that a stage runs with.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub digest: String,
    /// Folder of a trained CLIP.
    pub folder: Option<PathBuf>,
}

/// The model of a stage: the newest finished training, or a named checkpoint. `None`: there is none yet.
pub async fn model_of(build: &Build, stage: &Stage) -> Result<Option<Model>, WorkerError> {
    let training = match stage.model {
        ModelUse::None => return Ok(Some(Model::default())),
        ModelUse::Named(fields) => {
            let digests: Vec<&str> = fields.iter().map(|f| build.weights.digest(f)).filter(|d| !d.is_empty()).collect();
            return Ok(Some(Model { digest: digest::of_value(&digests), folder: None }));
        }
        ModelUse::Scoring if build.spec.score.clip != "bootstrap" => {
            let folder = build.weights.path("score.clip").map(PathBuf::from);
            return Ok(Some(Model { digest: build.weights.digest("score.clip").to_owned(), folder }));
        }
        ModelUse::Scoring => Training::Bootstrap,
        ModelUse::Retrieval => Training::Pretrain,
    };
    let Some(record) = standing_record(build, training).await? else { return Ok(None) };
    let folder = train::fetch_result(&build.work, &build.spec, training, &record.key, &build.scratch).await?;
    Ok(Some(Model { digest: record.trained.model_digest, folder: Some(folder) }))
}

/// The newest finished run with the spec's settings.
pub async fn standing_record(build: &Build, training: Training) -> Result<Option<TrainingRecord>, WorkerError> {
    let parameters = digest::canonical_json(&pretrain::parameters(&build.spec, training, &build.weights));
    let records = train::records(&build.work, &build.spec.country, training).await?;
    Ok(records.into_iter().rev().find(|r| r.parameters == parameters && r.stage_version == pretrain::VERSION))
}

/// What is to become of a training.
#[derive(Debug)]
pub enum TrainingState {
    /// A finished run stands; `changed` says how far its rows have moved since.
    Stands { record: Box<TrainingRecord>, changed: ChangedShare },
    /// A run is to be made (or continued): its identity, and why.
    Due {
        key: String,
        parameters: String,
        inputs: Vec<manifests::plan::PinnedTable>,
        warm_start: Option<String>,
        sequence: u64,
        why: String,
    },
}

/// Decides about a training. `force` runs it again even if it stands.
pub async fn training_state(build: &Build, training: Training, force: bool) -> Result<TrainingState, WorkerError> {
    let mut state = decided(build, training, force).await?;
    if let TrainingState::Due { key, why, .. } = &mut state
        && train::is_begun(&build.work, &build.spec.country, training, key, &build.scratch).await?
    {
        why.push_str("; one that was begun goes on from its last checkpoint");
    }
    Ok(state)
}

async fn decided(build: &Build, training: Training, force: bool) -> Result<TrainingState, WorkerError> {
    let parameters = digest::canonical_json(&pretrain::parameters(&build.spec, training, &build.weights));
    let mut inputs = Vec::new();
    for artifact in train::training_inputs(&build.spec, training) {
        inputs.push(build.pin(artifact).await?);
    }
    let sequence =
        train::records(&build.work, &build.spec.country, training).await?.last().map_or(0, |r| r.sequence + 1);
    let due = |warm_start: Option<String>, why: String| TrainingState::Due {
        key: train::run_key(training, &parameters, &inputs, warm_start.as_deref()),
        parameters: parameters.clone(),
        inputs: inputs.clone(),
        warm_start,
        sequence,
        why,
    };
    let Some(record) = standing_record(build, training).await? else {
        return Ok(due(None, "no finished run has these settings".into()));
    };
    let changed = train::changed_share(&build.work, &record.inputs, &inputs).await?;
    let share = changed.share();
    if force {
        return Ok(due(Some(record.key), "asked for with --retrain; starts from the last weights".into()));
    }
    if share > build.spec.pretrain.retrain_above {
        let why = format!(
            "{:.1} % of its rows changed, more than pretrain.retrain_above = {:.1} %; starts from the last weights",
            100.0 * share,
            100.0 * build.spec.pretrain.retrain_above
        );
        return Ok(due(Some(record.key), why));
    }
    Ok(TrainingState::Stands { record: Box::new(record), changed })
}

/// Plans one stage at the newest versions of its inputs. A plan that another worker has already
/// stored under the same key is taken instead.
pub async fn plan_stage(build: &Build, stage: &Stage, model: &Model, retry_errors: bool) -> Result<Plan, WorkerError> {
    let mut plan = empty_plan(build, stage, model, retry_errors).await?;
    let stored = paths::plan(&plan.country, stage.name, &plan.key());
    if let Some(known) = build.work.get_json::<Plan>(&stored).await? {
        return Ok(known);
    }
    for shard in 0..plan.shards {
        let join = ShardJoin::load(&build.work, stage, &plan, shard, &build.virtual_inputs).await?;
        let mut counted = ShardPlan { shard, ..ShardPlan::default() };
        for task in &join.tasks {
            match task.action {
                RowAction::Keep => counted.kept += 1,
                RowAction::Compute(reason) => *counted.changes.entry(reason).or_default() += 1,
                RowAction::Delete => *counted.changes.entry(Reason::Deleted).or_default() += 1,
            }
        }
        if counted.is_stale() {
            plan.stale.push(counted);
        } else {
            plan.kept_rows += counted.kept;
        }
    }
    // the largest shards first: the last worker to finish then has little left
    plan.stale.sort_by_key(|s| (std::cmp::Reverse(s.computed()), s.shard));
    Ok(plan)
}

async fn empty_plan(build: &Build, stage: &Stage, model: &Model, retry_errors: bool) -> Result<Plan, WorkerError> {
    let mut inputs = Vec::new();
    let mut virtual_inputs = BTreeMap::new();
    for input in stage.inputs {
        match input.artifact {
            Artifact::Listing => _ = virtual_inputs.insert("listing".to_owned(), build.virtual_inputs.listing.digest()),
            Artifact::Assignment => {
                let rows = &build.virtual_inputs.assignment;
                let text: Vec<_> = rows.iter().flatten().map(|r| (&r.image_id, r.split, r.reason)).collect();
                virtual_inputs.insert("assignment".to_owned(), digest::of_value(&text));
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
        virtual_inputs,
        model: model.digest.clone(),
        parameters: digest::canonical_json(&(stage.parameters)(&build.spec)),
        retry_errors,
        stale: Vec::new(),
        kept_rows: 0,
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
                let above: u64 = stage
                    .inputs
                    .iter()
                    .map(|i| if i.artifact == Artifact::Assignment { &Artifact::Geotags } else { &i.artifact })
                    .filter_map(|a| moving.get(a))
                    .sum();
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
                        let kept = plan.kept_rows + plan.stale.iter().map(|s| s.kept).sum::<u64>();
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
                    TrainingState::Due { why, .. } => {
                        moving_models.push(training);
                        (listed, why.clone())
                    }
                    TrainingState::Stands { record, changed } => {
                        let share = (changed.changed + above) as f64 / (changed.rows.max(1)) as f64;
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
                let note = if moves { "after the stages above" } else { "stands unless its embeddings are new" };
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
