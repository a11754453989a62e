//! `urbancross submit`: builds and several tasks given to clusters.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use engines::kubernetes::{JobState, Seen};
use engines::{Profile, Run};
use manifests::BuildSpec;
use manifests::words::count;
use workers::WorkerError;
use workers::stores::WorkStore;

use super::arguments::{ClusterArgs, EngineName, FailedArgs, RunArgs, StepArgs};
use super::engine_runs::{no_cluster, options_of, ray_profile, read_profile, run_of, slurm_profile};
use super::fits;
use super::render_commands::{begin_job, runs_of, steps_of};
use super::several::{ExperimentArgs, Several, Whole, run_of_task};
use super::submit_warnings::{warn_of_few_shards, warn_of_other_runs};
use crate::engine::{KubernetesEngine, RayJobs, Slurm};
use crate::left_out::{LeftOut, check_all};
use crate::run_record::{DRIVER, RunRecord, Submission};
use crate::tasks::What;
use crate::{aside, preflight, say};

/// How long jobs of a cancelled run may take to end: longer than clusters give them.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives builds to a cluster, each spec as a run of its own. All specs are looked at before anything is begun.
pub(super) async fn submit_all(
    paths: &[PathBuf],
    set: &[String],
    (steps, failed, experiment): (&StepArgs, &FailedArgs, &ExperimentArgs),
    cluster: &ClusterArgs,
) -> Result<()> {
    let all = read_all(paths, set, experiment)?;
    check_all(all.iter().flat_map(Whole::builds), |spec| {
        preflight::check_elsewhere(spec, steps.until.as_deref(), cluster.engine == EngineName::Slurm)?;
        steps.until.iter().try_for_each(|until| crate::run::check_until(spec, until))
    })?;
    fits::check(&all, steps.until.as_deref(), (cluster.engine, &Cluster::of(cluster)?.profile))?;
    let mut options = options_of(&RunArgs::default(), steps, failed);
    options.extend(experiment.options());
    for whole in all {
        let several = match whole {
            // one driver goes all the way there, and has tasks
            Whole::Build(spec) if cluster.engine == EngineName::Ray => Several::of_build(*spec)?,
            Whole::Build(spec) => {
                submit(*spec, options.clone(), cluster).await?;
                continue;
            }
            Whole::Several(several) => several,
        };
        submit_several(&several, (options.clone(), steps.until.as_deref()), cluster).await?;
    }
    Ok(())
}

fn read_all(paths: &[PathBuf], set: &[String], experiment: &ExperimentArgs) -> Result<Vec<Whole>, WorkerError> {
    let (mut all, mut left_out) = (Vec::with_capacity(paths.len()), LeftOut::default());
    for path in paths {
        match Whole::read(path, set, experiment) {
            Ok(whole) => all.push(whole),
            Err(error) if paths.len() == 1 => return Err(error),
            Err(error) => left_out.add(path.display().to_string(), &error),
        }
    }
    left_out.refuse((paths.len(), "given spec"))?;
    Ok(all)
}

async fn submit(spec: BuildSpec, options: Vec<String>, cluster: &ClusterArgs) -> Result<()> {
    let run = run_of(&spec, options);
    let work = WorkStore::open(&spec.work.url, &spec.work.options)?;
    warn_of_other_runs(&work, &spec.country, &run.id).await?;
    let cluster = Cluster::of(cluster)?;
    cluster.let_cancelled_end(&run, &work).await?;
    cluster.prepare(&run).await?;
    let earlier = cluster.earlier(&run).await?;
    begin(&work, &run, earlier, Some((&spec, &cluster.profile))).await?;
    let started = cluster.start(&run, (&run, &work), &[]).await?;
    cluster.write_down(&run, &work, &started).await?;
    started.say(&run, &spec.country)
}

/// Gives several tasks to a cluster, as one run: each task has its number behind the run's name.
async fn submit_several(
    several: &Several,
    (options, until): (Vec<String>, Option<&str>),
    cluster: &ClusterArgs,
) -> Result<()> {
    let cluster = Cluster::of(cluster)?;
    let run = several.run(None, options.clone())?;
    let steps = steps_of(&runs_of(several, options, until, &cluster.profile)?);
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
    for (of_task, work, _) in &placed {
        cluster.let_cancelled_end(of_task, work).await?;
    }
    cluster.prepare(&run).await?;
    for (of_task, work, of_build) in &placed {
        cluster.prepare(of_task).await?;
        let earlier = cluster.earlier(of_task).await?;
        begin(work, of_task, earlier, *of_build).await?;
    }
    let Some((first, work, _)) = placed.first() else { return Ok(()) };
    let started = cluster.start(&run, (first, work), &steps).await?;
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

/// How processes of a run ended before it is submitted once more.
#[derive(Clone, Copy)]
enum Earlier {
    /// The run is under way.
    Known,
    /// It is not, and what kept it from its work may be mended.
    Forgotten,
    /// Its engine tells them apart from those of now.
    ToldApart,
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
            EngineName::Ray => ray_profile(args.profile.as_deref())?,
            EngineName::Processes => return Err(no_cluster()),
        };
        Ok(Self { engine: args.engine, profile })
    }

    /// Waits until the jobs of a run that was cancelled have ended: they would pass for those of the run that begins.
    async fn let_cancelled_end(&self, run: &Run, work: &WorkStore) -> Result<()> {
        if !work.is_there().await? || !RunRecord::new(work, &run.country, &run.id).is_cancelled().await? {
            return Ok(());
        }
        // the driver is that of the whole run
        let driven = Run { id: run.driven().to_owned(), ..run.clone() };
        let has_own_jobs = self.engine != EngineName::Ray && driven.id != run.id;
        let (began, mut told) = (Instant::now(), false);
        loop {
            let mut left = self.jobs(run, work).await?;
            if has_own_jobs {
                left.extend(self.jobs(&driven, work).await?);
            }
            let Some(first) = left.first() else { return Ok(()) };
            if began.elapsed() > PATIENCE {
                return Err(WorkerError::Transient(format!(
                    "run {} was cancelled, and {} of it, such as {first}, did not end within {} s: see why with `{}`, and submit \
                     again when they have",
                    run.id,
                    count(left.len(), "job"),
                    PATIENCE.as_secs(),
                    match self.engine {
                        EngineName::Slurm => "squeue",
                        EngineName::Ray => "ray job list",
                        _ => "kubectl get jobs,pods",
                    }
                ))
                .into());
            }
            if !std::mem::replace(&mut told, true) {
                aside!("run {} was cancelled; waiting until its last jobs have ended ({first})", run.id);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Jobs of a run that have not ended, by name.
    async fn jobs(&self, run: &Run, work: &WorkStore) -> Result<Vec<String>> {
        Ok(match self.engine {
            EngineName::Slurm => Slurm::open(run.clone(), self.profile.clone()).await?.jobs().await?,
            EngineName::Ray => {
                let newest = self.ray(run, work).await?.newest().await?;
                newest.into_iter().filter(|(_, seen)| seen.lives()).map(|(job, _)| job).collect()
            }
            _ => {
                let seen = KubernetesEngine::new(run.clone(), self.profile.clone()).state().await?;
                let lives = |seen: &Seen| !seen.state.is_over() || seen.state == JobState::Cancelled;
                seen.into_iter().filter(lives).map(|seen| seen.name).collect()
            }
        })
    }

    /// What is to be forgotten of earlier ends of a run. While it is under way its next driver wants to know them; Kubernetes' drivers
    /// know by its jobs which ends are of now, and Ray's are one job.
    async fn earlier(&self, run: &Run) -> Result<Earlier> {
        match self.engine {
            EngineName::Slurm => match Slurm::open(run.clone(), self.profile.clone()).await?.is_under_way().await? {
                true => Ok(Earlier::Known),
                false => Ok(Earlier::Forgotten),
            },
            _ => Ok(Earlier::ToldApart),
        }
    }

    /// Puts the files of a run where its jobs read them.
    async fn prepare(&self, run: &Run) -> Result<()> {
        match self.engine {
            EngineName::Slurm => write_files(run, &self.profile),
            // its one job brings all of them; where there is no cluster nothing is begun
            EngineName::Ray if run.driven() != run.id => Ok(()),
            EngineName::Ray => Ok(RayJobs::open(&run.id, &self.profile, None)?.check().await?),
            // what its driver is given is put there with it
            _ if run.driven() == run.id => Ok(()),
            _ => Ok(KubernetesEngine::new(run.clone(), self.profile.clone()).configure().await?),
        }
    }

    /// Starts the first driver, of a run of several tasks with these steps.
    async fn start(&self, run: &Run, (first, work): (&Run, &WorkStore), steps: &[String]) -> Result<Started> {
        if self.engine == EngineName::Slurm {
            let (job, is_new) = Slurm::open(run.clone(), self.profile.clone()).await?.begin().await?;
            return Ok(Started { job, is_new, logs: format!("{}/uc-{}-*.log", self.profile.slurm.logs, run.id) });
        }
        if let Some(folder) = work.local_folder() {
            let why = format!(
                "work.url is the folder {}, which no {} sees: name a bucket, or a volume at the same path in every one",
                folder.display(),
                if self.engine == EngineName::Ray { "other node" } else { "pod" }
            );
            aside!("warning: {why}");
        }
        if self.engine == EngineName::Ray {
            let ray = self.ray(first, work).await?;
            let driver = engines::ray::driver(run, steps, &self.profile).map_err(WorkerError::Configuration)?;
            let (job, is_new) = ray.begin(run, (&driver.0, &driver.1), &self.profile).await?;
            // a cluster that grows has room later
            for why in ray.without_room(steps.iter().map(String::as_str), &self.profile).await.unwrap_or_default() {
                aside!("warning: {why}");
            }
            return Ok(Started { logs: ray.log_command(&job), job, is_new });
        }
        let is_new = KubernetesEngine::new(run.clone(), self.profile.clone()).submit("begin").await?;
        let job = begin_job().name(run);
        let logs = format!("kubectl logs --selector {}={}", engines::kubernetes::RUN_LABEL, run.id);
        Ok(Started { job, is_new, logs })
    }

    /// The jobs of a task's whole run, as far as they are written down.
    async fn ray(&self, task: &Run, work: &WorkStore) -> Result<RayJobs> {
        let known = RunRecord::new(work, &task.country, &task.id).submission().await?;
        let known = known.filter(|known| known.engine == EngineName::Ray.name()).map(|known| known.first_job);
        Ok(RayJobs::open(task.driven(), &self.profile, known.as_deref())?)
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
async fn begin(work: &WorkStore, run: &Run, earlier: Earlier, of_build: Option<(&BuildSpec, &Profile)>) -> Result<()> {
    work.make()?;
    if let Some((spec, profile)) = of_build {
        warn_of_few_shards(spec, profile);
    }
    let record = RunRecord::new(work, &run.country, &run.id);
    // how the last driver ended says nothing of what begins now
    record.forget_ends(DRIVER.0).await?;
    let now = crate::clock::unix_seconds() as u64;
    match earlier {
        Earlier::Known => {}
        Earlier::Forgotten => record.begin_anew(now).await?,
        Earlier::ToldApart => record.begin(now).await?,
    }
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
