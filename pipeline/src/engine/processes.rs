//! Workers as processes of this machine.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use manifests::words::count;
use tokio::process::Child;
use workers::WorkerError;
use workers::map::Observer;

use super::{MapJob, Placed};
use crate::build::Build;
use crate::launch::{PATIENCE, PERMANENT, child, terminate, wake};

/// Times that workers of one stage are started again before the driver gives up.
const MOST_RESTARTS: usize = 20;

/// How long a worker whose plan is closed may take to end.
const MOMENT: Duration = Duration::from_secs(3);
/// Longest pause before a worker is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Workers as processes of this machine, which end with the driver.
pub struct Processes {
    count: usize,
    pub(super) lease: Duration,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    stage: &'static str,
    by_index: BTreeMap<usize, Child>,
    /// Workers that found the plan closed.
    done: usize,
    restarts: usize,
    /// Nobody is started before.
    not_before: Option<Instant>,
    /// The spec as the workers read it.
    spec: Option<tempfile::TempDir>,
}

impl Processes {
    /// `count` workers, whose shards others take when they were silent for `lease`.
    pub fn new(count: usize, lease: Duration) -> Self {
        Self { count: count.max(1), lease, running: Mutex::default() }
    }

    /// How many there are at once.
    pub(crate) fn count(&self) -> usize {
        self.count
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
        let mut ended = Vec::new();
        for (index, worker) in &mut running.by_index {
            let status = worker.try_wait().map_err(|e| WorkerError::Transient(format!("worker {index}: {e}")))?;
            ended.extend(status.map(|status| (*index, status.code())));
        }
        for (index, code) in ended {
            running.by_index.remove(&index);
            match code {
                Some(0) => running.done += 1,
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
                    let how = code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
                    observer.note(&format!("{}: worker {index} {how}; starting another", job.stage));
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
        // more workers than shards would only wait
        let wanted = self.count.min(job.open_shards.max(running.by_index.len()));
        if running.by_index.is_empty() {
            running.done = 0;
        }
        for index in (0..self.count).filter(|index| !running.by_index.contains_key(index)).collect::<Vec<_>>() {
            if running.by_index.len() + running.done >= wanted {
                break;
            }
            let spec = match &running.spec {
                Some(folder) => folder.path().join("spec.toml"),
                None => {
                    let folder = tempfile::tempdir().map_err(|e| WorkerError::of_io(&std::env::temp_dir(), &e))?;
                    let spec = folder.path().join("spec.toml");
                    std::fs::write(&spec, build.spec.to_toml()).map_err(|e| WorkerError::of_io(&spec, &e))?;
                    running.spec = Some(folder);
                    spec
                }
            };
            let mut command = child(self.count)?;
            command.arg("worker").arg(&spec).args(["--stage", job.stage, "--plan", job.plan]);
            command.args(["--index", &index.to_string(), "--count", &self.count.to_string()]);
            command.args(["--lease-seconds", &self.lease.as_secs().max(1).to_string()]);
            let name = format!("worker {index} of {}", job.stage);
            let worker = command.spawn().map_err(|e| WorkerError::of_io(name.as_ref(), &e))?;
            running.by_index.insert(index, worker);
        }
        Ok(Placed::Waits)
    }

    /// Tells the workers to end, and waits for them: for as long as they may need to leave what they have begun where they were
    /// `stopped`, for a moment where their plan is closed.
    pub(super) async fn end(&self, stopped: bool) {
        let workers = {
            let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            running.stage = "";
            std::mem::take(&mut running.by_index)
        };
        for (_, mut worker) in workers {
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
