//! Adaptations and trainings of a driver: by its engine, in its own process, or in processes side by side.

use std::path::{Path, PathBuf};

use stages::Training;
use training::communicator::Solo;
use workers::WorkerError;
use workers::adapt::AdaptationRecord;

use super::{Engines, Task, TaskEnd, Way, What, state};
use crate::engine::{Engine, Placed, TrainJob};
use crate::given::GivenPair;
use crate::launch::{self, Job};
use crate::pair::Pair;
use crate::progress::Progress;

impl<E: Engines> Way<'_, E> {
    /// Where `number` is the first of several ready runs and workers are processes of this machine, makes those that are not
    /// finished in processes side by side.
    pub(super) async fn side_by_side(&mut self, number: usize, ends: &[TaskEnd]) -> Result<(), WorkerError> {
        let (tasks, options) = (self.drive.tasks, self.drive.options);
        let is_first = number == 0 || !tasks[number - 1].what.is_job();
        let ready = |task: &&Task| task.what.is_job() && state(task, ends, options).is_none();
        let ready: Vec<&Task> = tasks[number..].iter().take_while(ready).collect();
        if !is_first || ready.len() < 2 {
            return Ok(());
        }
        let Engine::Processes(processes) = self.engines.engine(number, ready[0]).await? else { return Ok(()) };
        if processes.count() < 2 {
            return Ok(());
        }
        let _lease = self.lease(ready[0]).await?;
        let folder = tempfile::tempdir().map_err(|e| WorkerError::of_io(&std::env::temp_dir(), &e))?;
        let mut jobs = Vec::new();
        for (at, task) in ready.into_iter().enumerate() {
            let arguments = match &task.what {
                What::Variant(of) if self.pair(of).await?.finished(&of.spec).await?.is_none() => {
                    let spec = write_pair(&folder.path().join(at.to_string()), of)?;
                    vec!["adapt".into(), spec.into(), "--json".into()]
                }
                What::Train(spec) if self.must_train(spec).await? => {
                    let path = folder.path().join(format!("{at}.toml"));
                    std::fs::write(&path, spec.to_toml()).map_err(|e| WorkerError::of_io(&path, &e))?;
                    vec!["train".into(), path.into(), Training::Pretrain.name().into()]
                }
                _ => continue,
            };
            jobs.push(Job { name: task.name.clone(), arguments });
        }
        launch::side_by_side(&jobs, processes.count(), self.drive.stop, self.drive.progress).await
    }
}

/// Writes the spec of a pair and those beside it; the path of the first.
fn write_pair(folder: &Path, of: &GivenPair) -> Result<PathBuf, WorkerError> {
    std::fs::create_dir_all(folder).map_err(|e| WorkerError::of_io(folder, &e))?;
    let (spec, beside) = of.files();
    for (name, text) in std::iter::once(("spec.toml".to_owned(), spec)).chain(beside) {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|e| WorkerError::of_io(&path, &e))?;
    }
    Ok(folder.join("spec.toml"))
}

/// Makes an adaptation; `None`: an engine has begun it, and somebody comes back.
pub(super) async fn adapt(
    pair: &Pair,
    of: &GivenPair,
    step: &'static str,
    engine: &Engine,
    progress: &Progress,
) -> Result<Option<AdaptationRecord>, WorkerError> {
    let job = TrainJob { step, work: &pair.target.work, stop: &pair.target.stop };
    let ranks = &pair.source.spec.ranks;
    match engine.train(job, progress).await? {
        Some(Placed::ComesBack) => return Ok(None),
        Some(Placed::Waits) => {}
        None if ranks.processes > 1 => {
            let folder = tempfile::tempdir().map_err(|e| WorkerError::of_io(&std::env::temp_dir(), &e))?;
            let spec = write_pair(folder.path(), of)?;
            launch::ranks(step, ranks, &["adapt".into(), spec.into(), "--json".into()], job.stop, progress).await?;
        }
        None => return pair.adapt(&of.spec, &mut Solo, progress).await,
    }
    match pair.finished(&of.spec).await? {
        Some(record) => Ok(Some(record)),
        None => Err(WorkerError::Transient(format!(
            "{}: its ranks have ended, and the store has no finished adaptation of these tables: others changed them meanwhile",
            pair.name
        ))),
    }
}
