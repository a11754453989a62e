//! Search in tables: which images are looked at, their vectors one row group after the other, and what is known of those
//! that were found.
//!
//! Vectors by a build's own model are the table `image_embeddings`; those by another one are kept beside the tables.

mod filter;
mod found;
pub mod index;
mod kept;
mod scan;
mod scanned;
mod survey;

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::spec::{TextPooling, VariantRule};
use manifests::{Artifact, PartFile, paths, shard_of};
use stages::segment_features::from_half_bytes;
use stages::table::{Columns, TableError, option_text};

use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

pub use filter::{Filter, Near, Rectangle, Tag, Tags, kilometres};
pub use found::Found;
pub use kept::kept_vectors;
pub use scan::scan;
pub use scanned::Scan;
pub use survey::Surveyed;

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// A file that holds vectors of a shard's images: a row of `image_embeddings` has one, one of `structured_embeddings`
/// one for each text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VectorFile {
    /// Number of the shard.
    pub shard: u32,
    /// Whose columns it has.
    artifact: Artifact,
    path: String,
    size_bytes: u64,
}

impl VectorFile {
    /// A part of `image_embeddings`.
    pub fn of_pictures(part: &PartFile) -> Self {
        Self::of_table(Artifact::ImageEmbeddings, part)
    }

    /// A part of `structured_embeddings`.
    pub fn of_texts(part: &PartFile) -> Self {
        Self::of_table(Artifact::StructuredEmbeddings, part)
    }

    fn of_table(artifact: Artifact, part: &PartFile) -> Self {
        let path = format!("{}/{}", paths::table(artifact), part.path);
        Self { shard: part.shard, artifact, path, size_bytes: part.size_bytes }
    }

    /// The column with the vectors.
    fn column(&self) -> &'static str {
        if self.artifact == Artifact::StructuredEmbeddings { "variants" } else { "embedding" }
    }

    /// The vectors of each row of a batch.
    fn vectors(&self, batch: &RecordBatch) -> Result<Vec<Vec<Vec<f32>>>, TableError> {
        let columns = Columns::new(self.artifact, batch);
        if self.artifact != Artifact::StructuredEmbeddings {
            return Ok(columns.vectors(self.column())?.into_iter().map(|vector| vec![vector]).collect());
        }
        (0..batch.num_rows())
            .map(|row| {
                let items = columns.structs(self.column(), row)?;
                let vectors = columns.inner(&items).binary("vector")?.iter().flatten().map(from_half_bytes);
                Ok(vectors.collect())
            })
            .collect()
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn open(&self, work: &WorkStore) -> Result<PartReader, WorkerError> {
        PartReader::open_at(work, self.artifact, self.path.clone(), self.size_bytes).await
    }
}

/// The images of one build, with vectors by one model.
#[derive(Clone)]
pub struct Gallery {
    /// Where everything lies.
    pub work: WorkStore,
    /// The build's country.
    pub country: String,
    /// Number of shards of the country.
    pub shards: u32,
    /// Shards that are read side by side.
    pub at_once: usize,
    /// Vectors, one file for a shard.
    pub vectors: Vec<VectorFile>,
    /// What stands for an image with several vectors.
    pub rule: VariantRule,
    /// Digest of the model: rows by another one are not looked at.
    pub model: String,
    /// How a text that is searched with is pooled, where the vectors are of texts: rows that are pooled otherwise are
    /// not looked at either.
    pub pooling: Option<TextPooling>,
    /// Places, times and tags of the images.
    pub geotags: PinnedTable,
    /// Their splits.
    pub splits: PinnedTable,
    /// Their captions.
    pub captions: PinnedTable,
    /// The images themselves.
    pub images: PinnedTable,
    /// Copies of vectors on this machine, of all or some.
    pub index: Arc<index::Index>,
}

impl Gallery {
    fn file_of(&self, image_id: &str) -> Option<&VectorFile> {
        let shard = shard_of(image_id, self.shards);
        self.vectors.iter().find(|file| file.shard == shard)
    }

    /// The vector of an image by the gallery's model.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for files that cannot be read; a store that does not answer.
    pub async fn vector_of(&self, image_id: &str) -> Result<Option<Vec<f32>>, WorkerError> {
        let Some(file) = self.file_of(image_id) else { return Ok(None) };
        let reader = file.open(&self.work).await?;
        let rows = reader.read(&["image_id", "status", "model"]).await?;
        let columns = Columns::new(Artifact::ImageEmbeddings, &rows);
        let [ids, status, model] = ["image_id", "status", "model"].map(|name| columns.text(name));
        let (ids, status, model) = (ids.map_err(broken)?, status.map_err(broken)?, model.map_err(broken)?);
        let is_it =
            |row: &usize| ids.value(*row) == image_id && status.value(*row) == "ok" && model.value(*row) == self.model;
        let Some(row) = (0..rows.num_rows()).find(is_it) else { return Ok(None) };
        let batch = reader.read_rows(&["embedding"], &[row]).await?;
        let vectors = Columns::new(Artifact::ImageEmbeddings, &batch).vectors("embedding").map_err(broken)?;
        Ok(vectors.into_iter().next())
    }

    /// Why an image has no vector by the gallery's model, where the tables tell; `None`: they do not know it, or it has
    /// one.
    ///
    /// # Errors
    /// As [`vector_of`](Self::vector_of).
    pub async fn trouble_with(&self, image_id: &str) -> Result<Option<String>, WorkerError> {
        let shard = shard_of(image_id, self.shards);
        let mut is_known = false;
        for table in [&self.geotags, &self.images] {
            let Some(part) = table.part(shard) else { continue };
            let rows = PartReader::open(&self.work, table.artifact, part).await?.read(&["image_id", "error"]).await?;
            let columns = Columns::new(table.artifact, &rows);
            let (ids, why) = (columns.text("image_id").map_err(broken)?, columns.text("error").map_err(broken)?);
            let row = (0..rows.num_rows()).find(|row| ids.value(*row) == image_id);
            if let Some(why) = row.and_then(|row| option_text(why, row)) {
                return Ok(Some(why.to_owned()));
            }
            is_known |= row.is_some();
        }
        if !is_known {
            return Ok(None);
        }
        if let Some(file) = self.file_of(image_id) {
            let rows = file.open(&self.work).await?.read(&["image_id", "error", "model"]).await?;
            let columns = Columns::new(file.artifact, &rows);
            let [ids, why, model] = ["image_id", "error", "model"].map(|name| columns.text(name));
            let (ids, why, model) = (ids.map_err(broken)?, why.map_err(broken)?, model.map_err(broken)?);
            let is_it = |row: &usize| ids.value(*row) == image_id && model.value(*row) == self.model;
            if let Some(row) = (0..rows.num_rows()).find(is_it) {
                return Ok(option_text(why, row).map(str::to_owned));
            }
        }
        let why = "none by this model was made yet: run its build to its end (`urbancross run` with its spec)";
        Ok(Some(why.to_owned()))
    }

    /// Columns of an image's row in a table of the same country, where it is there and has not failed.
    ///
    /// # Errors
    /// As [`vector_of`](Self::vector_of).
    pub async fn row(
        &self,
        table: &PinnedTable,
        image_id: &str,
        columns: &[&str],
    ) -> Result<Option<RecordBatch>, WorkerError> {
        row_of(&self.work, (table, self.shards), image_id, columns).await
    }

    /// Some image that can be searched with.
    ///
    /// # Errors
    /// As [`vector_of`](Self::vector_of).
    pub async fn some_image(&self) -> Result<Option<String>, WorkerError> {
        for file in &self.vectors {
            let rows = file.open(&self.work).await?.read(&["image_id", "status", "model"]).await?;
            let columns = Columns::new(Artifact::ImageEmbeddings, &rows);
            let [ids, status, model] = ["image_id", "status", "model"].map(|name| columns.text(name));
            let (ids, status, model) = (ids.map_err(broken)?, status.map_err(broken)?, model.map_err(broken)?);
            let is_good = |row: &usize| status.value(*row) == "ok" && model.value(*row) == self.model;
            if let Some(row) = (0..rows.num_rows()).find(is_good) {
                return Ok(Some(ids.value(row).to_owned()));
            }
        }
        Ok(None)
    }

    /// Whether all vectors are by the gallery's model. The first row of each file tells: a run makes all rows of a shard
    /// by one model.
    ///
    /// # Errors
    /// As [`vector_of`](Self::vector_of).
    pub async fn is_whole(&self) -> Result<bool, WorkerError> {
        let models = self.vectors.clone().into_iter().map(|file| {
            let work = self.work.clone();
            async move { model_of(&work, &file).await }
        });
        let mut models = in_order(models, self.at_once, "vectors");
        while let Some(model) = models.try_next().await? {
            if model.is_some_and(|model| model != self.model) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Digest of the model that made the vectors in some files: of a table as it was once, which nothing else tells.
///
/// # Errors
/// As [`Gallery::vector_of`].
pub async fn model_of_vectors(work: &WorkStore, files: &[VectorFile]) -> Result<Option<String>, WorkerError> {
    for file in files {
        if let Some(model) = model_of(work, file).await? {
            return Ok(Some(model));
        }
    }
    Ok(None)
}

/// Digest of the model that made a file's vectors; `None`: it has none.
async fn model_of(work: &WorkStore, file: &VectorFile) -> Result<Option<String>, WorkerError> {
    let rows = file.open(work).await?.read(&["model"]).await?;
    let models = Columns::new(file.artifact, &rows).text("model").map_err(broken)?;
    Ok(models.iter().flatten().next().map(str::to_owned))
}

/// Good rows of some images in a table, where it has them: their ids, in the order of the rows, and the columns.
async fn rows_of(
    work: &WorkStore,
    table: &PinnedTable,
    shard: u32,
    wanted: &[&str],
    columns: &[&str],
) -> Result<Option<(Vec<String>, RecordBatch)>, WorkerError> {
    let Some(part) = table.part(shard) else { return Ok(None) };
    let reader = PartReader::open(work, table.artifact, part).await?;
    let all = reader.read(&["image_id", "status"]).await?;
    let identity = Columns::new(table.artifact, &all);
    let (ids, status) = (identity.text("image_id").map_err(broken)?, identity.text("status").map_err(broken)?);
    let rows: Vec<usize> =
        (0..all.num_rows()).filter(|&row| status.value(row) == "ok" && wanted.contains(&ids.value(row))).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let found = rows.iter().map(|row| ids.value(*row).to_owned()).collect();
    Ok(Some((found, reader.read_rows(columns, &rows).await?)))
}

/// Columns of an image's row in a table of a country with so many shards, where it is there and has not failed.
///
/// # Errors
/// [`WorkerError::Broken`] for a part that cannot be read; a store that does not answer.
pub async fn row_of(
    work: &WorkStore,
    (table, shards): (&PinnedTable, u32),
    image_id: &str,
    columns: &[&str],
) -> Result<Option<RecordBatch>, WorkerError> {
    let shard = shard_of(image_id, shards);
    Ok(rows_of(work, table, shard, &[image_id], columns).await?.map(|(_, batch)| batch))
}
