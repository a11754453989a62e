//! Commands that give builds to clusters, and look after them there.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use engines::slurm::{Site, batches};
use engines::{ADAPT, Job, Profile, Run, VARIANT, Work};
use manifests::words::count;
use manifests::{BuildSpec, paths};
use stages::{Step, Training};
use workers::WorkerError;
use workers::claims::reopen;
use workers::stores::WorkStore;

use super::arguments::{ClusterArgs, EngineName, FailedArgs, LogsArgs, RunArgs, StepArgs};
use super::cluster_commands::{only_rendered, options_of, read_profile};
use super::several::{ExperimentArgs, Several, Whole, is_of, run_of_task};
use super::stop_flag;
use crate::engine::{KubernetesEngine, Slurm};
use crate::run_record::{DRIVER, RunRecord, Submission, run_id};
use crate::run_status::{RunStatus, run_statuses};
use crate::tasks::What;
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
    Run { id: run_id(spec, &options), country: spec.country.clone(), spec: spec.to_toml(), options, ..Run::default() }
}

/// Gives builds to a cluster, each spec as a run of its own. All specs are looked at before anything is begun.
pub(super) async fn submit_all(
    paths: &[PathBuf],
    set: &[String],
    (steps, failed, experiment): (&StepArgs, &FailedArgs, &ExperimentArgs),
    cluster: &ClusterArgs,
) -> Result<()> {
    let all = paths.iter().map(|path| Whole::read(path, set, experiment)).collect::<Result<Vec<_>, _>>()?;
    for spec in all.iter().flat_map(Whole::builds) {
        preflight::check_run(spec, steps.until.as_deref())?;
        if let Some(until) = &steps.until {
            crate::run::check_until(spec, until)?;
        }
    }
    let mut options = options_of(&RunArgs::default(), steps, failed);
    options.extend(experiment.options());
    for whole in all {
        match whole {
            Whole::Build(spec) => submit(*spec, options.clone(), cluster).await?,
            Whole::Several(several) => submit_several(&several, options.clone(), cluster).await?,
        }
    }
    Ok(())
}

async fn submit(spec: BuildSpec, options: Vec<String>, cluster: &ClusterArgs) -> Result<()> {
    let run = run_of(&spec, options);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    warn_of_other_runs(&work, &spec.country, &run.id).await?;
    let cluster = Cluster::of(cluster)?;
    cluster.prepare(&run).await?;
    begin(&work, &run, Some((&spec, &cluster.profile))).await?;
    let started = cluster.start(&run, &work).await?;
    cluster.write_down(&run, &work, &started).await?;
    started.say(&run, &spec.country)
}

/// Gives several tasks to a cluster, as one run: each task has its number behind the run's name.
async fn submit_several(several: &Several, options: Vec<String>, cluster: &ClusterArgs) -> Result<()> {
    let (run, cluster) = (several.run(None, options)?, Cluster::of(cluster)?);
    let mut placed = Vec::new();
    for (number, task) in several.tasks.iter().enumerate() {
        let Some(of_task) = run_of_task(&run, number, task) else { continue };
        let spec = task.what.home().0;
        let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
        if let What::Build(spec) = &task.what {
            warn_of_other_runs(&work, &spec.country, &of_task.id).await?;
        }
        let of_build = matches!(task.what, What::Build(_)).then_some((spec, &cluster.profile));
        placed.push((of_task, work, of_build));
    }
    cluster.prepare(&run).await?;
    for (of_task, work, of_build) in &placed {
        cluster.prepare(of_task).await?;
        begin(work, of_task, *of_build).await?;
    }
    let Some((_, first, _)) = placed.first() else { return Ok(()) };
    let started = cluster.start(&run, first).await?;
    for (of_task, work, _) in &placed {
        cluster.write_down(of_task, work, &started).await?;
    }
    started.say(&run, &format!("{} ({})", run.country, count(several.tasks.len(), "task")))
}

/// A cluster that is given runs.
struct Cluster {
    engine: EngineName,
    profile: Profile,
}

/// The first job of a run.
struct Started {
    job: String,
    is_new: bool,
    logs: String,
}

impl Started {
    fn say(&self, run: &Run, what: &str) -> Result<()> {
        let how = if self.is_new { "submitted as" } else { "is under way already, with" };
        say!("run {} of {what} {how} job {}; logs: {}", run.id, self.job, self.logs);
        say!("look at it with `urbancross status`, end it with `urbancross cancel`");
        Ok(())
    }
}

impl Cluster {
    fn of(args: &ClusterArgs) -> Result<Self, WorkerError> {
        let profile = match args.engine {
            EngineName::Slurm => slurm_profile(args.profile.as_deref())?,
            EngineName::Kubernetes => read_profile(args.profile.as_deref())?,
            EngineName::Ray => return Err(only_rendered()),
            EngineName::Processes => return Err(no_cluster()),
        };
        Ok(Self { engine: args.engine, profile })
    }

    /// Puts the files of a run where its jobs read them.
    async fn prepare(&self, run: &Run) -> Result<()> {
        match self.engine {
            EngineName::Slurm => write_files(run, &self.profile),
            // what its driver is given is put there with it
            _ if run.driven() == run.id => Ok(()),
            _ => Ok(KubernetesEngine::new(run.clone(), self.profile.clone()).configure().await?),
        }
    }

    /// Starts the first driver.
    async fn start(&self, run: &Run, work: &WorkStore) -> Result<Started> {
        if self.engine == EngineName::Slurm {
            let (job, is_new) = Slurm::open(run.clone(), self.profile.clone()).await?.begin().await?;
            return Ok(Started { job, is_new, logs: format!("{}/uc-{}-*.log", self.profile.slurm.logs, run.id) });
        }
        if let Some(folder) = work.local_folder() {
            let why = format!(
                "work.url is the folder {}, which no pod sees: name a bucket, or a volume at the same path in every pod",
                folder.display()
            );
            aside!("warning: {why}");
        }
        KubernetesEngine::new(run.clone(), self.profile.clone()).submit("begin").await?;
        let job = begin_job().name(run);
        let logs = format!("kubectl logs --selector {}={}", engines::kubernetes::RUN_LABEL, run.id);
        Ok(Started { job, is_new: true, logs })
    }

    /// Writes down what was submitted. One that was cut off before left a run that nobody could look after.
    async fn write_down(&self, run: &Run, work: &WorkStore, started: &Started) -> Result<()> {
        let record = RunRecord::new(work, &run.country, &run.id);
        if !started.is_new && record.submission().await?.is_some() {
            return Ok(());
        }
        let submission = Submission {
            run: run.id.clone(),
            engine: self.engine.name().to_owned(),
            spec: run.spec.clone(),
            profile: toml::to_string(&self.profile)?,
            options: run.options.clone(),
            first_job: started.job.clone(),
            logs: started.logs.clone(),
            whole: run.whole.clone(),
        };
        Ok(record.submit(&submission).await?)
    }
}

/// Makes the store, in which the run is no longer cancelled.
async fn begin(work: &WorkStore, run: &Run, of_build: Option<(&BuildSpec, &Profile)>) -> Result<()> {
    work.make()?;
    if let Some((spec, profile)) = of_build {
        warn_of_few_shards(spec, profile);
    }
    let record = RunRecord::new(work, &run.country, &run.id);
    // how the last driver ended says nothing of what begins now
    record.forget_ends(DRIVER.0).await?;
    Ok(record.set_cancelled(false).await?)
}

/// Writes spec and profile where all nodes of a Slurm cluster see them.
fn write_files(run: &Run, profile: &Profile) -> Result<()> {
    let folder = Path::new(&profile.slurm.logs).join(format!("uc-{}", run.id));
    for (name, text) in run.files().into_iter().chain([("profile.toml".to_owned(), toml::to_string(profile)?)]) {
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
    let steps =
        stages::steps(spec).iter().map(Step::name).chain(["default", "drive", ADAPT, VARIANT]).collect::<Vec<_>>();
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
    whole: &Whole,
    (until, experiment): (Option<String>, Vec<String>),
    cluster: &ClusterArgs,
    output: Option<&Path>,
) -> Result<()> {
    if let Some(until) = &until {
        whole.builds().into_iter().try_for_each(|spec| crate::run::check_until(spec, until))?;
    }
    let profile = match cluster.engine {
        EngineName::Slurm => slurm_profile(cluster.profile.as_deref())?,
        EngineName::Kubernetes | EngineName::Ray => read_profile(cluster.profile.as_deref())?,
        EngineName::Processes => return Err(no_cluster().into()),
    };
    let steps = StepArgs { until: until.clone(), ..StepArgs::default() };
    let mut options = options_of(&RunArgs::default(), &steps, &FailedArgs::default());
    options.extend(experiment);
    let runs = match whole {
        Whole::Build(spec) => {
            let run = run_of(spec, options);
            vec![(run, jobs(spec, until.as_deref(), &profile))]
        }
        Whole::Several(several) => runs_of(several, options, until.as_deref(), &profile)?,
    };
    for (name, text) in rendered(&runs, cluster.engine, &profile)? {
        match output {
            None => say!("# ---- {name}\n{text}"),
            Some(folder) => {
                let path = folder.join(name);
                let folder = path.parent().unwrap_or(folder);
                std::fs::create_dir_all(folder).map_err(|error| WorkerError::of_io(folder, &error))?;
                std::fs::write(&path, text).map_err(|error| WorkerError::of_io(&path, &error))?;
            }
        }
    }
    Ok(())
}

/// The run of several tasks with its first driver, and each task with its jobs.
fn runs_of(
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
            What::Train(_) => vec![train_job(Training::Pretrain.name(), profile)],
            What::Ablation(_) | What::Curves(..) => continue,
        };
        runs.push((run, jobs));
    }
    Ok(runs)
}

/// The files of runs, by name.
fn rendered(
    runs: &[(Run, Vec<Job>)],
    engine: EngineName,
    profile: &Profile,
) -> Result<Vec<(String, String)>, WorkerError> {
    let Some((first, _)) = runs.first() else { return Ok(Vec::new()) };
    match engine {
        EngineName::Slurm => Ok(runs.iter().flat_map(|(run, jobs)| slurm_files(run, jobs, profile)).collect()),
        EngineName::Kubernetes => {
            let mut objects: Vec<_> =
                runs.iter().map(|(run, _)| engines::kubernetes::config_map(run, profile)).collect();
            for (run, jobs) in runs {
                objects.extend(jobs.iter().map(|job| engines::kubernetes::job(run, job, profile)));
            }
            let problems = engines::kubernetes::problems(&objects);
            if !problems.is_empty() {
                return Err(WorkerError::Configuration(problems.join("; ")));
            }
            let objects: Vec<_> = objects.iter().map(engines::kubernetes::Object::to_json).collect();
            Ok(vec![(format!("uc-{}.yaml", first.id), engines::kubernetes::render(&objects))])
        }
        EngineName::Ray if first.whole.is_some() => Err(WorkerError::Configuration(
            "a driver of Ray runs one step of one build: render each build of the pair or folder by itself".into(),
        )),
        EngineName::Ray => {
            let drivers =
                runs.iter().flat_map(|(run, jobs)| jobs.iter().map(|job| engines::ray::driver(run, job, profile)));
            let files: Result<Vec<_>, String> = drivers.collect();
            files.map_err(WorkerError::Configuration)
        }
        EngineName::Processes => Err(no_cluster()),
    }
}

fn begin_job() -> Job {
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

pub(super) async fn retry(whole: &Whole, errors: bool, shard: Option<u32>, stage: Option<&str>) -> Result<()> {
    if !errors && shard.is_none() {
        return Err(WorkerError::Configuration("say which: --errors, or --shard N".into()).into());
    }
    let mut opened = 0;
    for spec in whole.builds() {
        opened += retry_build(spec, shard, stage, matches!(whole, Whole::Several(_))).await?;
    }
    if opened == 0 {
        aside!("no shard is closed as failed; rows that failed are computed again with `--retry-errors`");
        return Ok(());
    }
    aside!("{} open again: start the same `drive` or `submit` again", count(opened, "shard"));
    Ok(())
}

/// Opens the shards of one build; how many.
async fn retry_build(spec: &BuildSpec, shard: Option<u32>, stage: Option<&str>, named: bool) -> Result<usize> {
    let stages = stages::map_stages(spec);
    if let Some(name) = stage
        && !stages.iter().any(|stage| stage.name == name)
    {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        let why = format!("--stage {name}: the stages with shards are {}", names.join(", "));
        return Err(WorkerError::Configuration(why).into());
    }
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    if named && !work.is_there().await? {
        return Ok(0);
    }
    work.required().await?;
    let mut opened = 0;
    for of in stages.iter().filter(|of| stage.is_none_or(|name| name == of.name)) {
        for failed in reopen(&work, &spec.country, of.name, shard).await? {
            let country = if named { format!(" of {}", spec.country) } else { String::new() };
            say!("{:21} shard {}{country} is open again; it had failed: {}", of.name, failed.shard, failed.why());
            opened += 1;
        }
    }
    Ok(opened)
}

/// How often a watcher looks.
const WATCH: Duration = Duration::from_secs(2);

/// How far the runs on clusters are, of a build or of each task.
pub(super) async fn runs(whole: &Whole, watch: bool, json: bool) -> Result<()> {
    let stop = stop_flag();
    let homes = whole.homes();
    loop {
        let mut runs = Vec::new();
        for home in &homes {
            runs.extend(run_statuses(&home.work().await?, &home.name).await?);
        }
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

pub(super) async fn cancel(whole: &Whole, run: Option<&str>, now: bool) -> Result<()> {
    let mut cancelled = 0;
    // of a run of several tasks: first nobody is to begin another
    for home in whole.homes() {
        let work = home.work().await?;
        for id in RunRecord::all(&work, &home.name).await?.iter().filter(|id| is_of(id, run)) {
            RunRecord::new(&work, &home.name, id).set_cancelled(true).await?;
        }
    }
    for home in whole.homes() {
        let work = home.work().await?;
        for id in RunRecord::all(&work, &home.name).await?.iter().filter(|id| is_of(id, run)) {
            let Some(submission) = RunRecord::new(&work, &home.name, id).submission().await? else {
                return Err(WorkerError::Missing { what: "the run", path: id.clone() }.into());
            };
            let profile = Profile::parse(&submission.profile).map_err(WorkerError::Broken)?;
            let of_task = submission.run(&home.name);
            // its first driver is no task's
            let of_all = of_task.whole.clone().map(|id| Run { id, ..of_task.clone() });
            for run in std::iter::once(of_task).chain(of_all) {
                match submission.engine.as_str() {
                    "kubernetes" => KubernetesEngine::new(run, profile.clone()).cancel(now).await?,
                    _ => _ = Slurm::open(run, profile.clone()).await?.cancel(now).await?,
                }
            }
            say!("run {id} is cancelled; what is done stays done");
            cancelled += 1;
        }
    }
    match run {
        Some(run) if cancelled == 0 => Err(WorkerError::Missing { what: "the run", path: run.to_owned() }.into()),
        _ if cancelled == 0 => {
            aside!("no run was submitted");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Shows what processes of a run said last, each below a line with its name.
pub(super) async fn logs(whole: &Whole, args: &LogsArgs) -> Result<()> {
    let mut homes = Vec::new();
    for home in whole.homes() {
        let work = home.work().await?;
        let known = RunRecord::all(&work, &home.name).await?;
        homes.push((home, work, known));
    }
    let known: Vec<String> = homes.iter().flat_map(|(_, _, known)| known.clone()).collect();
    if let Some(run) = args.run.as_ref().filter(|run| !known.iter().any(|known| is_of(known, Some(run)))) {
        return Err(unknown("run", run, &known));
    }
    let mut steps: Vec<String> = Vec::new();
    for step in homes.iter().flat_map(|(home, ..)| &home.steps) {
        if !steps.contains(step) {
            steps.push(step.clone());
        }
    }
    let of_driver = ["begin", "drive"].map(str::to_owned);
    if let Some(step) = args.step.as_ref().filter(|step| !steps.contains(step) && !of_driver.contains(step)) {
        return Err(unknown("step", step, &steps));
    }
    let (stop, mut shown) = (stop_flag(), BTreeSet::new());
    loop {
        for (home, work, known) in &homes {
            for run in known.iter().filter(|run| is_of(run, args.run.as_deref())) {
                show_logs(work, &home.name, run, args, &mut shown).await?;
            }
        }
        if !args.follow || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Shows the words of one run; of those that are followed the lines that were not `shown` yet.
async fn show_logs(
    work: &WorkStore,
    country: &str,
    run: &str,
    args: &LogsArgs,
    shown: &mut BTreeSet<(String, String, usize)>,
) -> Result<()> {
    let folder = format!("{}/logs", paths::run(country, run));
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
            } else if shown.insert((format!("{run} {process}"), line.to_owned(), *time)) {
                say!("{process}: {line}");
            }
        }
    }
    Ok(())
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
