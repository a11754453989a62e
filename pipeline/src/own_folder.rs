//! Folders of this process for what its children read. They go with it; those of a process that was killed the next one clears
//! away.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;
use workers::WorkerError;

/// How their names begin, among those of everybody's temporary files.
const PREFIX: &str = "urbancross-specs-";
/// Locked for as long as the process lives.
const LOCK: &str = "lock";

/// A folder that is this process's own.
pub(crate) struct OwnFolder {
    // before the folder: what is locked cannot be deleted everywhere
    _lock: File,
    folder: TempDir,
}

static CLEARED: Once = Once::new();

impl OwnFolder {
    /// Makes one below the folder for temporary files. The first also clears away those of processes that are gone.
    pub(crate) fn new() -> Result<Self, WorkerError> {
        let root = std::env::temp_dir();
        CLEARED.call_once(|| clear(&root));
        Self::below(&root)
    }

    fn below(root: &Path) -> Result<Self, WorkerError> {
        let of_io = |error: std::io::Error| WorkerError::of_io(root, &error);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(root).map_err(of_io)?;
        // nobody sees it under its name before it is locked
        let new = folder.path().join("new");
        let lock = File::create(&new).map_err(of_io)?;
        // a file system without locks only keeps what a killed process leaves
        _ = lock.try_lock();
        std::fs::rename(&new, folder.path().join(LOCK)).map_err(of_io)?;
        Ok(Self { _lock: lock, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes files; the path of the first.
    pub(crate) fn write(&self, files: &[(String, String)]) -> Result<PathBuf, WorkerError> {
        for (name, text) in files {
            let path = self.path().join(name);
            std::fs::write(&path, text).map_err(|error| WorkerError::of_io(&path, &error))?;
        }
        Ok(self.path().join(files.first().map_or("", |(name, _)| name)))
    }
}

/// Removes the folders whose processes are gone, as far as this user may: whose lock nobody holds.
fn clear(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_processes_that_are_gone_are_cleared_away() {
        let root = tempfile::tempdir().unwrap();
        let lives = OwnFolder::below(root.path()).unwrap();
        let spec = lives.write(&[("spec.toml".into(), "x".into())]).unwrap();
        // as a process leaves it that was killed: its lock goes with it, its files stay
        let OwnFolder { _lock: lock, folder } = OwnFolder::below(root.path()).unwrap();
        let left = folder.keep();
        drop(lock);
        let (half_made, of_others) = (root.path().join(format!("{PREFIX}x")), root.path().join("others"));
        std::fs::create_dir(&half_made).unwrap();
        std::fs::create_dir(&of_others).unwrap();
        clear(root.path());
        assert!(!left.exists());
        assert!(spec.exists() && half_made.exists() && of_others.exists());
        let path = lives.path().to_owned();
        drop(lives);
        assert!(!path.exists());
    }
}
