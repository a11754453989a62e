//! Slurm: a job array for each stage, a job for each training, and a driver that comes back after either.

use std::process::Stdio;
use std::time::Duration;

use engines::slurm::{QUEUE_FORMAT, Queued, Site, batches, queue};
use engines::{Job, Profile, Run, Work};
use stages::Training;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use workers::WorkerError;

use super::{MapJob, Placed};
use crate::build::Build;
use crate::run_record::{Placement, RunRecord, verdict};

/// Times that workers or ranks of one step are started before the driver gives up.
const MOST_ATTEMPTS: u32 = 10;
/// Slurm's own default, where it does not say.
const DEFAULT_ARRAY_SIZE: u32 = 1001;

/// A run on Slurm.
pub struct Slurm {
    /// The run, whose jobs have names of it.
    pub run: Run,
    /// What the site wants.
    pub profile: Profile,
    /// Where spec and profile lie.
    pub site: Site,
    /// How long a silent worker keeps its shards.
    pub lease: Duration,
}

impl Slurm {
    /// Asks Slurm for what scripts depend on.
    ///
    /// # Errors
    /// Slurm is not there, or does not answer.
    pub async fn open(run: Run, profile: Profile, lease: Duration) -> Result<Self, WorkerError> {
        let folder = format!("{}/uc-{}", profile.slurm.logs, run.id);
        let config = ask("scontrol", &["show", "config"], None).await?;
        let of = |line: &str| line.strip_prefix("MaxArraySize")?.split('=').nth(1)?.trim().parse::<u32>().ok();
        let most_indices = config.lines().find_map(of).unwrap_or(DEFAULT_ARRAY_SIZE);
        let site =
            Site { spec: format!("{folder}/spec.toml"), profile: format!("{folder}/profile.toml"), most_indices };
        Ok(Self { run, profile, site, lease })
    }

    fn record<'a>(&self, build: &'a Build) -> RunRecord<'a> {
        RunRecord::new(&build.work, &self.run.country, &self.run.id)
    }

    pub(super) async fn place(&self, build: &Build, job: &MapJob<'_>) -> Result<Placed, WorkerError> {
        let workers = self.profile.resources(job.stage).workers.clamp(1, job.open_shards.max(1) as u32);
        let work = Work::Map { plan: job.plan.to_owned(), workers, lease_seconds: self.lease.as_secs().max(1) };
        self.start(build, &Job { step: job.stage.to_owned(), work }, job.plan, workers).await?;
        Ok(Placed::ComesBack)
    }

    pub(super) async fn train(&self, build: &Build, training: Training) -> Result<(), WorkerError> {
        let resources = self.profile.training(training.name());
        let (nodes, ranks_per_node) = (resources.workers.max(1), resources.gpus.max(1));
        let attempt = self.attempts(build, training.name(), "").await? + 1;
        let work = Work::Train { attempt, nodes, ranks_per_node };
        self.start(build, &Job { step: training.name().to_owned(), work }, "", nodes * ranks_per_node).await
    }

    /// How often a step was placed.
    async fn attempts(&self, build: &Build, step: &str, plan: &str) -> Result<u32, WorkerError> {
        let placed = self.record(build).placements().await?;
        let of_step = placed.iter().filter(|placed| placed.step == step && placed.plan == plan);
        Ok(of_step.map(|placed| placed.attempt).max().unwrap_or(0))
    }

    /// Starts a job and the driver after it, as far as they are not in the queue already.
    async fn start(&self, build: &Build, job: &Job, plan: &str, processes: u32) -> Result<(), WorkerError> {
        let record = self.record(build);
        let before = self.attempts(build, &job.step, plan).await?;
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
        if jobs.is_empty() {
            verdict(&job.step, &record.ends(&job.step, &of).await?)?;
            if before >= MOST_ATTEMPTS {
                return Err(WorkerError::Transient(format!(
                    "{}: started {before} times and not done; `urbancross logs` says what its processes said",
                    job.step
                )));
            }
            record.forget_ends(&job.step).await?;
            for batch in batches(&self.run, job, &self.profile, &self.site) {
                jobs.push(submit(&batch.script, None).await?);
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
        self.start_driver(&job.step, &queued, &jobs).await
    }

    /// Starts the driver that comes back when these jobs are gone.
    async fn start_driver(&self, step: &str, queued: &[Queued], jobs: &[String]) -> Result<(), WorkerError> {
        let driver = Job { step: step.to_owned(), work: Work::Drive };
        let own = std::env::var("SLURM_JOB_ID").unwrap_or_default();
        let name = driver.name(&self.run);
        // this driver may have the same name: it came back to a step that is not done
        if queued.iter().any(|queued| queued.name == name && queued.job != own) {
            return Ok(());
        }
        for batch in batches(&self.run, &driver, &self.profile, &self.site) {
            submit(&batch.script, Some(&format!("--dependency=afterany:{}", jobs.join(":")))).await?;
        }
        Ok(())
    }

    /// Starts the first driver of the run, unless one of its jobs is in the queue; its number, and whether it is new.
    ///
    /// # Errors
    /// Slurm refuses, or does not answer.
    pub async fn begin(&self) -> Result<(String, bool), WorkerError> {
        if let Some(queued) = self.queued().await?.first() {
            return Ok((queued.job.clone(), false));
        }
        let driver = Job { step: "begin".to_owned(), work: Work::Drive };
        let mut first = String::new();
        for batch in batches(&self.run, &driver, &self.profile, &self.site) {
            first = submit(&batch.script, None).await?;
        }
        Ok((first, true))
    }

    /// All jobs of the run that Slurm knows of.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn queued(&self) -> Result<Vec<Queued>, WorkerError> {
        let format = format!("--format={QUEUE_FORMAT}");
        let output = ask("squeue", &["--noheader", "--array", &format], None).await?;
        let prefix = format!("uc-{}-", self.run.id);
        Ok(queue(&output).into_iter().filter(|queued| queued.name.starts_with(&prefix)).collect())
    }

    /// Takes all jobs of the run out of the queue.
    ///
    /// # Errors
    /// Slurm does not answer.
    pub async fn cancel(&self, now: bool) -> Result<usize, WorkerError> {
        let mut jobs: Vec<String> = self.queued().await?.into_iter().map(|queued| queued.job).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for job in &jobs {
            let signal: &[&str] = if now { &["--signal=KILL", "--full"] } else { &[] };
            ask("scancel", &[signal, &["--quiet", job]].concat(), None).await?;
        }
        Ok(jobs.len())
    }
}

/// Gives a script to Slurm; the number of its job.
async fn submit(script: &str, dependency: Option<&str>) -> Result<String, WorkerError> {
    let arguments: Vec<&str> = ["--parsable"].into_iter().chain(dependency).collect();
    let answer = ask("sbatch", &arguments, Some(script)).await?;
    Ok(answer.trim().split(';').next().unwrap_or_default().to_owned())
}

/// Runs one of Slurm's programs.
async fn ask(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, WorkerError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // what this process was started with would become what its jobs ask for
    for name in
        ["SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "SLURM_MEM_PER_NODE", "SLURM_GPUS_PER_NODE", "SBATCH_GPUS_PER_NODE"]
    {
        command.env_remove(name);
    }
    let absent = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => WorkerError::Configuration(format!(
            "there is no {program} on this machine: run this where Slurm's commands are"
        )),
        _ => WorkerError::of_io(program.as_ref(), &error),
    };
    let mut child = command.spawn().map_err(absent)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that ends early says why itself
        _ = stdin.write_all(input.unwrap_or_default().as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(absent)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refusal(program, &String::from_utf8_lossy(&output.stderr)))
}

/// Sorts what Slurm's programs say: a controller that does not answer may do so later.
fn refusal(program: &str, said: &str) -> WorkerError {
    const PASSING: [&str; 6] = [
        "Unable to contact",
        "Socket timed out",
        "Connection refused",
        "Connection timed out",
        "temporarily",
        "Zero Bytes were transmitted",
    ];
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    match PASSING.iter().any(|words| said.contains(words)) {
        true => WorkerError::Transient(format!("{program}: {said}")),
        false => WorkerError::Configuration(format!("{program}: {said}; look at the profile")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slurm_refuses_for_good_is_told_from_a_controller_that_is_away() {
        let code = |said: &str| refusal("sbatch", said).exit_code();
        assert_eq!(
            code("sbatch: error: Batch job submission failed: Invalid account or account/partition combination"),
            65
        );
        assert_eq!(code("sbatch: error: invalid partition specified: nowhere"), 65);
        assert_eq!(code("slurm_load_jobs error: Unable to contact slurm controller (connect failure)"), 75);
        assert_eq!(code("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"), 75);
    }

    #[tokio::test]
    async fn a_machine_without_slurm_is_named() {
        let error = ask("no-such-sbatch", &[], None).await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("no-such-sbatch"), "{error}");
    }
}
