//! Workers, ranks and drivers as jobs of a Kubernetes cluster.

mod placed;
mod server;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engines::kubernetes::{self, JobState, PROFILE_PATH, RUN_LABEL, STAGE_LABEL, Seen};
use engines::{Job, Profile, Run, Work};
use manifests::words::count;
use tokio::sync::Mutex;
use workers::WorkerError;
use workers::stores::WorkStore;

pub(super) use placed::check_wanted;
use placed::{begin, begin_again};
use server::Server;

use super::kubectl::Kubectl;
use super::{MapJob, Placed};
use crate::run_record::RunRecord;

/// How often the server is asked: the store tells everything else.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Times that a job is made again under one driver.
const MOST_ROUNDS: usize = 5;
/// How long a step waits for a node that is not heard of, before it goes on elsewhere.
const NODE_PATIENCE: Duration = Duration::from_secs(60);

/// Jobs of a run, by way of `kubectl`.
pub struct KubernetesEngine {
    server: Server,
    run: Run,
    profile: Profile,
    pub(super) lease: Duration,
    look_every: Duration,
    node_patience: Duration,
    placing: Mutex<Placing>,
}

/// What follows from what the server has said. That it said nothing is another error, and may pass.
type Verdict<T> = Result<T, WorkerError>;

/// What one driver knows of the plan that it has placed.
#[derive(Default)]
struct Placing {
    plan: String,
    job: Option<Job>,
    is_created: bool,
    looked: Option<Instant>,
    /// The job ended while shards were open: they may have been closed since.
    was_over: bool,
    /// Since when none of its pods runs, and the node of one is not heard of.
    lost_since: Option<Instant>,
    rounds: usize,
    said: String,
}

/// What one driver knows of the attempts at a training.
#[derive(Default)]
struct Attempts {
    /// The newest that it has begun, or has seen before its end.
    began: Option<u32>,
    /// How many it has begun.
    rounds: usize,
    lost_since: Option<Instant>,
    said: String,
}

impl KubernetesEngine {
    /// Jobs of this run, with what a profile says of them.
    pub fn new(run: Run, profile: Profile) -> Self {
        let kubectl = Kubectl::find(&profile.kubernetes.namespace);
        Self::with(kubectl, run, profile)
    }

    /// The same by another program.
    pub fn with(kubectl: Kubectl, run: Run, profile: Profile) -> Self {
        let lease = Duration::from_secs(profile.lease_seconds.max(1));
        Self {
            server: Server::new(kubectl),
            run,
            profile,
            lease,
            look_every: LOOK_EVERY,
            node_patience: NODE_PATIENCE,
            placing: Mutex::default(),
        }
    }

    /// Starts the driver, with the spec and the profile that all pods of the run read; `false`: it runs already, and what it
    /// reads stays as it is.
    ///
    /// # Errors
    /// Objects that no server takes, and a server that refuses them or is not reached.
    pub async fn submit(&self, step: &str) -> Result<bool, WorkerError> {
        let driver = Job { step: step.to_owned(), work: Work::Drive };
        let known = self.job(&driver).await?;
        if known.as_ref().is_some_and(|seen| !seen.state.is_over()) {
            return Ok(false);
        }
        self.configure().await?;
        if known.is_some() {
            self.server.delete(&driver.name(&self.run)).await?;
        }
        self.create(&driver).await
    }

    /// What the server says of all jobs of the run.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn state(&self) -> Result<Vec<Seen>, WorkerError> {
        self.server.seen(&self.of_run()).await
    }

    /// Ends all jobs of the run: their processes are told to stop, and with `now` have a second for it.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn cancel(&self, now: bool) -> Result<(), WorkerError> {
        self.server.end(&self.of_run(), now).await
    }

    /// What the processes of the run, or of one step, have printed, by line.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn logs(&self, step: Option<&str>, follow: bool, line: impl FnMut(&str)) -> Result<(), WorkerError> {
        let label = step.map_or(self.of_run(), |step| self.of_step(step));
        let most = self.profile.kubernetes.max_workers.max(1).saturating_add(1).to_string();
        let most = format!("--max-log-requests={most}");
        let mut arguments = vec!["logs", "--selector", &label, "--prefix", "--ignore-errors", "--tail=-1", &most];
        arguments.extend(follow.then_some("--follow"));
        self.server.lines(&arguments, line).await
    }

    /// Starts workers for a plan, unless they run.
    pub(super) async fn place(
        &self,
        map: &MapJob<'_>,
        record: &RunRecord<'_>,
        note: &(dyn Fn(&str) + Sync),
    ) -> Result<Placed, WorkerError> {
        let mut placing = self.placing.lock().await;
        if placing.plan != map.plan {
            *placing = Placing { plan: map.plan.to_owned(), job: Some(self.map_job(map)), ..Placing::default() };
        }
        if placing.looked.is_some_and(|at| at.elapsed() < self.look_every) {
            return Ok(Placed::Waits);
        }
        let Some(job) = placing.job.clone() else { return Ok(Placed::Waits) };
        placing.looked = Some(Instant::now());
        match self.look(map, &job, (record, &mut *placing), note).await {
            Ok(verdict) => verdict?,
            Err(error) if self.server.passes(&error) => {
                say(&mut placing.said, &format!("{}: {error}", map.stage), note);
            }
            Err(error) => return Err(error),
        }
        Ok(Placed::Waits)
    }

    /// Creates the job, unless it is there, and makes it again where it has ended before its plan.
    async fn look(
        &self,
        map: &MapJob<'_>,
        job: &Job,
        (record, placing): (&RunRecord<'_>, &mut Placing),
        note: &(dyn Fn(&str) + Sync),
    ) -> Result<Verdict<()>, WorkerError> {
        if !placing.is_created {
            if let Err(error) = check_wanted(record).await {
                return Ok(Err(error));
            }
            self.configure_outside().await?;
            if let Err(error) = self.create_wanted(job, record).await? {
                return Ok(Err(error));
            }
            placing.is_created = true;
        }
        let Some(seen) = self.job(job).await? else {
            placing.is_created = false;
            return Ok(Ok(()));
        };
        say(&mut placing.said, &format!("{}: {} {}", map.stage, seen.name, seen.words), note);
        let is_lost = seen.state == JobState::NodeLost && seen.running == 0;
        placing.lost_since = is_lost.then(|| placing.lost_since.unwrap_or_else(Instant::now));
        // nobody comes for the pods of a lost node before the server forgets it
        let is_given_up = placing.lost_since.is_some_and(|since| since.elapsed() >= self.node_patience);
        if !is_given_up {
            if !seen.state.is_over() || seen.state == JobState::Cancelled {
                placing.was_over = false;
                return Ok(Ok(()));
            }
            if !std::mem::replace(&mut placing.was_over, true) {
                return Ok(Ok(()));
            }
        }
        // shards are open, and nobody is there for them; one that failed before this driver began may have been mended
        if seen.state == JobState::Failed && seen.is_permanent && placing.rounds > 0 {
            return Ok(Err(WorkerError::Broken(format!("{}: {} {}", map.stage, seen.name, seen.words))));
        }
        placing.rounds += 1;
        if placing.rounds > MOST_ROUNDS {
            return Ok(Err(too_often(map.stage, &seen)));
        }
        if let Err(error) = begin_again(record, map).await {
            return Ok(Err(error));
        }
        (placing.was_over, placing.lost_since) = (false, None);
        let job = self.map_job(map);
        placing.job = Some(job.clone());
        self.server.delete(&job.name(&self.run)).await?;
        self.create_wanted(&job, record).await
    }

    /// Runs an attempt at a training after another until one ends well; whether that is enough the store says.
    pub(super) async fn train(
        &self,
        step: &str,
        (record, stop): (&RunRecord<'_>, &AtomicBool),
        note: &(dyn Fn(&str) + Sync),
    ) -> Result<Placed, WorkerError> {
        let mut attempts = Attempts::default();
        loop {
            match self.attend(step, (record, &mut attempts), note).await {
                Ok(verdict) => {
                    if verdict? {
                        return Ok(Placed::Waits);
                    }
                }
                Err(error) if self.server.passes(&error) => {
                    say(&mut attempts.said, &format!("{step}: {error}"), note);
                }
                Err(error) => return Err(error),
            }
            self.pause(stop).await?;
        }
    }

    /// Looks at the newest attempt, and begins another where that has ended; `true`: one that this driver has seen ended well.
    async fn attend(
        &self,
        step: &str,
        (record, attempts): (&RunRecord<'_>, &mut Attempts),
        note: &(dyn Fn(&str) + Sync),
    ) -> Result<Verdict<bool>, WorkerError> {
        if attempts.began.is_none() {
            self.configure_outside().await?;
        }
        let newest = self.newest_attempt(step).await?;
        if let Some((attempt, seen)) = &newest {
            say(&mut attempts.said, &format!("{step}: {} {}", seen.name, seen.words), note);
            let is_own = attempts.began == Some(*attempt);
            match seen.state {
                JobState::Succeeded if is_own => return Ok(Ok(true)),
                JobState::Failed if is_own && seen.is_permanent => {
                    return Ok(Err(WorkerError::Broken(format!("{step}: {} {}", seen.name, seen.words))));
                }
                // whoever deletes it may be ending the run; what follows comes when it is gone
                JobState::Cancelled => return Ok(check_wanted(record).await.map(|()| false)),
                state if !state.is_over() => {
                    attempts.began = Some(*attempt);
                    let is_lost = state == JobState::NodeLost;
                    attempts.lost_since = is_lost.then(|| attempts.lost_since.unwrap_or_else(Instant::now));
                    if attempts.lost_since.is_none_or(|since| since.elapsed() < self.node_patience) {
                        return Ok(Ok(false));
                    }
                    // nobody comes for the rank on a lost node: all begin again from what they saved
                    self.server.delete(&seen.name).await?;
                }
                _ => {}
            }
            if attempts.rounds == MOST_ROUNDS {
                return Ok(Err(too_often(step, seen)));
            }
        }
        // one that somebody has deleted was an attempt, too
        let last = newest.map(|(attempt, _)| attempt).max(attempts.began);
        let attempt = last.map_or(1, |attempt| attempt.saturating_add(1));
        if let Err(error) = begin(record, step, "", attempt).await {
            return Ok(Err(error));
        }
        if let Err(error) = self.create_wanted(&self.train_job(step, attempt), record).await? {
            return Ok(Err(error));
        }
        *attempts = Attempts {
            began: Some(attempt),
            rounds: attempts.rounds + 1,
            said: std::mem::take(&mut attempts.said),
            ..Attempts::default()
        };
        Ok(Ok(false))
    }

    async fn pause(&self, stop: &AtomicBool) -> Result<(), WorkerError> {
        let until = Instant::now() + self.look_every;
        while Instant::now() < until {
            if stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            tokio::time::sleep(Duration::from_millis(100).min(self.look_every)).await;
        }
        Ok(())
    }

    fn map_job(&self, map: &MapJob<'_>) -> Job {
        let wanted = self.profile.resources(map.stage).workers.min(self.profile.kubernetes.max_workers);
        // more workers than shards would only wait
        let workers = wanted.min(u32::try_from(map.open_shards).unwrap_or(u32::MAX)).max(1);
        let work = Work::Map { plan: map.plan.to_owned(), workers, lease_seconds: self.lease.as_secs().max(1) };
        Job { step: map.stage.to_owned(), work }
    }

    fn train_job(&self, step: &str, attempt: u32) -> Job {
        let resources = self.profile.training(step);
        let nodes = resources.workers.max(1);
        Job { step: step.to_owned(), work: Work::Train { attempt, nodes, ranks_per_node: resources.gpus.max(1) } }
    }

    /// The run whose jobs these are.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// What is written down of it in a work store.
    pub(super) fn record<'a>(&self, work: &'a WorkStore) -> RunRecord<'a> {
        RunRecord::new(work, &self.run.country, &self.run.id)
    }

    fn of_run(&self) -> String {
        format!("{RUN_LABEL}={}", self.run.id)
    }

    fn of_step(&self, step: &str) -> String {
        format!("{},{STAGE_LABEL}={step}", self.of_run())
    }

    /// Gives the run's pods their spec and profile, the newest if there are older ones. While its driver, or that of all
    /// tasks, is on the cluster, what they read stays as it is.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn configure(&self) -> Result<(), WorkerError> {
        let object = [kubernetes::config_map(&self.run, &self.profile)];
        if !self.server.create(&object).await? && !self.is_driven().await? {
            self.server.replace(&object).await?;
        }
        Ok(())
    }

    /// Is there a driver of the run, or of all tasks, that has not ended?
    async fn is_driven(&self) -> Result<bool, WorkerError> {
        let of_all = self.server.seen(&format!("{RUN_LABEL}={}", self.run.driven())).await?;
        Ok(of_all.iter().any(|seen| seen.name.ends_with("-drive") && !seen.state.is_over()))
    }

    /// The same for a driver that was not submitted. One that was has read them itself, and has no right to change them.
    async fn configure_outside(&self) -> Result<(), WorkerError> {
        if Path::new(PROFILE_PATH).exists() { Ok(()) } else { self.configure().await }
    }

    /// Creates a job; `false`: there is one of its name.
    async fn create(&self, job: &Job) -> Result<bool, WorkerError> {
        self.server.create(&[kubernetes::job(&self.run, job, &self.profile)]).await
    }

    /// Creates a job, and takes it away again where somebody has cancelled the run meanwhile: they may have ended its
    /// jobs before this one was among them.
    async fn create_wanted(&self, job: &Job, record: &RunRecord<'_>) -> Result<Verdict<()>, WorkerError> {
        self.create(job).await?;
        let wanted = check_wanted(record).await;
        if let Err(WorkerError::Stopped) = wanted {
            self.server.delete(&job.name(&self.run)).await?;
        }
        Ok(wanted)
    }

    async fn job(&self, job: &Job) -> Result<Option<Seen>, WorkerError> {
        let name = job.name(&self.run);
        Ok(self.server.seen(&self.of_step(&job.step)).await?.into_iter().find(|seen| seen.name == name))
    }

    /// The newest attempt at a training, by number.
    async fn newest_attempt(&self, step: &str) -> Result<Option<(u32, Seen)>, WorkerError> {
        let attempt = |seen: Seen| Some((seen.name.rsplit_once("-train")?.1.parse().ok()?, seen));
        let all = self.server.seen(&self.of_step(step)).await?.into_iter().filter_map(attempt);
        Ok(all.max_by_key(|(attempt, _)| *attempt))
    }
}

fn too_often(step: &str, seen: &Seen) -> WorkerError {
    WorkerError::Transient(format!(
        "{step}: jobs were made again {}, and the last one {}",
        count(MOST_ROUNDS, "time"),
        seen.words
    ))
}

/// Says what has changed.
fn say(said: &mut String, text: &str, note: &(dyn Fn(&str) + Sync)) {
    if said != text {
        note(text);
        text.clone_into(said);
    }
}

#[cfg(test)]
mod tests;
