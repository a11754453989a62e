//! A run as a job of a Ray cluster: its driver is told to the cluster's Jobs API, and starts tasks there.

mod address;
mod dashboard;
mod package;

use engines::ray::jobs::{self, Seen, name};
use engines::ray::{Needs, jobs::too_small};
use engines::{Profile, Run};
use workers::WorkerError;

use super::fault::Fault;
use super::{Ended, Jobs};
use crate::run_record::Submission;
pub use address::address;
use dashboard::Dashboard;

/// Jobs of a run that nobody has written down.
const MOST_TRIES: u32 = 1000;
/// Times that somebody else may be faster.
const MOST_ROUNDS: usize = 5;

/// A run on Ray: one job at a time, each under the name of its try.
pub struct RayJobs {
    dashboard: Dashboard,
    run: String,
    /// The try from which newer ones are looked for.
    known: u32,
}

impl RayJobs {
    /// Jobs of a run of this name on the profile's cluster, of which the last one that is `known` had this name.
    ///
    /// # Errors
    /// An address or a variable with headers that cannot be used.
    pub fn open(run: &str, profile: &Profile, known: Option<&str>) -> Result<Self, WorkerError> {
        let known = known.and_then(jobs::attempt).unwrap_or(1);
        Ok(Self { dashboard: Dashboard::open(&profile.ray.address)?, run: run.to_owned(), known })
    }

    /// Those of a run that was submitted.
    ///
    /// # Errors
    /// As of [`RayJobs::open`], and a record that cannot be read.
    pub fn of(submission: &Submission) -> Result<Self, WorkerError> {
        let profile = Profile::parse(&submission.profile).map_err(WorkerError::Broken)?;
        let run = submission.whole.as_deref().unwrap_or(&submission.run);
        Self::open(run, &profile, Some(&submission.first_job))
    }

    /// Looks whether the cluster answers.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub async fn check(&self) -> Result<(), WorkerError> {
        self.version().await.map(|_| ())
    }

    async fn version(&self) -> Result<String, WorkerError> {
        let reply = self.dashboard.get("api/version").await?;
        jobs::version(&reply).map_err(|why| self.dashboard.is_none(&why))
    }

    /// The newest job of the run; `None`: the cluster knows none.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub async fn newest(&self) -> Result<Option<(String, Seen)>, WorkerError> {
        Ok(self.newest_from(self.known).await?.map(|(attempt, seen)| (name(&self.run, attempt), seen)))
    }

    async fn newest_from(&self, first: u32) -> Result<Option<(u32, Seen)>, WorkerError> {
        let mut newest = None;
        for attempt in first..first.saturating_add(MOST_TRIES) {
            match self.job(attempt).await? {
                Some(seen) => newest = Some((attempt, seen)),
                None => return Ok(newest),
            }
        }
        Err(self.dashboard.is_none(&format!("it has {MOST_TRIES} jobs of run {}", self.run)))
    }

    async fn job(&self, attempt: u32) -> Result<Option<Seen>, WorkerError> {
        let reply = match self.dashboard.get(&format!("api/jobs/{}", name(&self.run, attempt))).await {
            Err(Fault::NotFound(_)) => return Ok(None),
            other => other?,
        };
        Seen::read(&reply).map(Some).map_err(|why| self.dashboard.is_none(&why))
    }

    /// Gives the cluster the driver of a run, unless a job of it lives; that job's name, and whether it is new. One that has ended
    /// is followed by the next try: names of jobs are not used twice.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub async fn begin(
        &self,
        run: &Run,
        (file, driver): (&str, &str),
        profile: &Profile,
    ) -> Result<(String, bool), WorkerError> {
        let mut from = self.known;
        for _ in 0..MOST_ROUNDS {
            let attempt = match self.newest_from(from).await? {
                Some((attempt, seen)) if seen.lives() => return Ok((name(&self.run, attempt), false)),
                Some((attempt, _)) => attempt.saturating_add(1),
                None => from,
            };
            let (package, bytes) = package::pack(&run.id, file, driver)?;
            self.dashboard.put(&format!("api/packages/gcs/{package}"), bytes).await?;
            let job = name(&self.run, attempt);
            let submission = jobs::submission(run, &job, (&package, file), profile);
            let submission = submission.map_err(WorkerError::Configuration)?;
            match self.dashboard.post("api/jobs/", &submission.to_string()).await {
                Ok(_) => return Ok((job, true)),
                // somebody else's, or ours whose answer was lost: it lives, or is over already
                Err(Fault::AlreadyExists(_)) => from = attempt,
                Err(other) => return Err(other.into()),
            }
        }
        Err(WorkerError::Transient(format!(
            "run {}: others begin it, and each of their jobs has ended at once",
            self.run
        )))
    }

    /// Tells the job to end, if one lives; its name.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub async fn cancel(&self) -> Result<Option<String>, WorkerError> {
        let Some((job, seen)) = self.newest().await? else { return Ok(None) };
        if !seen.lives() {
            return Ok(None);
        }
        match self.dashboard.post(&format!("api/jobs/{job}/stop"), "").await {
            Ok(_) => Ok(Some(job)),
            Err(Fault::NotFound(_)) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// What the driver of the newest job has said; `None`: there is no job.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub async fn log(&self) -> Result<Option<(String, String)>, WorkerError> {
        let Some((job, _)) = self.newest().await? else { return Ok(None) };
        let reply = self.dashboard.get(&format!("api/jobs/{job}/logs")).await?;
        let log = jobs::log(&reply).map_err(|why| self.dashboard.is_none(&why))?;
        Ok(Some((job, log)))
    }

    /// What the cluster says of the run.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else.
    pub(super) async fn seen(&self) -> Result<Jobs, WorkerError> {
        let Some((job, seen)) = self.newest().await? else { return Ok(Jobs::default()) };
        let words = format!("{job} {}", seen.in_words());
        Ok(match seen.failure() {
            _ if seen.lives() => Jobs { live: words, ended: None },
            Some(code) => Jobs { live: String::new(), ended: Some(Ended { words, code }) },
            None => Jobs::default(),
        })
    }

    /// Which steps no node of the cluster has room for, in words. One that grows may have it later.
    ///
    /// # Errors
    /// A cluster that refuses, does not answer or says something else; amounts of memory that cannot be read.
    pub async fn without_room<'a>(
        &self,
        steps: impl Iterator<Item = &'a str>,
        profile: &Profile,
    ) -> Result<Vec<String>, WorkerError> {
        let nodes = self.nodes().await?;
        let mut said = Vec::new();
        for step in steps {
            let needs = Needs::of(step, profile).map_err(WorkerError::Configuration)?;
            said.extend(too_small(step, needs, &nodes));
        }
        let driver = Needs::of_driver(profile).map_err(WorkerError::Configuration)?;
        said.extend(driver.and_then(|needs| too_small("drive", needs, &nodes)));
        Ok(said)
    }

    async fn nodes(&self) -> Result<Vec<Needs>, WorkerError> {
        let reply = self.dashboard.get("api/v0/nodes?detail=1&limit=10000").await?;
        jobs::nodes(&reply).map_err(|why| self.dashboard.is_none(&why))
    }

    /// How people look at a job's log without this program.
    pub fn log_command(&self, job: &str) -> String {
        format!("ray job logs --address {} {job}", self.dashboard.address())
    }
}

/// What a cluster of this profile is like, each with whether a run fits.
///
/// # Errors
/// A cluster that refuses, does not answer or says something else.
pub async fn examine(profile: &Profile) -> Result<Vec<(&'static str, Result<String, String>)>, WorkerError> {
    let jobs = RayJobs::open("", profile, None)?;
    let mut found = vec![("ray", Ok(format!("{} at {}", jobs.version().await?, jobs.dashboard.address())))];
    let nodes = jobs.nodes().await?;
    let sum = |of: fn(&Needs) -> u64| nodes.iter().map(of).sum::<u64>();
    found.push(match nodes.is_empty() {
        true => ("nodes", Err("none is alive".to_owned())),
        false => (
            "nodes",
            Ok(format!(
                "{}, with {} CPUs and {} GPUs",
                manifests::words::count(nodes.len(), "node"),
                sum(|node| node.cpus.into()),
                sum(|node| node.gpus.into())
            )),
        ),
    });
    let named = profile.stage.keys().map(String::as_str).filter(|step| !["default", "drive"].contains(step));
    let without = jobs.without_room(named.chain(["default"]), profile).await?;
    found.push(match without.is_empty() {
        true => ("room", Ok("some node has what each step's processes need".to_owned())),
        false => ("room", Err(without.join("; "))),
    });
    Ok(found)
}
