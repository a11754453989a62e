//! What a build has made, as files that other programs open: Hugging Face data sets, WebDataset archives, GeoParquet,
//! NumPy arrays, event files of TensorBoard.
//!
//! Rows go by one group of images at a time, shards in order, so that the same tables give the same bytes. A folder
//! appears when it is whole ([`Draft`]).

mod columns;
pub mod curves;
mod draft;
mod geoparquet;
mod hugging_face;
mod lacking;
mod npy;
mod rows;
mod rsrt;
mod sheet;
mod webdataset;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::TryStreamExt;
use manifests::Artifact;
use manifests::plan::PinnedTable;

pub use draft::Draft;
pub use lacking::{Lacking, lacking, lacking_in_words};
pub use rows::Filter;

use crate::error::WorkerError;
use crate::stores::WorkStore;
use rows::{About, ImageRow, Rows};

/// The layout of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet with encoded images, as the `datasets` library reads it.
    HuggingFace,
    /// Tar archives of images, texts and JSON.
    WebDataset,
    /// The ground of each image as a polygon, with what is known of it, without pixels.
    GeoParquet,
    /// Vectors of images and captions.
    Npy,
    /// Structured captions as JSON lines.
    Rsrt,
}

impl Format {
    /// The tables that it is made of: without one of them there is nothing to write.
    pub fn tables(self) -> &'static [Artifact] {
        match self {
            Format::Npy => &[Artifact::Splits, Artifact::ImageEmbeddings, Artifact::TextEmbeddings],
            Format::Rsrt => &[Artifact::Splits, Artifact::Geotags, Artifact::StructuredCaptions],
            Format::HuggingFace | Format::WebDataset | Format::GeoParquet => {
                &[Artifact::Splits, Artifact::Images, Artifact::Captions, Artifact::Geotags]
            }
        }
    }
}

/// What is exported, and how.
pub struct ExportRequest<'a> {
    /// Where the tables lie.
    pub work: &'a WorkStore,
    /// Those of [`Format::tables`], pinned.
    pub tables: &'a [PinnedTable],
    /// Country of the build, a column of what is written.
    pub country: &'a str,
    /// The layout.
    pub format: Format,
    /// Which rows.
    pub filter: Filter,
    /// A file of a format with several is closed when it is larger than this.
    pub file_bytes: u64,
    /// Set when the export is to end; nothing of it stays.
    pub stop: &'a AtomicBool,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Path in the folder.
    pub path: String,
    /// Name of the split, where a file belongs to one.
    pub split: Option<String>,
    /// Its images, or vectors.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, hexadecimal; of Parquet files.
    pub sha256: Option<String>,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written {
    /// In the order of their paths.
    pub files: Vec<WrittenFile>,
    /// Images of each split.
    pub images: BTreeMap<String, u64>,
    /// Captions of all of them, or vectors of captions.
    pub captions: u64,
    /// Images by the token of their source.
    pub sources: BTreeMap<String, u64>,
    /// Digest of the model that made the vectors, where there are any.
    pub model: Option<String>,
    /// Shards that are left out, as the filter said.
    pub without: Lacking,
}

impl Written {
    /// Images of each split, in words: `432 train, 58 val, 110 test`.
    pub fn splits_in_words(&self) -> String {
        let mut splits: Vec<_> = self.images.iter().collect();
        // as they are used
        splits.sort_by_key(|(name, _)| ["train", "val", "test"].iter().position(|known| known == name));
        let splits: Vec<String> = splits.iter().map(|(split, images)| format!("{images} {split}")).collect();
        splits.join(", ")
    }

    fn count(&mut self, about: &About) {
        *self.images.entry(about.split.clone()).or_default() += 1;
        self.captions += about.captions.len() as u64;
        if let Some(source) = &about.source {
            *self.sources.entry(source.clone()).or_default() += 1;
        }
    }
}

/// Writes an export into a draft of its folder; the caller adds what it has to say and finishes the draft.
///
/// # Errors
/// [`WorkerError::Configuration`] where no row is wanted, [`WorkerError::Broken`] for parts that cannot be read,
/// [`WorkerError::DiskFull`], [`WorkerError::Stopped`]; a store that does not answer.
pub async fn export(request: &ExportRequest<'_>, draft: &Draft) -> Result<Written, WorkerError> {
    let mut written = match request.format {
        Format::HuggingFace => with_pixels(request, hugging_face::Shards::new(draft, request)).await?,
        Format::WebDataset => with_pixels(request, webdataset::Shards::new(draft, request)).await?,
        Format::GeoParquet => geoparquet::write(request, draft).await?,
        Format::Npy => npy::write(request, draft).await?,
        Format::Rsrt => rsrt::write(request, draft).await?,
    };
    if written.images.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "nothing to export: {} has no image with a caption {}; look at `urbancross status`",
            request.country,
            request.filter.in_words()
        )));
    }
    written.files.sort_by(|a, b| a.path.cmp(&b.path));
    written.without = request.filter.without.clone();
    Ok(written)
}

/// A format that takes images one by one and cuts itself into files.
trait PixelWriter {
    fn write(&mut self, rows: Vec<ImageRow>) -> Result<(), WorkerError>;
    fn finish(self) -> Result<Vec<WrittenFile>, WorkerError>;
}

async fn with_pixels(request: &ExportRequest<'_>, mut writer: impl PixelWriter) -> Result<Written, WorkerError> {
    let rows = Rows::of(request)?;
    let mut written = Written::default();
    let mut shards = rows.ahead(|rows, shard| async move { rows.images(shard).await });
    while let Some(images) = shards.try_next().await? {
        let Some(images) = images else { continue };
        let mut groups = images.groups();
        while let Some(group) = groups.try_next().await? {
            stopped(request.stop)?;
            if group.is_empty() {
                continue;
            }
            group.iter().for_each(|row| written.count(&row.about));
            tokio::task::block_in_place(|| writer.write(group))?;
        }
    }
    written.files = tokio::task::block_in_place(|| writer.finish())?;
    Ok(written)
}

/// A split as others call it.
fn split_elsewhere(split: &str) -> &str {
    if split == "val" { "validation" } else { split }
}

fn stopped(stop: &AtomicBool) -> Result<(), WorkerError> {
    if stop.load(Ordering::Relaxed) { Err(WorkerError::Stopped) } else { Ok(()) }
}

/// Closes a file of this machine: its bytes are on the disk, and there are so many.
fn synced(file: std::fs::File, path: &Path) -> Result<u64, WorkerError> {
    file.sync_all().and_then(|()| Ok(file.metadata()?.len())).map_err(|e| WorkerError::of_io(path, &e))
}
