//! The folder of this machine that fetched weights are kept in, and digests of files, each read once.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use manifests::digest;
use manifests::weights::{ENDINGS, FilePin, WeightsLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cache_folder;

/// Written last: a folder without it may be half fetched.
const COMPLETE: &str = ".complete";
/// Lies beside files of which more are to come.
const FETCHING: &str = ".fetching";

const WEIGHTS: [&str; 5] = [".safetensors", ".pt", ".pth", ".bin", ".gguf"];

pub(super) struct Cache {
    root: PathBuf,
}

/// What a file's digest was when it was last read, and how to see that it is still the same file.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    bytes: u64,
    modified_nanoseconds: u128,
    sha256: String,
}

impl Cache {
    pub(super) fn from_env() -> Cache {
        Cache { root: cache_folder::root() }
    }

    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Cache {
        Cache { root }
    }

    /// Folder of a source; readable, and never that of another source.
    pub(super) fn folder(&self, source: &str) -> PathBuf {
        let readable: String =
            source.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' }).collect();
        let short: String = readable.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
        let key = &digest::of_bytes(source.as_bytes())[..12];
        self.root.join("weights").join(format!("{}-{key}", short.trim_matches(['-', '.'])))
    }

    /// Whether all was fetched, and is still there: of the hub's own cache, which others tidy, there are links.
    pub(super) fn is_complete(folder: &Path) -> bool {
        let mut entries = walkdir::WalkDir::new(folder).max_depth(2).into_iter().flatten();
        folder.join(COMPLETE).exists() && entries.all(|entry| entry.path().exists())
    }

    pub(super) fn complete(folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join(COMPLETE), b"")
    }

    /// Notes that `file` was fetched, which is or will be `name` in the folder. Others that belong to it may be missing
    /// until [`end_fetching`](Self::end_fetching).
    pub(super) fn note_fetched(folder: &Path, name: &str, file: &Path) -> std::io::Result<()> {
        use std::io::Write;
        let note = note(name, file)?;
        let mut notes = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(FETCHING))?;
        writeln!(notes, "{note}")
    }

    /// Drops the notes of [`note_fetched`](Self::note_fetched), once all files are there.
    pub(super) fn end_fetching(folder: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(folder.join(FETCHING)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the folder holds weights that can be used without a network: all files that a lock names. Without a lock
    /// those that a person has put there can, also in the place of others; where a fetch that came no further has
    /// brought all of them, other files may be missing.
    pub(super) fn is_enough(folder: &Path, lock: Option<&WeightsLock>) -> bool {
        let Ok(here) = names(folder) else { return false };
        if let Some(lock) = lock {
            return lock.files.keys().all(|name| here.contains(name));
        }
        let fetched = std::fs::read_to_string(folder.join(FETCHING)).unwrap_or_default();
        // earlier versions noted the name alone
        let is_noted = |name: &String| {
            let now = note(name, &folder.join(name)).unwrap_or_default();
            fetched.lines().any(|line| line == name || line == now)
        };
        here.iter().any(|name| is_weights(name) && !is_noted(name))
    }

    /// Whether the folder holds at least one file with weights.
    pub(super) fn has_weights(folder: &Path) -> bool {
        names(folder).is_ok_and(|names| names.iter().any(|name| is_weights(name)))
    }

    /// Size and SHA-256 of a file, or of the files of a folder. A file is read again only when its size or time
    /// have changed.
    pub(super) fn pins(&self, path: &Path) -> std::io::Result<BTreeMap<String, FilePin>> {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok([(name, self.pin(path)?)].into());
        }
        names(path)?.into_iter().map(|name| Ok((name.clone(), self.pin(&path.join(&name))?))).collect()
    }

    /// Size and SHA-256 of one file.
    pub(super) fn pin(&self, path: &Path) -> std::io::Result<FilePin> {
        // a link and its target are read once
        let path = std::fs::canonicalize(path)?;
        let meta = std::fs::metadata(&path)?;
        let modified_nanoseconds = modified_nanoseconds(&meta)?;
        let stamp_path =
            self.root.join("digests").join(digest::of_bytes(path.to_string_lossy().as_bytes())).with_extension("json");
        let known: Option<Stamp> =
            std::fs::read(&stamp_path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(stamp) = known
            && (stamp.bytes, stamp.modified_nanoseconds) == (meta.len(), modified_nanoseconds)
        {
            return Ok(FilePin { bytes: stamp.bytes, sha256: stamp.sha256 });
        }
        let sha256 = sha256_of(&path)?;
        let stamp = Stamp { bytes: meta.len(), modified_nanoseconds, sha256: sha256.clone() };
        // a note to ourselves: without it the file is read once more
        let kept = serde_json::to_vec(&stamp).map_err(std::io::Error::other).and_then(|bytes| {
            std::fs::create_dir_all(self.root.join("digests"))?;
            let draft = stamp_path.with_extension(crate::attempt::id());
            std::fs::write(&draft, bytes)?;
            std::fs::rename(&draft, &stamp_path)
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "the digest of {} was not kept", path.display());
        }
        Ok(FilePin { bytes: meta.len(), sha256 })
    }
}

/// Since 1970.
fn modified_nanoseconds(meta: &std::fs::Metadata) -> std::io::Result<u128> {
    Ok(meta.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()))
}

/// A line that tells a file from another that takes its place.
fn note(name: &str, file: &Path) -> std::io::Result<String> {
    let meta = std::fs::metadata(file)?;
    Ok(format!("{name}\t{}\t{}", meta.len(), modified_nanoseconds(&meta)?))
}

fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}

/// Names of the network files of a folder and of the folders in it, sorted; nothing hidden.
pub(super) fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pending = vec![(folder.to_owned(), String::new())];
    while let Some((next, prefix)) = pending.pop() {
        for entry in std::fs::read_dir(&next)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = entry.path();
            if path.is_dir() && prefix.is_empty() {
                pending.push((path, format!("{name}/")));
            } else if path.is_file() && ENDINGS.iter().any(|e| name.ends_with(e)) {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_pinned_by_content_and_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { root: folder.path().join("cache") };
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), b"abc").unwrap();
        std::fs::write(model.join(".hidden.json"), b"x").unwrap();
        std::fs::write(model.join("notes.md"), b"x").unwrap();
        std::fs::create_dir_all(model.join("inner/deep")).unwrap();
        std::fs::write(model.join("inner/tokenizer.json"), b"x").unwrap();
        std::fs::write(model.join("inner/deep/tokenizer.json"), b"x").unwrap();
        let pins = cache.pins(&model).unwrap();
        assert_eq!(pins.keys().collect::<Vec<_>>(), ["config.json", "inner/tokenizer.json"]);
        // FIPS 180-2, appendix B.1
        assert_eq!(pins["config.json"].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(cache.pins(&model).unwrap(), pins);
        std::fs::write(model.join("config.json"), b"abcd").unwrap();
        assert_ne!(cache.pins(&model).unwrap(), pins);
        assert!(!Cache::has_weights(&model));
        std::fs::write(model.join("model.safetensors"), b"x").unwrap();
        assert!(Cache::has_weights(&model));
    }

    #[test]
    fn weights_of_an_unfinished_fetch_are_not_enough() {
        let folder = tempfile::tempdir().unwrap();
        let (here, put) = (folder.path(), |name: &str| std::fs::write(folder.path().join(name), b"x").unwrap());
        let fetch = |name: &str| {
            put(name);
            Cache::note_fetched(here, name, &here.join(name)).unwrap();
        };
        fetch("config.json");
        assert!(!Cache::is_enough(here, None));
        fetch("model.safetensors");
        assert!(Cache::has_weights(here) && !Cache::is_enough(here, None));
        put("put_by_hand.safetensors");
        assert!(Cache::is_enough(here, None));
        std::fs::remove_file(here.join("put_by_hand.safetensors")).unwrap();
        // the same bytes, put there by a person
        let put_again = std::fs::File::options().write(true).open(here.join("model.safetensors")).unwrap();
        put_again.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        assert!(Cache::is_enough(here, None));
        // as earlier versions noted it
        std::fs::write(here.join(FETCHING), "config.json\nmodel.safetensors\n").unwrap();
        assert!(!Cache::is_enough(here, None));
        Cache::end_fetching(here).unwrap();
        assert!(Cache::is_enough(here, None));
    }

    #[test]
    fn what_a_lock_names_is_enough_whoever_brought_it() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let names = ["config.json", "model.safetensors", "tokenizer.json"];
        let pin = FilePin { bytes: 1, sha256: String::new() };
        let files = names.map(|name| (name.to_owned(), pin.clone())).into();
        let lock = WeightsLock { source: "o/n".into(), files };
        for name in names {
            assert!(!Cache::is_enough(here, Some(&lock)), "{name} is missing");
            std::fs::write(here.join(name), b"x").unwrap();
            Cache::note_fetched(here, name, &here.join(name)).unwrap();
        }
        assert!(Cache::is_enough(here, Some(&lock)) && !Cache::is_enough(here, None));
    }

    #[test]
    fn sources_have_folders_of_their_own_inside_of_the_cache() {
        let cache = Cache { root: PathBuf::from("/cache") };
        let hostile = cache.folder("../../etc/passwd");
        assert!(hostile.starts_with("/cache/weights") && hostile.components().count() == 4, "{}", hostile.display());
        assert_ne!(cache.folder("a/b"), cache.folder("a-b"));
    }
}
