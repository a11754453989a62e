//! `urbancross render`: what a cluster would be given, without one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use engines::slurm::{Site, batches};
use engines::{ADAPT, Job, Profile, Run, SWEPT_BOOTSTRAP, VARIANT, Work};
use manifests::BuildSpec;
use stages::{Step, Training};
use workers::WorkerError;

use super::arguments::{ClusterArgs, EngineName, FailedArgs, RunArgs, StepArgs};
use super::engine_runs::{no_cluster, options_of, ray_profile, read_profile, run_of, slurm_profile};
use super::fits;
use super::several::{Several, Whole, run_of_task};
use crate::left_out::check_all;
use crate::say;
use crate::sweep::{self, Moves};
use crate::tasks::What;

pub(super) fn render(
    whole: &Whole,
    (until, experiment): (Option<String>, Vec<String>),
    cluster: &ClusterArgs,
    train_jobs: bool,
    output: Option<&Path>,
) -> Result<()> {
    if train_jobs && cluster.engine != EngineName::Kubernetes {
        let why = "--trainjob: TrainJobs are objects of Kubernetes: use it with --engine kubernetes";
        return Err(WorkerError::Configuration(why.into()).into());
    }
    if let Some(until) = &until {
        check_all(whole.builds(), |spec| crate::run::check_until(spec, until))?;
    }
    let profile = match cluster.engine {
        EngineName::Slurm => slurm_profile(cluster.profile.as_deref())?,
        EngineName::Kubernetes => read_profile(cluster.profile.as_deref())?,
        EngineName::Ray => ray_profile(cluster.profile.as_deref())?,
        EngineName::Processes => return Err(no_cluster().into()),
    };
    fits::check([whole], until.as_deref(), (cluster.engine, &profile))?;
    let steps = StepArgs { until: until.clone(), ..StepArgs::default() };
    let mut options = options_of(&RunArgs::default(), &steps, &FailedArgs::default());
    options.extend(experiment);
    let runs = match whole {
        // one driver goes all the way there, and has tasks
        Whole::Build(spec) if cluster.engine == EngineName::Ray => {
            let several = Several::of_build(spec.as_ref().clone())?;
            runs_of(&several, options, until.as_deref(), &profile)?
        }
        Whole::Build(spec) => {
            let run = run_of(spec, options);
            vec![(run, jobs(spec, until.as_deref(), &profile))]
        }
        Whole::Several(several) => runs_of(several, options, until.as_deref(), &profile)?,
    };
    for (name, text) in rendered(&runs, (cluster.engine, train_jobs), &profile)? {
        match output {
            None => say!("# ---- {name}\n{text}"),
            Some(folder) => {
                let path = folder.join(name);
                let folder = path.parent().unwrap_or(folder);
                std::fs::create_dir_all(folder).map_err(|error| WorkerError::of_io(folder, &error))?;
                crate::output::write(&path, text.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// The run of several tasks with its first driver, and each task with its jobs.
pub(super) fn runs_of(
    several: &Several,
    options: Vec<String>,
    until: Option<&str>,
    profile: &Profile,
) -> Result<Vec<(Run, Vec<Job>)>, WorkerError> {
    let whole = several.run(None, options)?;
    let mut runs = vec![(whole.clone(), vec![begin_job()])];
    for (number, task) in several.tasks.iter().enumerate() {
        let Some(run) = run_of_task(&whole, number, task) else { continue };
        let jobs = match &task.what {
            What::Build(spec) => jobs(spec, until, profile).into_iter().filter(|job| job.work != Work::Drive).collect(),
            _ if until.is_some() => continue,
            What::Adapt(_) => vec![train_job(ADAPT, profile)],
            What::Variant(_) => vec![train_job(VARIANT, profile)],
            What::Train(spec, moves) => swept_jobs(spec, *moves, profile),
            What::Ablation(_) | What::Curves(..) => continue,
        };
        runs.push((run, jobs));
    }
    Ok(runs)
}

/// Jobs of one run of a sweep: where it moves segments, those that make them beside the tables come first.
fn swept_jobs(spec: &BuildSpec, moves: Moves, profile: &Profile) -> Vec<Job> {
    let mut all = Vec::new();
    if moves == Moves::Segments {
        let is_beside = |step: &str| sweep::beside::STAGES.iter().any(|artifact| artifact.name() == step);
        for job in jobs(spec, None, profile) {
            match &job.work {
                Work::Map { .. } if is_beside(&job.step) => all.push(job),
                Work::Train { .. } if job.step == Training::Bootstrap.name() => {
                    all.push(train_job(SWEPT_BOOTSTRAP, profile))
                }
                _ => {}
            }
        }
    }
    all.push(train_job(moves.step(), profile));
    all
}

/// The files of runs, by name, for Kubernetes with TrainJobs instead of the jobs of trainings where they are asked for.
fn rendered(
    runs: &[(Run, Vec<Job>)],
    (engine, train_jobs): (EngineName, bool),
    profile: &Profile,
) -> Result<Vec<(String, String)>, WorkerError> {
    let Some((first, _)) = runs.first() else { return Ok(Vec::new()) };
    match engine {
        EngineName::Slurm => Ok(runs.iter().flat_map(|(run, jobs)| slurm_files(run, jobs, profile)).collect()),
        EngineName::Kubernetes => {
            let read = runs.iter().map(|(run, _)| (engines::kubernetes::config_map(run, profile), None));
            let jobs = runs.iter().flat_map(|(run, jobs)| jobs.iter().map(move |job| (run, job))).map(|(run, job)| {
                let instead = train_jobs.then(|| engines::kubernetes::train_job(run, job, profile)).flatten();
                (engines::kubernetes::job(run, job, profile), instead)
            });
            let (objects, instead): (Vec<_>, Vec<_>) = read.chain(jobs).unzip();
            let problems = engines::kubernetes::problems(&objects);
            if !problems.is_empty() {
                return Err(WorkerError::Configuration(problems.join("; ")));
            }
            let objects: Vec<_> = objects
                .iter()
                .zip(instead)
                .map(|(object, instead)| instead.unwrap_or_else(|| object.to_json()))
                .collect();
            Ok(vec![(format!("uc-{}.yaml", first.id), engines::kubernetes::render(&objects))])
        }
        EngineName::Ray => {
            let file = engines::ray::driver(first, &steps_of(runs), profile);
            Ok(vec![file.map_err(WorkerError::Configuration)?])
        }
        EngineName::Processes => Err(no_cluster()),
    }
}

/// Steps of the tasks of a run, each once.
pub(super) fn steps_of(runs: &[(Run, Vec<Job>)]) -> Vec<String> {
    let jobs = runs.iter().skip(1).flat_map(|(_, jobs)| jobs);
    let steps: BTreeSet<String> = jobs.map(|job| job.step.clone()).collect();
    steps.into_iter().collect()
}

pub(super) fn begin_job() -> Job {
    Job { step: "begin".to_owned(), work: Work::Drive }
}

fn train_job(step: &str, profile: &Profile) -> Job {
    let resources = profile.training(step);
    let (nodes, ranks_per_node) = (resources.workers.max(1), resources.gpus.max(1));
    Job { step: step.to_owned(), work: Work::Train { attempt: 1, nodes, ranks_per_node } }
}

/// The jobs of a run, of plans whose keys are known once they are made.
fn jobs(spec: &BuildSpec, until: Option<&str>, profile: &Profile) -> Vec<Job> {
    let mut jobs = vec![begin_job()];
    for step in stages::steps(spec) {
        let name = step.name();
        match step {
            Step::Map(_) => {
                let (plan, lease_seconds) = ("plan".to_owned(), profile.lease_seconds);
                let work = Work::Map { plan, workers: profile.resources(name).workers, lease_seconds };
                jobs.push(Job { step: name.to_owned(), work });
            }
            Step::Train(_) => jobs.push(train_job(name, profile)),
            Step::Evaluate => {}
        }
        if until == Some(name) {
            break;
        }
    }
    jobs
}

fn slurm_files(run: &Run, jobs: &[Job], profile: &Profile) -> Vec<(String, String)> {
    let site = Site::of(run, &profile.slurm.logs, 1001);
    let mut files = run.files();
    if run.whole.is_some() {
        files.iter_mut().for_each(|(name, _)| *name = format!("uc-{}/{name}", run.id));
    }
    for job in jobs {
        for (at, batch) in batches(run, job, profile, &site).into_iter().enumerate() {
            let window = if at == 0 { String::new() } else { format!("-{at}") };
            files.push((format!("{}{window}.sh", batch.name), batch.script));
        }
    }
    files
}
