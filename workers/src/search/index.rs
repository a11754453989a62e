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
use crate::durable;
use crate::error::WorkerError;
use crate::parts::attempt_id;

pub use file::{IndexFile, IndexWriter};
pub use look::{Wanted, look};

/// Of the files' form: those of another one are made again.
const FORM: u32 = 1;
const ENDING: &str = ".arrow";
/// Nobody writes one file for so long.
const DRAFT_LIVES: Duration = Duration::from_secs(86_400);

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
        let folder = folder(gallery);
        let there = names(&folder);
        let missing = gallery.vectors.iter().filter(|vectors| !there.contains_key(&key(vectors))).count();
        if missing > 0 {
            announce(missing);
        }
        let (folder, there) = (&folder, &there);
        let files: Vec<Option<(VectorFile, Arc<IndexFile>)>> = futures::stream::iter(&gallery.vectors)
            .map(|vectors| async move {
                let kept = there.get(&key(vectors)).and_then(|name| {
                    let opened = IndexFile::open(&folder.join(name));
                    opened.inspect_err(|why| tracing::warn!("vectors that a search kept are made again: {why}")).ok()
                });
                let file = match kept {
                    Some(file) => Ok(Some(file)),
                    None => make(gallery, vectors, folder).await,
                };
                let file = file.unwrap_or_else(|error| {
                    tracing::warn!(%error, "vectors cannot be copied to the cache: the table is read instead");
                    None
                });
                file.map(|file| (vectors.clone(), Arc::new(file)))
            })
            .buffered(gallery.at_once.max(1))
            .collect()
            .await;
        let files: BTreeMap<_, _> = files.into_iter().flatten().collect();
        let needed: BTreeSet<&str> = files.values().map(|file| file.name()).collect();
        for name in there.values().filter(|name| !needed.contains(name.as_str())) {
            // mapped files live on without their name
            _ = std::fs::remove_file(folder.join(name));
        }
        remove_drafts(folder);
        Self { files }
    }

    pub(super) fn of(&self, vectors: &VectorFile) -> Option<&Arc<IndexFile>> {
        self.files.get(vectors)
    }
}

/// Reads vectors and writes their file of the index. `None`: some are by another model, which is soon to change.
async fn make(gallery: &Gallery, vectors: &VectorFile, folder: &Path) -> Result<Option<IndexFile>, WorkerError> {
    let reader = vectors.open(&gallery.work).await?;
    durable::create_folder(folder)?;
    let mut writer = IndexWriter::create(&folder.join(format!(".{}", attempt_id())))?;
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

/// Folder of a gallery's index: vectors by another model, of another country or store have another one.
fn folder(gallery: &Gallery) -> PathBuf {
    let key = digest::of_value(&(gallery.work.url().as_str(), &gallery.country, &gallery.model));
    crate::cache_folder::root().join("search").join(&key[..24])
}

/// Removes what writers that died have left.
fn remove_drafts(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|known| known.modified());
        let is_old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > DRAFT_LIVES));
        if is_old && entry.file_name().to_string_lossy().starts_with('.') {
            _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a file's name begins with.
fn key(vectors: &VectorFile) -> String {
    digest::of_value(&(FORM, &vectors.path, vectors.size_bytes))[..24].to_owned()
}

/// Names of a folder's files by their keys.
fn names(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some((name.strip_suffix(ENDING)?.split_once('-')?.0.to_owned(), name))).collect()
}
