//! Files that a command's user names: whole, or what was there before stays.

use std::path::Path;

use workers::{WorkerError, durable};

/// Writes a file as one act. Devices and pipes take it as it comes; links stay links.
///
/// # Errors
/// A folder that is not there, a full disk, and what the file system refuses.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkerError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(WorkerError::Configuration(format!("{}: no such folder", path.display())));
    }
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match place.metadata() {
        Ok(known) if !known.is_file() => std::fs::write(path, bytes).map_err(|error| WorkerError::of_io(path, &error)),
        _ => durable::write(&place, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_replaced_as_a_whole_and_a_device_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let [page, link] = ["page.html", "link.html"].map(|name| folder.path().join(name));
        write(&page, b"old").unwrap();
        std::os::unix::fs::symlink(&page, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&page).unwrap(), b"new");
        assert!(link.is_symlink(), "a link stays one");
        let error = write(Path::new("/dev/full"), b"x").unwrap_err();
        assert_eq!(error.exit_code(), 75, "{error}");
        let error = write(&folder.path().join("no/page.html"), b"x").unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("no such folder"), "{error}");
        assert_eq!(write(folder.path(), b"x").unwrap_err().exit_code(), 65);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }
}
