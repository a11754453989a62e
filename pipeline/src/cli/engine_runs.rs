//! What commands of engines have in common: options of a run, profiles of clusters, and the word that a process leaves.

use std::path::Path;

use anyhow::Result;
use engines::{Profile, Run};
use manifests::{BuildSpec, paths};
use workers::WorkerError;
use workers::claims::Claimant;
use workers::stores::WorkStore;

use super::arguments::{EngineArgs, EngineName, FailedArgs, RunArgs, StepArgs};
use crate::engine::ray_address;
use crate::logs::LastWords;
use crate::run_options::RunOptions;
use crate::run_record::{DRIVER, ProcessEnd, RunRecord, run_id};

/// Refuses what is done once on a cluster, whose drivers come back.
pub(super) fn check_once(options: &RunArgs, engine: &EngineArgs) -> Result<(), WorkerError> {
    if engine.engine == EngineName::Processes && engine.profile.is_some() {
        let why =
            "--profile is of a cluster: name it with --engine slurm or --engine kubernetes, or leave the profile out";
        return Err(WorkerError::Configuration(why.into()));
    }
    if engine.engine == EngineName::Processes || !(options.retry_errors || options.retrain) {
        return Ok(());
    }
    let why = "--retry-errors and --retrain are done once, and drivers on a cluster come back: use them with `urbancross run`";
    Err(WorkerError::Configuration(why.into()))
}

/// Whether a build can be driven: by processes of this machine on what it has, otherwise wherever its jobs are placed.
pub(super) fn check_driven(spec: &BuildSpec, until: Option<&str>, engine: EngineName) -> Result<(), WorkerError> {
    match engine {
        EngineName::Processes if !crate::launch::is_elsewhere() => crate::preflight::check_run(spec, until),
        _ => crate::preflight::check_elsewhere(spec, until, engine == EngineName::Slurm),
    }
}

/// How a driver runs its builds.
pub(super) fn run_options(options: &RunArgs, steps: &StepArgs, engine: &EngineArgs, set: &[String]) -> RunOptions {
    RunOptions {
        retry_errors: options.retry_errors,
        retrain: options.retrain,
        accept_removals: steps.accept_removals,
        until: steps.until.clone(),
        allow_failed: engine.failed.allow_failed as usize,
        set: set.to_vec(),
    }
}

/// On Ray a driver has processes, each of which is a task elsewhere: only where the job runs it knows how.
pub(super) fn not_driven() -> WorkerError {
    let why = "a driver on Ray is a job of the cluster: begin it with `urbancross submit --engine ray`";
    WorkerError::Configuration(why.into())
}

/// A profile for Ray, whose address is the one that is used: commands that follow find the run there.
pub(super) fn ray_profile(path: Option<&Path>) -> Result<Profile, WorkerError> {
    let mut profile = read_profile(path)?;
    profile.ray.address = ray_address(&profile.ray.address, &|name| std::env::var(name).ok())?;
    Ok(profile)
}

/// Options as every driver of a run is given them.
pub(super) fn options_of(options: &RunArgs, steps: &StepArgs, failed: &FailedArgs) -> Vec<String> {
    let flags = [
        (options.retry_errors, "--retry-errors"),
        (options.retrain, "--retrain"),
        (steps.accept_removals, "--accept-removals"),
    ];
    let mut asked: Vec<String> = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.to_owned()).collect();
    asked.extend(steps.until.iter().flat_map(|until| ["--until".to_owned(), until.clone()]));
    if failed.allow_failed > 0 {
        asked.extend(["--allow-failed".to_owned(), failed.allow_failed.to_string()]);
    }
    asked
}

pub(super) fn read_profile(path: Option<&Path>) -> Result<Profile, WorkerError> {
    let Some(path) = path else {
        return Err(WorkerError::Configuration("--profile FILE is missing: it says what the cluster wants".into()));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| WorkerError::Configuration(format!("{}: {error}", path.display())))?;
    Profile::parse(&text).map_err(|why| WorkerError::Configuration(format!("{}: {why}", path.display())))
}

/// A profile for Slurm, whose folder of logs is named from the root.
pub(super) fn slurm_profile(path: Option<&Path>) -> Result<Profile, WorkerError> {
    let mut profile = read_profile(path)?;
    if profile.slurm.logs.is_empty() {
        let why = "slurm.logs is missing: name a folder that all nodes see, for scripts and logs";
        return Err(WorkerError::Configuration(why.into()));
    }
    let logs = std::path::absolute(&profile.slurm.logs);
    profile.slurm.logs = logs.map_or(profile.slurm.logs, |path| path.display().to_string());
    let problems = engines::slurm::problems(&profile);
    if !problems.is_empty() {
        return Err(WorkerError::Configuration(problems.join("; ")));
    }
    Ok(profile)
}

/// The run that a spec asks for, with the options of its drivers.
pub(super) fn run_of(spec: &BuildSpec, options: Vec<String>) -> Run {
    Run { id: run_id(spec, &options), country: spec.country.clone(), spec: spec.to_toml(), options, ..Run::default() }
}

pub(super) fn no_cluster() -> WorkerError {
    WorkerError::Configuration("processes are no cluster: use `urbancross drive`".into())
}

/// A process of a run by an engine, which leaves word of what it said and how it ended.
pub(super) struct OfRun {
    work: WorkStore,
    country: String,
    run: String,
    step: String,
    process: String,
    words: LastWords,
}

impl OfRun {
    /// Begins to keep the words of a process; `None`: no engine has started it.
    pub(super) fn begin(spec: &BuildSpec, run: Option<&str>, step: &str, process: &str) -> Result<Option<Self>> {
        Self::begin_of(spec, &spec.country, run, step, process)
    }

    /// The same of a pair by its name, whose records are in the store of its target.
    pub(super) fn begin_of(
        spec: &BuildSpec,
        name: &str,
        run: Option<&str>,
        step: &str,
        process: &str,
    ) -> Result<Option<Self>> {
        let Some(run) = run else { return Ok(None) };
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        let words = LastWords::begin(work.clone(), paths::last_words(name, run, step, process));
        let [country, run, step, process] = [name, run, step, process].map(str::to_owned);
        Ok(Some(Self { work, country, run, step, process, words }))
    }

    /// Writes down how the process ended, of a plan or an attempt.
    pub(super) async fn end(of_run: Option<Self>, of: &str, ended: &Result<()>) {
        let Some(OfRun { work, country, run, step, process, words }) = of_run else { return };
        let how = |error: &anyhow::Error| (crate::exit::code(error), workers::cause::whole_chain(error.as_ref()));
        let how = ended.as_ref().copied().map_err(how);
        record_end(&RunRecord::new(&work, &country, &run), &step, &process, of.to_owned(), how).await;
        let why = ended.as_ref().err().map(|error| workers::cause::whole_chain(error.as_ref()));
        words.end(why.as_deref()).await;
    }
}

/// Writes down how a process ended, with its exit code and why; that it cannot be written is no fault of the work.
pub(super) async fn record_end(
    record: &RunRecord<'_>,
    step: &str,
    process: &str,
    of: String,
    ended: Result<(), (u8, String)>,
) {
    let (code, message) = ended.err().unwrap_or_default();
    let end = ProcessEnd { code, message, of, by: claimant(process, &|name| std::env::var(name).ok()) };
    if let Err(error) = record.end(step, process, &end).await {
        tracing::warn!(%error, "how this process ended was not written down");
    }
}

/// Who a worker is, by what its engine says of it.
pub(super) fn claimant(worker: &str, variable: &dyn Fn(&str) -> Option<String>) -> Claimant {
    let slurm = || Some(format!("{}_{}", variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?));
    Claimant {
        worker: worker.to_owned(),
        node: workers::claims::node(variable),
        engine_job: slurm().or_else(|| variable("SLURM_JOB_ID")).or_else(|| variable("HOSTNAME")),
    }
}

/// The job of a driver that its engine may have started again in its place; `None`: somebody has started it, maybe in a
/// job or on a host where an earlier one has run.
pub(super) fn restarted_job(engine: EngineName, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let is_restarted = match engine {
        EngineName::Slurm => {
            let restarts = variable("SLURM_RESTART_COUNT").and_then(|count| count.parse::<u32>().ok());
            restarts.is_some_and(|restarts| restarts > 0)
        }
        // its container is started again in its pod, which has the name of no other
        EngineName::Kubernetes => Path::new(engines::kubernetes::PROFILE_PATH).exists(),
        EngineName::Processes | EngineName::Ray => false,
    };
    claimant(DRIVER.1, variable).engine_job.filter(|_| is_restarted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_somebody_starts_is_none_that_its_engine_has_started_again() {
        let job = |engine: EngineName, restarts: Option<&str>| {
            restarted_job(engine, &|name| match name {
                "SLURM_JOB_ID" => Some("17".to_owned()),
                "HOSTNAME" => Some("login1".to_owned()),
                "SLURM_RESTART_COUNT" => restarts.map(str::to_owned),
                _ => None,
            })
        };
        for restarts in [None, Some("0"), Some("")] {
            assert_eq!(job(EngineName::Slurm, restarts), None, "{restarts:?}");
        }
        assert_eq!(job(EngineName::Slurm, Some("1")).as_deref(), Some("17"));
        assert_eq!(job(EngineName::Kubernetes, None), None, "this is no pod of a run");
    }
}
