//! A driver's way through tasks: each that is ready begins once there is room for it. Each driver goes all the way anew and
//! asks the stores what is done, so that it may die at any moment, and others may be on the way beside it.

mod end;
mod runs;
mod way;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use manifests::BuildSpec;
use workers::WorkerError;

use super::{Finished, Task, What};
use crate::ablate::Ablation;
use crate::build::Build;
use crate::engine::Engine;
use crate::pair::Pair;
use crate::progress::Progress;
use crate::run::Quarantined;
use crate::run_options::RunOptions;
use crate::sweep::Curve;
pub use end::TaskEnd;
use end::{Next, next};
use way::Way;

/// Times that a driver goes over all tasks whose sources or tables others keep changing.
const MOST_PASSES: usize = 3;

/// How often a driver looks whether there is room for a task.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What has become of a finished task.
pub enum Outcome<'a> {
    /// A build, with its rows that are out.
    Built(&'a Build, &'a [Quarantined]),
    /// An adaptation with its report.
    Adapted(&'a Pair, &'a Finished),
    /// A run of an ablation or of a sweep.
    Learnt,
    /// The table of an ablation, and where its page lies.
    Ablated(&'a Ablation, &'a str),
    /// The curves of a sweep, and where their page lies.
    Swept(&'a [Curve], &'a str),
}

/// Who starts what a task needs, and hears of it.
#[allow(async_fn_in_trait, reason = "one program drives, in one thread")]
pub trait Engines {
    /// Is there room for a further task beside so many that are under way?
    fn has_room(&self, under_way: usize) -> bool;

    /// The engine of a task.
    ///
    /// # Errors
    /// An engine that does not answer.
    async fn engine(&self, number: usize, task: &Task) -> Result<Engine, WorkerError>;

    /// A task is finished. One is told after the other.
    ///
    /// # Errors
    /// What is said cannot be written.
    async fn finished(&self, task: &Task, outcome: Outcome<'_>) -> Result<(), WorkerError>;

    /// A driver has come so far with a task.
    async fn ended(&self, number: usize, task: &Task, end: &TaskEnd);
}

/// What a driver is told.
pub struct Drive<'a> {
    /// All tasks.
    pub tasks: &'a [Task],
    /// How builds are run.
    pub options: &'a RunOptions,
    /// Set when the driver is to end.
    pub stop: &'a Arc<AtomicBool>,
    /// Who is told how far it is.
    pub progress: &'a Progress,
}

/// Goes through all tasks; how far each has come. One that fails holds up only those that need it.
///
/// A build looks again before it ends, and others are under way for long after: who has done anything looks at all of them
/// once more, and ends only when nothing is left to do.
///
/// # Errors
/// [`WorkerError::Stopped`].
pub async fn drive_all(drive: &Drive<'_>, engines: &impl Engines) -> Result<Vec<TaskEnd>, WorkerError> {
    let (mut ends, mut worked) = go_over(drive, engines).await?;
    // what was asked for once was done
    let options = RunOptions { retry_errors: false, retrain: false, ..drive.options.clone() };
    let drive = Drive { options: &options, ..*drive };
    for _ in 1..MOST_PASSES {
        if !worked || !has_changed(&drive, engines, &mut ends).await? {
            break;
        }
        (ends, worked) = go_over(&drive, engines).await?;
    }
    Ok(ends)
}

/// Has any build changed since it was finished? Of one that cannot be looked at its end says so.
async fn has_changed(drive: &Drive<'_>, engines: &impl Engines, ends: &mut [TaskEnd]) -> Result<bool, WorkerError> {
    // another driver comes, or somebody has to
    if drive.tasks.len() < 2 || !ends.iter().all(|end| matches!(end, TaskEnd::Done | TaskEnd::LeftOut)) {
        return Ok(false);
    }
    for (number, task) in drive.tasks.iter().enumerate() {
        let (What::Build(spec), TaskEnd::Done) = (&task.what, &ends[number]) else { continue };
        let progress = drive.progress.of_task(&task.name);
        let engine = engines.engine(number, task).await?;
        match crate::run::is_outdated(spec, drive.options, &engine, drive.stop, &progress).await {
            Ok(false) => {}
            Ok(true) => {
                progress.note("its source or tables were changed since it was finished: going over all tasks again");
                return Ok(true);
            }
            Err(WorkerError::Stopped) => return Err(WorkerError::Stopped),
            Err(error) => {
                drive.progress.note(&format!("error: {}: {error}", task.name));
                ends[number] = TaskEnd::Failed(error);
                engines.ended(number, task, &ends[number]).await;
            }
        }
    }
    Ok(false)
}

/// Goes through all tasks once; how far each has come, and whether anything was done.
async fn go_over(drive: &Drive<'_>, engines: &impl Engines) -> Result<(Vec<TaskEnd>, bool), WorkerError> {
    let way = Way::new(drive, engines);
    let mut ends: Vec<Option<TaskEnd>> = drive.tasks.iter().map(|_| None).collect();
    let mut begun = vec![false; drive.tasks.len()];
    // all in this one thread: whoever computes here holds the others' steps up, and no memory is needed for two of it
    let mut under_way = FuturesUnordered::new();
    let mut stopped = false;
    loop {
        for (number, task) in drive.tasks.iter().enumerate() {
            stopped |= drive.stop.load(Ordering::Relaxed);
            if stopped || begun[number] {
                continue;
            }
            match next(task, &ends, drive.options) {
                Next::Later => {}
                Next::Ready if !engines.has_room(under_way.len()) => {}
                Next::Ready => {
                    begun[number] = true;
                    let way = &way;
                    under_way.push(async move { (number, way.task(number, task).await) });
                }
                Next::Never(end) => {
                    begun[number] = true;
                    engines.ended(number, task, &end).await;
                    ends[number] = Some(end);
                }
            }
        }
        let ended = match tokio::time::timeout(LOOK_EVERY, under_way.next()).await {
            Ok(Some(ended)) => ended,
            Ok(None) if stopped => return Err(WorkerError::Stopped),
            Ok(None) => return Ok((ends.into_iter().flatten().collect(), way.has_worked())),
            // there may be room by now
            Err(_) => continue,
        };
        let (number, task) = (ended.0, &drive.tasks[ended.0]);
        let end = match ended.1 {
            Ok(end) => end,
            // the others hear of it, too
            Err(WorkerError::Stopped) => {
                stopped = true;
                continue;
            }
            Err(error) => {
                drive.progress.note(&format!("error: {}: {error}", task.name));
                TaskEnd::Failed(error)
            }
        };
        engines.ended(number, task, &end).await;
        ends[number] = Some(end);
    }
}

/// Every spec of a build among tasks.
pub(crate) fn builds(tasks: &[Task]) -> impl Iterator<Item = &BuildSpec> {
    tasks.iter().filter_map(|task| match &task.what {
        What::Build(spec) => Some(spec.as_ref()),
        _ => None,
    })
}
