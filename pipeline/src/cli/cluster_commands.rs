//! Commands by which a build runs on several workers.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use engines::slurm::{Site, batches};
use engines::{Job, Profile, Run, Work};
use manifests::BuildSpec;
use manifests::words::count;
use stages::Step;
use workers::WorkerError;
use workers::claims::{Claimant, reopen};
use workers::pull::Share;
use workers::stores::WorkStore;

use super::arguments::{ClusterArgs, EngineArgs, EngineName, RunArgs, ShareArgs, SpecArgs};
use super::{build_commands, stop_flag};
use crate::build::Build;
use crate::engine::{Engine, LEASE, Processes, Slurm};
use crate::progress::Progress;
use crate::run::RunEnd;
use crate::run_options::RunOptions;
use crate::run_record::{ProcessEnd, RunRecord, Submission, run_id};
use crate::{aside, preflight, say};

/// A driver: plans, starts workers, publishes, and again until all is done.
pub(super) async fn drive(
    args: &SpecArgs,
    options: RunArgs,
    accept_removals: bool,
    until: Option<String>,
    engine: &EngineArgs,
) -> Result<()> {
    let progress = Progress::new(false);
    let spec = args.read()?;
    preflight::check_run(&spec, until.as_deref())?;
    let asked = options_of(&options, accept_removals, until.as_deref(), engine.allow_failed);
    let id = engine.run.clone().unwrap_or_else(|| run_id(&spec, &asked));
    let mut build = Build::connect(spec, stop_flag()).await?;
    let record = RunRecord::new(&build.work, &build.spec.country, &id);
    if engine.engine != EngineName::Processes && record.is_cancelled().await? {
        progress.note(&format!("run {id} was cancelled; `urbancross submit` begins it again"));
        return Ok(());
    }
    build.source.required()?;
    build.list_source().await?;
    let options = RunOptions {
        retry_errors: options.retry_errors,
        retrain: options.retrain,
        accept_removals,
        until,
        allow_failed: engine.allow_failed as usize,
        set: args.set.set.clone(),
    };
    let lease = Duration::from_secs(engine.lease_seconds);
    let engine = match engine.engine {
        EngineName::Processes => Engine::Processes(Processes::new(engine.workers as usize, lease)),
        EngineName::Slurm => {
            let profile = read_profile(engine.profile.as_deref())?;
            let run = Run { id, country: build.spec.country.clone(), spec: build.spec.to_toml(), options: asked };
            Engine::Slurm(Box::new(Slurm::open(run, profile, lease).await?))
        }
    };
    match crate::run::drive(&mut build, &options, &engine, &progress).await? {
        RunEnd::Done(quarantined) => build_commands::end_of_run(&build, &options, &quarantined).await,
        RunEnd::Placed { step } => {
            progress.note(&format!("{step:18} workers have begun; a driver comes back when they have done"));
            Ok(())
        }
    }
}

/// Options as every driver of a run is given them.
fn options_of(options: &RunArgs, accept_removals: bool, until: Option<&str>, allow_failed: u32) -> Vec<String> {
    let mut asked: Vec<String> = Vec::new();
    asked.extend(options.retry_errors.then(|| "--retry-errors".to_owned()));
    asked.extend(options.retrain.then(|| "--retrain".to_owned()));
    asked.extend(accept_removals.then(|| "--accept-removals".to_owned()));
    asked.extend(until.into_iter().flat_map(|until| ["--until".to_owned(), until.to_owned()]));
    if allow_failed > 0 {
        asked.extend(["--allow-failed".to_owned(), allow_failed.to_string()]);
    }
    asked
}

fn read_profile(path: Option<&Path>) -> Result<Profile, WorkerError> {
    let Some(path) = path else {
        return Err(WorkerError::Configuration("--profile FILE is missing: it says what the cluster wants".into()));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| WorkerError::Configuration(format!("{}: {error}", path.display())))?;
    Profile::parse(&text).map_err(|why| WorkerError::Configuration(format!("{}: {why}", path.display())))
}

/// A profile for Slurm, whose folder of logs is named from the root.
fn slurm_profile(path: Option<&Path>) -> Result<Profile, WorkerError> {
    let mut profile = read_profile(path)?;
    if profile.slurm.logs.is_empty() {
        let why = "slurm.logs is missing: name a folder that all nodes see, for scripts and logs";
        return Err(WorkerError::Configuration(why.into()));
    }
    let logs = std::path::absolute(&profile.slurm.logs);
    profile.slurm.logs = logs.map_or(profile.slurm.logs, |path| path.display().to_string());
    Ok(profile)
}

/// The run that a spec asks for, with the options of its drivers.
fn run_of(spec: &BuildSpec, options: Vec<String>) -> Run {
    Run { id: run_id(spec, &options), country: spec.country.clone(), spec: spec.to_toml(), options }
}

pub(super) async fn submit(
    args: &SpecArgs,
    options: RunArgs,
    until: Option<String>,
    cluster: &ClusterArgs,
) -> Result<()> {
    let spec = args.read()?;
    preflight::check_run(&spec, until.as_deref())?;
    if let Some(until) = &until {
        crate::run::check_until(&spec, until)?;
    }
    let asked = options_of(&options, false, until.as_deref(), 0);
    let run = run_of(&spec, asked);
    let EngineName::Slurm = cluster.engine else { return Err(no_cluster().into()) };
    let profile = slurm_profile(cluster.profile.as_deref())?;
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    let folder = Path::new(&profile.slurm.logs).join(format!("uc-{}", run.id));
    std::fs::create_dir_all(&folder).map_err(|error| WorkerError::of_io(&folder, &error))?;
    let profile_text = toml::to_string(&profile)?;
    for (name, text) in [("spec.toml", &run.spec), ("profile.toml", &profile_text)] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| WorkerError::of_io(&path, &error))?;
    }
    work.make()?;
    let record = RunRecord::new(&work, &spec.country, &run.id);
    record.set_cancelled(false).await?;
    let slurm = Slurm::open(run.clone(), profile.clone(), LEASE).await?;
    let (first_job, is_new) = slurm.begin().await?;
    let logs = format!("{}/uc-{}-*.log", profile.slurm.logs, run.id);
    if is_new {
        let submission = Submission {
            run: run.id.clone(),
            engine: "slurm".into(),
            spec: run.spec.clone(),
            profile: profile_text,
            options: run.options.clone(),
            first_job: first_job.clone(),
            logs: logs.clone(),
        };
        record.submit(&submission).await?;
    }
    let how = if is_new { "submitted as" } else { "is under way already, with" };
    say!("run {} of {} {how} job {first_job}; logs: {logs}", run.id, spec.country);
    say!("look at it with `urbancross status`, end it with `urbancross cancel`");
    Ok(())
}

fn no_cluster() -> WorkerError {
    WorkerError::Configuration("processes are no cluster: use `urbancross drive`".into())
}

pub(super) fn render(
    spec: &BuildSpec,
    until: Option<String>,
    cluster: &ClusterArgs,
    output: Option<&Path>,
) -> Result<()> {
    if let Some(until) = &until {
        crate::run::check_until(spec, until)?;
    }
    let run = run_of(spec, options_of(&RunArgs::default(), false, until.as_deref(), 0));
    let EngineName::Slurm = cluster.engine else { return Err(no_cluster().into()) };
    let profile = slurm_profile(cluster.profile.as_deref())?;
    let folder = format!("{}/uc-{}", profile.slurm.logs, run.id);
    let site =
        Site { spec: format!("{folder}/spec.toml"), profile: format!("{folder}/profile.toml"), most_indices: 1001 };
    let mut jobs = vec![Job { step: "begin".to_owned(), work: Work::Drive }];
    for step in stages::steps(spec) {
        let name = step.name().to_owned();
        let resources = profile.resources(&name);
        jobs.extend(
            match step {
                // the plan's key is known once it is made
                Step::Map(_) => Some(Work::Map {
                    plan: "PLAN".to_owned(),
                    workers: resources.workers,
                    lease_seconds: LEASE.as_secs(),
                }),
                Step::Train(_) => {
                    let resources = profile.training(&name);
                    Some(Work::Train { attempt: 1, nodes: resources.workers, ranks_per_node: resources.gpus.max(1) })
                }
                Step::Evaluate => None,
            }
            .map(|work| Job { step: name, work }),
        );
        if until.as_deref() == Some(step.name()) {
            break;
        }
    }
    let mut files = vec![("spec.toml".to_owned(), run.spec.clone())];
    for job in &jobs {
        for (at, batch) in batches(&run, job, &profile, &site).into_iter().enumerate() {
            let window = if at == 0 { String::new() } else { format!("-{at}") };
            files.push((format!("{}{window}.sh", batch.name), batch.script));
        }
    }
    for (name, text) in files {
        match output {
            None => say!("# ---- {name}\n{text}"),
            Some(folder) => {
                let path = folder.join(name);
                std::fs::create_dir_all(folder).map_err(|error| WorkerError::of_io(folder, &error))?;
                std::fs::write(&path, text).map_err(|error| WorkerError::of_io(&path, &error))?;
            }
        }
    }
    Ok(())
}

pub(super) async fn retry(spec: BuildSpec, errors: bool, shard: Option<u32>, stage: Option<&str>) -> Result<()> {
    if !errors && shard.is_none() {
        return Err(WorkerError::Configuration("say which: --errors, or --shard N".into()).into());
    }
    let stages = stages::map_stages(&spec);
    if let Some(name) = stage
        && !stages.iter().any(|stage| stage.name == name)
    {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        let why = format!("--stage {name}: the stages with shards are {}", names.join(", "));
        return Err(WorkerError::Configuration(why).into());
    }
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let mut opened = 0;
    for of in stages.iter().filter(|of| stage.is_none_or(|name| name == of.name)) {
        for failed in reopen(&work, &spec.country, of.name, shard).await? {
            say!("{:18} shard {} is open again; it had failed: {}", of.name, failed.shard, failed.why());
            opened += 1;
        }
    }
    if opened == 0 {
        aside!("no shard is closed as failed; rows that failed are computed again with `--retry-errors`");
        return Ok(());
    }
    aside!("{} open again: start the same `drive` or `submit` again", count(opened, "shard"));
    Ok(())
}

pub(super) async fn cancel(spec: BuildSpec, run: Option<String>, now: bool) -> Result<()> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let runs = match run {
        Some(run) => vec![run],
        None => RunRecord::all(&work, &spec.country).await?,
    };
    for id in runs {
        let record = RunRecord::new(&work, &spec.country, &id);
        let Some(submission) = record.submission().await? else {
            return Err(WorkerError::Missing { what: "the run", path: id }.into());
        };
        record.set_cancelled(true).await?;
        let profile = Profile::parse(&submission.profile).map_err(WorkerError::Broken)?;
        let run =
            Run { id: id.clone(), country: spec.country.clone(), spec: submission.spec, options: submission.options };
        let jobs = Slurm::open(run, profile, LEASE).await?.cancel(now).await?;
        say!("run {id} is cancelled, with {}; what is done stays done", count(jobs, "job"));
    }
    Ok(())
}

pub(super) async fn worker(spec: BuildSpec, args: &ShareArgs) -> Result<()> {
    let share = share(args, &|name| std::env::var(name).ok())?;
    let progress = Progress::new(false);
    let (work, country) = (WorkStore::open(&spec.work.url, &spec.work.options)?, spec.country.clone());
    let ended = crate::worker::work(spec, &args.stage, &args.plan, &share, stop_flag(), &progress).await;
    let ended = ended.map_err(anyhow::Error::from);
    if let Some(run) = &args.run {
        let record = RunRecord::new(&work, &country, run);
        record_end(&record, &args.stage, &share.index.to_string(), args.plan.clone(), &ended).await;
    }
    ended
}

/// Writes down how a process ended; that it cannot be written is no fault of the work.
pub(super) async fn record_end(record: &RunRecord<'_>, step: &str, process: &str, of: String, ended: &Result<()>) {
    let (code, message) = match ended {
        Ok(()) => (0, String::new()),
        Err(error) => (crate::exit::code(error), workers::cause::whole_chain(error.as_ref())),
    };
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
    Ok(Share { index, count, lease: Duration::from_secs(args.lease_seconds), claimant })
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
    use super::*;

    fn args(index: Option<u32>, count: Option<u32>) -> ShareArgs {
        ShareArgs { stage: "images".into(), plan: "0".into(), run: None, index, count, lease_seconds: 60 }
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
