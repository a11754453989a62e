//! Running a build: every step in order, each from where it was left.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use manifests::{Artifact, Plan, paths};
use stages::stage::{ModelUse, Opening, Stage};
use stages::{Step, Training};
use training::communicator::{Communicator, Solo};
use training::recall::beside_chance;
use training::trainer::Event;
use workers::WorkerError;
use workers::map::{MapContext, map_plan};
use workers::publish::{Summary, publish, quarantine};
use workers::train::{TrainRequest, TrainingRecord, train};

use crate::build::Build;
use crate::evaluate::evaluate_build;
use crate::plan::{TrainingState, model_of, plan_stage, training_state};
use crate::progress::Progress;

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    pub retry_errors: bool,
    pub retrain: bool,
    /// The last step to run; all of them without one.
    pub until: Option<String>,
}

/// Rows that are out, and where they are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    pub stage: String,
    pub rows: u64,
    pub listing: String,
}

/// Runs every step, or those up to `options.until`. Returns the quarantined rows of the build.
pub async fn run(
    build: &mut Build,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Vec<Quarantined>, WorkerError> {
    let steps = stages::steps(&build.spec);
    if let Some(until) = &options.until
        && !steps.iter().any(|s| s.name() == until)
    {
        let names: Vec<&str> = steps.iter().map(Step::name).collect();
        return Err(WorkerError::Configuration(format!("--until {until}: the steps are {}", names.join(", "))));
    }
    let mut quarantined = Vec::new();
    let mut fetched = false;
    for step in steps {
        let name = step.name();
        // a whole build learns at once that weights are missing; a node that only pulls images needs none
        if !fetched && (options.until.is_none() || needs_weights(&step)) {
            build.weights = workers::weights::fetch(&build.work, &build.spec).await?;
            fetched = true;
        }
        match step {
            Step::Map(stage) => {
                if stage.output == Artifact::Splits {
                    build.assign_splits().await?;
                }
                let rows = run_stage(build, &stage, options, progress).await?;
                quarantined.extend(rows);
            }
            Step::Train(training) if build.spec.ranks.processes > 1 => {
                crate::launch::train(build, training, options, progress).await?;
            }
            Step::Train(training) => run_training(build, training, options, &mut Solo, progress).await?,
            Step::Evaluate => evaluate_build(build, progress).await?,
        }
        if build.stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        if options.until.as_deref() == Some(name) {
            break;
        }
    }
    Ok(quarantined)
}

fn needs_weights(step: &Step) -> bool {
    match step {
        Step::Map(stage) => stage.model != ModelUse::None,
        Step::Train(_) => true,
        Step::Evaluate => false,
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

async fn run_stage(
    build: &Build,
    stage: &Stage,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Option<Quarantined>, WorkerError> {
    let (started, began) = (unix_seconds(), Instant::now());
    let Some(model) = model_of(build, stage).await? else {
        return Err(WorkerError::Broken(format!("{}: the training before it left no model", stage.name)));
    };
    let plan = plan_stage(build, stage, &model, options.retry_errors).await?;
    let total = plan.computed() + plan.stale.iter().map(|s| s.kept).sum::<u64>();
    let bar = progress.stage(stage.name, total);
    let mut summary = Summary {
        stage: stage.name.to_owned(),
        country: build.spec.country.clone(),
        started_unix_seconds: started,
        reasons: plan.reasons().into_iter().map(|(r, n)| (r.words().to_owned(), n)).collect(),
        ..empty_summary()
    };
    if plan.stale.is_empty() {
        bar.unchanged(plan.kept_rows);
        return report_quarantine(build, stage, None).await;
    }
    build.work.put_json_if_absent(&paths::plan(&plan.country, stage.name, &plan.key()), &plan).await?;
    let context = MapContext {
        work: &build.work,
        source: &build.source,
        virtual_inputs: &build.virtual_inputs,
        fetch: build.fetch_settings(),
        stop: &build.stop,
        observer: &bar,
    };
    let devices = stages::device::devices(stage.name, &build.spec)?;
    let opening = Opening {
        spec: &build.spec,
        device: devices[0],
        model_folder: model.folder.clone(),
        weights: &build.weights,
        stop: build.stop.clone(),
    };
    let result = map_plan(&context, stage, &plan, opening, &devices).await?;
    let version = publish(&build.tables, &plan, &result.markers, result.stopped).await?;
    for marker in &result.markers {
        summary.computed += marker.computed;
        summary.kept += marker.kept;
        summary.deleted += marker.deleted;
        summary.errors += marker.errors;
    }
    summary.kept += plan.kept_rows;
    summary.version = Some(version);
    summary.seconds = began.elapsed().as_secs_f64();
    bar.finish(&summary);
    if result.stopped {
        return Err(WorkerError::Stopped);
    }
    report_quarantine(build, stage, Some((plan, summary))).await
}

fn empty_summary() -> Summary {
    Summary {
        stage: String::new(),
        country: String::new(),
        started_unix_seconds: 0.0,
        seconds: 0.0,
        rows: 0,
        computed: 0,
        kept: 0,
        deleted: 0,
        errors: 0,
        excluded: 0,
        reasons: BTreeMap::new(),
        version: None,
        notes: BTreeMap::new(),
    }
}

/// Rewrites the quarantine listing after a change, and counts what is out.
async fn report_quarantine(
    build: &Build,
    stage: &Stage,
    changed: Option<(Plan, Summary)>,
) -> Result<Option<Quarantined>, WorkerError> {
    let listing = &build.virtual_inputs.listing;
    let (problems, more) = match stage.output {
        Artifact::Geotags => (listing.problems.as_slice(), listing.problem_count),
        _ => (&[][..], 0),
    };
    let country = &build.spec.country;
    let statuses = quarantine(&build.work, &build.tables, stage.output, stage.name, country, problems).await?;
    if let Some((_, mut summary)) = changed {
        summary.rows = statuses.ok;
        summary.excluded = statuses.excluded;
        summary.errors = statuses.errors;
        if more > 0 {
            summary.notes.insert("source rows left out".into(), more.to_string());
        }
        build.work.put_json(&paths::summary(country, stage.name), &summary).await?;
    }
    let rows = statuses.errors + more;
    let path = format!("{}{}", build.work.url(), paths::quarantine(country, stage.name));
    Ok((rows > 0).then(|| Quarantined { stage: stage.name.to_owned(), rows, listing: path }))
}

/// Runs a training, or lets a finished one stand. As one of several ranks: with all the others.
pub async fn run_training(
    build: &Build,
    training: Training,
    options: &RunOptions,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let (key, parameters, inputs, warm_start, sequence) = match training_state(build, training, options.retrain).await?
    {
        TrainingState::Stands { record, changed } => {
            progress.note(&format!(
                "{}: stands ({}); {} of {} rows changed since ({:.2} %)",
                training.name(),
                record.trained.best_validation(),
                changed.changed,
                changed.rows,
                100.0 * changed.share()
            ));
            return Ok(());
        }
        TrainingState::Due { key, parameters, inputs, warm_start, sequence, why } => {
            progress.note(&format!("{}: {why}", training.name()));
            (key, parameters, inputs, warm_start, sequence)
        }
    };
    let (started, began) = (unix_seconds(), Instant::now());
    let due = TrainingState::Due { key, parameters, inputs, warm_start, sequence, why: String::new() };
    let Some(record) = standing_or_trained(build, training, due, ranks, progress).await? else { return Ok(()) };
    let trained = &record.trained;
    let notes = [
        ("parameters", trained.parameters.to_string()),
        ("best epoch", (trained.best_epoch + 1).to_string()),
        ("best validation", beside_chance(trained.best_validation_mean_recall, trained.validation_chance)),
        ("waited for data", format!("{:.1} s", trained.wait_seconds)),
        ("run", record.key.clone()),
    ];
    let summary = Summary {
        stage: training.name().to_owned(),
        country: build.spec.country.clone(),
        started_unix_seconds: started,
        seconds: began.elapsed().as_secs_f64(),
        rows: trained.train_rows,
        computed: trained.samples,
        notes: notes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        ..empty_summary()
    };
    build.work.put_json(&paths::summary(&build.spec.country, training.name()), &summary).await
}

/// The record of a finished training: the one that stands, or the one that is due. `None` on ranks other than 0.
pub async fn standing_or_trained(
    build: &Build,
    training: Training,
    state: TrainingState,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<Option<TrainingRecord>, WorkerError> {
    let (key, parameters, inputs, warm_start, sequence) = match state {
        TrainingState::Stands { record, .. } => return Ok(Some(*record)),
        TrainingState::Due { key, parameters, inputs, warm_start, sequence, .. } => {
            (key, parameters, inputs, warm_start, sequence)
        }
    };
    let epochs = stages::pretrain::of_training(&build.spec, training).epochs;
    let bar = progress.training(training.name(), epochs);
    let request = TrainRequest {
        work: &build.work,
        spec: &build.spec,
        weights: &build.weights,
        training,
        inputs,
        key,
        parameters,
        warm_start,
        sequence,
        scratch: &build.scratch,
        stop: &build.stop,
        ranks,
    };
    let record = train(request, |event: &Event| bar.event(event)).await?;
    if let Some(record) = &record {
        bar.finish(&record.trained);
    }
    Ok(record)
}
