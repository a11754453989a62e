//! Commands by which a build runs on several workers.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use engines::{Profile, Run};
use manifests::{BuildSpec, paths};
use workers::WorkerError;
use workers::claims::Claimant;
use workers::pull::Share;
use workers::stores::WorkStore;

use super::arguments::{EngineArgs, EngineName, FailedArgs, RunArgs, ShareArgs, SpecArgs, StepArgs};
use super::several::{ExperimentArgs, Whole};
use super::{build_commands, several_commands, stop_flag};
use crate::build::Build;
use crate::engine::{Engine, KubernetesEngine, Processes, Slurm};
use crate::logs::{self, LastWords, Who};
use crate::preflight;
use crate::progress::Progress;
use crate::run::RunEnd;
use crate::run_options::RunOptions;
use crate::run_record::{DONE, DRIVER, ProcessEnd, RunRecord, run_id};

/// A driver: plans, starts workers, publishes, and again until all is done. One of a cluster leaves word how it ended.
pub(super) async fn drive(
    args: &SpecArgs,
    options: &RunArgs,
    (steps, experiment): (&StepArgs, &ExperimentArgs),
    engine: &EngineArgs,
) -> Result<()> {
    let run = engine.run.as_deref().filter(|_| engine.engine != EngineName::Processes);
    // a spec that cannot be read names no store for the word
    let spec = match Whole::read(&args.spec, &args.set.set, experiment)? {
        Whole::Build(spec) => *spec,
        Whole::Several(several) => {
            return several_commands::drive(&several, args, (options, steps, experiment), engine).await;
        }
    };
    let of_run = OfRun::begin(&spec, run, DRIVER.0, DRIVER.1)?;
    let ended = drive_to_end(spec, &args.set.set, options, steps, engine).await;
    let (of, ended) = match ended {
        Ok(Some(RunEnd::Done(_))) => (DONE, Ok(())),
        Ok(Some(RunEnd::Placed { .. })) => ("placed", Ok(())),
        Ok(None) => ("cancelled", Ok(())),
        Err(error) => ("", Err(error)),
    };
    OfRun::end(of_run, of, &ended).await;
    ended
}

/// How far a driver has come; `None`: its run was cancelled.
async fn drive_to_end(
    spec: BuildSpec,
    set: &[String],
    options: &RunArgs,
    steps: &StepArgs,
    engine: &EngineArgs,
) -> Result<Option<RunEnd>> {
    let progress = Progress::new(false);
    preflight::check_run(&spec, steps.until.as_deref())?;
    let is_cluster = engine.engine != EngineName::Processes;
    check_once(options, engine)?;
    let asked = options_of(options, steps, &engine.failed);
    let id = engine.run.clone().unwrap_or_else(|| run_id(&spec, &asked));
    let mut build = Build::connect(spec, stop_flag()).await?;
    if is_cluster && RunRecord::new(&build.work, &build.spec.country, &id).is_cancelled().await? {
        progress.note(&format!("run {id} was cancelled; `urbancross submit` begins it again"));
        return Ok(None);
    }
    build.source.required()?;
    build.list_source().await?;
    let options = run_options(options, steps, engine, set);
    let run = || {
        let (country, spec) = (build.spec.country.clone(), build.spec.to_toml());
        Run { id, country, spec, options: asked, ..Run::default() }
    };
    let engine = match engine.engine {
        EngineName::Processes => {
            let lease = Duration::from_secs(engine.lease.lease_seconds);
            Engine::Processes(Processes::new(engine.workers as usize, lease))
        }
        EngineName::Slurm => {
            let profile = read_profile(engine.profile.as_deref())?;
            Engine::Slurm(Box::new(Slurm::open(run(), profile).await?))
        }
        EngineName::Kubernetes => {
            let profile = read_profile(engine.profile.as_deref())?;
            Engine::Kubernetes(Box::new(KubernetesEngine::new(run(), profile)))
        }
        EngineName::Ray => return Err(only_rendered().into()),
    };
    let end = crate::run::drive(&mut build, &options, &engine, &progress).await?;
    match &end {
        RunEnd::Done(quarantined) => build_commands::end_of_run(&build, &options, quarantined).await?,
        RunEnd::Placed { step } => {
            progress.note(&format!("{step:21} workers have begun; a driver comes back when they have done"));
        }
    }
    Ok(Some(end))
}

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

/// Ray's drivers are files.
pub(super) fn only_rendered() -> WorkerError {
    WorkerError::Configuration(
        "Ray runs a file: write it with `urbancross render --engine ray` and give it to `ray job submit`".into(),
    )
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

pub(super) async fn worker(spec: BuildSpec, args: &ShareArgs) -> Result<()> {
    let share = share(args, &|name| std::env::var(name).ok())?;
    logs::identify(Who {
        stage: Some(args.stage.clone()),
        plan: Some(args.plan.clone()),
        run: args.run.clone(),
        worker: Some(share.claimant.worker.clone()),
        attempt: std::env::var("SLURM_RESTART_COUNT").ok(),
        node: Some(share.claimant.node.clone()),
        device: Some(spec.model.device.clone()),
        engine_job: share.claimant.engine_job.clone(),
    });
    let of = OfRun::begin(&spec, args.run.as_deref(), &args.stage, &share.index.to_string())?;
    // whoever started it here tells how far all of them are
    let progress = Progress::new(crate::launch::launched());
    let ended = crate::worker::work(spec, &args.stage, &args.plan, &share, stop_flag(), &progress).await;
    // several speak beside each other
    let ended =
        ended.map_err(|error| anyhow::Error::from(error).context(format!("worker {} of {}", share.index, args.stage)));
    OfRun::end(of, &args.plan, &ended).await;
    ended
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

/// Variables that say which of an engine's workers this is.
const INDEX: [&str; 3] = ["URBANCROSS_INDEX", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"];
const COUNT: &str = "URBANCROSS_COUNT";

fn share(args: &ShareArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Share, WorkerError> {
    let number = |name: &str| {
        let read = |text: String| {
            let why = || WorkerError::Configuration(format!("{name} = {text:?}: it must be a whole number"));
            text.trim().parse::<u32>().map_err(|_| why())
        };
        variable(name).map(read).transpose()
    };
    let mut index = args.index;
    for name in INDEX {
        if index.is_none() {
            index = number(name)?;
        }
    }
    let count = match args.count {
        Some(count) => Some(count),
        None => number(COUNT)?,
    };
    let (index, count) = (index.unwrap_or(0), count.unwrap_or(1));
    if count == 0 || index >= count {
        let words = format!("worker {index} of {count}: numbers begin at 0 and end below the number of workers");
        return Err(WorkerError::Configuration(words));
    }
    let claimant = claimant(&index.to_string(), variable);
    Ok(Share { index, count, lease: Duration::from_secs(args.lease.lease_seconds), claimant, leaves: args.leave })
}

fn claimant(worker: &str, variable: &dyn Fn(&str) -> Option<String>) -> Claimant {
    let slurm = || Some(format!("{}_{}", variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?));
    Claimant {
        worker: worker.to_owned(),
        node: variable("NODE_NAME").or_else(|| variable("SLURMD_NODENAME")).unwrap_or_else(workers::claims::host),
        engine_job: slurm().or_else(|| variable("SLURM_JOB_ID")).or_else(|| variable("HOSTNAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::LeaseArgs;
    use super::*;

    fn args(index: Option<u32>, count: Option<u32>) -> ShareArgs {
        ShareArgs {
            stage: "images".into(),
            plan: "0".into(),
            run: None,
            index,
            count,
            leave: false,
            lease: LeaseArgs { lease_seconds: 60 },
        }
    }

    #[test]
    fn a_worker_knows_its_number_from_whoever_started_it() {
        let slurm = |name: &str| match name {
            "SLURM_ARRAY_TASK_ID" => Some("3".to_owned()),
            "SLURM_ARRAY_JOB_ID" => Some("17".to_owned()),
            "SLURMD_NODENAME" => Some("node2".to_owned()),
            COUNT => Some("8".to_owned()),
            _ => None,
        };
        let share = super::share(&args(None, None), &slurm).unwrap();
        assert_eq!((share.index, share.count), (3, 8));
        assert_eq!((share.claimant.node.as_str(), share.claimant.engine_job.as_deref()), ("node2", Some("17_3")));
        assert_eq!(super::share(&args(Some(5), Some(6)), &slurm).unwrap().index, 5, "the command line says more");
        assert_eq!(super::share(&args(None, None), &|_| None).unwrap().count, 1);
        for (index, count) in [(Some(8), Some(8)), (Some(0), Some(0))] {
            assert!(super::share(&args(index, count), &|_| None).unwrap_err().to_string().contains("begin at 0"));
        }
        let wrong = super::share(&args(None, None), &|name| (name == COUNT).then(|| "many".to_owned())).unwrap_err();
        assert!(wrong.exit_code() == 65 && wrong.to_string().contains("URBANCROSS_COUNT"), "{wrong}");
    }
}
