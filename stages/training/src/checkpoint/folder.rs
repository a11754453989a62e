//! Replacing a folder as one act.
//!
//! A folder cannot be renamed onto a full one, so the old one steps aside first: `.NAME.previous` exists only while a
//! replacement is under way, and counts when NAME itself is missing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{AtPath, Result};

/// Writes a folder beside `target`, makes it durable, and puts it in target's place.
///
/// # Errors
/// The file system's, and `write`'s.
pub fn replace(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (partial, previous) = (sibling(target, "partial"), sibling(target, "previous"));
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at(parent)?;
    remove(&partial)?;
    fs::create_dir(&partial).at(&partial)?;
    write(&partial)?;
    sync(&partial)?;
    if target.exists() {
        remove(&previous)?;
        fs::rename(target, &previous).at(target)?;
    }
    fs::rename(&partial, target).at(&partial)?;
    sync_folder(parent)?;
    remove(&previous)
}

/// The complete folder: `target`, or the one that stepped aside when a replacement was cut off.
pub(super) fn find(target: &Path, first: &str) -> Option<PathBuf> {
    [target.to_path_buf(), sibling(target, "previous")].into_iter().find(|path| is_whole(path, first))
}

/// Whether a folder has its `first` file: who deletes a checkpoint takes that first, and leaves folders behind. One that
/// cannot be looked into has it: whoever reads it hears why not.
pub(super) fn is_whole(folder: &Path, first: &str) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    fs::symlink_metadata(folder.join(first)).map_or_else(|e| !matches!(e.kind(), NotFound | NotADirectory), |_| true)
}

/// Gives the files of a folder a second name below `target`: a folder that is replaced, never changed, needs no copy.
pub(super) fn link(folder: &Path, target: &Path) -> Result<()> {
    remove(target)?;
    fs::create_dir(target).at(target)?;
    for entry in fs::read_dir(folder).at(folder)? {
        let entry = entry.at(folder)?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if from.is_dir() {
            link(&from, &to)?;
        } else if fs::hard_link(&from, &to).is_err() {
            // a file system without links
            fs::copy(&from, &to).at(&to)?;
        }
    }
    Ok(())
}

fn sibling(target: &Path, role: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".");
    name.push(role);
    target.with_file_name(name)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() { fs::remove_dir_all(folder).at(folder) } else { Ok(()) }
}

/// Flushes files first, then the folders that name them.
fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).at(&path)?;
        }
    }
    sync_folder(folder)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}

/// Folders cannot be opened as files here; the file system orders its own metadata.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn put(target: &Path, text: &str) {
        replace(target, |folder| fs::write(folder.join("file"), text).at(folder)).unwrap();
    }

    fn text(target: &Path) -> String {
        fs::read_to_string(find(target, "file").unwrap().join("file")).unwrap()
    }

    #[test]
    fn a_folder_without_its_first_file_is_none() {
        let run = tempfile::tempdir().unwrap();
        let target = run.path().join("last");
        fs::create_dir_all(target.join("model")).unwrap();
        fs::write(target.join("model/weights"), "left").unwrap();
        assert_eq!(find(&target, "file"), None);
        put(&target, "anew");
        assert_eq!(text(&target), "anew");
    }

    #[test]
    fn a_folder_is_replaced_and_nothing_else_stays() {
        let run = tempfile::tempdir().unwrap();
        let target = run.path().join("run").join("last");
        assert!(find(&target, "file").is_none());
        put(&target, "one");
        put(&target, "two");
        assert_eq!(text(&target), "two");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_or_cut_off_replacement_leaves_the_old_folder() {
        let run = tempfile::tempdir().unwrap();
        let target = run.path().join("last");
        put(&target, "one");
        let failed = replace(&target, |folder| {
            fs::write(folder.join("file"), "half").at(folder)?;
            Err(Error::argument("test", "disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(text(&target), "one");
        // Cut off between the two renames.
        fs::rename(&target, sibling(&target, "previous")).unwrap();
        assert_eq!(text(&target), "one");
        put(&target, "two");
        assert_eq!(text(&target), "two");
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }
}
