//! Slurm: a job array for each stage, a job for each training, and a driver that comes back after either.

use std::collections::BTreeSet;
use std::process::Stdio;

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
}

impl Slurm {
    /// Asks Slurm for what scripts depend on.
    ///
    /// # Errors
    /// Slurm is not there, or does not answer.
    pub async fn open(run: Run, profile: Profile) -> Result<Self, WorkerError> {
        let folder = format!("{}/uc-{}", profile.slurm.logs, run.id);
        let config = ask("scontrol", &["show", "config"], None).await?;
        let of = |line: &str| line.strip_prefix("MaxArraySize")?.split('=').nth(1)?.trim().parse::<u32>().ok();
        let most_indices = config.lines().find_map(of).unwrap_or(DEFAULT_ARRAY_SIZE);
        let site =
            Site { spec: format!("{folder}/spec.toml"), profile: format!("{folder}/profile.toml"), most_indices };
        Ok(Self { run, profile, site })
    }

    fn record<'a>(&self, build: &'a Build) -> RunRecord<'a> {
        RunRecord::new(&build.work, &self.run.country, &self.run.id)
    }

    pub(super) async fn place(&self, build: &Build, job: &MapJob<'_>) -> Result<Placed, WorkerError> {
        let workers = self.profile.resources(job.stage).workers.clamp(1, job.open_shards.max(1) as u32);
        let work = Work::Map { plan: job.plan.to_owned(), workers, lease_seconds: self.profile.lease_seconds.max(1) };
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
            let exclude = self.exclude(&queued);
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
        let mut arguments = vec![format!("--dependency=afterany:{}", jobs.join(":"))];
        arguments.extend(self.exclude(queued));
        for batch in batches(&self.run, &driver, &self.profile, &self.site) {
            submit(&batch.script, &arguments).await?;
        }
        Ok(())
    }

    /// An argument that keeps jobs from nodes on which jobs of earlier steps still run, if there are any: their plans are
    /// closed, so they are lost, and Slurm has not seen it yet. The node of this driver lives.
    fn exclude(&self, queued: &[Queued]) -> Vec<String> {
        let own = std::env::var("SLURM_JOB_ID").unwrap_or_default();
        let nodes = lost_nodes(queued, &own, &std::env::var("SLURMD_NODENAME").unwrap_or_default());
        if nodes.is_empty() {
            return Vec::new();
        }
        let given = Some(self.profile.slurm.exclude.as_str()).filter(|given| !given.is_empty());
        let all: Vec<&str> = given.into_iter().chain(nodes.iter().map(String::as_str)).collect();
        vec![format!("--exclude={}", all.join(","))]
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
            first = submit(&batch.script, &[]).await?;
        }
        Ok((first, true))
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
        for job in &jobs {
            let signal: &[&str] = if now { &["--signal=KILL", "--full"] } else { &[] };
            ask("scancel", &[signal, &["--quiet", job]].concat(), None).await?;
        }
        Ok(jobs.len())
    }
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

/// What a site's settings mean for builds, each with whether it is as it should be.
///
/// # Errors
/// Slurm is not there, or does not answer.
pub async fn examine(profile: &Profile) -> Result<Vec<(&'static str, Result<String, String>)>, WorkerError> {
    let version = ask("sinfo", &["--version"], None).await?;
    let config = ask("scontrol", &["show", "config"], None).await?;
    let partitions = ask("sinfo", &["--noheader", "--format=%R"], None).await?;
    let mut found = vec![("slurm", Ok(version.trim().to_owned()))];
    found.extend(settings(&config));
    let wanted = profile.stage.values().map(|of| &of.partition).chain([&profile.slurm.partition]);
    let absent: Vec<&str> = wanted
        .filter(|wanted| !wanted.is_empty() && !partitions.split_whitespace().any(|there| there == wanted.as_str()))
        .map(String::as_str)
        .collect();
    let there = partitions.split_whitespace().collect::<Vec<_>>().join(", ");
    found.push(match absent.is_empty() {
        true => ("partitions", Ok(there)),
        false => ("partitions", Err(format!("there is no {}; there are {there}", absent.join(", ")))),
    });
    Ok(found)
}

/// What `scontrol show config` says that builds depend on.
fn settings(config: &str) -> Vec<(&'static str, Result<String, String>)> {
    let of = |name: &str| {
        let mut lines = config.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let shown = |name: &str| format!("{name} = {}", of(name).unwrap_or_else(|| "unknown".to_owned()));
    let warns = of("SlurmctldParameters").is_some_and(|parameters| parameters.contains("preempt_send_user_signal"));
    let preempts = of("PreemptMode").is_some_and(|mode| mode != "OFF");
    let preemption = match (preempts, warns) {
        (false, _) => Ok("jobs are not preempted".to_owned()),
        (true, true) => Ok("preempted jobs are told before they end".to_owned()),
        (true, false) => {
            Ok("preempted jobs are not told before they end (no preempt_send_user_signal in SlurmctldParameters): \
                             their unfinished shards begin again"
                .to_owned())
        }
    };
    let requeues = match of("JobRequeue").as_deref() {
        Some("0") => Err("JobRequeue = 0: jobs of lost nodes do not come back".to_owned()),
        _ => Ok("jobs are queued again".to_owned()),
    };
    vec![
        ("arrays", Ok(shown("MaxArraySize"))),
        ("time to end", Ok(shown("KillWait"))),
        ("lost nodes", Ok(format!("seen by Slurm after {}", shown("SlurmdTimeout")))),
        ("preemption", preemption),
        ("requeue", requeues),
    ]
}

/// Nodes of jobs that run or end beside a driver, which are nobody's any more; but for the driver's own.
fn lost_nodes(queued: &[Queued], own_job: &str, own_node: &str) -> BTreeSet<String> {
    let others = queued.iter().filter(|job| job.job != own_job && job.state != "PENDING");
    others.map(|job| job.nodes.clone()).filter(|node| !node.is_empty() && node != own_node).collect()
}

/// Gives a script to Slurm; the number of its job.
async fn submit(script: &str, arguments: &[String]) -> Result<String, WorkerError> {
    let arguments: Vec<&str> = ["--parsable"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
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

    #[test]
    fn a_sites_settings_are_told_in_words() {
        let of = |config: &str| {
            let all = settings(config).into_iter();
            all.map(|(what, found)| format!("{what}: {found:?}")).collect::<Vec<_>>().join("\n")
        };
        let good =
            of("KillWait                = 30 sec\nMaxArraySize            = 1001\nPreemptMode             = REQUEUE\n\
                       SlurmctldParameters     = preempt_send_user_signal\nJobRequeue              = 1\n");
        assert!(good.contains("MaxArraySize = 1001") && good.contains("KillWait = 30 sec"), "{good}");
        assert!(good.contains("are told before") && !good.contains("Err"), "{good}");
        let bad = of("PreemptMode = REQUEUE\nSlurmctldParameters = (null)\nJobRequeue = 0\n");
        assert!(bad.contains("are not told") && bad.contains("Err(\"JobRequeue = 0"), "{bad}");
        assert!(of("PreemptMode = OFF").contains("not preempted"));
    }

    #[test]
    fn nodes_whose_jobs_should_have_ended_are_lost() {
        let job = |job: &str, state: &str, nodes: &str| Queued {
            name: "uc-1a-images-9f".into(),
            job: job.into(),
            index: None,
            state: state.into(),
            reason: String::new(),
            nodes: nodes.into(),
        };
        let queued = [
            job("7", "RUNNING", "node1"),
            job("5", "RUNNING", "node2"),
            job("5", "PENDING", ""),
            job("4", "COMPLETING", "node3"),
        ];
        assert_eq!(lost_nodes(&queued, "7", "node1"), ["node2".to_owned(), "node3".to_owned()].into());
        assert!(lost_nodes(&queued[..1], "7", "node1").is_empty());
        assert!(lost_nodes(&queued[1..2], "7", "node2").is_empty(), "the node that it runs on lives");
    }

    #[tokio::test]
    async fn a_machine_without_slurm_is_named() {
        let error = ask("no-such-sbatch", &[], None).await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("no-such-sbatch"), "{error}");
    }
}
