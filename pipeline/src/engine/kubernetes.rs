//! Workers, ranks and drivers as jobs of a Kubernetes cluster.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engines::kubernetes::{self, JobState, Object, PROFILE_PATH, RUN_LABEL, STAGE_LABEL, Seen};
use engines::{Job, Profile, Run, Work};
use manifests::words::count;
use tokio::sync::Mutex;
use workers::WorkerError;

use super::kubectl::{Fault, Kubectl};
use super::{MapJob, Placed};

/// How often the server is asked: the store tells everything else.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Objects are typed and keep the rules: kubectl need not read the whole schema of the server first.
const UNCHECKED: &str = "--validate=false";
/// Times that a job is made again under one driver.
const MOST_ROUNDS: usize = 5;
/// How long a training waits for a node that is not heard of, before it goes on elsewhere.
const NODE_PATIENCE: Duration = Duration::from_secs(60);

/// Jobs of a run, by way of `kubectl`.
pub struct KubernetesEngine {
    kubectl: Kubectl,
    run: Run,
    profile: Profile,
    pub(super) lease: Duration,
    look_every: Duration,
    node_patience: Duration,
    placing: Mutex<Placing>,
}

/// What one driver knows of the plan that it has placed.
#[derive(Default)]
struct Placing {
    plan: String,
    job: Option<Job>,
    is_created: bool,
    looked: Option<Instant>,
    /// The job ended while shards were open: they may have been closed since.
    was_over: bool,
    rounds: usize,
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
        let (look_every, node_patience) = (LOOK_EVERY, NODE_PATIENCE);
        Self { kubectl, run, profile, lease, look_every, node_patience, placing: Mutex::default() }
    }

    /// Starts the driver, unless it runs, with the spec and the profile that all pods of the run read.
    ///
    /// # Errors
    /// Objects that no server takes, and a server that refuses them or is not reached.
    pub async fn submit(&self, step: &str) -> Result<(), WorkerError> {
        self.configure().await?;
        let driver = Job { step: step.to_owned(), work: Work::Drive };
        let is_new = self.create(&driver).await?;
        if !is_new && self.job(&driver).await?.is_some_and(|seen| seen.state.is_over()) {
            self.replace(&driver).await?;
        }
        Ok(())
    }

    /// What the server says of all jobs of the run.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn state(&self) -> Result<Vec<Seen>, WorkerError> {
        self.seen(&self.of_run()).await
    }

    /// Ends all jobs of the run: their processes are told to stop, and with `now` have a second for it.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn cancel(&self, now: bool) -> Result<(), WorkerError> {
        let label = self.of_run();
        let all = ["--selector", label.as_str(), "--ignore-not-found", "--wait=false"];
        self.kubectl.call(&[&["delete", "jobs", "--cascade=foreground"], &all[..]].concat(), None).await?;
        if now {
            self.kubectl.call(&[&["delete", "pods", "--grace-period=1"], &all[..]].concat(), None).await?;
        }
        Ok(())
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
        Ok(self.kubectl.lines(&arguments, line).await?)
    }

    /// Starts workers for a plan, unless they run.
    pub(super) async fn place(&self, map: &MapJob<'_>, note: &(dyn Fn(&str) + Sync)) -> Result<Placed, WorkerError> {
        let mut placing = self.placing.lock().await;
        if placing.plan != map.plan {
            *placing = Placing { plan: map.plan.to_owned(), job: Some(self.map_job(map)), ..Placing::default() };
        }
        if placing.looked.is_some_and(|at| at.elapsed() < self.look_every) {
            return Ok(Placed::Waits);
        }
        let Some(job) = placing.job.clone() else { return Ok(Placed::Waits) };
        placing.looked = Some(Instant::now());
        if !placing.is_created {
            self.configure_outside().await?;
            self.create(&job).await?;
            placing.is_created = true;
        }
        let seen = match self.job(&job).await {
            Ok(seen) => seen,
            // workers go on without the server, and so does the driver
            Err(error) if error.exit_code() == 75 => {
                say(&mut placing.said, &format!("{}: {error}", map.stage), note);
                return Ok(Placed::Waits);
            }
            Err(error) => return Err(error),
        };
        let Some(seen) = seen else {
            placing.is_created = false;
            return Ok(Placed::Waits);
        };
        say(&mut placing.said, &format!("{}: {} {}", map.stage, seen.name, seen.words), note);
        if !seen.state.is_over() || seen.state == JobState::Cancelled {
            placing.was_over = false;
            return Ok(Placed::Waits);
        }
        if !std::mem::replace(&mut placing.was_over, true) {
            return Ok(Placed::Waits);
        }
        // shards are open, and nobody is there for them; one that failed before this driver began may have been mended
        if seen.state == JobState::Failed && seen.is_permanent && placing.rounds > 0 {
            return Err(WorkerError::Broken(format!("{}: {} {}", map.stage, seen.name, seen.words)));
        }
        placing.rounds += 1;
        if placing.rounds > MOST_ROUNDS {
            return Err(too_often(map.stage, &seen));
        }
        placing.was_over = false;
        placing.job = Some(self.map_job(map));
        self.replace(&self.map_job(map)).await?;
        Ok(Placed::Waits)
    }

    /// Runs an attempt at a training after another until one ends well; whether that is enough the store says.
    pub(super) async fn train(
        &self,
        step: &str,
        stop: &AtomicBool,
        note: &(dyn Fn(&str) + Sync),
    ) -> Result<Placed, WorkerError> {
        self.configure_outside().await?;
        let (mut began, mut rounds, mut said) = (None::<u32>, 0, String::new());
        let mut lost_since = None::<Instant>;
        loop {
            let newest = match self.newest_attempt(step).await {
                Err(error) if error.exit_code() == 75 && began.is_some() => {
                    say(&mut said, &format!("{step}: {error}"), note);
                    self.pause(stop).await?;
                    continue;
                }
                newest => newest?,
            };
            if let Some((_, seen)) = &newest {
                say(&mut said, &format!("{step}: {} {}", seen.name, seen.words), note);
            }
            match &newest {
                Some((attempt, seen)) if began == Some(*attempt) && seen.state == JobState::Succeeded => {
                    return Ok(Placed::Waits);
                }
                Some((attempt, seen))
                    if began == Some(*attempt) && seen.state == JobState::Failed && seen.is_permanent =>
                {
                    return Err(WorkerError::Broken(format!("{step}: {} {}", seen.name, seen.words)));
                }
                Some((attempt, seen)) if !seen.state.is_over() => {
                    began = Some(*attempt);
                    let is_lost = seen.state == JobState::NodeLost;
                    lost_since = is_lost.then(|| lost_since.unwrap_or_else(Instant::now));
                    if lost_since.is_none_or(|since| since.elapsed() < self.node_patience) {
                        self.pause(stop).await?;
                        continue;
                    }
                    // nobody comes for the rank on a lost node: all begin again from what they saved
                    self.delete(&seen.name).await?;
                }
                _ => {}
            }
            rounds += 1;
            if let Some((_, seen)) = newest.as_ref().filter(|_| rounds > MOST_ROUNDS) {
                return Err(too_often(step, seen));
            }
            let attempt = newest.map_or(1, |(attempt, _)| attempt.saturating_add(1));
            self.create(&self.train_job(step, attempt)).await?;
            (began, lost_since) = (Some(attempt), None);
        }
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

    /// Name of the run.
    pub(crate) fn run_id(&self) -> &str {
        &self.run.id
    }

    fn of_run(&self) -> String {
        format!("{RUN_LABEL}={}", self.run.id)
    }

    fn of_step(&self, step: &str) -> String {
        format!("{},{STAGE_LABEL}={step}", self.of_run())
    }

    /// Gives the run's pods their spec and profile, the newest if there are older ones.
    ///
    /// # Errors
    /// A server that refuses or is not reached.
    pub async fn configure(&self) -> Result<(), WorkerError> {
        let object = [kubernetes::config_map(&self.run, &self.profile)];
        if !self.create_objects(&object).await? {
            self.kubectl.call(&["replace", UNCHECKED, "--filename=-"], Some(&yaml(&object))).await?;
        }
        Ok(())
    }

    /// The same for a driver that was not submitted. One that was has read them itself, and has no right to change them.
    async fn configure_outside(&self) -> Result<(), WorkerError> {
        if Path::new(PROFILE_PATH).exists() { Ok(()) } else { self.configure().await }
    }

    /// Creates a job; `false`: there is one of its name.
    async fn create(&self, job: &Job) -> Result<bool, WorkerError> {
        self.create_objects(&[kubernetes::job(&self.run, job, &self.profile)]).await
    }

    async fn create_objects(&self, objects: &[Object]) -> Result<bool, WorkerError> {
        let problems = kubernetes::problems(objects);
        if !problems.is_empty() {
            return Err(WorkerError::Configuration(problems.join("; ")));
        }
        match self.kubectl.call(&["create", UNCHECKED, "--filename=-"], Some(&yaml(objects))).await {
            Ok(_) => Ok(true),
            Err(Fault::AlreadyExists(_)) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// Makes a job that has ended again.
    async fn replace(&self, job: &Job) -> Result<(), WorkerError> {
        self.delete(&job.name(&self.run)).await?;
        self.create(job).await?;
        Ok(())
    }

    /// Deletes a job at once; its pods follow, also those of a node that is not heard of.
    async fn delete(&self, name: &str) -> Result<(), WorkerError> {
        let arguments = ["delete", "job", name, "--cascade=background", "--ignore-not-found"];
        self.kubectl.call(&arguments, None).await?;
        Ok(())
    }

    async fn job(&self, job: &Job) -> Result<Option<Seen>, WorkerError> {
        let name = job.name(&self.run);
        Ok(self.seen(&self.of_step(&job.step)).await?.into_iter().find(|seen| seen.name == name))
    }

    /// The newest attempt at a training, by number.
    async fn newest_attempt(&self, step: &str) -> Result<Option<(u32, Seen)>, WorkerError> {
        let attempt = |seen: Seen| Some((seen.name.rsplit_once("-train")?.1.parse().ok()?, seen));
        let all = self.seen(&self.of_step(step)).await?.into_iter().filter_map(attempt);
        Ok(all.max_by_key(|(attempt, _)| *attempt))
    }

    async fn seen(&self, label: &str) -> Result<Vec<Seen>, WorkerError> {
        let get = |kind: &'static str| ["get", kind, "--selector", label, "--output=json"];
        let jobs = self.kubectl.call(&get("jobs"), None).await?;
        let pods = self.kubectl.call(&get("pods"), None).await?;
        kubernetes::read(&jobs, &pods).map_err(|why| WorkerError::Broken(format!("kubectl get: {why}")))
    }
}

fn yaml(objects: &[Object]) -> String {
    kubernetes::render(&objects.iter().map(Object::to_json).collect::<Vec<_>>())
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
