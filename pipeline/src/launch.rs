//! Starts the ranks of a training on this machine, as a cluster's launcher would.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stages::Training;
use tokio::process::{Child, Command};
use workers::WorkerError;

use crate::build::Build;
use crate::plan::{TrainingState, training_state};
use crate::progress::Progress;
use crate::run::RunOptions;

/// How long a rank may take to end after it was told to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set for ranks that this program has started: their standard input ends when it is gone.
const LAUNCHED: &str = "URBANCROSS_LAUNCHED";

/// Sets `stop` when the launcher of this process ends without having waited for it: nobody else would tell this rank,
/// and its run would be taken. Does nothing in a process that was not launched.
pub fn stop_with_launcher(stop: std::sync::Arc<AtomicBool>) {
    if std::env::var_os(LAUNCHED).is_none() {
        return;
    }
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}

/// Runs a training as `ranks.processes` processes of this program, which meet over the loopback device.
pub async fn train(
    build: &Build,
    training: Training,
    options: &RunOptions,
    progress: &Progress,
) -> Result<(), WorkerError> {
    if let TrainingState::Stands { record, .. } = training_state(build, training, options.retrain).await? {
        let best = record.trained.best_validation_mean_recall;
        progress.note(&format!("{}: stands (best validation mR {best:.2})", training.name()));
        return Ok(());
    }
    let ranks = build.spec.ranks.processes;
    progress.note(&format!("{}: {ranks} ranks on this machine", training.name()));
    let folder = tempfile::tempdir().map_err(|e| WorkerError::Transient(format!("temporary folder: {e}")))?;
    let spec = folder.path().join("spec.toml");
    std::fs::write(&spec, build.spec.to_toml()).map_err(|e| WorkerError::of_io(&spec, &e))?;
    let port = free_port().map_err(|e| WorkerError::Transient(format!("no free port: {e}")))?;
    let mut children = Vec::with_capacity(ranks);
    for rank in 0..ranks {
        children.push(start(&spec, training, options.retrain, rank, ranks, port)?);
    }
    wait(build, children, training).await
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn start(
    spec: &std::path::Path,
    training: Training,
    retrain: bool,
    rank: usize,
    ranks: usize,
    port: u16,
) -> Result<Child, WorkerError> {
    let program = std::env::current_exe().map_err(|e| WorkerError::Configuration(format!("this program: {e}")))?;
    let mut command = Command::new(&program);
    command.arg("train").arg(spec).arg(training.name()).args(retrain.then_some("--retrain"));
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string()).env("WORLD_SIZE", ranks.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        // ranks share the cores rather than fight for them
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        command.env("RAYON_NUM_THREADS", (cores / ranks).max(1).to_string());
    }
    command.env(LAUNCHED, "1").stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    // Ctrl-C reaches this process alone, which tells the ranks once: a second signal would end them without a checkpoint
    #[cfg(unix)]
    command.process_group(0);
    command.spawn().map_err(|e| WorkerError::Transient(format!("rank {rank} of {}: {e}", training.name())))
}

/// Waits for all ranks.
async fn wait(build: &Build, mut children: Vec<Child>, training: Training) -> Result<(), WorkerError> {
    let mut ends: Vec<Option<End>> = vec![None; children.len()];
    let mut told = None;
    while ends.contains(&None) {
        for (rank, child) in children.iter_mut().enumerate() {
            match child.try_wait() {
                Ok(status) => ends[rank] = status.map(|status| status.code().map_or(End::Killed, End::Code)),
                Err(error) => return Err(WorkerError::Transient(format!("rank {rank}: {error}"))),
            }
        }
        if build.stop.load(Ordering::Relaxed) {
            let since = *told.get_or_insert_with(|| {
                children.iter().filter_map(Child::id).for_each(terminate);
                std::time::Instant::now()
            });
            if since.elapsed() > PATIENCE {
                return Err(WorkerError::Stopped);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if build.stop.load(Ordering::Relaxed) {
        return Err(WorkerError::Stopped);
    }
    verdict(training, &ends.into_iter().flatten().collect::<Vec<_>>())
}

/// How a rank ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Killed,
}

/// What the ends of all ranks come to. The one to report is the one that the others only followed: a rank that was
/// killed, or else one that cannot go on.
fn verdict(training: Training, ends: &[End]) -> Result<(), WorkerError> {
    const PERMANENT: i32 = 65;
    let name = training.name();
    let rank_that = |wanted: End| ends.iter().position(|end| *end == wanted);
    if let Some(rank) = rank_that(End::Killed) {
        return Err(WorkerError::Transient(format!("{name}: rank {rank} was killed, and all others ended with it")));
    }
    if let Some(rank) = rank_that(End::Code(PERMANENT)) {
        return Err(WorkerError::Broken(format!("{name}: rank {rank} cannot go on; its message is above")));
    }
    match ends.iter().position(|end| *end != End::Code(0)) {
        Some(rank) => Err(WorkerError::Transient(format!("{name}: rank {rank} ended; its message is above"))),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn terminate(process: u32) {
    _ = std::process::Command::new("kill").arg(process.to_string()).stderr(Stdio::null()).status();
}

#[cfg(not(unix))]
fn terminate(_: u32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_that_the_others_followed_is_reported() {
        let words =
            |ends: &[End]| verdict(Training::Pretrain, ends).err().map(|error| (error.exit_code(), error.to_string()));
        assert_eq!(words(&[End::Code(0), End::Code(0)]), None);
        let (code, killed) = words(&[End::Code(75), End::Killed]).unwrap();
        assert!(code == 75 && killed.contains("rank 1 was killed"), "{killed}");
        let (code, broken) = words(&[End::Code(75), End::Code(65)]).unwrap();
        assert!(code == 65 && broken.contains("rank 1 cannot go on"), "{broken}");
        assert_eq!(words(&[End::Code(0), End::Code(75)]).unwrap().0, 75);
    }
}
