//! Starts the ranks of a training on this machine, as a cluster's launcher would.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::atomic::Ordering;
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
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().map_err(|e| WorkerError::Transient(format!("rank {rank} of {}: {e}", training.name())))
}

/// Waits for all ranks. The first failure is the one to report: the others only follow it.
async fn wait(build: &Build, mut children: Vec<Child>, training: Training) -> Result<(), WorkerError> {
    let mut failed = None;
    let mut running = children.len();
    let mut told = None;
    while running > 0 {
        running = 0;
        for (rank, child) in children.iter_mut().enumerate() {
            match child.try_wait() {
                Ok(None) => running += 1,
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => _ = failed.get_or_insert((rank, status.code())),
                Err(error) => return Err(WorkerError::Transient(format!("rank {rank}: {error}"))),
            }
        }
        if build.stop.load(Ordering::Relaxed) {
            // a signal from the terminal has reached the ranks too; one that was sent to this process has not
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
    match failed {
        _ if build.stop.load(Ordering::Relaxed) => Err(WorkerError::Stopped),
        None => Ok(()),
        Some((rank, Some(65))) => {
            Err(WorkerError::Broken(format!("{}: rank {rank} cannot go on; its message is above", training.name())))
        }
        Some((rank, code)) => {
            let how = code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
            Err(WorkerError::Transient(format!("{}: rank {rank} {how}, and all others with it", training.name())))
        }
    }
}

#[cfg(unix)]
fn terminate(process: u32) {
    _ = std::process::Command::new("kill").arg(process.to_string()).stderr(Stdio::null()).status();
}

#[cfg(not(unix))]
fn terminate(_: u32) {}
