//! Part files: the rows of one shard of one table, sorted by image id, as Parquet.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt, TryStreamExt};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{DynObjectStore, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::async_writer::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use stages::stage::is_disk_full;
use stages::table;

use crate::error::{WorkerError, whole_chain};
use crate::stores::WorkStore;

const SCHEMA_VERSION_KEY: &str = "urbancross.schema_version";

/// A name that no other attempt has. It begins with the time, so that it says how old a part is.
pub fn attempt_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// When the attempt of a part began, in milliseconds since 1970; `None`: the name does not say.
pub fn written_millis(part: &str) -> Option<u64> {
    let name = part.rsplit('/').next()?.strip_suffix(".parquet")?;
    let id = uuid::Uuid::try_parse(name.rsplit('-').next()?).ok()?;
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos) / 1_000_000)
}

/// Shards of a country's table whose part is gone from the store or has another size than was committed.
pub async fn lost(work: &WorkStore, table: &PinnedTable, country: &str) -> Result<BTreeSet<u32>, WorkerError> {
    if table.parts.is_empty() {
        return Ok(BTreeSet::new());
    }
    let folder = format!("{}/{}", paths::table(table.artifact), paths::partition(country));
    let there: HashMap<String, u64> = work.list_sizes(&folder).await?.into_iter().collect();
    let is_lost = |part: &&PartFile| {
        let name = part.path.rsplit('/').next().unwrap_or_default();
        there.get(name) != Some(&part.size_bytes)
    };
    Ok(table.parts.iter().filter(is_lost).map(|part| part.shard).collect())
}

/// Writes one part file, a batch after the other; memory is bounded by a row group.
pub struct PartWriter {
    writer: AsyncArrowWriter<BufWriter>,
    work: WorkStore,
    artifact: Artifact,
    shard: u32,
    path: String,
    rows: u64,
}

impl PartWriter {
    pub fn create(work: &WorkStore, artifact: Artifact, country: &str, shard: u32) -> Result<Self, WorkerError> {
        let path = paths::part(country, shard, &attempt_id());
        let object = work.absolute(&format!("{}/{path}", paths::table(artifact)))?;
        let sink = BufWriter::new(work.object_store(), object);
        let writer = AsyncArrowWriter::try_new(sink, table::schema(artifact), Some(properties(artifact)))
            .map_err(|e| parquet_error(&path, e))?;
        Ok(Self { writer, work: work.clone(), artifact, shard, path, rows: 0 })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), WorkerError> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).await.map_err(|e| parquet_error(&self.path, e))
    }

    /// Closes the file. A part may be without rows: it says that the shard's rows have left.
    pub async fn finish(self) -> Result<PartFile, WorkerError> {
        let path = self.path;
        self.writer.close().await.map_err(|e| parquet_error(&path, e))?;
        let object = format!("{}/{path}", paths::table(self.artifact));
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

fn parquet_error(path: &str, error: ParquetError) -> WorkerError {
    use ParquetError as P;
    if is_disk_full(&error) {
        return WorkerError::DiskFull(path.to_owned());
    }
    match error {
        P::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(store) => WorkerError::of_store(path, *store),
            Err(other) => match other.downcast::<std::io::Error>() {
                Ok(io) => WorkerError::Transient(format!("{path}: {}", whole_chain(io.as_ref()))),
                Err(other) => WorkerError::Broken(format!("{path}: {}", whole_chain(other.as_ref()))),
            },
        },
        other => WorkerError::Broken(format!("{path} is no usable Parquet file: {other}")),
    }
}

/// Reads a part file by columns and rows.
pub struct PartReader {
    work: WorkStore,
    artifact: Artifact,
    path: String,
    size_bytes: u64,
    metadata: ArrowReaderMetadata,
}

impl PartReader {
    /// Reads the footer. A file written by a newer schema is refused.
    pub async fn open(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<Self, WorkerError> {
        let path = format!("{}/{}", paths::table(artifact), part.path);
        let mut reader = object_reader(work, &path, part.size_bytes)?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load_async(&mut reader, options).await.map_err(|e| parquet_error(&path, e))?;
        let written_by = metadata
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .and_then(|pairs| pairs.iter().find(|p| p.key == SCHEMA_VERSION_KEY))
            .and_then(|p| p.value.as_ref()?.parse::<u32>().ok());
        match written_by {
            None => Err(WorkerError::Broken(format!("{path} carries no {SCHEMA_VERSION_KEY}: it is not ours"))),
            Some(version) if version > artifact.schema_version() => Err(WorkerError::Configuration(format!(
                "{path} has schema version {version}, and this version reads up to {}: use a newer urbancross",
                artifact.schema_version()
            ))),
            Some(_) => Ok(Self { work: work.clone(), artifact, path, size_bytes: part.size_bytes, metadata }),
        }
    }

    pub fn artifact(&self) -> Artifact {
        self.artifact
    }

    /// Rows of each row group.
    pub fn row_groups(&self) -> Vec<usize> {
        self.metadata.metadata().row_groups().iter().map(|g| g.num_rows().max(0) as usize).collect()
    }

    /// Reads columns of all rows.
    pub async fn read(&self, columns: &[&str]) -> Result<RecordBatch, WorkerError> {
        self.read_selected(columns, None, None).await
    }

    /// Reads columns of one row group.
    pub async fn read_row_group(&self, columns: &[&str], row_group: usize) -> Result<RecordBatch, WorkerError> {
        self.read_selected(columns, Some(row_group), None).await
    }

    /// Reads columns of some rows, given by rising index.
    pub async fn read_rows(&self, columns: &[&str], rows: &[usize]) -> Result<RecordBatch, WorkerError> {
        let ranges = consecutive(rows);
        let total = self.row_groups().iter().sum();
        self.read_selected(columns, None, Some(RowSelection::from_consecutive_ranges(ranges.into_iter(), total))).await
    }

    async fn read_selected(
        &self,
        columns: &[&str],
        row_group: Option<usize>,
        rows: Option<RowSelection>,
    ) -> Result<RecordBatch, WorkerError> {
        let wanted = projected_schema(self.artifact, columns)?;
        let file_schema = self.metadata.parquet_schema();
        let present: Vec<&str> =
            columns.iter().copied().filter(|c| self.metadata.schema().column_with_name(c).is_some()).collect();
        let reader = object_reader(&self.work, &self.path, self.size_bytes)?;
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone())
            .with_projection(ProjectionMask::columns(file_schema, present.iter().copied()))
            .with_batch_size(1024);
        if let Some(row_group) = row_group {
            builder = builder.with_row_groups(vec![row_group]);
        }
        if let Some(rows) = rows {
            builder = builder.with_row_selection(rows);
        }
        let error = |e| parquet_error(&self.path, e);
        let stream = builder.build().map_err(error)?;
        let read_schema = stream.schema().clone();
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(error)?;
        let batch =
            concat_batches(&read_schema, &batches).map_err(|e| WorkerError::Broken(format!("{}: {e}", self.path)))?;
        adapt(&batch, wanted).map_err(|why| WorkerError::Broken(format!("{}: {why}", self.path)))
    }
}

/// Byte ranges of one object, as Parquet asks for them.
struct ObjectRanges {
    store: Arc<DynObjectStore>,
    path: Path,
    size_bytes: u64,
}

impl AsyncFileReader for ObjectRanges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await }.map_err(ParquetError::from).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await }.map_err(ParquetError::from).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size_bytes = self.size_bytes;
            ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .with_prefetch_hint(Some(64 << 10))
                .load_and_finish(self, size_bytes)
                .await
                .map(Arc::new)
        }
        .boxed()
    }
}

fn object_reader(work: &WorkStore, path: &str, size_bytes: u64) -> Result<ObjectRanges, WorkerError> {
    Ok(ObjectRanges { store: work.object_store(), path: work.absolute(path)?, size_bytes })
}

fn projected_schema(artifact: Artifact, columns: &[&str]) -> Result<SchemaRef, WorkerError> {
    let schema = table::schema(artifact);
    let fields = columns
        .iter()
        .map(|c| schema.field_with_name(c).cloned())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| WorkerError::Broken(format!("table {}: {e}", artifact.name())))?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Brings a batch into the wanted columns and types; columns that an older file lacks are null.
fn adapt(batch: &RecordBatch, wanted: SchemaRef) -> Result<RecordBatch, String> {
    let columns = wanted
        .fields()
        .iter()
        .map(|field| -> Result<ArrayRef, String> {
            match batch.column_by_name(field.name()) {
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
                None => Err(format!("column {} is missing", field.name())),
                Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
                Some(column) => arrow::compute::cast(column, field.data_type())
                    .map_err(|e| format!("column {} is {}: {e}", field.name(), column.data_type())),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(wanted, columns, &options).map_err(|e| e.to_string())
}

fn consecutive(rows: &[usize]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::build::StoreOptions;

    fn splits(ids: &[&str]) -> RecordBatch {
        let texts = |value: &str| table::texts(ids.iter().map(|_| Some(value.to_owned())));
        let columns = vec![
            table::texts(ids.iter().map(|id| Some(id.to_string()))),
            texts("ok"),
            table::texts(ids.iter().map(|_| None::<String>)),
            texts("r"),
            table::int32s(ids.iter().map(|_| Some(1))),
            texts(""),
            texts("{}"),
            texts("{}"),
            texts("train"),
            table::texts(ids.iter().map(|_| None::<String>)),
            texts("d"),
        ];
        RecordBatch::try_new(table::schema(Artifact::Splits), columns).unwrap()
    }

    #[tokio::test]
    async fn parts_are_read_by_rows_and_columns() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let mut writer = PartWriter::create(&work, Artifact::Splits, "finland", 3).unwrap();
        writer.write(&splits(&["a", "b", "c"])).await.unwrap();
        writer.write(&splits(&["d", "e"])).await.unwrap();
        let part = writer.finish().await.unwrap();
        assert_eq!((part.rows, paths::shard_of_part(&part.path)), (5, Some(3)));
        let reader = PartReader::open(&work, Artifact::Splits, &part).await.unwrap();
        let batch = reader.read_rows(&["split", "image_id"], &[1, 2, 4]).await.unwrap();
        assert_eq!(batch.num_rows(), 3);
        let ids = table::Columns::new(Artifact::Splits, &batch).text("image_id").unwrap().clone();
        assert_eq!(ids.iter().flatten().collect::<Vec<_>>(), ["b", "c", "e"]);
        // a part without rows is a part
        let empty = PartWriter::create(&work, Artifact::Splits, "finland", 4).unwrap().finish().await.unwrap();
        let reader = PartReader::open(&work, Artifact::Splits, &empty).await.unwrap();
        assert_eq!((empty.rows, reader.read(&["image_id", "split"]).await.unwrap().num_rows()), (0, 0));
    }

    #[test]
    fn older_files_are_read_with_nulls() {
        let old = splits(&["a"]).project(&[0, 8]).unwrap();
        let wanted = projected_schema(Artifact::Splits, &["image_id", "split", "split_reason"]).unwrap();
        let batch = adapt(&old, wanted).unwrap();
        assert_eq!(batch.column(2).null_count(), 1);
        let wanted = projected_schema(Artifact::Splits, &["recipe"]).unwrap();
        assert!(adapt(&old, wanted).unwrap_err().contains("recipe"));
    }

    #[test]
    fn rows_become_ranges() {
        assert_eq!(consecutive(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
    }
}
