//! A folder that appears when it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::WorkerError;

/// A folder beside its target, which takes the target's name when it is finished and goes away when it is not.
pub struct Draft {
    target: PathBuf,
    folder: PathBuf,
    finished: bool,
}

impl Draft {
    /// Begins a draft of a folder that is not there yet, or is empty.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a target that holds anything, and where another draft of it is being written.
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
        // an absolute path: what stands beside it is beside it, whatever it ends with
        let target = std::path::absolute(target).map_err(|e| at(&e))?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(WorkerError::Configuration(format!("{shown} is no folder of its own: name one below it")));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        let folder = parent.join(hidden);
        durable::create_folder(parent)?;
        match fs::create_dir(&folder) {
            Ok(()) => Ok(Self { target: target.clone(), folder, finished: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(WorkerError::Configuration(format!(
                "{} is there: another export writes it at this moment, or one was killed; delete it in the latter case",
                folder.display()
            ))),
            Err(error) => Err(WorkerError::of_io(&folder, &error)),
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
        assert!(Draft::begin(&target).is_err_and(|e| e.to_string().contains("another export")));
        draft.finish().unwrap();
        assert_eq!(fs::read_to_string(target.join("a/b.txt")).unwrap(), "words");
        assert_eq!(names(&root.path().join("above")), ["out"]);
        // what is there is left alone
        assert!(Draft::begin(&target).is_err_and(|e| e.to_string().contains("is not empty")));
        assert!(Draft::begin(&target.join("a/b.txt")).is_err_and(|e| e.to_string().contains("is a file")));
        assert!(Draft::begin(Path::new("/")).is_err());
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
        // somebody was faster
        let target = root.path().join("raced");
        let draft = Draft::begin(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("theirs"), "").unwrap();
        assert!(draft.finish().is_err());
        assert_eq!((names(&target), names(root.path()).len()), (vec!["theirs".to_owned()], 2));
    }
}
