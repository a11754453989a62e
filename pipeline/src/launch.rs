//! Processes of this program that this program starts: the ranks of a training, as a cluster's launcher would, and
//! runs side by side.

use manifests::spec::RanksSpec;
use manifests::words::count;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use workers::WorkerError;

use crate::logs::TASK;
use crate::own_folder::OwnFolder;
use crate::progress::Progress;

/// How long a rank may take to end after it was told to stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code of an error that trying again does not cure.
pub(crate) const PERMANENT: i32 = 65;
/// Exit codes after which a training ends in the same way again: 101 is a panic, and 2 says that a command is not understood.
fn is_permanent(code: i32) -> bool {
    [PERMANENT, 101, 2].contains(&code)
}

/// Set for processes that this program has started: their standard input ends when it is gone.
const LAUNCHED: &str = "URBANCROSS_LAUNCHED";

/// Names a program that is given the words of this one for each of its children, and ends as they do: it runs them elsewhere.
const LAUNCHER: &str = "URBANCROSS_LAUNCHER";

/// Whether this program has started this process: then its parent speaks to people.
pub fn launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// Sets `stop` when the launcher of this process ends without having waited for it: nobody else would tell this rank,
/// and its run would be taken. Does nothing in a process that was not launched.
pub fn stop_with_launcher(stop: std::sync::Arc<AtomicBool>) {
    if !launched() {
        return;
    }
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}

/// A command of this program over specs, which are written down for it.
pub(crate) struct OverSpec {
    /// Such as `train`.
    pub command: &'static str,
    /// Files by name: the spec that it is given, then those beside it.
    pub files: Vec<(String, String)>,
    /// What is said behind the spec.
    pub rest: Vec<String>,
}

impl OverSpec {
    /// The command as arguments, with its files in a folder.
    pub(crate) fn arguments(&self, folder: &OwnFolder) -> Result<Vec<OsString>, WorkerError> {
        let spec = folder.write(&self.files)?;
        Ok([self.command.into(), spec.into()].into_iter().chain(self.rest.iter().map(OsString::from)).collect())
    }
}

/// Times in a row that a training is started without saving anything more, before the driver gives up.
const MOST_IN_VAIN: usize = 3;

/// Runs a training as so many processes of this program as its spec says, which meet over the loopback device.
pub(crate) async fn train(
    (step, of): (&'static str, &RanksSpec),
    over: &OverSpec,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let folder = OwnFolder::new()?;
    ranks(step, of, &over.arguments(&folder)?, stop, progress).await
}

/// Runs a training again and again where one of its processes was killed: it goes on from what it has `saved`, a text that
/// changes whenever that is more.
///
/// # Errors
/// What ended it, where another try does not help, or several in a row came no further.
pub(crate) async fn again_where_killed(
    run: impl AsyncFn() -> Result<(), WorkerError>,
    saved: impl AsyncFn() -> Result<String, WorkerError>,
    pause: Duration,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let (mut before, mut in_vain) = (saved().await?, 0);
    loop {
        let why = match run().await {
            Err(WorkerError::Transient(why)) => why,
            ended => return ended,
        };
        let now = saved().await?;
        in_vain = if now == before { in_vain + 1 } else { 0 };
        before = now;
        if in_vain == MOST_IN_VAIN {
            return Err(WorkerError::Transient(format!("{why}; {in_vain} tries in a row saved nothing more")));
        }
        progress.note(&format!("warning: {why}; it goes on from what it has saved"));
        tokio::time::sleep(pause).await;
    }
}

/// Runs a command of this program in a process of its own, which has the cores that are left to it beside `siblings - 1`
/// others.
pub(crate) async fn alone(
    name: &str,
    siblings: usize,
    arguments: &[OsString],
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let mut command = child(siblings)?;
    // whatever this process is one of: the child is alone
    ["RANK", "WORLD_SIZE", workers::rank_env::RENDEZVOUS].iter().for_each(|name| _ = command.env_remove(name));
    let started = command.env(TASK, progress.task()).args(arguments).spawn();
    let mut process = started.map_err(|e| WorkerError::of_io(name.as_ref(), &e))?;
    let mut stop_sent = None;
    loop {
        let status = process.try_wait().map_err(|e| WorkerError::Transient(format!("{name}: {e}")))?;
        let stopped = stop.load(Ordering::Relaxed);
        match status.map(|status| status.code()) {
            Some(_) if stopped => return Err(WorkerError::Stopped),
            Some(Some(0)) => return Ok(()),
            Some(code) => return Err(failed(name, code)),
            None => {}
        }
        if stopped {
            let since: Instant = *stop_sent.get_or_insert_with(|| {
                process.id().into_iter().for_each(terminate);
                Instant::now()
            });
            if since.elapsed() > PATIENCE {
                return Err(WorkerError::Stopped); // it is killed as it is dropped
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a command of this program as the ranks of `name`, which meet over the loopback device.
pub(crate) async fn ranks(
    name: &str,
    spec: &RanksSpec,
    arguments: &[OsString],
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let ranks = spec.processes;
    progress.note(&format!("{name:21} {} on this machine", count(ranks, "rank")));
    let port = free_port().map_err(|e| WorkerError::Transient(format!("no free port: {e}")))?;
    // others may have accounts on this machine
    let secret = workers::rank_env::new_secret()?;
    let mut children = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        let mut command = rank_of(rank, ranks, port, &secret)?;
        let rank_of = format!("rank {rank} of {name}");
        let started = command.env(TASK, progress.task()).args(arguments).spawn();
        children.push(started.map_err(|e| WorkerError::of_io(rank_of.as_ref(), &e))?);
    }
    wait(children, name, spec.timeout_seconds, stop).await
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// This program as one of several ranks, which meet at a port of this machine.
fn rank_of(rank: usize, ranks: usize, port: u16, secret: &str) -> Result<Command, WorkerError> {
    let mut command = child(ranks)?;
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string()).env("WORLD_SIZE", ranks.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    // they meet here, whatever name this process was given for another meeting
    command.env(workers::rank_env::SECRET, secret).env_remove(workers::rank_env::RENDEZVOUS);
    Ok(command)
}

/// Does another program stand for the processes that are started?
pub(crate) fn is_elsewhere() -> bool {
    std::env::var_os(LAUNCHER).is_some()
}

/// This program once more, beside `siblings - 1` others.
pub(crate) fn child(siblings: usize) -> Result<Command, WorkerError> {
    let program: PathBuf = match std::env::var_os(LAUNCHER) {
        Some(launcher) => launcher.into(),
        None => std::env::current_exe().map_err(|e| WorkerError::Configuration(format!("this program: {e}")))?,
    };
    let mut command = Command::new(&program);
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        // they share the cores rather than fight for them
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        command.env("RAYON_NUM_THREADS", (cores / siblings).max(1).to_string());
    }
    if crate::logs::is_json() {
        command.env(crate::logs::FORMAT, "json");
    }
    command.env(LAUNCHED, "1").stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    // Ctrl-C reaches this process alone, which tells its children once: a second signal would end them without a
    // checkpoint
    #[cfg(unix)]
    command.process_group(0);
    Ok(command)
}

/// A command of this program, to be run in a process of its own.
pub struct Job {
    /// What is said of it.
    pub name: String,
    pub arguments: Vec<OsString>,
}

/// Runs jobs in processes of their own, `at_once` at a time, and tells the rate. Once one fails or `stop` is set no
/// more are started, those that run are told to save and end, and the first failure is returned.
pub async fn side_by_side(
    jobs: &[Job],
    at_once: usize,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let began = Instant::now();
    let (mut waiting, mut running, mut done) = (jobs.iter(), Vec::new(), 0);
    let (mut failure, mut stop_sent) = (None, None);
    loop {
        let ending = failure.is_some() || stop.load(Ordering::Relaxed);
        while !ending && running.len() < at_once.max(1) {
            let Some(job) = waiting.next() else { break };
            let started = child(at_once.max(1))?.args(&job.arguments).spawn();
            let process = started.map_err(|e| WorkerError::of_io(job.name.as_ref(), &e))?;
            running.push((job, process));
        }
        if running.is_empty() {
            break;
        }
        let mut still = Vec::with_capacity(running.len());
        for (job, mut process) in running {
            let status = process.try_wait().map_err(|e| WorkerError::Transient(format!("{}: {e}", job.name)))?;
            match status.map(|status| status.code()) {
                None => still.push((job, process)),
                Some(Some(0)) => {
                    done += 1;
                    let seconds = began.elapsed().as_secs_f64();
                    let left = seconds / done as f64 * (jobs.len() - done) as f64;
                    progress.note(&format!("{} of {}: {}; about {left:.0} s left", done, jobs.len(), job.name));
                }
                Some(code) => _ = failure.get_or_insert_with(|| failed(&job.name, code)),
            }
        }
        running = still;
        if failure.is_some() || stop.load(Ordering::Relaxed) {
            let since = *stop_sent.get_or_insert_with(|| {
                running.iter().filter_map(|(_, process)| process.id()).for_each(terminate);
                Instant::now()
            });
            if since.elapsed() > PATIENCE {
                break; // what is left is killed as it is dropped
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match failure {
        _ if stop.load(Ordering::Relaxed) => Err(WorkerError::Stopped),
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// What a job's exit code other than 0 comes to; `None`: it was killed.
fn failed(name: &str, code: Option<i32>) -> WorkerError {
    match code {
        Some(code) if is_permanent(code) => WorkerError::Broken(format!("{name}: cannot go on; its message is above")),
        Some(_) => WorkerError::Transient(format!("{name}: ended; its message is above")),
        None => WorkerError::Transient(format!("{name}: was killed")),
    }
}

/// Waits for all ranks. Once one has failed the others find out within the time-out; a rank that has not ended a second
/// time-out later hangs itself, and is killed.
async fn wait(
    mut children: Vec<Child>,
    name: &str,
    timeout_seconds: u64,
    stop: &AtomicBool,
) -> Result<(), WorkerError> {
    let patience = Duration::from_secs(timeout_seconds) * 2;
    let mut ends: Vec<Option<End>> = vec![None; children.len()];
    let (mut stop_sent, mut failed) = (None, None);
    while ends.contains(&None) {
        for (rank, child) in children.iter_mut().enumerate() {
            let status = child.try_wait().map_err(|e| WorkerError::Transient(format!("rank {rank}: {e}")))?;
            let end = status.map(|status| status.code().map_or(End::Killed, End::Code));
            ends[rank] = ends[rank].or(end);
        }
        if stop.load(Ordering::Relaxed) {
            let since = *stop_sent.get_or_insert_with(|| {
                children.iter().filter_map(Child::id).for_each(terminate);
                Instant::now()
            });
            if since.elapsed() > PATIENCE {
                return Err(WorkerError::Stopped);
            }
        }
        if ends.iter().flatten().any(|end| *end != End::Code(0))
            && failed.get_or_insert_with(Instant::now).elapsed() > patience
        {
            for (end, child) in ends.iter_mut().zip(&mut children).filter(|(end, _)| end.is_none()) {
                // an error would be that it has just ended by itself; what sleeps in the kernel may not even die
                _ = tokio::time::timeout(Duration::from_secs(5), child.kill()).await;
                *end = Some(End::Hung);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(WorkerError::Stopped);
    }
    verdict(name, &ends.into_iter().flatten().collect::<Vec<_>>())
}

/// How a rank ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Killed,
    /// It did not end with the others, and was killed.
    Hung,
}

/// What the ends of all ranks come to. The one to report is the one that the others only followed: a rank that was
/// killed, or else one that cannot go on.
fn verdict(name: &str, ends: &[End]) -> Result<(), WorkerError> {
    let rank_that = |wanted: End| ends.iter().position(|end| *end == wanted);
    if let Some(rank) = rank_that(End::Killed) {
        return Err(WorkerError::Transient(format!("{name}: rank {rank} was killed, and all others ended with it")));
    }
    if let Some(rank) = rank_that(End::Hung) {
        return Err(WorkerError::Transient(format!(
            "{name}: rank {rank} hung and was killed after all others had ended"
        )));
    }
    if let Some(rank) = ends.iter().position(|end| matches!(end, End::Code(code) if is_permanent(*code))) {
        return Err(WorkerError::Broken(format!("{name}: rank {rank} cannot go on; its message is above")));
    }
    match ends.iter().position(|end| *end != End::Code(0)) {
        Some(rank) => Err(WorkerError::Transient(format!("{name}: rank {rank} ended; its message is above"))),
        None => Ok(()),
    }
}

#[cfg(unix)]
pub(crate) fn terminate(process: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        _ = kill_process(process, Signal::TERM);
    }
}

#[cfg(not(unix))]
pub(crate) fn terminate(_: u32) {}

/// Lets a process go on that somebody has suspended.
#[cfg(unix)]
pub(crate) fn wake(process: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        _ = kill_process(process, Signal::CONT);
    }
}

#[cfg(not(unix))]
pub(crate) fn wake(_: u32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_that_the_others_followed_is_reported() {
        let words = |ends: &[End]| verdict("pretrain", ends).err().map(|error| (error.exit_code(), error.to_string()));
        assert_eq!(words(&[End::Code(0), End::Code(0)]), None);
        let (code, killed) = words(&[End::Code(75), End::Killed]).unwrap();
        assert!(code == 75 && killed.contains("rank 1 was killed"), "{killed}");
        let (code, hung) = words(&[End::Code(75), End::Hung]).unwrap();
        assert!(code == 75 && hung.contains("rank 1 hung"), "{hung}");
        let (code, broken) = words(&[End::Code(75), End::Code(65)]).unwrap();
        assert!(code == 65 && broken.contains("rank 1 cannot go on"), "{broken}");
        // what panics does so again
        assert_eq!(words(&[End::Code(75), End::Code(101)]).unwrap(), (65, broken));
        assert_eq!([65, 101, 2].map(|code| failed("pretrain", Some(code)).exit_code()), [65; 3]);
        assert_eq!([Some(75), Some(1), None].map(|code| failed("pretrain", code).exit_code()), [75; 3]);
        assert_eq!(words(&[End::Code(0), End::Code(75)]).unwrap().0, 75);
    }

    /// One that comes further each time is started as often as it is killed.
    #[tokio::test]
    async fn a_training_is_started_again_as_long_as_it_saves_more() {
        use std::cell::Cell;
        let quiet = Progress::new(true);
        // saves something in each of its first tries, and ends well in the given one
        let tries = async |saves: usize, ends: usize| {
            let (began, saved) = (Cell::new(0), Cell::new(0));
            let run = async || {
                began.set(began.get() + 1);
                saved.set(began.get().min(saves));
                match began.get() == ends {
                    true => Ok(()),
                    false => Err(WorkerError::Transient("rank 1 was killed".into())),
                }
            };
            let ended = again_where_killed(run, async || Ok(saved.get().to_string()), Duration::ZERO, &quiet).await;
            (began.get(), ended.map_err(|error| (error.exit_code(), error.to_string())))
        };
        assert_eq!(tries(0, 1).await, (1, Ok(())));
        assert_eq!(tries(0, 3).await, (3, Ok(())));
        assert_eq!(tries(20, 20).await, (20, Ok(())));
        let (began, ended) = tries(5, 100).await;
        let (code, why) = ended.unwrap_err();
        assert_eq!((began, code), (5 + MOST_IN_VAIN, 75));
        assert!(why.contains("rank 1 was killed; 3 tries in a row saved nothing more"), "{why}");
        let broken = async || Err(WorkerError::Broken("x".into()));
        assert_eq!(
            again_where_killed(broken, async || Ok(String::new()), Duration::ZERO, &quiet)
                .await
                .unwrap_err()
                .exit_code(),
            65
        );
    }

    /// Jobs of this test's own program: one that lists its tests, and one that it does not know.
    #[tokio::test]
    async fn jobs_run_side_by_side_until_one_fails() {
        let job = |name: &str, argument: &str| Job { name: name.into(), arguments: vec![argument.into()] };
        let (go, quiet) = (AtomicBool::new(false), Progress::new(true));
        let good: Vec<Job> = (0..5).map(|at| job(&format!("job {at}"), "--list")).collect();
        side_by_side(&good, 2, &go, &quiet).await.unwrap();
        side_by_side(&[], 2, &go, &quiet).await.unwrap();
        let mixed = [job("first", "--list"), job("second", "--such-an-argument-there-is-not"), job("third", "--list")];
        let error = side_by_side(&mixed, 1, &go, &quiet).await.unwrap_err().to_string();
        assert!(error.contains("second: cannot go on"), "{error}");
        let error = side_by_side(&good, 2, &AtomicBool::new(true), &quiet).await.unwrap_err();
        assert!(matches!(error, WorkerError::Stopped), "{error}");
        assert!(matches!(failed("x", None), WorkerError::Transient(why) if why.contains("was killed")));
        assert!(matches!(failed("x", Some(PERMANENT)), WorkerError::Broken(_)));
    }
}
