//! Vectors on this machine, for searches through very many: memory-mapped files in the cache, with each vector once in one
//! byte a number and once as it is. A search reads the bytes of all, and the vectors of those that might be among the best;
//! so it finds what a pass over the tables finds, with the same scores.
//!
//! There is one file for each file of vectors, which never change: after an edit only what is new is copied. Files are
//! hints: one that is gone or damaged is made again, and where there is none the table is read.

mod file;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use manifests::Artifact;
use manifests::digest;
use stages::table::Columns;

use super::{Gallery, VectorFile, broken};
use crate::attempt;
use crate::durable;
use crate::error::WorkerError;
use crate::stores::WorkStore;

pub use file::{IndexFile, IndexWriter};
pub use look::{Wanted, look};

/// Of the files' form: those of another one are made again.
const FORM: u32 = 1;
const ENDING: &str = ".arrow";
/// Digits of a name.
const KEY: usize = 24;
/// Nobody writes one file for so long.
const DRAFT_LIVES: Duration = Duration::from_secs(86_400);
/// What no search has opened for so long is of a model or a build that nobody asks any more.
const UNUSED_LIVES: Duration = Duration::from_secs(30 * 86_400);
/// In each index: as old as the last search that opened it.
const USED: &str = "used";

/// `None`: vectors that are read from their table.
type Opened = Result<Option<(VectorFile, Arc<IndexFile>)>, WorkerError>;

/// Files of an index, by the vectors that they are made of. Vectors that have none are read from their table.
#[derive(Debug, Default)]
pub struct Index {
    files: BTreeMap<VectorFile, Arc<IndexFile>>,
}

impl Index {
    /// The index of a gallery's vectors, in a folder of the cache for them alone. Files that are not there are made, which
    /// `announce` is told with their number; those that nothing needs any more are removed. What cannot be copied, for
    /// whatever reason, is left to the tables: another process may clear files away, and a disk may be full.
    pub async fn open(gallery: &Gallery, announce: impl FnOnce(usize)) -> Self {
        let folder = folder(&gallery.work, &gallery.country, &gallery.model);
        let there = names(&folder);
        let missing = gallery.vectors.iter().filter(|vectors| !there.contains_key(&key(vectors))).count();
        if missing > 0 {
            announce(missing);
        }
        let (folder, there) = (&folder, &there);
        let opened: Vec<Opened> = futures::stream::iter(&gallery.vectors)
            .map(|vectors| async move {
                let kept = there.get(&key(vectors)).and_then(|name| {
                    let opened = IndexFile::open(&folder.join(name));
                    opened.inspect_err(|why| tracing::warn!("vectors that a search kept are made again: {why}")).ok()
                });
                let file = match kept {
                    Some(file) => Some(file),
                    None => make(gallery, vectors, folder).await?,
                };
                Ok(file.map(|file| (vectors.clone(), Arc::new(file))))
            })
            .buffered(gallery.at_once.max(1))
            .collect()
            .await;
        // one cause for all of them, such as a full disk
        if let Some(error) = opened.iter().find_map(|file| file.as_ref().err()) {
            tracing::warn!(%error, "vectors cannot be copied to the cache: the table is read instead");
        }
        let files: BTreeMap<_, _> = opened.into_iter().filter_map(Result::ok).flatten().collect();
        let needed: BTreeSet<&str> = files.values().map(|file| file.name()).collect();
        for name in there.values().filter(|name| !needed.contains(name.as_str())) {
            // mapped files live on without their name
            _ = std::fs::remove_file(folder.join(name));
        }
        remove_drafts(folder);
        if !files.is_empty() {
            // as good as the day: what cannot be written only makes it older
            _ = std::fs::write(folder.join(USED), "");
            folder.parent().into_iter().for_each(remove_unused);
        }
        Self { files }
    }

    pub(super) fn of(&self, vectors: &VectorFile) -> Option<&Arc<IndexFile>> {
        self.files.get(vectors)
    }
}

/// Which files of vectors are copied to this machine.
pub(super) struct Copied(BTreeMap<String, String>);

impl Copied {
    pub(super) fn has(&self, vectors: &VectorFile) -> bool {
        self.0.contains_key(&key(vectors))
    }
}

/// Of a country's vectors by a model.
pub(super) fn copied(work: &WorkStore, country: &str, model: &str) -> Copied {
    Copied(names(&folder(work, country, model)))
}

/// Reads vectors and writes their file of the index. `None`: some are by another model, which is soon to change.
async fn make(gallery: &Gallery, vectors: &VectorFile, folder: &Path) -> Result<Option<IndexFile>, WorkerError> {
    let reader = vectors.open(&gallery.work).await?;
    durable::create_folder(folder)?;
    let mut writer = IndexWriter::create(&folder.join(format!(".{}", attempt::id())))?;
    for row_group in 0..reader.row_groups().len() {
        let batch = reader.read_row_group(&["image_id", "status", "model", "embedding"], row_group).await?;
        let columns = Columns::new(Artifact::ImageEmbeddings, &batch);
        let [ids, status, model] = ["image_id", "status", "model"].map(|name| columns.text(name));
        let (ids, status, model) = (ids.map_err(broken)?, status.map_err(broken)?, model.map_err(broken)?);
        let good: Vec<usize> = (0..batch.num_rows()).filter(|row| status.value(*row) == "ok").collect();
        if good.iter().any(|row| model.value(*row) != gallery.model) {
            return Ok(None);
        }
        let all = columns.vectors("embedding").map_err(broken)?;
        let rows: Vec<(&str, &[f32])> = good.iter().map(|row| (ids.value(*row), all[*row].as_slice())).collect();
        if !tokio::task::block_in_place(|| writer.write(&rows))? {
            return Ok(None);
        }
    }
    tokio::task::block_in_place(|| writer.finish(&key(vectors))).map(Some)
}

/// Folder of an index: vectors by another model, of another country or store have another one.
fn folder(work: &WorkStore, country: &str, model: &str) -> PathBuf {
    let key = digest::of_value(&(work.url().as_str(), country, model));
    crate::cache_folder::root().join("search").join(&key[..KEY])
}

/// Removes what writers that died have left.
fn remove_drafts(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_older(&entry.path(), DRAFT_LIVES) && entry.file_name().to_string_lossy().starts_with('.') {
            _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes indices that were not opened for long: those of a model that was trained again, of a build that is gone.
fn remove_unused(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let (name, folder) = (entry.file_name(), entry.path());
        let is_index =
            name.to_string_lossy().len() == KEY && name.to_string_lossy().bytes().all(|b| b.is_ascii_hexdigit());
        let used = folder.join(USED);
        let known = if used.exists() { &used } else { &folder };
        if is_index && is_older(known, UNUSED_LIVES) {
            tracing::info!(folder = %folder.display(), "vectors that no search has used for a month are removed");
            _ = std::fs::remove_dir_all(&folder);
        }
    }
}

/// Was this last changed so long ago? What cannot be told is young.
fn is_older(path: &Path, than: Duration) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|known| known.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > than))
}

/// What a file's name begins with.
fn key(vectors: &VectorFile) -> String {
    digest::of_value(&(FORM, &vectors.path, vectors.size_bytes))[..KEY].to_owned()
}

/// Names of a folder's files by their keys.
fn names(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some((name.strip_suffix(ENDING)?.split_once('-')?.0.to_owned(), name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_that_nobody_opens_are_removed_after_a_month() {
        let all = tempfile::tempdir().unwrap();
        let folder = |digit: &str| {
            let folder = all.path().join(digit.repeat(KEY));
            std::fs::create_dir(&folder).unwrap();
            folder
        };
        let (used, unused, unmarked, other) = (folder("a"), folder("b"), folder("c"), all.path().join("notes"));
        std::fs::create_dir(&other).unwrap();
        for (folder, days) in [(&used, 29), (&unused, 31), (&other, 31)] {
            let mark = std::fs::File::create(folder.join(USED)).unwrap();
            mark.set_modified(std::time::SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
        }
        remove_unused(all.path());
        assert_eq!([&used, &unused, &unmarked, &other].map(|folder| folder.exists()), [true, false, true, true]);
    }
}
