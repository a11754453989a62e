//! Running a build: every step in order, each from where it was left.

mod before;

use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use manifests::words::count;
use manifests::{Artifact, RowStatuses, paths};
use stages::stage::{ModelUse, Stage, StageContext};
use stages::{Step, Training};
use training::communicator::{Communicator, Solo};
use training::recall::beside_chance;
use training::trainer::Event;
use workers::WorkerError;
use workers::assignment;
use workers::map::{FinishedShard, MapContext, map_plan};
use workers::publish::{Summary, problems_digest, publish, quarantine};
use workers::train::{TrainRequest, TrainingRecord, train};

use crate::build::Build;
use crate::evaluate::evaluate_build;
use crate::memory::LowMemory;
use crate::plan::{Model, model_folder, model_of, plan_stage};
use crate::preflight;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::trainings::{TrainingState, training_state};

/// Rows that are left out, and where they are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Name of the stage whose rows they are.
    pub stage: String,
    /// None where the source has only problems that cost no row.
    pub rows: u64,
    /// Address of the listing.
    pub listing: String,
}

/// Times that a run goes over a build whose source or tables others keep changing.
const MOST_PASSES: usize = 5;

/// Runs every step, or those up to `options.until`. Returns the quarantined rows of the build.
///
/// A run that has changed something looks again before it ends: what it computed from may have changed meanwhile, and
/// it ends only when nothing is left to do.
///
/// # Errors
/// Whatever ends a step, see [`WorkerError`]; what was finished before stays finished.
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
    for note in &build.virtual_inputs.listing.notes {
        progress.note(note);
    }
    before::check_removals(build, options).await?;
    before::check_rows(build, options, progress).await?;
    before::begin(build, options).await?;
    let waits = |whom: &str| progress.note(&format!("waiting for {whom}"));
    let (country, seconds) = (&build.spec.country, build.spec.work.lease_seconds);
    let lease = workers::lease::take(&build.work, country, "urbancross run", seconds, &build.stop, waits);
    let (_lease, waited) = lease.await?;
    if waited {
        build.refresh().await?;
    }
    let last = options.until.as_ref().and_then(|until| steps.iter().position(|step| step.name() == until));
    let asked: Vec<&str> = steps.iter().map(Step::name).take(last.map_or(steps.len(), |last| last + 1)).collect();
    let mut options = options.clone();
    for _ in 0..MOST_PASSES {
        let before = build.commits();
        let quarantined = run_steps(build, &options, progress).await?;
        if build.commits() == before {
            return Ok(quarantined);
        }
        build.refresh().await?;
        if !anything_stale(build, &asked).await? {
            return Ok(quarantined);
        }
        progress.note("the source or the tables were changed during this run: going over the build again");
        // what was asked for once was done
        options = RunOptions { retry_errors: false, retrain: false, ..options };
    }
    Err(WorkerError::Transient(format!(
        "{}: others changed its source or tables during each of {MOST_PASSES} passes",
        build.spec.country
    )))
}

/// Is there a row to compute in a table that was asked for? Trainings and figures follow from tables.
async fn anything_stale(build: &mut Build, asked: &[&str]) -> Result<bool, WorkerError> {
    for stage in stages::map_stages(&build.spec).into_iter().filter(|stage| asked.contains(&stage.name)) {
        let Some(model) = model_of(build, &stage).await? else { continue };
        if crate::settled::is_settled(build, &stage, &model).await? {
            continue;
        }
        if stage.output == Artifact::Splits {
            build.assign_splits().await?;
        }
        if !plan_stage(build, &stage, &model, false).await?.counts.stale.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Decides about a training. One that must run and cannot end well is refused before it begins.
async fn decided(build: &mut Build, training: Training, options: &RunOptions) -> Result<TrainingState, WorkerError> {
    let state = training_state(build, training, options.retrain).await?;
    if let TrainingState::MustRun(_) = state {
        if build.virtual_inputs.assignment().is_empty() {
            build.assign_splits().await?;
        }
        preflight::splits(build.virtual_inputs.assignment(), &build.spec, options.until.as_deref())?;
        before::check_batch(build, options).await?;
    }
    Ok(state)
}

async fn run_steps(
    build: &mut Build,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Vec<Quarantined>, WorkerError> {
    let mut quarantined = Vec::new();
    let mut fetched = false;
    for step in stages::steps(&build.spec) {
        let name = step.name();
        // a whole build learns at once that weights are missing; a node that only pulls images needs none
        if !fetched && (options.until.is_none() || preflight::uses_network(&step)) {
            build.weights = workers::weights::fetch(&build.work, &build.spec).await?;
            preflight::networks(&build.spec, &build.weights)?;
            fetched = true;
        }
        match step {
            Step::Map(stage) => quarantined.extend(run_stage(build, &stage, options, progress).await?),
            Step::Train(training) => match decided(build, training, options).await? {
                // its ranks look for themselves
                TrainingState::MustRun(_) if build.spec.ranks.processes > 1 => {
                    crate::launch::train(build, training, options, progress).await?;
                }
                state => run_training(build, training, state, &mut Solo, progress).await?,
            },
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

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

async fn run_stage(
    build: &mut Build,
    stage: &Stage,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Option<Quarantined>, WorkerError> {
    let (started, began) = (unix_seconds(), Instant::now());
    // what was done before others overtook this run
    let mut before: Option<Summary> = None;
    loop {
        let Some(model) = model_of(build, stage).await? else {
            return Err(WorkerError::Broken(format!("{}: the training before it left no model", stage.name)));
        };
        if stage.output == Artifact::Geotags {
            let removals = before::check_removals(build, options).await?;
            removals.in_words().iter().for_each(|line| progress.note(&format!("warning: {line}")));
        }
        if !options.retry_errors
            && let Some(key) = crate::settled::key(build, stage, &model).await?
            && let Some(known) = build.settled.get(stage, &key)
            && known.statuses.problems == problems_digest(&build.virtual_inputs.listing.problems)
        {
            progress.stage(stage.name, 0).unchanged(known.rows);
            return quarantined(build, stage, &known.statuses);
        }
        // boxes and given splits tell before any image is pulled whether a part stays empty; pictures tell afterwards
        if matches!(stage.output, Artifact::Images | Artifact::Splits) {
            before::assign_splits(build, options.until.as_deref(), progress).await?;
            before::check_batch(build, options).await?;
        }
        let plan = plan_stage(build, stage, &model, options.retry_errors).await?;
        let total = plan.computed() + plan.counts.stale.iter().map(|s| s.kept).sum::<u64>();
        let bar = progress.stage(stage.name, total);
        if plan.counts.stale.is_empty() {
            bar.unchanged(plan.counts.kept_rows);
            return settle(build, stage, &model, before).await;
        }
        build.work.put_sealed_if_absent(&paths::plan(&plan.country, stage.name, &plan.key()), &plan).await?;
        let context = MapContext {
            work: &build.work,
            slices: build.virtual_inputs.slices.store(),
            tables: &build.tables,
            source: &build.source,
            fetch: build.fetch_settings(),
            stop: &build.stop,
            observer: &bar,
        };
        let devices = stages::device::devices(stage.name, &build.spec)?;
        let stage_context = StageContext {
            spec: &build.spec,
            device: devices[0],
            model_folder: model_folder(build, &model).await?,
            weights: &build.weights,
            stop: build.stop.clone(),
        };
        let low_memory = (stage.model == ModelUse::None).then(LowMemory::begin);
        let result = map_plan(&context, stage, &plan, stage_context, &devices).await?;
        drop(low_memory);
        let published = publish(&build.tables, &plan, &result.finished).await?;
        let mut summary = Summary {
            stage: stage.name.to_owned(),
            country: build.spec.country.clone(),
            started_unix_seconds: started,
            seconds: began.elapsed().as_secs_f64(),
            kept: plan.counts.kept_rows,
            reasons: plan.reasons().into_iter().map(|(r, n)| (r.words().to_owned(), n)).collect(),
            version: published.live.version,
            ..before.unwrap_or_default()
        };
        for FinishedShard { marker, by_other_runs, .. } in &result.finished {
            match *by_other_runs || published.overtaken.contains(&marker.part.shard) {
                true => summary.by_other_runs += marker.computed,
                false => summary.computed += marker.computed,
            }
            summary.kept += marker.kept;
            summary.deleted += marker.deleted;
            summary.errors += marker.errors;
        }
        if stage.output == Artifact::Splits {
            for (reason, images) in assignment::dropped(build.virtual_inputs.assignment()) {
                progress.note(&format!("{:18} {images} dropped: {}", stage.name, reason.words()));
                summary.notes.insert(format!("dropped ({})", reason.words()), images.to_string());
            }
        }
        bar.finish(&summary);
        if result.stopped {
            return Err(WorkerError::Stopped);
        }
        if published.overtaken.is_empty() {
            build.after_commit(published.live);
            return settle(build, stage, &model, Some(summary)).await;
        }
        progress.note(&format!(
            "{}: another run changed {} meanwhile; planning again",
            stage.name,
            count(published.overtaken.len(), "shard")
        ));
        before = Some(Summary { kept: 0, ..summary });
        build.refresh().await?;
    }
}

/// Writes down what became of a stage's rows: the quarantine listing, the summary of a run that changed something, and
/// last that nothing is left to do.
async fn settle(
    build: &mut Build,
    stage: &Stage,
    model: &Model,
    changed: Option<Summary>,
) -> Result<Option<Quarantined>, WorkerError> {
    let listing = &build.virtual_inputs.listing;
    let problems = if stage.output == Artifact::Geotags { listing.problems.as_slice() } else { &[] };
    let country = &build.spec.country;
    let live = build.pin(stage.output).await?;
    let mut statuses =
        quarantine(&build.work, &live, stage.name, country, problems, build.spec.work.concurrency).await?;
    statuses.problems = problems_digest(&listing.problems);
    if let Some(mut summary) = changed {
        summary.rows = statuses.ok;
        summary.excluded = statuses.excluded;
        summary.errors = statuses.errors;
        if !problems.is_empty() {
            summary.notes.insert("source rows left out".into(), listing.rows_left_out.to_string());
        }
        build.work.put_sealed(&paths::summary(country, stage.name), &summary).await?;
    }
    if let Some(key) = crate::settled::key(build, stage, model).await? {
        crate::settled::put(build, stage, model, key, live.rows(), statuses.clone()).await?;
    }
    quarantined(build, stage, &statuses)
}

/// Tables without which nothing is left to train or to evaluate. A build without a segment or a score goes on.
const NEEDED: [Artifact; 6] = [
    Artifact::Geotags,
    Artifact::Splits,
    Artifact::Images,
    Artifact::Captions,
    Artifact::ImageEmbeddings,
    Artifact::TextEmbeddings,
];

/// Rows of a stage that are out, if there are any.
///
/// # Errors
/// [`WorkerError::Broken`] where no row is left to go on with.
fn quarantined(build: &Build, stage: &Stage, statuses: &RowStatuses) -> Result<Option<Quarantined>, WorkerError> {
    let source = Some(&build.virtual_inputs.listing).filter(|_| stage.output == Artifact::Geotags);
    let rows = statuses.errors + source.map_or(0, |listing| listing.rows_left_out);
    let is_listed = rows > 0 || source.is_some_and(|listing| !listing.problems.is_empty());
    let listing = format!("{}{}", build.work.url(), paths::quarantine(&build.spec.country, stage.name));
    if let (0, Some(first)) = (statuses.ok, &statuses.first_error)
        && NEEDED.contains(&stage.output)
    {
        return Err(WorkerError::Broken(format!(
            "{}: no row is left to go on with: {} failed; the first: {first}; all of them: {listing}",
            stage.name,
            count(statuses.errors, "row")
        )));
    }
    Ok(is_listed.then(|| Quarantined { stage: stage.name.to_owned(), rows, listing }))
}

/// Runs a training unless a finished one is up to date. As one of several ranks: with all the others.
pub(crate) async fn run_training(
    build: &Build,
    training: Training,
    state: TrainingState,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<(), WorkerError> {
    match &state {
        TrainingState::UpToDate { record, changed } => {
            progress.note(&format!(
                "{:18} up to date ({}); {} of {} changed since ({:.2} %)",
                training.name(),
                record.trained.best_validation(),
                changed.changed,
                count(changed.rows, "row"),
                100.0 * changed.share()
            ));
            return Ok(());
        }
        TrainingState::MustRun(next) => progress.note(&format!("{:18} {}", training.name(), next.run.begins)),
    }
    let (started, began) = (unix_seconds(), Instant::now());
    let Some(record) = current_or_trained(build, training, state, ranks, progress).await? else { return Ok(()) };
    let trained = &record.trained;
    let notes = [
        ("parameters", trained.parameters.to_string()),
        ("best epoch", (trained.best_epoch + 1).to_string()),
        ("best validation", beside_chance(trained.best_validation_mean_recall, trained.validation_chance)),
        ("waited for data", format!("{:.1} s", trained.wait_seconds)),
        ("run", record.key.clone()),
        ("begins", record.begins.clone()),
    ];
    let summary = Summary {
        stage: training.name().to_owned(),
        country: build.spec.country.clone(),
        started_unix_seconds: started,
        seconds: began.elapsed().as_secs_f64(),
        rows: trained.train_rows,
        computed: trained.samples,
        notes: notes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        ..Summary::default()
    };
    build.work.put_sealed(&paths::summary(&build.spec.country, training.name()), &summary).await
}

/// The record of a finished training: the one that is up to date, or the one that must run. `None` on ranks other than 0.
pub(crate) async fn current_or_trained(
    build: &Build,
    training: Training,
    state: TrainingState,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<Option<TrainingRecord>, WorkerError> {
    let next = match state {
        TrainingState::UpToDate { record, .. } => return Ok(Some(*record)),
        TrainingState::MustRun(next) => *next,
    };
    if let Some((pictures, image_id)) = next.rows.learnt_and_held_out() {
        return Err(WorkerError::Configuration(format!(
            "{}: the splits of {} have {} in training that validation or test has too, such as \
             {image_id}: an older version assigned them; `urbancross run` assigns the splits again",
            training.name(),
            build.spec.country,
            count(pictures, "picture")
        )));
    }
    let epochs = stages::pretrain::of_training(&build.spec, training).epochs;
    let bar = progress.training(training.name(), epochs);
    let request = TrainRequest {
        work: &build.work,
        spec: &build.spec,
        weights: &build.weights,
        training,
        pending: next.run,
        rows: next.rows,
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
