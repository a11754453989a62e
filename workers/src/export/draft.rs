//! A folder that appears when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::WorkerError;

/// Times that a folder is asked for whose owner goes away meanwhile.
const TRIES: usize = 10;

/// A folder beside its target, which takes the target's name when it is finished and goes away when it is not.
pub struct Draft {
    target: PathBuf,
    folder: PathBuf,
    finished: bool,
    /// Open and locked as long as somebody writes it: what is left of one that was killed is not.
    _lock: fs::File,
}

impl Draft {
    /// Begins a draft of a folder that is not there yet, or is empty.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a target that holds anything, [`WorkerError::Transient`] while another draft of it is
    /// being written; what the file system refuses.
    pub fn begin(target: &Path) -> Result<Self, WorkerError> {
        let at = |e: &std::io::Error| WorkerError::of_io(target, e);
        let shown = target.display();
        match fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                return Err(WorkerError::Configuration(format!(
                    "{shown} is not empty: name a new folder, or delete this one first"
                )));
            }
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(WorkerError::Configuration(format!("{shown} is a file: name a folder")));
            }
            Err(error) => return Err(at(&error)),
        }
        if target.is_symlink() && !target.is_dir() {
            let why = format!("{shown} is a link to a folder that is not there: make that folder first");
            return Err(WorkerError::Configuration(why));
        }
        // an absolute path: what stands beside it is beside it, whatever it ends with; a link stays, and its folder is filled
        let target =
            if target.is_dir() { target.canonicalize() } else { std::path::absolute(target) }.map_err(|e| at(&e))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(WorkerError::Configuration(format!("{shown} is no folder of its own: name one below it")));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let folder = parent.join(hidden);
        durable::create_folder(parent)?;
        let lock = locked(&folder)?;
        let draft = Self { target, folder, finished: false, _lock: lock };
        // found now, and not when everything is written: a volume's own folder does not give way
        match fs::remove_dir(&draft.target).and_then(|()| fs::create_dir(&draft.target)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(WorkerError::Configuration(format!(
                "{shown} cannot be replaced ({error}): it may be a volume of its own; name a folder in it"
            ))),
            _ => Ok(draft),
        }
    }

    /// Where the files of the draft are written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`WorkerError::DiskFull`], and what the file system refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<(), WorkerError> {
        durable::write(&self.folder.join(name), text.as_bytes())
    }

    /// Puts everything on the disk and gives the folder its name.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if something came into the target meanwhile; what the file system refuses.
    pub fn finish(mut self) -> Result<(), WorkerError> {
        sync(&self.folder)?;
        // an empty folder gives way, one with anything in it does not
        match fs::remove_dir(&self.target) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(WorkerError::of_io(&self.target, &error)),
            _ => {}
        }
        fs::rename(&self.folder, &self.target).map_err(|e| WorkerError::of_io(&self.target, &e))?;
        self.finished = true;
        durable::sync_folder(self.target.parent().unwrap_or(Path::new(".")))
    }
}

/// An empty folder that nobody else writes. What an export that was killed has left in it is removed.
fn locked(folder: &Path) -> Result<fs::File, WorkerError> {
    let of_io = |error: std::io::Error| WorkerError::of_io(folder, &error);
    let taken = || {
        let why = "another export to the same place writes it at this moment";
        WorkerError::Transient(format!("{}: {why}", folder.display()))
    };
    // whoever has it may end between any two of these steps
    for _ in 0..TRIES {
        let is_new = match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(of_io(error)),
            created => created.is_ok(),
        };
        // a link that somebody has put there leads to a folder of theirs, which would be emptied
        if fs::symlink_metadata(folder).is_ok_and(|meta| !meta.is_dir()) {
            let why = format!("{} is no folder of an export that was cut off: remove it", folder.display());
            return Err(WorkerError::Configuration(why));
        }
        let lock = match fs::File::open(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(of_io)?,
        };
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => return Err(taken()),
            // a file system without locks: what is there may be somebody's
            Err(fs::TryLockError::Error(_)) if is_new => return Ok(lock),
            Err(fs::TryLockError::Error(error)) => {
                return Err(WorkerError::Configuration(format!(
                    "{} is there, and cannot be locked ({error}): another export writes it, or one was killed; delete it in \
                     the latter case",
                    folder.display()
                )));
            }
            Ok(()) => {}
        }
        if !is_same(folder, &lock) {
            continue;
        }
        for entry in fs::read_dir(folder).map_err(of_io)? {
            let path = entry.map_err(of_io)?.path();
            let removed =
                if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| WorkerError::of_io(&path, &error))?;
        }
        return Ok(lock);
    }
    Err(taken())
}

/// Is the folder of this name still the one that was opened?
fn is_same(folder: &Path, opened: &fs::File) -> bool {
    match (fs::metadata(folder), opened.metadata()) {
        (Ok(named), Ok(opened)) => (named.dev(), named.ino()) == (opened.dev(), opened.ino()),
        _ => false,
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Flushes files first, then the folders that name them.
fn sync(folder: &Path) -> Result<(), WorkerError> {
    let at = |path: &Path, e: &std::io::Error| WorkerError::of_io(path, e);
    for entry in fs::read_dir(folder).map_err(|e| at(folder, &e))? {
        let path = entry.map_err(|e| at(folder, &e))?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|e| at(&path, &e))?;
        }
    }
    durable::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("above/out");
        let draft = Draft::begin(&target).unwrap();
        draft.write("a/b.txt", "words").unwrap();
        assert!(!target.exists());
        assert!(Draft::begin(&target).is_err_and(|e| e.to_string().contains("another export") && e.exit_code() == 75));
        draft.finish().unwrap();
        assert_eq!(fs::read_to_string(target.join("a/b.txt")).unwrap(), "words");
        assert_eq!(names(&root.path().join("above")), ["out"]);
        // what is there is left alone
        assert!(Draft::begin(&target).is_err_and(|e| e.to_string().contains("is not empty")));
        assert!(Draft::begin(&target.join("a/b.txt")).is_err_and(|e| e.to_string().contains("is a file")));
        assert!(Draft::begin(Path::new("/")).is_err());
    }

    #[test]
    fn what_a_killed_export_left_stands_in_nobodys_way() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(".out.partial/data")).unwrap();
        fs::write(root.path().join(".out.partial/data/half.parquet"), "PAR1").unwrap();
        fs::write(root.path().join(".out.partial/half"), "").unwrap();
        let draft = Draft::begin(&root.path().join("out")).unwrap();
        assert!(names(draft.folder()).is_empty());
        draft.write("x", "").unwrap();
        draft.finish().unwrap();
        assert_eq!(
            (names(root.path()), names(&root.path().join("out"))),
            (vec!["out".to_owned()], vec!["x".to_owned()])
        );
    }

    /// What it leads to is somebody's.
    #[test]
    #[cfg(unix)]
    fn a_link_in_place_of_a_draft_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("theirs")).unwrap();
        fs::write(root.path().join("theirs/thesis"), "words").unwrap();
        std::os::unix::fs::symlink(root.path().join("theirs"), root.path().join(".out.partial")).unwrap();
        let refused = Draft::begin(&root.path().join("out"));
        assert!(refused.is_err_and(|e| e.exit_code() == 65 && e.to_string().contains("remove it")));
        assert_eq!(names(&root.path().join("theirs")), ["thesis"]);
    }

    /// Of many at once each begins with an empty folder, or not at all.
    #[test]
    fn two_never_write_one_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let Ok(draft) = Draft::begin(&target) else { continue };
                        assert!(names(draft.folder()).is_empty());
                        draft.write("mine", "").unwrap();
                        assert_eq!(names(draft.folder()), ["mine"]);
                    }
                });
            }
        });
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn an_empty_folder_is_filled_and_a_failed_draft_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        drop(Draft::begin(&target).unwrap());
        assert_eq!((names(root.path()), names(&target).len()), (vec!["out".to_owned()], 0));
        let draft = Draft::begin(&target).unwrap();
        draft.write("x", "").unwrap();
        draft.finish().unwrap();
        assert_eq!(names(&target), ["x"]);
        // one behind a link too, beside which nothing is written
        fs::create_dir_all(root.path().join("elsewhere/real")).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink("elsewhere/real", &link).unwrap();
        let draft = Draft::begin(&link).unwrap();
        draft.write("y", "").unwrap();
        draft.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!((names(&link), names(root.path()).len()), (vec!["y".to_owned()], 3));
        let nowhere = root.path().join("nowhere");
        std::os::unix::fs::symlink("not/there/yet", &nowhere).unwrap();
        assert!(Draft::begin(&nowhere).is_err_and(|e| e.exit_code() == 65 && e.to_string().contains("not there")));
        fs::remove_file(&nowhere).unwrap();
        for name in ["link", "elsewhere"] {
            let path = root.path().join(name);
            if path.is_symlink() { fs::remove_file(path).unwrap() } else { fs::remove_dir_all(path).unwrap() }
        }
        // somebody was faster
        let target = root.path().join("raced");
        let draft = Draft::begin(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("theirs"), "").unwrap();
        assert!(draft.finish().is_err());
        assert_eq!((names(&target), names(root.path()).len()), (vec!["theirs".to_owned()], 2));
    }
}
