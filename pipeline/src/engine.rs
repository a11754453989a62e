//! Engines: what starts workers for a run. An engine places, restarts and kills; whether something is done the store
//! alone says.

mod fault;
mod kubectl;
mod kubernetes;
mod processes;
mod ray;
mod recorded;
mod slots;
mod slurm;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engines::kubernetes::{JobState, Seen};
use engines::{Profile, Run};
use manifests::paths;
use manifests::spec::RanksSpec;
use stages::Training;
use workers::WorkerError;
use workers::map::Observer;
use workers::stores::WorkStore;

use crate::build::Build;
use crate::launch::OverSpec;
use crate::progress::Progress;
use crate::run_record::Submission;
pub use kubectl::Kubectl;
pub use kubernetes::KubernetesEngine;
pub use processes::Processes;
pub use ray::{RayJobs, address as ray_address, examine as examine_ray};
pub use slots::Slots;
pub use slurm::{Slurm, examine as examine_slurm};

/// How long a silent worker keeps its shards.
pub const LEASE: Duration = Duration::from_secs(engines::profile::LEASE_SECONDS);

/// Who maps the shards of a plan and runs trainings.
pub enum Engine {
    /// This process.
    Here,
    /// Processes of this machine.
    Processes(Box<Processes>),
    /// Slurm's nodes.
    Slurm(Box<Slurm>),
    /// Jobs of a Kubernetes cluster.
    Kubernetes(Box<KubernetesEngine>),
}

/// What the engine of a run says of its jobs.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    /// Those that wait or run, in words; empty: there are none.
    pub live: String,
    /// How the last one failed, where nothing else says it.
    pub ended: Option<Ended>,
}

/// A job that has failed.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its name and why.
    pub words: String,
    /// The exit code that it comes to.
    pub code: u8,
}

/// What the engine of a run says of its jobs; `None`: it does not answer here.
pub(crate) async fn jobs(submission: &Submission, country: &str) -> Option<Jobs> {
    let live = |live: String| Jobs { live, ended: None };
    match submission.engine.as_str() {
        "slurm" => {
            let run = submission.run(country);
            let queued = slurm::queued(&run).await.ok()?;
            let counts = engines::slurm::arrays(&queued);
            let words = counts.iter().map(|((name, state), jobs)| format!("{name} {state} {jobs}"));
            Some(live(words.collect::<Vec<_>>().join(", ")))
        }
        "kubernetes" => {
            let profile = Profile::parse(&submission.profile).ok()?;
            let run = submission.run(country);
            let jobs = of_cluster(&KubernetesEngine::new(run.clone(), profile.clone()).state().await.ok()?);
            let Some(whole) = submission.whole.clone().filter(|_| jobs.live.is_empty()) else { return Some(jobs) };
            // the driver of a task is that of its whole run
            let of_all = KubernetesEngine::new(Run { id: whole, ..run }, profile).state().await.ok()?;
            Some(Jobs { ended: of_cluster(&of_all).ended, ..jobs })
        }
        "ray" => RayJobs::of(submission).ok()?.seen().await.ok(),
        _ => None,
    }
}

/// The jobs of a run on Kubernetes. A driver that was killed leaves no word of its own.
fn of_cluster(seen: &[Seen]) -> Jobs {
    let words = |job: &Seen| format!("{} {}", job.name, job.words);
    let live: Vec<String> = seen.iter().filter(|job| !job.state.is_over()).map(words).collect();
    let driver = seen.iter().find(|job| job.state == JobState::Failed && job.name.ends_with("-drive"));
    let ended = driver.filter(|_| live.is_empty());
    let ended = ended.map(|job| Ended { words: words(job), code: if job.is_permanent { 65 } else { 75 } });
    Jobs { live: live.join(", "), ended }
}

/// A training or adaptation that wants ranks.
pub(crate) struct TrainJob<'a> {
    /// Its step.
    pub step: &'static str,
    /// Folder of the work store that keeps its checkpoints.
    pub run: String,
    /// The store in which the run is recorded.
    pub work: &'a WorkStore,
    /// Set when the driver is to end.
    pub stop: &'a AtomicBool,
    /// How many of them on one machine.
    pub ranks: &'a RanksSpec,
    /// What each of them runs, where the engine is this program.
    pub over: OverSpec,
    /// Whether it is one of many that run side by side, and share the cores of a machine.
    pub beside_others: bool,
}

impl<'a> TrainJob<'a> {
    /// A training of a build, by the key of its run.
    pub(crate) fn of(build: &'a Build, training: Training, key: &str, retrain: bool) -> Self {
        let mut rest = vec![training.name().to_owned()];
        rest.extend(retrain.then(|| "--retrain".to_owned()));
        let files = vec![("spec.toml".to_owned(), build.spec.to_toml())];
        let (work, stop, ranks) = (&build.work, build.stop.as_ref(), &build.spec.ranks);
        let over = OverSpec { command: "train", files, rest };
        let run = paths::training_run(&build.spec.country, training.name(), key);
        Self { step: training.name(), run, work, stop, ranks, over, beside_others: false }
    }

    /// A training of a sweep over a build, by its step there.
    pub(crate) fn of_sweep(build: &'a Build, training: Training, key: &str, step: &'static str) -> Self {
        let mut job = TrainJob { step, beside_others: true, ..Self::of(build, training, key, false) };
        job.over.rest.extend(engines::swept_words(step));
        job
    }
}

/// A plan whose open shards want workers.
#[derive(Debug, Clone, Copy)]
pub struct MapJob<'a> {
    /// Name of the stage.
    pub stage: &'static str,
    /// Key of the plan.
    pub plan: &'a str,
    /// Shards that nobody has closed.
    pub open_shards: usize,
    /// Those of them that nobody works on.
    pub free_shards: usize,
}

/// What an engine did with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Its workers run; the driver looks again after a while.
    Waits,
    /// Its workers run, and it starts another driver when they have done.
    ComesBack,
}

impl Engine {
    /// How long a silent worker keeps its shards.
    pub fn lease(&self) -> Duration {
        match self {
            Engine::Here => LEASE,
            Engine::Processes(processes) => processes.lease,
            Engine::Slurm(slurm) => Duration::from_secs(slurm.profile.lease_seconds.max(1)),
            Engine::Kubernetes(kubernetes) => kubernetes.lease,
        }
    }

    /// Starts workers for a job, unless they run.
    ///
    /// # Errors
    /// An engine that refuses, and workers that can never work.
    pub(crate) async fn place(
        &self,
        build: &Build,
        job: &MapJob<'_>,
        observer: &dyn Observer,
    ) -> Result<Placed, WorkerError> {
        match self {
            Engine::Here => Ok(Placed::Waits),
            Engine::Processes(processes) => processes.place(build, job, observer).await,
            Engine::Slurm(slurm) => slurm.place(build, job).await,
            Engine::Kubernetes(kubernetes) => {
                kubernetes.place(job, &kubernetes.record(&build.work), &|text| observer.note(text)).await
            }
        }
    }

    /// Names of workers on this node that are known to be gone, and may still hold shards.
    pub(crate) fn take_killed(&self) -> Vec<String> {
        match self {
            Engine::Processes(processes) => processes.take_killed(),
            Engine::Here | Engine::Slurm(_) | Engine::Kubernetes(_) => Vec::new(),
        }
    }

    /// Ends a driver whose run was cancelled after it began: the jobs that it would place now nobody takes away.
    ///
    /// # Errors
    /// [`WorkerError::Stopped`], and a store that does not answer.
    pub(crate) async fn check_wanted(&self, work: &WorkStore) -> Result<(), WorkerError> {
        match self {
            Engine::Kubernetes(engine) => kubernetes::check_wanted(&engine.record(work)).await,
            Engine::Here | Engine::Processes(_) | Engine::Slurm(_) => Ok(()),
        }
    }

    /// The run in whose records the driver writes what it has placed, where the engine's drivers do not come back to do so.
    pub(crate) fn recorded_run(&self) -> Option<&str> {
        match self {
            Engine::Kubernetes(kubernetes) => Some(&kubernetes.run().id),
            Engine::Processes(processes) => processes.recorded_run(),
            Engine::Here | Engine::Slurm(_) => None,
        }
    }

    /// Ends the workers of a stage that is closed, or of a driver that was `stopped`.
    pub(crate) async fn end_of_stage(&self, stopped: bool) {
        match self {
            // workers of a cluster see by themselves that the plan is closed
            Engine::Here | Engine::Slurm(_) | Engine::Kubernetes(_) => {}
            Engine::Processes(processes) => processes.end(stopped).await,
        }
    }

    /// Starts a training as a job of its own; `None`: the driver runs it. An engine that waits for its end leaves
    /// it to the caller to look whether it was enough.
    ///
    /// # Errors
    /// An engine that refuses, and ranks that can never train.
    pub(crate) async fn train(&self, job: &TrainJob<'_>, progress: &Progress) -> Result<Option<Placed>, WorkerError> {
        self.check_wanted(job.work).await?;
        match self {
            Engine::Here => Ok(None),
            Engine::Processes(processes) => processes.train(job, progress).await.map(Some),
            Engine::Slurm(slurm) => slurm.train(job).await.map(|()| Some(Placed::ComesBack)),
            Engine::Kubernetes(kubernetes) => {
                let note = |text: &str| progress.note(text);
                kubernetes.train(job.step, (&kubernetes.record(job.work), job.stop), &note).await.map(Some)
            }
        }
    }
}
