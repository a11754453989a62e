//! Running a build: every step in order, each from where it was left.

mod before;
mod elsewhere;
mod stage;
mod training;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::training::communicator::Solo;
use manifests::{Artifact, BuildSpec};
use serde::Serialize;
use stages::{Step, Training};
use workers::WorkerError;

use crate::build::Build;
use crate::engine::{Engine, Placed, TrainJob};
use crate::evaluate::evaluate_build;
use crate::plan::{model_of, plan_stage};
use crate::preflight;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::served;
use crate::trainings::{TrainingState, training_state};
pub(crate) use stage::map_by;
use stage::{StageEnd, run_stage};
pub(crate) use training::{current_or_trained, run_training};

/// Rows that are left out, and where they are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Name of the stage whose rows they are.
    pub stage: String,
    /// None where the source has only problems that cost no row.
    pub rows: u64,
    /// Address of the listing.
    pub listing: String,
}

/// Seconds before each further pass over a build whose source or tables others keep changing: about as long as something may be
/// in the middle of being written.
const PAUSES: [u64; 7] = [0, 1, 2, 4, 8, 15, 30];

/// How long a source that changes under a run may be of no use, as while it is written.
const SETTLING: Duration = Duration::from_secs(60);
/// How often is looked whether it is whole.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// Nothing is left to do; what is left out.
    Done(Vec<Quarantined>),
    /// An engine has begun a step and comes back when that is done.
    Placed {
        /// The step that workers elsewhere are at.
        step: &'static str,
    },
}

/// Runs every step in this process, or those up to `options.until`. Returns the quarantined rows of the build.
///
/// # Errors
/// As [`drive`].
pub async fn run(
    build: &mut Build,
    options: &RunOptions,
    progress: &Progress,
) -> Result<Vec<Quarantined>, WorkerError> {
    match drive(build, options, &Engine::Here, progress).await? {
        RunEnd::Done(quarantined) => Ok(quarantined),
        RunEnd::Placed { .. } => Ok(Vec::new()),
    }
}

/// Runs every step, or those up to `options.until`, where `engine` has its workers.
///
/// A run that has changed something looks again before it ends: what it computed from may have changed meanwhile, and
/// it ends only when nothing is left to do. One whose source changes under it plans again.
///
/// # Errors
/// Whatever ends a step, see [`WorkerError`]; what was finished before stays finished.
pub async fn drive(
    build: &mut Build,
    options: &RunOptions,
    engine: &Engine,
    progress: &Progress,
) -> Result<RunEnd, WorkerError> {
    let steps = stages::steps(&build.spec);
    if let Some(until) = &options.until {
        check_until(&build.spec, until)?;
    }
    for note in &build.virtual_inputs.listing.notes {
        progress.note(note);
    }
    before::check_removals(build, options).await?;
    before::check_rows(build, options, progress).await?;
    before::begin(build, options).await?;
    let waits = |whom: &str| progress.note(&format!("waiting for {whom}"));
    let (country, seconds) = (&build.spec.country, build.spec.work.lease_seconds);
    let what = if matches!(engine, Engine::Here) { "urbancross run" } else { "urbancross drive" };
    let lease = workers::lease::take(&build.work, country, what, seconds, &build.stop, waits);
    let (_lease, waited) = lease.await?;
    if waited {
        build.refresh().await?;
    }
    let asked = asked(&steps, options);
    let mut options = options.clone();
    let mut pauses = PAUSES.into_iter();
    loop {
        let before = build.commits();
        let quarantined = match run_steps(build, &options, engine, progress).await {
            Ok(RunEnd::Done(quarantined)) => quarantined,
            Ok(placed @ RunEnd::Placed { .. }) => return Ok(placed),
            Err(WorkerError::Outdated(why)) => {
                pause(build, pauses.next(), &why).await?;
                progress.note(&format!("{why}: planning again"));
                list_again(build, Some(&options), progress).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if build.commits() == before {
            return Ok(RunEnd::Done(quarantined));
        }
        if !has_changed(build, engine, &asked, &options, progress).await? {
            return Ok(RunEnd::Done(quarantined));
        }
        let why = "the source or the tables were changed during this run";
        pause(build, pauses.next(), why).await?;
        progress.note(&format!("{why}: going over the build again"));
        // what was asked for once was done
        options = RunOptions { retry_errors: false, retrain: false, ..options };
    }
}

/// Waits before another pass, if there may be one.
async fn pause(build: &Build, seconds: Option<u64>, why: &str) -> Result<(), WorkerError> {
    let Some(seconds) = seconds else {
        return Err(WorkerError::Transient(format!(
            "{}: others changed its source or tables during each of {} passes; the last time: {why}",
            build.spec.country,
            PAUSES.len() + 1
        )));
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if build.stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
    }
    Ok(())
}

/// Names of the steps that a run is to do.
fn asked(steps: &[Step], options: &RunOptions) -> Vec<&'static str> {
    let last = options.until.as_ref().and_then(|until| steps.iter().position(|step| step.name() == until));
    steps.iter().map(Step::name).take(last.map_or(steps.len(), |last| last + 1)).collect()
}

/// Has a build that was finished rows to make, because its source or its tables have changed since?
///
/// # Errors
/// A source that stays broken; a store that does not answer.
pub(crate) async fn is_outdated(
    spec: &BuildSpec,
    options: &RunOptions,
    engine: &Engine,
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<bool, WorkerError> {
    let mut build = Build::connect(spec.clone(), stop.clone()).await?;
    has_changed(&mut build, engine, &asked(&stages::steps(spec), options), options, progress).await
}

/// Looks at a build once more. Only of one that has changed is asked whether its rows may leave.
async fn has_changed(
    build: &mut Build,
    engine: &Engine,
    asked: &[&str],
    options: &RunOptions,
    progress: &Progress,
) -> Result<bool, WorkerError> {
    list_again(build, None, progress).await?;
    if !anything_stale(build, engine, asked).await? {
        return Ok(false);
    }
    list_again(build, Some(options), progress).await?;
    Ok(true)
}

/// Lists a source again that was sound when this run began. If it looks broken now, or with options as if most of its rows had
/// left, somebody may be writing it: it is looked at again for a while.
async fn list_again(build: &mut Build, options: Option<&RunOptions>, progress: &Progress) -> Result<(), WorkerError> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        let listed = match (build.refresh().await, options) {
            (Ok(()), Some(options)) => before::check_removals(build, options).await.map(|_| ()),
            (listed, _) => listed,
        };
        let Err(error) = listed else { return Ok(()) };
        let may_pass = matches!(
            error,
            WorkerError::Broken(_)
                | WorkerError::Missing { .. }
                | WorkerError::Outdated(_)
                | WorkerError::Configuration(_)
        );
        if !may_pass || began.elapsed() > SETTLING {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            let seconds = SETTLING.as_secs();
            progress.note(&format!(
                "{error}: it may be in the middle of being written; looking again for up to {seconds} s"
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        if build.stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
    }
}

/// Refuses a step that a build does not have.
///
/// # Errors
/// The names of those that it has.
pub fn check_until(spec: &BuildSpec, until: &str) -> Result<(), WorkerError> {
    let steps = stages::steps(spec);
    if steps.iter().any(|step| step.name() == until) {
        return Ok(());
    }
    let names: Vec<&str> = steps.iter().map(Step::name).collect();
    Err(WorkerError::Configuration(format!("--until {until}: the steps are {}", names.join(", "))))
}

/// Is there a row to compute in a table that was asked for? Trainings and figures follow from tables.
async fn anything_stale(build: &mut Build, engine: &Engine, asked: &[&str]) -> Result<bool, WorkerError> {
    for stage in stages::map_stages(&build.spec).into_iter().filter(|stage| asked.contains(&stage.name)) {
        let Some(model) = model_of(build, &stage).await? else { continue };
        if crate::settled::is_settled(build, &stage, &model).await? {
            continue;
        }
        if stage.output == Artifact::Splits {
            build.assign_splits().await?;
        }
        let plan = plan_stage(build, &stage, &model, false).await?;
        if !plan.counts.stale.is_empty() && !elsewhere::only_failed(build, engine, &plan).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Decides about a training. One that must run and cannot end well is refused before it begins.
async fn decided(build: &mut Build, training: Training, options: &RunOptions) -> Result<TrainingState, WorkerError> {
    let state = training_state(build, training, options.retrain).await?;
    if let TrainingState::MustRun(_) = state {
        if !build.virtual_inputs.assigned().is_made() {
            build.assign_splits().await?;
        }
        preflight::splits(build.virtual_inputs.assigned(), &build.spec, options.until.as_deref())?;
        before::check_batch(build, options).await?;
    }
    Ok(state)
}

/// Whether a training is done the store says, and not the engine that ran it.
async fn check_trained(build: &mut Build, training: Training) -> Result<(), WorkerError> {
    match training_state(build, training, false).await? {
        TrainingState::UpToDate { .. } => Ok(()),
        TrainingState::MustRun(_) => Err(WorkerError::Outdated(format!(
            "{}: its ranks have ended, and the store has no finished training: others changed the tables meanwhile",
            training.name()
        ))),
    }
}

async fn run_steps(
    build: &mut Build,
    options: &RunOptions,
    engine: &Engine,
    progress: &Progress,
) -> Result<RunEnd, WorkerError> {
    let mut quarantined = Vec::new();
    let mut fetched = false;
    let mut asks_server = preflight::steps(&build.spec, options.until.as_deref()).iter().any(served::is_served);
    for step in stages::steps(&build.spec) {
        let name = step.name();
        // a whole build learns at once that weights are missing; a node that only pulls images needs none
        if !fetched && (options.until.is_none() || preflight::uses_network(&step)) {
            build.weights = workers::weights::fetch(&build.work, &build.spec, &build.stop).await?;
            preflight::networks(&build.spec, &build.weights)?;
            fetched = true;
        }
        // before images are pulled for a server that never answers
        if std::mem::take(&mut asks_server) {
            served::check(build, progress).await?;
        }
        match step {
            Step::Map(stage) => match run_stage(build, &stage, options, engine, progress).await? {
                StageEnd::Done(rows) => quarantined.extend(rows),
                StageEnd::Placed => return Ok(RunEnd::Placed { step: name }),
            },
            Step::Train(training) => match decided(build, training, options).await? {
                TrainingState::MustRun(next) => {
                    let job = TrainJob::of(build, training, &next.run.key, options.retrain);
                    match engine.train(&job, progress).await? {
                        Some(Placed::ComesBack) => return Ok(RunEnd::Placed { step: name }),
                        Some(Placed::Waits) => check_trained(build, training).await?,
                        // its ranks look for themselves
                        None if job.ranks.processes > 1 => {
                            crate::launch::train((job.step, job.ranks), &job.over, job.stop, progress).await?
                        }
                        None => {
                            run_training(build, training, TrainingState::MustRun(next), &mut Solo, progress).await?
                        }
                    }
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
    Ok(RunEnd::Done(quarantined))
}
