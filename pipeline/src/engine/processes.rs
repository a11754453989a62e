//! Workers as processes of this machine.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use manifests::words::count;
use tokio::process::Child;
use workers::WorkerError;
use workers::map::Observer;

use super::recorded::Recorded;
use super::slots::{Slot, Slots};
use super::{MapJob, Placed, TrainJob};
use crate::build::Build;
use crate::launch::{self, PATIENCE, PERMANENT, child, terminate, wake};
use crate::logs::TASK;
use crate::own_folder::OwnFolder;
use crate::progress::Progress;

/// Times that workers of one stage are started again before the driver gives up.
const MOST_RESTARTS: usize = 20;

/// How long after a worker has left, because nothing was to be had, another is tried: a shard may have been given back.
const BEFORE_ANOTHER: Duration = Duration::from_secs(2);

/// How long after a training was killed it is started again.
const BEFORE_TRAINING: Duration = Duration::from_secs(1);

/// How often somebody who waits for slots looks for them.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a worker whose plan is closed may take to end.
const MOMENT: Duration = Duration::from_secs(3);
/// Longest pause before a worker is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The spec as the workers read it.
const SPEC: &str = "spec.toml";

/// Workers as processes of this machine, which end with the driver.
pub struct Processes {
    slots: Arc<Slots>,
    /// One of several tasks that share the slots: its number among them, and its name. `None`: a build alone.
    task: Option<(usize, String)>,
    /// The run in whose records its processes leave word, by its name and that of what it builds.
    run: Option<(String, String)>,
    pub(super) lease: Duration,
    running: Mutex<Running>,
}

struct Worker {
    process: Child,
    _slot: Slot,
}

#[derive(Default)]
struct Running {
    stage: &'static str,
    by_index: BTreeMap<usize, Worker>,
    /// Workers that found the plan closed, or nothing to do in it.
    done: usize,
    /// When the last of them ended.
    done_at: Option<Instant>,
    restarts: usize,
    /// Workers that were killed, of which nobody has told the others.
    killed: Vec<usize>,
    /// Nobody is started before.
    not_before: Option<Instant>,
    /// The spec as the workers read it.
    spec: Option<OwnFolder>,
}

impl Processes {
    /// `count` workers, whose shards others take when they were silent for `lease`.
    pub fn new(count: usize, lease: Duration) -> Self {
        Self { slots: Slots::new(count), task: None, run: None, lease, running: Mutex::default() }
    }

    /// The same for one of several tasks, which share the slots: a worker that finds nothing to do leaves its slot to the
    /// others, and trainings take slots, too.
    pub fn of_task(slots: &Arc<Slots>, number: usize, name: &str, lease: Duration) -> Self {
        let task = Some((number, name.to_owned()));
        Self { slots: slots.clone(), task, run: None, lease, running: Mutex::default() }
    }

    /// The same, whose processes leave word in the records of a run of `home`.
    pub fn recorded(mut self, run: &str, home: &str) -> Self {
        self.run = Some((run.to_owned(), home.to_owned()));
        self
    }

    /// Name of the run in whose records its processes leave word.
    pub(super) fn recorded_run(&self) -> Option<&str> {
        self.run.as_ref().map(|(run, _)| run.as_str())
    }

    fn number(&self) -> usize {
        self.task.as_ref().map_or(0, |(number, _)| *number)
    }

    /// Runs a training in processes of its own, once there are slots for its ranks. One that is killed goes on from what it
    /// has saved.
    pub(super) async fn train(&self, job: &TrainJob<'_>, progress: &Progress) -> Result<Placed, WorkerError> {
        let folder = OwnFolder::new()?;
        let arguments = job.over.arguments(&folder)?;
        let recorded = self.run.as_ref().map(|(run, home)| Recorded::new(job, run, home));
        let ranks = job.ranks.processes.max(1);
        let siblings = if job.beside_others { self.slots.all() } else { ranks };
        let run = async || {
            let _slots = self.wait_for(ranks, job).await?;
            let mut arguments = arguments.clone();
            if let Some(recorded) = &recorded {
                arguments.extend(recorded.begin(ranks).await?);
            }
            match ranks {
                1 => launch::alone(job.step, siblings, &arguments, job.stop, progress).await,
                _ => launch::ranks(job.step, job.ranks, &arguments, job.stop, progress).await,
            }
        };
        let saved = async || workers::train::saved(job.work, &job.run).await;
        launch::again_where_killed(run, saved, BEFORE_TRAINING, progress).await?;
        Ok(Placed::Waits)
    }

    async fn wait_for(&self, slots: usize, job: &TrainJob<'_>) -> Result<Slot, WorkerError> {
        loop {
            if job.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            if let Some(slot) = self.slots.take(self.number(), slots) {
                return Ok(slot);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn place(
        &self,
        build: &Build,
        job: &MapJob<'_>,
        observer: &dyn Observer,
    ) -> Result<Placed, WorkerError> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if running.stage != job.stage {
            *running = Running { stage: job.stage, spec: running.spec.take(), ..Running::default() };
        }
        // asked for again below, if one is still wanted
        self.slots.give_up(self.number());
        let mut ended = Vec::new();
        for (index, worker) in &mut running.by_index {
            let status =
                worker.process.try_wait().map_err(|e| WorkerError::Transient(format!("worker {index}: {e}")))?;
            ended.extend(status.map(|status| (*index, status.code())));
        }
        for (index, code) in ended {
            running.by_index.remove(&index);
            match code {
                Some(0) => {
                    running.done += 1;
                    running.done_at = Some(Instant::now());
                }
                Some(PERMANENT) => {
                    return Err(WorkerError::Broken(format!(
                        "{}: worker {index} cannot go on; its message is above",
                        job.stage
                    )));
                }
                _ => {
                    running.restarts += 1;
                    let pause = Duration::from_secs(running.restarts as u64).min(LONGEST_PAUSE);
                    running.not_before = Some(Instant::now() + pause);
                    let how = match code {
                        Some(code) => format!("ended with {code}; starting another"),
                        None => {
                            running.killed.push(index);
                            "was killed; starting another".to_owned()
                        }
                    };
                    observer.note(&format!("{}: worker {index} {how}", job.stage));
                }
            }
        }
        if running.restarts > MOST_RESTARTS {
            return Err(WorkerError::Transient(format!(
                "{}: workers ended {}; their messages are above",
                job.stage,
                count(running.restarts, "time")
            )));
        }
        // what ended it, such as a full disk, may last
        if running.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(Placed::Waits);
        }
        let lately = running.done_at.is_some_and(|at| at.elapsed() < BEFORE_ANOTHER);
        if running.by_index.is_empty() || (self.task.is_some() && !lately) {
            running.done = 0;
        }
        // more workers than shards would only wait
        let wanted = match self.task {
            Some(_) if job.free_shards == 0 => 0,
            _ => self.slots.all().min(job.open_shards.max(running.by_index.len())),
        };
        let count = self.slots.all();
        for index in (0..count).filter(|index| !running.by_index.contains_key(index)).collect::<Vec<_>>() {
            if running.by_index.len() + running.done >= wanted {
                break;
            }
            let Some(slot) = self.slots.take(self.number(), 1) else { break };
            let spec = match &running.spec {
                Some(folder) => folder.path().join(SPEC),
                None => {
                    let folder = OwnFolder::new()?;
                    let spec = folder.write(&[(SPEC.to_owned(), build.spec.to_toml())])?;
                    running.spec = Some(folder);
                    spec
                }
            };
            let mut command = child(count)?;
            command.arg("worker").arg(&spec).args(["--stage", job.stage, "--plan", job.plan]);
            command.args(["--index", &index.to_string(), "--count", &count.to_string()]);
            command.args(["--lease-seconds", &self.lease.as_secs().max(1).to_string()]);
            if let Some((_, name)) = &self.task {
                command.arg("--leave").env(TASK, name);
            }
            if let Some((run, _)) = &self.run {
                command.args(["--run", run]);
            }
            let name = format!("worker {index} of {}", job.stage);
            let process = command.spawn().map_err(|e| WorkerError::of_io(name.as_ref(), &e))?;
            running.by_index.insert(index, Worker { process, _slot: slot });
        }
        Ok(Placed::Waits)
    }

    /// Names of workers that were killed since this was last asked. A launcher that was says nothing of the process that it
    /// stands for.
    pub(super) fn take_killed(&self) -> Vec<String> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let killed = std::mem::take(&mut running.killed);
        if launch::is_elsewhere() { Vec::new() } else { killed.iter().map(usize::to_string).collect() }
    }

    /// Tells the workers to end, and waits for them: for as long as they may need to leave what they have begun where they were
    /// `stopped`, for a moment where their plan is closed.
    pub(super) async fn end(&self, stopped: bool) {
        let workers = {
            let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            running.stage = "";
            std::mem::take(&mut running.by_index)
        };
        self.slots.give_up(self.number());
        for (_, Worker { process: mut worker, _slot }) in workers {
            // one that sees the plan closed ends by itself
            if !stopped && tokio::time::timeout(Duration::from_secs(1), worker.wait()).await.is_ok() {
                continue;
            }
            // one that somebody has suspended would not hear it
            worker.id().into_iter().for_each(wake);
            worker.id().into_iter().for_each(terminate);
            let patience = if stopped { PATIENCE } else { MOMENT };
            if tokio::time::timeout(patience, worker.wait()).await.is_err() {
                _ = worker.kill().await;
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.slots.give_up(self.number());
    }
}
