//! A driver of several tasks: builds, adaptations, ablations and sweeps as one run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use engines::{Profile, Run};
use manifests::paths;
use manifests::words::count;
use workers::WorkerError;
use workers::stores::WorkStore;

use super::arguments::{EngineArgs, EngineName, RunArgs, SpecArgs, StepArgs};
use super::engine_runs::{
    check_driven, check_once, not_driven, options_of, read_profile, record_end, restarted_job, run_options,
};
use super::several::{ExperimentArgs, Several, run_of_task};
use super::stop_flag;
use super::told::{end_of_run, print_ablation, print_curves, say_tested};
use crate::engine::{Engine, KubernetesEngine, Processes, Slots, Slurm};
use crate::left_out::check_all;
use crate::logs::LastWords;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::run_record::{DONE, DRIVER, RunRecord};
use crate::tasks::{Drive, Engines, Outcome, Task, TaskEnd, builds, drive_all};
use crate::{aside, say};

/// A driver of several tasks.
pub(super) async fn drive(
    several: &Several,
    spec: &SpecArgs,
    (options, steps, experiment): (&RunArgs, &StepArgs, &ExperimentArgs),
    engine: &EngineArgs,
) -> Result<()> {
    check_all(builds(&several.tasks), |build| {
        check_driven(build, steps.until.as_deref(), engine.engine)?;
        steps.until.iter().try_for_each(|until| crate::run::check_until(build, until))
    })?;
    check_once(options, engine)?;
    let mut asked = options_of(options, steps, &engine.failed);
    asked.extend(experiment.options());
    let is_cluster = engine.engine != EngineName::Processes;
    let profile = is_cluster.then(|| read_profile(engine.profile.as_deref())).transpose()?;
    let run = several.run(engine.run.as_deref(), asked)?;
    let (stop, progress) = (stop_flag(), Progress::new(false));
    let options = run_options(options, steps, engine, &spec.set.set);
    let slots = Slots::new(engine.workers as usize);
    let driver = Driver { run, engine, profile, slots, options: &options };
    let words = driver.words(several)?;
    let ended = driver.drive(several, &stop, &progress).await;
    if let Some(words) = words {
        words.end(ended.as_ref().err().map(|error| workers::cause::whole_chain(error.as_ref())).as_deref()).await;
    }
    ended
}

struct Driver<'a> {
    run: Run,
    engine: &'a EngineArgs,
    /// Of a cluster.
    profile: Option<Profile>,
    /// Of this machine.
    slots: Arc<Slots>,
    options: &'a RunOptions,
}

impl Driver<'_> {
    async fn drive(
        &self,
        several: &Several,
        stop: &Arc<std::sync::atomic::AtomicBool>,
        progress: &Progress,
    ) -> Result<()> {
        if self.is_cancelled(&several.tasks).await? {
            progress.note(&format!("run {} was cancelled; `urbancross submit` begins it again", self.run.id));
            return Ok(());
        }
        let drive = Drive { tasks: &several.tasks, options: self.options, stop, progress };
        let ends = drive_all(&drive, self).await?;
        let number = |is: fn(&TaskEnd) -> bool| ends.iter().filter(|end| is(end)).count();
        let (done, all) = (number(|end| matches!(end, TaskEnd::Done)), count(ends.len(), "task"));
        let others = number(|end| matches!(end, TaskEnd::Waits | TaskEnd::LeftOut));
        aside!("{done} of {all} finished{}", if others > 0 { format!(", {others} not begun") } else { String::new() });
        let failed = ends.into_iter().zip(&several.tasks).filter_map(|(end, task)| match end {
            TaskEnd::Failed(error) => Some((task, error)),
            _ => None,
        });
        let mut failed: Vec<(&Task, WorkerError)> = failed.collect();
        // while another try may help one of them, somebody has to come back
        failed.sort_by_key(|(_, error)| error.exit_code() == 65);
        match failed.into_iter().next() {
            None => Ok(()),
            Some((task, error)) => Err(anyhow::Error::from(error).context(task.name.clone())),
        }
    }

    /// What this driver says is kept among the records of the first task.
    fn words(&self, several: &Several) -> Result<Option<LastWords>> {
        let (Some(first), true) = (several.tasks.first(), self.is_recorded()) else { return Ok(None) };
        let (spec, name) = first.what.home();
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let path = paths::last_words(&name, &self.run.task_id(0), DRIVER.0, DRIVER.1);
        Ok(Some(LastWords::begin(work, path)))
    }

    /// Whether it leaves word in the records of its run: of a cluster, and wherever somebody has named the run.
    fn is_recorded(&self) -> bool {
        self.profile.is_some() || self.engine.run.is_some()
    }

    async fn is_cancelled(&self, tasks: &[Task]) -> Result<bool> {
        if !self.is_recorded() {
            return Ok(false);
        }
        for (number, task) in tasks.iter().enumerate() {
            let (spec, name) = task.what.home();
            let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
            if RunRecord::new(&work, &name, &self.run.task_id(number)).is_cancelled().await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Engines for Driver<'_> {
    fn has_room(&self, under_way: usize) -> bool {
        match self.engine.engine {
            // what one task leaves idle the next one has; one more than there are slots plans ahead
            EngineName::Processes => under_way == 0 || (under_way <= self.slots.all() && self.slots.is_one_idle()),
            // its queue has them all: this driver ends as soon as each is there
            EngineName::Slurm => under_way == 0,
            EngineName::Kubernetes | EngineName::Ray => true,
        }
    }

    async fn engine(&self, number: usize, task: &Task) -> Result<Engine, WorkerError> {
        let (run, profile) = match (run_of_task(&self.run, number, task), self.profile.clone()) {
            (Some(run), Some(profile)) => (run, profile),
            (run, _) => {
                let lease = Duration::from_secs(self.engine.lease.lease_seconds);
                let processes = Processes::of_task(&self.slots, number, &task.name, lease);
                return Ok(Engine::Processes(Box::new(match run.filter(|_| self.is_recorded()) {
                    Some(run) => processes.recorded(&run.id, &run.country),
                    None => processes,
                })));
            }
        };
        let (spec, name) = task.what.home();
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let job = restarted_job(self.engine.engine, &|name| std::env::var(name).ok());
        RunRecord::new(&work, &name, &run.id).check_last_driver(job.as_deref()).await?;
        match self.engine.engine {
            EngineName::Slurm => Ok(Engine::Slurm(Box::new(Slurm::open(run, profile).await?))),
            EngineName::Kubernetes => Ok(Engine::Kubernetes(Box::new(KubernetesEngine::new(run, profile)))),
            EngineName::Ray | EngineName::Processes => Err(not_driven()),
        }
    }

    async fn finished(&self, task: &Task, outcome: Outcome<'_>) -> Result<(), WorkerError> {
        say_outcome(task, outcome, self.options).await.map_err(|error| match error.downcast::<WorkerError>() {
            Ok(error) => error,
            Err(other) => WorkerError::Transient(other.to_string()),
        })
    }

    async fn ended(&self, number: usize, task: &Task, end: &TaskEnd) {
        let progress = Progress::new(false);
        if let TaskEnd::Placed(step) = end {
            let name = &task.name;
            progress.note(&format!("{name}: {step} has begun; a driver comes back when it is done"));
        }
        let (of, ended) = match end {
            TaskEnd::Done => (DONE, Ok(())),
            TaskEnd::Placed(_) => ("placed", Ok(())),
            TaskEnd::Failed(error) => ("", Err(error)),
            TaskEnd::Waits | TaskEnd::LeftOut => return,
        };
        if !self.is_recorded() {
            return;
        }
        let (spec, name) = task.what.home();
        let Ok(work) = WorkStore::open(&spec.work.url, &spec.work.options) else { return };
        let record = RunRecord::new(&work, &name, &self.run.task_id(number));
        let ended = ended.map_err(|error| (error.exit_code(), error.to_string()));
        record_end(&record, DRIVER.0, DRIVER.1, of.to_owned(), ended).await;
    }
}

async fn say_outcome(task: &Task, outcome: Outcome<'_>, options: &RunOptions) -> Result<()> {
    if !task.what.is_job() && !crate::logs::on_output() {
        say!("== {}", task.name);
    }
    match outcome {
        Outcome::Built(build, quarantined) => end_of_run(build, options, quarantined).await?,
        Outcome::Adapted(pair, finished) => {
            for (when, tested) in [("before", &finished.before), ("after", &finished.after)] {
                say_tested(when, tested, &pair.target.spec.country)?;
            }
            say!("report: {}", finished.report);
        }
        Outcome::Learnt => {}
        Outcome::Ablated(ablation, report) => {
            print_ablation(ablation)?;
            say!("report: {report}");
        }
        Outcome::Swept(curves, report) => {
            print_curves(curves)?;
            say!("report: {report}");
        }
    }
    tracing::info!(task = task.name, "finished");
    Ok(())
}
