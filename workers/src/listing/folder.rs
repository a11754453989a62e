//! What lies in a folder of the source. A local folder holds more than data: links that lead in a circle, folders that
//! may not be read, names of other systems. Nothing of it stops a build; what may have been data is named.

use std::collections::BTreeMap;
use std::path::Path;

use object_store::ObjectMeta;
use sources::captioned::composed;
use walkdir::{DirEntry, WalkDir};

use super::Problem;
use crate::error::WorkerError;
use crate::stores::{SourceStore, identity, tag};

/// Requests in flight for what a local listing does not tell.
const HEADS_AT_ONCE: usize = 32;

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its path below the folder, as it is stored.
    pub(super) name: String,
    /// What it was, where the listing tells it.
    seen: Option<Seen>,
}

/// A file as it was when it was listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// A text that changes when the file does.
    pub(super) identity: String,
    /// By which whoever reads it knows it again.
    pub(super) etag: Option<String>,
    /// Its size.
    pub(super) bytes: Option<u64>,
}

impl Seen {
    fn of(meta: ObjectMeta) -> Self {
        Self { identity: identity(&meta), etag: tag(&meta), bytes: Some(meta.size) }
    }
}

/// Files and folders, and what was passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Folder {
    /// By their name with accents composed.
    pub(super) files: BTreeMap<String, File>,
    /// Names that end with `/`; of the top only.
    pub(super) folders: Vec<String>,
    /// What may be data and cannot be read.
    pub(super) left_out: Vec<Problem>,
}

impl Folder {
    /// All files below a folder.
    pub(super) async fn below(source: &SourceStore, folder: &str) -> Result<Folder, WorkerError> {
        match source.local_folder() {
            Some(root) => walk(root.join(folder), usize::MAX).await,
            None => {
                let mut listed = Folder::default();
                for (name, meta) in source.list_metas(folder).await? {
                    listed.add(name, Some(Seen::of(meta)));
                }
                Ok(listed)
            }
        }
    }

    /// The files and folders directly in the source.
    pub(super) async fn top(source: &SourceStore) -> Result<Folder, WorkerError> {
        if let Some(root) = source.local_folder() {
            return walk(root, 1).await;
        }
        let mut listed = Folder::default();
        for name in source.list_top().await? {
            if name.ends_with('/') {
                listed.folders.push(name);
            } else {
                listed.add(name, None);
            }
        }
        Ok(listed)
    }

    /// Takes a file in, unless it only holds attributes that macOS keeps beside files of foreign disks.
    fn add(&mut self, name: String, seen: Option<Seen>) {
        if !name.rsplit('/').next().is_some_and(|file| file.starts_with("._")) {
            self.files.insert(composed(&name).into_owned(), File { name, seen });
        }
    }

    fn add_entry(&mut self, root: &Path, entry: &DirEntry) {
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let Some(name) = path.to_str().filter(|name| !name.contains(char::is_control)) else {
            return self.leave_out(path, "its name is not UTF-8, or holds control characters: rename it");
        };
        if entry.file_type().is_dir() {
            self.folders.push(format!("{name}/"));
        } else if entry.file_type().is_file() {
            self.add(name.to_owned(), None);
        } else {
            self.leave_out(path, "not a file");
        }
    }

    fn leave_out(&mut self, path: &Path, why: impl Into<String>) {
        let what = path.to_string_lossy().escape_debug().to_string();
        self.left_out.push(Problem { what, why: why.into() });
    }
}

/// Walks through a folder of this machine.
async fn walk(root: std::path::PathBuf, depth: usize) -> Result<Folder, WorkerError> {
    let walk = move || {
        let mut folder = Folder::default();
        for entry in WalkDir::new(&root).min_depth(1).max_depth(depth).follow_links(true).sort_by_file_name() {
            match entry {
                Ok(entry) => folder.add_entry(&root, &entry),
                // the folder itself is not there
                Err(error) if error.depth() == 0 => {}
                Err(error) => {
                    let path = error.path().unwrap_or(&root);
                    let path = path.strip_prefix(&root).unwrap_or(path);
                    let why = match (error.loop_ancestor(), error.io_error()) {
                        (Some(_), _) => "a loop of symbolic links".to_owned(),
                        (None, Some(io)) => format!("cannot be read: {io}"),
                        (None, None) => "cannot be read".to_owned(),
                    };
                    folder.leave_out(path, why);
                }
            }
        }
        folder
    };
    tokio::task::spawn_blocking(walk)
        .await
        .map_err(|e| WorkerError::Broken(format!("a walk through a folder failed: {e}")))
}

/// What the files are now, in order.
pub(super) async fn seen(
    source: &SourceStore,
    files: impl IntoIterator<Item = (&File, String)>,
) -> Result<Vec<Seen>, WorkerError> {
    use futures::{StreamExt, TryStreamExt};
    let ask = |(file, object): (&File, String)| {
        let known = file.seen.clone();
        async move {
            match known {
                Some(known) => Ok(known),
                None => match source.head(&object).await {
                    Ok(meta) => Ok(meta.map_or_else(Seen::default, Seen::of)),
                    // the row will say so when it is fetched, and be made again once this changes
                    Err(WorkerError::Configuration(why)) if source.local_folder().is_some() => {
                        Ok(Seen { identity: why, ..Seen::default() })
                    }
                    Err(WorkerError::Refused(why)) => Ok(Seen { identity: why, ..Seen::default() }),
                    Err(other) => Err(other),
                },
            }
        }
    };
    let asked: Vec<_> = files.into_iter().map(ask).collect();
    futures::stream::iter(asked).buffered(HEADS_AT_ONCE).try_collect().await
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[tokio::test]
    async fn what_is_no_data_is_passed_over_and_named() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::create_dir_all(path("sub")).unwrap();
        for name in ["a.jpg", "sub/u\u{308}.jpg", "._a.jpg", "sub/._b", "_SUCCESS", "tab\there.jpg"] {
            std::fs::write(path(name), b"x").unwrap();
        }
        std::fs::write(root.path().join(OsStr::from_bytes(b"\xff.jpg")), b"x").unwrap();
        std::os::unix::fs::symlink(root.path(), path("sub/loop")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        std::os::unix::fs::symlink(path("a.jpg"), path("linked.jpg")).unwrap();
        let folder = walk(root.path().to_owned(), usize::MAX).await.unwrap();
        let names: Vec<&str> = folder.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["_SUCCESS", "a.jpg", "linked.jpg", "sub/\u{fc}.jpg"]);
        assert_eq!(folder.files["sub/\u{fc}.jpg"].name, "sub/u\u{308}.jpg", "read under the name it has");
        let left_out: Vec<&str> = folder.left_out.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(left_out, ["dangling", "sub/loop", "tab\\there.jpg", "\u{fffd}.jpg"], "{folder:?}");
        let top = walk(root.path().to_owned(), 1).await.unwrap();
        assert_eq!(top.folders, ["sub/"]);
        assert_eq!(walk(path("nothing"), 1).await.unwrap(), Folder::default());
    }
}
