//! A driver's way through tasks: what is ready goes to the engine, one task after the other. Each driver goes all the way
//! anew and asks the stores what is done, so that it may die at any moment, and others may be on the way beside it.

mod runs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engines::{ADAPT, VARIANT};
use manifests::{BuildSpec, digest};
use stages::Training;
use workers::WorkerError;
use workers::lease::{self, Held};
use workers::stores::WorkStore;

use super::{Finished, Task, What, adapted, finish_pair, page};
use crate::ablate::{Ablation, ablate};
use crate::build::Build;
use crate::engine::{Engine, Placed, TrainJob};
use crate::given::GivenPair;
use crate::pair::Pair;
use crate::progress::Progress;
use crate::run::{Quarantined, RunEnd};
use crate::run_options::RunOptions;
use crate::sweep::{self, Curve, Moves};
use crate::trainings::{TrainingState, training_state};
use runs::adapt;

/// How far a driver has come with a task.
#[derive(Debug)]
pub enum TaskEnd {
    /// Nothing is left to do.
    Done,
    /// An engine has begun a step of it, and another driver comes when that is done.
    Placed(&'static str),
    /// What it needs is not finished.
    Waits,
    /// It was not asked for: builds are to end before their last step.
    LeftOut,
    /// It cannot go on, or not now.
    Failed(WorkerError),
}

/// What has become of a finished task.
pub enum Outcome<'a> {
    /// A build, with its rows that are out.
    Built(&'a Build, &'a [Quarantined]),
    /// An adaptation with its report.
    Adapted(&'a Pair, &'a Finished),
    /// A run of an ablation or of a sweep.
    Learnt,
    /// The table of an ablation, and where its page lies.
    Ablated(&'a Ablation, &'a str),
    /// The curves of a sweep, and where their page lies.
    Swept(&'a [Curve], &'a str),
}

/// Who starts what a task needs, and hears of it.
#[allow(async_fn_in_trait, reason = "one program drives, in one thread")]
pub trait Engines {
    /// The engine of a task.
    ///
    /// # Errors
    /// An engine that does not answer.
    async fn engine(&self, number: usize, task: &Task) -> Result<Engine, WorkerError>;

    /// A task is finished.
    ///
    /// # Errors
    /// What is said cannot be written.
    async fn finished(&self, task: &Task, outcome: Outcome<'_>) -> Result<(), WorkerError>;

    /// A driver has come so far with a task.
    async fn ended(&self, number: usize, task: &Task, end: &TaskEnd);
}

/// What a driver is told.
pub struct Drive<'a> {
    /// All tasks.
    pub tasks: &'a [Task],
    /// How builds are run.
    pub options: &'a RunOptions,
    /// Set when the driver is to end.
    pub stop: &'a Arc<AtomicBool>,
    /// Who is told how far it is.
    pub progress: &'a Progress,
}

/// Goes through all tasks; how far each has come. One that fails holds up only those that need it.
///
/// # Errors
/// [`WorkerError::Stopped`].
pub async fn drive_all(drive: &Drive<'_>, engines: &impl Engines) -> Result<Vec<TaskEnd>, WorkerError> {
    let mut way = Way { drive, engines, pairs: BTreeMap::new() };
    let mut ends: Vec<TaskEnd> = Vec::with_capacity(drive.tasks.len());
    for (number, task) in drive.tasks.iter().enumerate() {
        // one that cannot be made is met again as a task of its own, which says so
        if let Err(WorkerError::Stopped) = way.side_by_side(number, &ends).await {
            return Err(WorkerError::Stopped);
        }
        let end = match state(task, &ends, drive.options) {
            Some(end) => end,
            None => match way.begin(number, task).await {
                Ok(end) => end,
                Err(WorkerError::Stopped) => return Err(WorkerError::Stopped),
                Err(error) => {
                    drive.progress.note(&format!("error: {}: {error}", task.name));
                    TaskEnd::Failed(error)
                }
            },
        };
        engines.ended(number, task, &end).await;
        if drive.stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        ends.push(end);
    }
    Ok(ends)
}

/// Why a task is not begun; `None`: it is ready.
fn state(task: &Task, ends: &[TaskEnd], options: &RunOptions) -> Option<TaskEnd> {
    if options.until.is_some() && !matches!(task.what, What::Build(_)) {
        return Some(TaskEnd::LeftOut);
    }
    let is_done = |before: &usize| matches!(ends.get(*before), Some(TaskEnd::Done));
    (!task.after.iter().all(is_done)).then_some(TaskEnd::Waits)
}

struct Way<'d, E> {
    drive: &'d Drive<'d>,
    engines: &'d E,
    /// Pairs that were opened: opening one reads tables.
    pairs: BTreeMap<String, Pair>,
}

impl<E: Engines> Way<'_, E> {
    async fn begin(&mut self, number: usize, task: &Task) -> Result<TaskEnd, WorkerError> {
        // lines of steps do not say of which build they are
        if !task.what.is_job() {
            self.drive.progress.note(&format!("== {}", task.name));
        }
        self.task(number, task).await
    }

    async fn task(&mut self, number: usize, task: &Task) -> Result<TaskEnd, WorkerError> {
        let (engines, progress, stop) = (self.engines, self.drive.progress, self.drive.stop);
        match &task.what {
            What::Build(spec) => {
                let engine = engines.engine(number, task).await?;
                let mut build = Build::connect(spec.as_ref().clone(), stop.clone()).await?;
                build.source.required()?;
                build.list_source().await?;
                match crate::run::drive(&mut build, self.drive.options, &engine, progress).await? {
                    RunEnd::Placed { step } => return Ok(TaskEnd::Placed(step)),
                    RunEnd::Done(out) => engines.finished(task, Outcome::Built(&build, &out)).await?,
                }
            }
            What::Adapt(of) | What::Variant(of) => {
                let is_whole = matches!(task.what, What::Adapt(_));
                let step = if is_whole { ADAPT } else { VARIANT };
                let _lease = self.lease(task).await?;
                let pair = self.pair(of).await?;
                let record = match pair.finished(&of.spec).await? {
                    Some(record) => {
                        let validation = record.trained.best_validation();
                        progress.note(&format!("{step:21} up to date ({validation}): {}", task.name));
                        record
                    }
                    None => match adapt(pair, of, step, &engines.engine(number, task).await?, progress).await? {
                        Some(record) => record,
                        None => return Ok(TaskEnd::Placed(step)),
                    },
                };
                if is_whole {
                    let finished = finish_pair(pair, &record, progress).await?;
                    engines.finished(task, Outcome::Adapted(pair, &finished)).await?;
                } else {
                    adapted::figures(pair, &record).await?;
                    engines.finished(task, Outcome::Learnt).await?;
                }
            }
            What::Train(spec) => {
                let _lease = self.lease(task).await?;
                if self.must_train(spec).await? {
                    let build = Build::open_work(spec.as_ref().clone(), stop.clone()).await?;
                    let engine = engines.engine(number, task).await?;
                    let job = TrainJob::of(&build, Training::Pretrain);
                    if engine.train(job, progress).await? == Some(Placed::ComesBack) {
                        return Ok(TaskEnd::Placed(job.step));
                    }
                    // by an engine that waits it is finished, or goes on here from its last checkpoint
                    sweep::trained(spec.as_ref().clone(), Moves::Training, stop, progress).await?;
                }
                engines.finished(task, Outcome::Learnt).await?;
            }
            What::Ablation(of) => {
                let pair = self.pair(of).await?;
                let ablation = ablate(pair, progress).await?;
                let path = manifests::paths::report(&format!("{}.ablation", pair.name));
                let make = async || {
                    let (pairs, all) = (std::slice::from_ref(pair), std::slice::from_ref(&ablation));
                    crate::page::ablation::make(pairs, all, &crate::clock::now()).await
                };
                let report = page::put(&pair.target.work, &path, &ablation, make).await?;
                engines.finished(task, Outcome::Ablated(&ablation, &report)).await?;
            }
            What::Curves(of, axes) => {
                let curves = sweep::sweep(of, axes, stop, progress).await?;
                let (build, name) = task.what.home();
                let work = WorkStore::open(&build.work.url, &build.work.options)?;
                let path = manifests::paths::report(&format!("{name}.sweep"));
                let make = async || Ok(crate::page::sweep::curves(&curves, &crate::clock::now()));
                let report = page::put(&work, &path, &curves, make).await?;
                engines.finished(task, Outcome::Swept(&curves, &report)).await?;
            }
        }
        Ok(TaskEnd::Done)
    }

    /// Is a training with these settings not finished?
    async fn must_train(&self, spec: &BuildSpec) -> Result<bool, WorkerError> {
        let mut build = Build::open_work(spec.clone(), self.drive.stop.clone()).await?;
        build.weights = workers::weights::fetch(&build.work, &build.spec).await?;
        let state = training_state(&build, Training::Pretrain, false).await?;
        Ok(matches!(state, TrainingState::MustRun(_)))
    }

    /// Another driver of these runs waits meanwhile, so that neither begins what the other has begun. Builds have theirs.
    async fn lease(&self, task: &Task) -> Result<Held, WorkerError> {
        let ((spec, name), progress) = (task.what.home(), self.drive.progress);
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let waits = |whom: &str| progress.note(&format!("{name}: waiting for {whom}"));
        let seconds = spec.work.lease_seconds;
        let taken = lease::take(&work, &name, "urbancross drive", seconds, self.drive.stop, waits).await?;
        Ok(taken.0)
    }

    /// A pair with the settings of a run, opened once for all runs that read the same tables.
    async fn pair(&mut self, of: &GivenPair) -> Result<&Pair, WorkerError> {
        let tables = (of.spec.ratio, of.spec.adapt.segments_per_image > 0);
        let key = digest::of_value(&(of.source.to_toml(), of.target.to_toml(), tables));
        if !self.pairs.contains_key(&key) {
            self.pairs.insert(key.clone(), of.open(self.drive.stop).await?);
        }
        let pair = self.pairs.get_mut(&key).ok_or_else(|| WorkerError::Broken("an opened pair is gone".into()))?;
        pair.check_batch(&of.spec)?;
        // it was opened for another run, of which it keeps nothing but the tables
        pair.spec = of.spec.clone();
        Ok(pair)
    }
}

/// Every spec of a build among tasks.
pub(crate) fn builds(tasks: &[Task]) -> impl Iterator<Item = &BuildSpec> {
    tasks.iter().filter_map(|task| match &task.what {
        What::Build(spec) => Some(spec.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_ready_when_all_that_it_needs_is_done() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let spec = Box::new(BuildSpec::parse(text, "x", &[]).unwrap());
        let task = Task { name: "x".into(), after: vec![0, 1], what: What::Train(spec.clone()) };
        let all = RunOptions::default();
        let done = || TaskEnd::Done;
        assert!(state(&task, &[done(), done()], &all).is_none());
        for other in [
            TaskEnd::Placed("images"),
            TaskEnd::Waits,
            TaskEnd::LeftOut,
            TaskEnd::Failed(WorkerError::Broken("x".into())),
        ] {
            assert!(matches!(state(&task, &[done(), other], &all), Some(TaskEnd::Waits)));
        }
        let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
        assert!(matches!(state(&task, &[done(), done()], &until), Some(TaskEnd::LeftOut)));
        let build = Task { name: "x".into(), after: Vec::new(), what: What::Build(spec) };
        assert!(state(&build, &[], &until).is_none());
    }
}
