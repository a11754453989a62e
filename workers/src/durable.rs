//! Files of this machine that count only when they are whole and on the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::WorkerError;

/// Makes a folder with those above it, each on the disk when this returns.
///
/// # Errors
/// [`WorkerError::DiskFull`], and what the file system refuses.
pub fn create_folder(folder: &Path) -> Result<(), WorkerError> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    create_folder(parent)?;
    match fs::create_dir(folder) {
        // somebody else may have made it meanwhile
        Err(error) if !folder.is_dir() => Err(WorkerError::of_io(folder, &error)),
        _ => sync_folder(parent),
    }
}

/// Writes a file as one act: readers see the old one or the new one, whatever dies.
///
/// # Errors
/// [`WorkerError::DiskFull`], and what the file system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkerError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    create_folder(folder)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", crate::attempt::id()));
    let draft = path.with_file_name(name);
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&draft, path));
    if let Err(error) = placed {
        _ = fs::remove_file(&draft);
        return Err(WorkerError::of_io(path, &error));
    }
    sync_folder(folder)
}

/// Puts the names in a folder on the disk.
///
/// # Errors
/// [`WorkerError::DiskFull`], and what the file system refuses.
pub fn sync_folder(folder: &Path) -> Result<(), WorkerError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !cfg!(unix) {
        // folders cannot be opened as files here; the file system orders its own metadata
        return Ok(());
    }
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| WorkerError::of_io(folder, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
