//! Files that a command's user names: whole, or what was there before stays.

use std::io::Read;
use std::path::{Path, PathBuf};

use workers::{WorkerError, durable};

/// Writes a file as one act. Devices and pipes take it as it comes; links stay links.
///
/// # Errors
/// A folder that is not there, a full disk, and what the file system refuses.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkerError> {
    let place = place_of(path)?;
    match place.metadata() {
        Ok(known) if !known.is_file() => std::fs::write(path, bytes).map_err(|error| WorkerError::of_io(path, &error)),
        _ => durable::write(&place, bytes),
    }
}

/// The file that a path leads to, which need not be there.
fn place_of(path: &Path) -> Result<PathBuf, WorkerError> {
    if !folder_of(path).is_dir() {
        return Err(WorkerError::Configuration(format!("{}: no such folder", path.display())));
    }
    Ok(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a page, or a picture of curves: over an older one only. A spec has a name much like its report's.
///
/// # Errors
/// [`WorkerError::Configuration`] for a file that is there and is neither; those of [`write`].
pub(crate) fn write_page(path: &Path, page: &str) -> Result<(), WorkerError> {
    check_page(path)?;
    write(path, page.as_bytes())
}

/// Refuses a place that [`write_page`] would refuse: whoever is told after hours would have wanted to know before.
///
/// # Errors
/// As [`write_page`].
pub(crate) fn check_page(path: &Path) -> Result<(), WorkerError> {
    if path.is_dir() {
        let why = format!("{}: it is a folder; name a file in it, such as report.html", path.display());
        return Err(WorkerError::Configuration(why));
    }
    if path.is_file() && !is_page(path).map_err(|error| WorkerError::of_io(path, &error))? {
        let why = format!("{} is there, and is no page: give another name, or remove it first", path.display());
        return Err(WorkerError::Configuration(why));
    }
    let place = place_of(path)?;
    if place.exists() && !place.is_file() {
        // a device needs no draft beside it
        return Ok(());
    }
    tempfile::tempfile_in(folder_of(&place)).map(drop).map_err(|error| WorkerError::of_io(path, &error))
}

fn is_page(path: &Path) -> std::io::Result<bool> {
    let mut begins = Vec::new();
    std::fs::File::open(path)?.take(LONGEST_START).read_to_end(&mut begins)?;
    let begins = String::from_utf8_lossy(&begins).trim_start().to_ascii_lowercase();
    Ok(begins.is_empty() || STARTS.iter().any(|start| begins.starts_with(start)))
}

/// What pages and pictures of ours begin with.
const STARTS: [&str; 2] = ["<!doctype html", "<svg"];
const LONGEST_START: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_the_place_of_a_page_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [page, spec] = ["page.html", "finland.toml"].map(|name| folder.path().join(name));
        for text in ["<!DOCTYPE html><p>", "<svg xmlns", "<!doctype html>"] {
            write_page(&page, text).unwrap();
        }
        std::fs::write(&spec, "country = \"finland\"").unwrap();
        let error = write_page(&spec, "<!DOCTYPE html>").unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("is no page"), "{error}");
        assert_eq!(std::fs::read(&spec).unwrap(), b"country = \"finland\"");
        assert!(write_page(folder.path(), "").unwrap_err().to_string().contains("name a file in it"));
    }

    #[test]
    fn a_place_is_looked_at_before_there_is_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let [page, link] = ["page.html", "link.html"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&page, &link).unwrap();
        for good in [page.as_path(), link.as_path(), Path::new("/dev/full"), Path::new("page.html")] {
            check_page(good).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        std::fs::write(&page, "country = \"finland\"").unwrap();
        let nowhere = folder.path().join("no/page.html");
        for (wrong, words) in [
            (page.as_path(), "is no page"),
            (link.as_path(), "is no page"),
            (folder.path(), "name a file in it"),
            (nowhere.as_path(), "no such folder"),
            // nobody may make files there, not even root
            (Path::new("/proc/page.html"), "/proc/page.html"),
        ] {
            let error = check_page(wrong).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains(words), "{error}");
        }
    }

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
