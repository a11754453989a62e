//! A run's folder belongs to one process of this machine at a time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::durable;
use crate::error::WorkerError;

/// How often a waiting process looks whether the folder has become free.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The right to write to a run's folder. The system takes it back when the process ends, however it ends.
pub(crate) struct Claim {
    /// Dropping it frees the lock. `None` where the file system has no locks.
    _lock: Option<File>,
}

impl Claim {
    /// Takes the folder of a run at once, to clear it away; `None`: a process of this machine trains it.
    pub(crate) fn at_once(folder: &Path) -> Result<Option<Claim>, WorkerError> {
        let path = folder.with_extension("lock");
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some(Claim { _lock: None })),
            opened => opened.map_err(|e| WorkerError::of_io(&path, &e))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Claim { _lock: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(_)) => Ok(Some(Claim { _lock: None })),
        }
    }

    /// Takes the folder of the run `name`, waiting while another process has it if `may_wait`.
    ///
    /// # Errors
    /// [`WorkerError::Stopped`] while waiting, [`WorkerError::Transient`] where the folder is taken and `may_wait` is
    /// not set.
    pub(super) async fn take(
        folder: &Path,
        name: &str,
        may_wait: bool,
        stop: &AtomicBool,
    ) -> Result<Claim, WorkerError> {
        // beside the folder: whether the folder is there decides whether a saved state is brought
        let path = folder.with_extension("lock");
        path.parent().map_or(Ok(()), durable::create_folder)?;
        let file = File::create(&path).map_err(|e| WorkerError::of_io(&path, &e))?;
        let mut waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Claim { _lock: Some(file) }),
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(path = %path.display(), %error, "no locks here: only one process may train this run");
                    return Ok(Claim { _lock: None });
                }
                Err(TryLockError::WouldBlock) if !may_wait => {
                    return Err(WorkerError::Transient(format!(
                        "{name}: another process of this machine trains this run (it holds {}); wait for its end or stop it",
                        path.display()
                    )));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !waited {
                tracing::warn!("{name}: another process trains this run; its result is waited for");
            }
            waited = true;
            if stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_one_owners_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, go_on) = (parent.path().join("runs/key"), AtomicBool::new(false));
        let first = Claim::take(&folder, "pretrain", true, &go_on).await.unwrap();
        assert!(!folder.exists());
        let refused = Claim::take(&folder, "pretrain", false, &go_on).await.err().expect("taken").to_string();
        assert!(refused.contains("key.lock") && refused.contains("stop it"), "{refused}");
        let stopped = Claim::take(&folder, "pretrain", true, &AtomicBool::new(true)).await;
        assert!(matches!(stopped, Err(WorkerError::Stopped)));
        let (second, ()) = tokio::join!(Claim::take(&folder, "pretrain", true, &go_on), async {
            tokio::time::sleep(LOOK_AGAIN / 2).await;
            drop(first);
        });
        second.unwrap();
    }
}
