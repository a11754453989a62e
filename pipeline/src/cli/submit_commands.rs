//! Commands that give builds to clusters, and look after them there.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use engines::slurm::{Site, batches};
use engines::{Job, Profile, Run, Work};
use manifests::words::count;
use manifests::{BuildSpec, paths};
use stages::Step;
use workers::WorkerError;
use workers::claims::reopen;
use workers::stores::WorkStore;

use super::arguments::{ClusterArgs, EngineName, FailedArgs, LogsArgs, RunArgs, StepArgs};
use super::cluster_commands::{only_rendered, options_of, read_profile};
use super::stop_flag;
use crate::build::Build;
use crate::engine::{KubernetesEngine, Slurm};
use crate::run_record::{DRIVER, RunRecord, Submission, run_id};
use crate::run_status::{RunStatus, run_statuses};
use crate::{aside, preflight, say};

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
fn run_of(spec: &BuildSpec, options: Vec<String>) -> Run {
    Run { id: run_id(spec, &options), country: spec.country.clone(), spec: spec.to_toml(), options }
}

/// Gives builds to a cluster, each as a run of its own. All specs are looked at before anything is begun.
pub(super) async fn submit_all(
    paths: &[PathBuf],
    set: &[String],
    (steps, failed): (&StepArgs, &FailedArgs),
    cluster: &ClusterArgs,
) -> Result<()> {
    let specs = paths.iter().map(|path| BuildSpec::read(path, set)).collect::<Result<Vec<_>, _>>()?;
    for spec in &specs {
        preflight::check_run(spec, steps.until.as_deref())?;
        if let Some(until) = &steps.until {
            crate::run::check_until(spec, until)?;
        }
    }
    let options = options_of(&RunArgs::default(), steps, failed);
    for spec in specs {
        submit(spec, options.clone(), cluster).await?;
    }
    Ok(())
}

async fn submit(spec: BuildSpec, options: Vec<String>, cluster: &ClusterArgs) -> Result<()> {
    let run = run_of(&spec, options);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    let record = RunRecord::new(&work, &spec.country, &run.id);
    warn_of_other_runs(&work, &spec.country, &run.id).await?;
    let (profile, first_job, is_new, logs) = match cluster.engine {
        EngineName::Slurm => {
            let profile = slurm_profile(cluster.profile.as_deref())?;
            write_files(&run, &profile)?;
            let slurm = Slurm::open(run.clone(), profile.clone()).await?;
            begin(&work, &record, &spec, &profile).await?;
            let (first_job, is_new) = slurm.begin().await?;
            let logs = format!("{}/uc-{}-*.log", profile.slurm.logs, run.id);
            (profile, first_job, is_new, logs)
        }
        EngineName::Kubernetes => {
            let profile = read_profile(cluster.profile.as_deref())?;
            if let Some(folder) = work.local_folder() {
                let why = format!(
                    "work.url is the folder {}, which no pod sees: name a bucket, or a volume at the same path in every pod",
                    folder.display()
                );
                aside!("warning: {why}");
            }
            begin(&work, &record, &spec, &profile).await?;
            let engine = KubernetesEngine::new(run.clone(), profile.clone());
            engine.submit("begin").await?;
            let first_job = Job { step: "begin".to_owned(), work: Work::Drive }.name(&run);
            let label = format!("kubectl logs --selector {}={}", engines::kubernetes::RUN_LABEL, run.id);
            (profile, first_job, true, label)
        }
        EngineName::Ray => return Err(only_rendered().into()),
        EngineName::Processes => return Err(no_cluster().into()),
    };
    // one that was cut off before it wrote this left a run that nobody could look after
    if is_new || record.submission().await?.is_none() {
        let submission = Submission {
            run: run.id.clone(),
            engine: cluster.engine.name().to_owned(),
            spec: run.spec.clone(),
            profile: toml::to_string(&profile)?,
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

/// Makes the store, in which the run is no longer cancelled.
async fn begin(work: &WorkStore, record: &RunRecord<'_>, spec: &BuildSpec, profile: &Profile) -> Result<()> {
    work.make()?;
    warn_of_few_shards(spec, profile);
    // how the last driver ended says nothing of what begins now
    record.forget_ends(DRIVER.0).await?;
    Ok(record.set_cancelled(false).await?)
}

/// Writes spec and profile where all nodes of a Slurm cluster see them.
fn write_files(run: &Run, profile: &Profile) -> Result<()> {
    let folder = Path::new(&profile.slurm.logs).join(format!("uc-{}", run.id));
    for (name, text) in [("spec.toml", &run.spec), ("profile.toml", &toml::to_string(profile)?)] {
        // whole: a driver of a run that lives may be reading it
        workers::durable::write(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Two runs of one country with different specs would undo each other's rows by turns.
async fn warn_of_other_runs(work: &WorkStore, country: &str, run: &str) -> Result<()> {
    for other in RunRecord::all(work, country).await?.iter().filter(|other| *other != run) {
        let submission = RunRecord::new(work, country, other).submission().await?;
        let Some(submission) = submission else { continue };
        if crate::engine::jobs_in_words(&submission, country).await.is_some_and(|jobs| !jobs.is_empty()) {
            aside!(
                "warning: run {other} of {country} is under way with another spec or other options; where they differ the two \
                 undo each other's rows: end one with `urbancross cancel SPEC --run {other}`"
            );
        }
    }
    Ok(())
}

/// Shards for each worker below which some of them wait for the others.
const SHARDS_PER_WORKER: u32 = 4;

fn warn_of_few_shards(spec: &BuildSpec, profile: &Profile) {
    let steps: Vec<&str> = stages::steps(spec).iter().map(Step::name).chain(["default", "drive"]).collect();
    for name in profile.stage.keys().filter(|name| !steps.contains(&name.as_str())) {
        aside!("warning: stage.{name} of the profile is no step of this build; they are {}", steps.join(", "));
    }
    let stages = stages::map_stages(spec);
    let most = stages.iter().map(|stage| (profile.resources(stage.name).workers, stage.name)).max();
    if let Some((workers, stage)) = most
        && spec.work.shards < workers.saturating_mul(SHARDS_PER_WORKER)
    {
        aside!(
            "warning: {} for {} of {stage}: with fewer than {SHARDS_PER_WORKER} each, some wait for the others; set \
             work.shards = {} in a new work store",
            count(spec.work.shards, "shard"),
            count(workers, "worker"),
            workers.saturating_mul(SHARDS_PER_WORKER)
        );
    }
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
    let steps = StepArgs { until: until.clone(), ..StepArgs::default() };
    let run = run_of(spec, options_of(&RunArgs::default(), &steps, &FailedArgs::default()));
    let files = match cluster.engine {
        EngineName::Slurm => {
            let profile = slurm_profile(cluster.profile.as_deref())?;
            slurm_files(&run, &jobs(spec, until.as_deref(), &profile), &profile)
        }
        EngineName::Kubernetes => {
            let profile = read_profile(cluster.profile.as_deref())?;
            let mut objects = vec![engines::kubernetes::config_map(&run, &profile)];
            let jobs = jobs(spec, until.as_deref(), &profile);
            objects.extend(jobs.iter().map(|job| engines::kubernetes::job(&run, job, &profile)));
            let problems = engines::kubernetes::problems(&objects);
            if !problems.is_empty() {
                return Err(WorkerError::Configuration(problems.join("; ")).into());
            }
            let objects: Vec<_> = objects.iter().map(engines::kubernetes::Object::to_json).collect();
            vec![(format!("uc-{}.yaml", run.id), engines::kubernetes::render(&objects))]
        }
        EngineName::Ray => {
            let profile = read_profile(cluster.profile.as_deref())?;
            let jobs = jobs(spec, until.as_deref(), &profile);
            let drivers = jobs.iter().map(|job| engines::ray::driver(&run, job, &profile));
            drivers.collect::<Result<_, _>>().map_err(WorkerError::Configuration)?
        }
        EngineName::Processes => return Err(no_cluster().into()),
    };
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

/// The jobs of a run, of plans whose keys are known once they are made.
fn jobs(spec: &BuildSpec, until: Option<&str>, profile: &Profile) -> Vec<Job> {
    let mut jobs = vec![Job { step: "begin".to_owned(), work: Work::Drive }];
    for step in stages::steps(spec) {
        let name = step.name();
        let work = match step {
            Step::Map(_) => Some(Work::Map {
                plan: "plan".to_owned(),
                workers: profile.resources(name).workers,
                lease_seconds: profile.lease_seconds,
            }),
            Step::Train(_) => {
                let resources = profile.training(name);
                let (nodes, ranks_per_node) = (resources.workers.max(1), resources.gpus.max(1));
                Some(Work::Train { attempt: 1, nodes, ranks_per_node })
            }
            Step::Evaluate => None,
        };
        jobs.extend(work.map(|work| Job { step: name.to_owned(), work }));
        if until == Some(name) {
            break;
        }
    }
    jobs
}

fn slurm_files(run: &Run, jobs: &[Job], profile: &Profile) -> Vec<(String, String)> {
    let folder = format!("{}/uc-{}", profile.slurm.logs, run.id);
    let site =
        Site { spec: format!("{folder}/spec.toml"), profile: format!("{folder}/profile.toml"), most_indices: 1001 };
    let mut files = vec![("spec.toml".to_owned(), run.spec.clone())];
    for job in jobs {
        for (at, batch) in batches(run, job, profile, &site).into_iter().enumerate() {
            let window = if at == 0 { String::new() } else { format!("-{at}") };
            files.push((format!("{}{window}.sh", batch.name), batch.script));
        }
    }
    files
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
            say!("{:21} shard {} is open again; it had failed: {}", of.name, failed.shard, failed.why());
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

/// How often a watcher looks.
const WATCH: Duration = Duration::from_secs(2);

/// How far the runs of a build on clusters are.
pub(super) async fn runs(spec: BuildSpec, watch: bool, json: bool) -> Result<()> {
    let stop = stop_flag();
    loop {
        let build = Build::open_work(spec.clone(), stop.clone()).await?;
        let runs = run_statuses(&build).await?;
        if json {
            say!("{}", serde_json::to_string_pretty(&runs)?);
        } else if runs.is_empty() {
            aside!("no run was submitted");
        } else {
            if watch && std::io::stdout().is_terminal() {
                // from the top of an empty screen
                say!("\x1b[H\x1b[2J");
            }
            for line in runs.iter().flat_map(RunStatus::in_words) {
                say!("{line}");
            }
        }
        let is_over = runs.iter().all(|run| run.jobs.as_deref() == Some(""));
        if !watch || is_over || stop.load(Ordering::Relaxed) {
            let failed: usize = runs.iter().filter_map(|run| run.step.as_ref()).map(|step| step.failed.len()).sum();
            if let Some(error) = runs.iter().filter(|run| !run.done).find_map(RunStatus::error) {
                return Err(error.into());
            }
            return match failed {
                0 => Ok(()),
                failed => Err(WorkerError::Broken(format!("{} failed", count(failed, "shard"))).into()),
            };
        }
        tokio::time::sleep(WATCH).await;
    }
}

pub(super) async fn cancel(spec: BuildSpec, run: Option<String>, now: bool) -> Result<()> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let runs = match run {
        Some(run) => vec![run],
        None => RunRecord::all(&work, &spec.country).await?,
    };
    if runs.is_empty() {
        aside!("no run was submitted");
    }
    for id in runs {
        let record = RunRecord::new(&work, &spec.country, &id);
        let Some(submission) = record.submission().await? else {
            return Err(WorkerError::Missing { what: "the run", path: id }.into());
        };
        record.set_cancelled(true).await?;
        let profile = Profile::parse(&submission.profile).map_err(WorkerError::Broken)?;
        let run =
            Run { id: id.clone(), country: spec.country.clone(), spec: submission.spec, options: submission.options };
        match submission.engine.as_str() {
            "kubernetes" => KubernetesEngine::new(run, profile).cancel(now).await?,
            _ => _ = Slurm::open(run, profile).await?.cancel(now).await?,
        }
        say!("run {id} is cancelled; what is done stays done");
    }
    Ok(())
}

/// Shows what processes of a run said last, each below a line with its name.
pub(super) async fn logs(spec: BuildSpec, args: &LogsArgs) -> Result<()> {
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    work.required().await?;
    let known = RunRecord::all(&work, &spec.country).await?;
    let runs = match &args.run {
        Some(run) if known.contains(run) => vec![run.clone()],
        Some(run) => return Err(unknown("run", run, &known)),
        None => known,
    };
    let steps: Vec<String> = stages::steps(&spec).iter().map(|step| step.name().to_owned()).collect();
    let of_driver = ["begin", "drive"].map(str::to_owned);
    if let Some(step) = args.step.as_ref().filter(|step| !steps.contains(step) && !of_driver.contains(step)) {
        return Err(unknown("step", step, &steps));
    }
    let (stop, mut shown) = (stop_flag(), BTreeSet::new());
    loop {
        for run in &runs {
            let folder = format!("{}/logs", paths::run(&spec.country, run));
            for name in work.list(&folder).await?.iter().filter(|name| args.wants(name)) {
                let Some(bytes) = work.get(&format!("{folder}/{name}")).await? else { continue };
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().filter(|line| !args.errors || is_error(line)).collect();
                let process = name.trim_end_matches(".log");
                if !args.follow && !lines.is_empty() {
                    say!("== {process} of run {run}");
                }
                // what is followed is written anew as a whole: only lines that were not there yet are told
                let mut times = std::collections::BTreeMap::new();
                for line in lines {
                    let time = times.entry(line).and_modify(|times| *times += 1).or_insert(1);
                    if !args.follow {
                        say!("{line}");
                    } else if shown.insert((process.to_owned(), line.to_owned(), *time)) {
                        say!("{process}: {line}");
                    }
                }
            }
        }
        if !args.follow || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn unknown(what: &str, name: &str, known: &[String]) -> anyhow::Error {
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
    WorkerError::Configuration(format!("--{what} {name}: no {what} of this build is called so; {known}")).into()
}

fn is_error(line: &str) -> bool {
    line.starts_with("error")
        || line.contains("\"level\":\"error\"")
        || line.contains("warning:")
        || line.contains(" WARN ")
}
