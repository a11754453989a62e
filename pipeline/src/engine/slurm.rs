//! Slurm: a job array for each stage, a job for each training, and a driver that comes back after either.

mod nodes;
mod programs;
mod site;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use engines::slurm::{QUEUE_FORMAT, Queued, Site, batches, queue};
use engines::{Job, Profile, Run, Work};
use workers::WorkerError;
use workers::stores::WorkStore;

use super::{MapJob, Placed, TrainJob};
use crate::build::Build;
use crate::run_record::{Placement, RunRecord, verdict};
use nodes::{bad_nodes, is_driver, lives, lost_nodes};
use programs::{ask, submit};
pub use site::examine;

/// Times that workers or ranks of one step are started, since somebody submitted the run, before the driver gives up.
const MOST_ATTEMPTS: usize = 10;
/// Slurm's own default, where it does not say.
const DEFAULT_ARRAY_SIZE: u32 = 1001;

/// How often a step was placed.
struct Attempts {
    /// Number of the last one, ever.
    last: u32,
    /// Since the run was last submitted.
    since_submitted: usize,
}

/// A run on Slurm.
pub struct Slurm {
    /// The run, whose jobs have names of it.
    pub run: Run,
    /// What the site wants.
    pub profile: Profile,
    /// Where spec and profile lie.
    pub site: Site,
}

impl Slurm {
    /// Asks Slurm for what scripts depend on.
    ///
    /// # Errors
    /// Slurm is not there, or does not answer.
    pub async fn open(run: Run, profile: Profile) -> Result<Self, WorkerError> {
        let config = ask("scontrol", &["show", "config"], None).await?;
        let of = |line: &str| line.strip_prefix("MaxArraySize")?.split('=').nth(1)?.trim().parse::<u32>().ok();
        let most_indices = config.lines().find_map(of).unwrap_or(DEFAULT_ARRAY_SIZE);
        let site = Site::of(&run, &profile.slurm.logs, most_indices);
        Ok(Self { run, profile, site })
    }

    fn record<'a>(&self, work: &'a WorkStore) -> RunRecord<'a> {
        RunRecord::new(work, &self.run.country, &self.run.id)
    }

    pub(super) async fn place(&self, build: &Build, job: &MapJob<'_>) -> Result<Placed, WorkerError> {
        let workers = self.profile.resources(job.stage).workers.clamp(1, job.open_shards.max(1) as u32);
        let work = Work::Map { plan: job.plan.to_owned(), workers, lease_seconds: self.profile.lease_seconds.max(1) };
        let stage = Job { step: job.stage.to_owned(), work };
        self.start((&build.work, &build.stop), &stage, job.plan, workers).await?;
        Ok(Placed::ComesBack)
    }

    pub(super) async fn train(&self, TrainJob { step, work, stop, .. }: &TrainJob<'_>) -> Result<(), WorkerError> {
        let resources = self.profile.training(step);
        let (nodes, ranks_per_node) = (resources.workers.max(1), resources.gpus.max(1));
        let attempt = self.attempts(work, step, "").await?.last + 1;
        let job = Job { step: (*step).to_owned(), work: Work::Train { attempt, nodes, ranks_per_node } };
        self.start((work, stop), &job, "", nodes * ranks_per_node).await
    }

    /// How often a step was placed.
    async fn attempts(&self, work: &WorkStore, step: &str, plan: &str) -> Result<Attempts, WorkerError> {
        let record = self.record(work);
        let (placed, earlier) = (record.placements().await?, record.earlier().await?.placed);
        let of_step = || placed.iter().filter(|placed| placed.step == step && placed.plan == plan);
        Ok(Attempts {
            last: of_step().map(|placed| placed.attempt).max().unwrap_or(0),
            since_submitted: of_step().filter(|placed| !earlier.contains(placed)).count(),
        })
    }

    /// Those of the jobs in the queue, by the name that a process knows its job by, whose processes have left word how they ended.
    async fn ended(&self, record: &RunRecord<'_>, queued: &[Queued]) -> Result<BTreeSet<String>, WorkerError> {
        let names: BTreeSet<&str> =
            queued.iter().filter(|job| job.state != "PENDING").map(|job| job.name.as_str()).collect();
        let mut ended = record.earlier().await?.ended;
        for Placement { step, plan, attempt, .. } in record.placements().await? {
            let (work, of) = match plan.is_empty() {
                true => (Work::Train { attempt, nodes: 1, ranks_per_node: 1 }, attempt.to_string()),
                false => (Work::Map { plan: plan.clone(), workers: 1, lease_seconds: 1 }, plan),
            };
            if names.contains(Job { step: step.clone(), work }.name(&self.run).as_str()) {
                let ends = record.ends(&step, &of).await?.into_iter().filter(|(_, end)| end.is_last_word());
                ended.extend(ends.filter_map(|(_, end)| end.by.engine_job));
            }
        }
        Ok(ended)
    }

    /// Starts a job and the driver after it, as far as they are not in the queue already.
    async fn start(
        &self,
        (work, stop): (&WorkStore, &AtomicBool),
        job: &Job,
        plan: &str,
        processes: u32,
    ) -> Result<(), WorkerError> {
        let record = self.record(work);
        let Attempts { last: before, since_submitted } = self.attempts(work, &job.step, plan).await?;
        let of = if plan.is_empty() { before.to_string() } else { plan.to_owned() };
        let queued = self.queued().await?;
        // the attempt before may still be there, under the name of this one or its own
        let is_of_step = |name: &str| match &job.work {
            Work::Train { attempt, .. } => (1..=*attempt).any(|attempt| {
                let work = Work::Train { attempt, nodes: 1, ranks_per_node: 1 };
                Job { step: job.step.clone(), work }.name(&self.run) == name
            }),
            _ => job.name(&self.run) == name,
        };
        let mut jobs: Vec<String> =
            queued.iter().filter(|queued| is_of_step(&queued.name)).map(|queued| queued.job.clone()).collect();
        jobs.dedup();
        let ended = self.ended(&record, &queued).await?;
        if jobs.is_empty() {
            let ends = record.ends(&job.step, &of).await?;
            verdict(&job.step, &ends)?;
            let bad = bad_nodes(&ends);
            if since_submitted >= MOST_ATTEMPTS {
                return Err(WorkerError::Broken(format!(
                    "{}: started {since_submitted} times and not done; `urbancross logs` says what its processes said; `urbancross \
                     submit` tries as often again",
                    job.step
                )));
            }
            // whoever cancels has listed the jobs by then
            if stop.load(Ordering::Relaxed) || record.is_cancelled().await? {
                return Err(WorkerError::Stopped);
            }
            record.forget_ends(&job.step).await?;
            let exclude = self.exclude(&queued, &ended, &bad);
            for batch in batches(&self.run, job, &self.profile, &self.site) {
                jobs.push(submit(&batch.script, &exclude).await?);
            }
            let placement = Placement {
                step: job.step.clone(),
                plan: plan.to_owned(),
                attempt: before + 1,
                processes,
                unix_seconds: crate::clock::unix_seconds() as u64,
                jobs: jobs.clone(),
            };
            record.place(&placement).await?;
        }
        let driver = self.start_driver(&job.step, (&queued, &ended), &jobs).await;
        // whoever has cancelled the run meanwhile may have listed its jobs before these were among them
        if let Ok(true) = record.is_cancelled().await {
            jobs.extend(driver.into_iter().flatten());
            cancel(&jobs, false).await?;
            return Err(WorkerError::Stopped);
        }
        driver.map(drop)
    }

    /// Starts the driver that comes back when these jobs are gone; its job, unless there is one already.
    async fn start_driver(
        &self,
        step: &str,
        (queued, ended): (&[Queued], &BTreeSet<String>),
        jobs: &[String],
    ) -> Result<Vec<String>, WorkerError> {
        let driver = Job { step: step.to_owned(), work: Work::Drive };
        let own = std::env::var("SLURM_JOB_ID").unwrap_or_default();
        let name = driver.name(&self.run);
        // this driver may have the same name: it came back to a step that is not done
        if queued.iter().any(|queued| queued.name == name && queued.job != own && lives(queued)) {
            return Ok(Vec::new());
        }
        let mut arguments = vec![format!("--dependency=afterany:{}", jobs.join(":"))];
        // of this step they are at work, or their nodes start for them: a driver before this one has begun them, and could not
        // begin the next
        let is_at_work = |queued: &&Queued| lives(queued) && jobs.contains(&queued.job);
        let others: Vec<Queued> = queued.iter().filter(|queued| !is_at_work(queued)).cloned().collect();
        arguments.extend(self.exclude(&others, ended, &BTreeSet::new()));
        let mut started = Vec::new();
        for batch in batches(&self.run, &driver, &self.profile, &self.site) {
            started.push(submit(&batch.script, &arguments).await?);
        }
        Ok(started)
    }

    /// An argument that keeps jobs from `bad` nodes, and from those on which jobs of earlier steps still run: their plans
    /// are closed, so they are lost, and Slurm has not seen it yet. The node of this driver lives.
    fn exclude(&self, queued: &[Queued], ended: &BTreeSet<String>, bad: &BTreeSet<String>) -> Vec<String> {
        let [own_job, own_node] =
            ["SLURM_JOB_ID", "SLURMD_NODENAME"].map(|name| std::env::var(name).unwrap_or_default());
        let mut nodes = lost_nodes(queued, ended, (&own_job, &own_node));
        nodes.extend(bad.iter().cloned());
        if nodes.is_empty() {
            return Vec::new();
        }
        let given = Some(self.profile.slurm.exclude.as_str()).filter(|given| !given.is_empty());
        let all: Vec<&str> = given.into_iter().chain(nodes.iter().map(String::as_str)).collect();
        vec![format!("--exclude={}", all.join(","))]
    }

    /// Starts the first driver of the run, unless one of its drivers waits or runs; its number, and whether the run is
    /// new. Workers that nobody would come back to, since their driver was lost before it had started the next, get
    /// one.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer.
    pub async fn begin(&self) -> Result<(String, bool), WorkerError> {
        let queued: Vec<Queued> = self.queued().await?.into_iter().filter(lives).collect();
        if let Some(driver) = queued.iter().find(|queued| is_driver(&queued.name)) {
            return Ok((driver.job.clone(), false));
        }
        let driver = Job { step: "begin".to_owned(), work: Work::Drive };
        let mut first = String::new();
        for batch in batches(&self.run, &driver, &self.profile, &self.site) {
            first = submit(&batch.script, &[]).await?;
        }
        Ok((first, queued.is_empty()))
    }

    /// Names of all jobs of the run that Slurm knows of, those that are ending among them.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn jobs(&self) -> Result<Vec<String>, WorkerError> {
        Ok(self.queued().await?.into_iter().map(|queued| queued.name).collect())
    }

    /// Whether a job of the run waits or runs.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn is_under_way(&self) -> Result<bool, WorkerError> {
        Ok(self.queued().await?.iter().any(lives))
    }

    async fn queued(&self) -> Result<Vec<Queued>, WorkerError> {
        queued(&self.run).await
    }

    /// Takes all jobs of the run out of the queue.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn cancel(&self, now: bool) -> Result<usize, WorkerError> {
        let mut jobs: Vec<String> = self.queued().await?.into_iter().map(|queued| queued.job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        cancel(&jobs, now).await?;
        Ok(jobs.len())
    }
}

/// Takes jobs out of the queue.
async fn cancel(jobs: &[String], now: bool) -> Result<(), WorkerError> {
    for job in jobs {
        let signal: &[&str] = if now { &["--signal=KILL", "--full"] } else { &[] };
        ask("scancel", &[signal, &["--quiet", job]].concat(), None).await?;
    }
    Ok(())
}

/// All jobs of a run that Slurm knows of.
///
/// # Errors
/// Slurm does not answer.
pub(super) async fn queued(run: &Run) -> Result<Vec<Queued>, WorkerError> {
    let format = format!("--format={QUEUE_FORMAT}");
    let output = ask("squeue", &["--noheader", "--array", &format], None).await?;
    let prefix = format!("uc-{}-", run.id);
    Ok(queue(&output).into_iter().filter(|queued| queued.name.starts_with(&prefix)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tries_count_from_the_last_submission_whatever_clocks_say() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
        let run = Run { id: "1a2b3c4d".into(), country: "x".into(), ..Run::default() };
        let slurm = Slurm { site: Site::of(&run, "/logs", 1001), run, profile: Profile::default() };
        let place = async |attempt: u32| {
            let placement = Placement {
                step: "captions".into(),
                plan: "9f8e7d6c5b4a".into(),
                attempt,
                processes: 3,
                unix_seconds: 2000,
                jobs: vec!["17".into()],
            };
            slurm.record(&work).place(&placement).await.unwrap();
        };
        let tries = async || {
            let Attempts { last, since_submitted } = slurm.attempts(&work, "captions", "9f8e7d6c5b4a").await.unwrap();
            (last, since_submitted)
        };
        place(1).await;
        place(2).await;
        assert_eq!(tries().await, (2, 2));
        // the clock of who submits it is late
        slurm.record(&work).begin_anew(1500).await.unwrap();
        assert_eq!(tries().await, (2, 0));
        place(3).await;
        assert_eq!(tries().await, (3, 1));
    }
}
