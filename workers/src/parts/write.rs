//! Writing a part.

use arrow::array::RecordBatch;
use manifests::{Artifact, PartFile, paths};
use object_store::buffered::BufWriter;
use parquet::arrow::async_writer::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use stages::table;

use super::seal::{Seal, Sealing};
use super::{SCHEMA_VERSION_KEY, parquet_error};
use crate::attempt;
use crate::error::WorkerError;
use crate::stores::WorkStore;

/// Writes one part file, a batch after the other; memory is bounded by a row group.
pub struct PartWriter {
    writer: AsyncArrowWriter<Sealing<BufWriter>>,
    seal: Seal,
    work: WorkStore,
    shard: u32,
    /// As the part has it.
    path: String,
    /// From the store's root on.
    object: String,
    rows: u64,
}

impl PartWriter {
    /// Begins a part under a name of its own; nothing is visible before [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a path that leaves the store.
    pub fn create(work: &WorkStore, artifact: Artifact, country: &str, shard: u32) -> Result<Self, WorkerError> {
        let path = paths::part(country, shard, &attempt::id());
        let object = format!("{}/{path}", paths::table(artifact));
        Self::begin(work, artifact, shard, path, object)
    }

    /// Begins a file of a table's rows outside of the table, at a path of the store that nothing has.
    pub(crate) fn create_at(
        work: &WorkStore,
        artifact: Artifact,
        shard: u32,
        path: String,
    ) -> Result<Self, WorkerError> {
        Self::begin(work, artifact, shard, path.clone(), path)
    }

    fn begin(
        work: &WorkStore,
        artifact: Artifact,
        shard: u32,
        path: String,
        object: String,
    ) -> Result<Self, WorkerError> {
        let (sink, seal) = Sealing::new(BufWriter::new(work.object_store(), work.absolute(&object)?));
        let writer = AsyncArrowWriter::try_new(sink, table::schema(artifact), Some(properties(artifact)))
            .map_err(|e| parquet_error(&path, e))?;
        Ok(Self { writer, seal, work: work.clone(), shard, path, object, rows: 0 })
    }

    /// Appends rows of the table's schema.
    ///
    /// # Errors
    /// [`WorkerError::DiskFull`]; a store that does not answer.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), WorkerError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).await.map_err(|e| parquet_error(&self.path, e))
    }

    /// Closes the file. A part may be without rows: it says that the shard's rows have left.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn finish(mut self) -> Result<PartFile, WorkerError> {
        let path = self.path;
        self.writer.flush().await.map_err(|e| parquet_error(&path, e))?;
        for entry in self.seal.entries() {
            self.writer.append_key_value_metadata(entry);
        }
        self.writer.close().await.map_err(|e| parquet_error(&path, e))?;
        let object = self.object;
        let size_bytes = match self.work.head(&object).await? {
            Some(meta) => meta.size,
            None => return Err(WorkerError::Transient(format!("{object}: written, but the store does not show it"))),
        };
        Ok(PartFile { shard: self.shard, path, size_bytes, rows: self.rows })
    }
}

fn properties(artifact: Artifact) -> WriterProperties {
    let zstd = ZstdLevel::try_new(1).map(Compression::ZSTD).unwrap_or(Compression::UNCOMPRESSED);
    let mut properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(artifact.row_group_rows()))
        .set_compression(zstd)
        .set_key_value_metadata(Some(vec![KeyValue::new(
            SCHEMA_VERSION_KEY.to_owned(),
            artifact.schema_version().to_string(),
        )]));
    if artifact == Artifact::Images {
        // JPEG does not compress, and every value is different
        properties = properties
            .set_column_compression("bytes".into(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled("bytes".into(), false)
            .set_column_statistics_enabled("bytes".into(), EnabledStatistics::None);
    }
    properties.build()
}
