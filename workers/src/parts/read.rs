//! Reading a part by columns and rows.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, TryStreamExt};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, paths};
use object_store::path::Path;
use object_store::{DynObjectStore, ObjectStore};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use stages::table;

use super::seal::{self, DataSums};
use super::{SCHEMA_VERSION_KEY, damaged, parquet_error, written_millis};
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::stores::WorkStore;

/// Reads a part file by columns and rows. Whatever is read is compared with the checksums that the part carries.
pub struct PartReader {
    artifact: Artifact,
    path: String,
    ranges: ObjectRanges,
    metadata: ArrowReaderMetadata,
}

/// What is read of a part's end at first: the footer, and all of a small part.
const TAIL_BYTES: u64 = 128 << 10;
/// Columns are read at once up to this size: a table of pictures has many row groups, each of them a wait otherwise.
const MOST_AHEAD_BYTES: u64 = 8 << 20;
/// A larger footer is none of ours.
const MOST_TAIL_BYTES: u64 = 1 << 30;

impl PartReader {
    /// Reads the footer. A file written by a newer schema is refused.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a part that is gone, cut, or not as it was written.
    pub async fn open(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<Self, WorkerError> {
        Self::open_at(work, artifact, format!("{}/{}", paths::table(artifact), part.path), part.size_bytes).await
    }

    /// The same for rows of a table that lie outside of it, at a path of the store.
    pub(crate) async fn open_at(
        work: &WorkStore,
        artifact: Artifact,
        path: String,
        size_bytes: u64,
    ) -> Result<Self, WorkerError> {
        let damaged = |why: String| damaged(&path, &why);
        let mut ranges = ObjectRanges {
            store: work.object_store(),
            path: work.absolute(&path)?,
            sums: None,
            whole: None,
            ahead: Arc::default(),
        };
        let mut start = size_bytes.saturating_sub(TAIL_BYTES);
        let (metadata, tail) = loop {
            let tail = ranges.read(start..size_bytes).await.map_err(|e| parquet_error(&path, e))?;
            let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
            let more = match reader.try_parse_sized(&tail, size_bytes) {
                Ok(()) => {
                    let metadata = reader.finish().map_err(|e| damaged(e.to_string()))?;
                    let sums = DataSums::of(&metadata).map_err(damaged)?;
                    match &sums {
                        // a name with a time in it was given by a version that writes checksums
                        None if written_millis(&path).is_some() => {
                            return Err(damaged("its checksums are gone".into()));
                        }
                        Some(sums) if sums.data_bytes > size_bytes => return Err(damaged("its data is cut".into())),
                        // the page index lies before what was read
                        Some(sums) if sums.data_bytes < start => size_bytes - sums.data_bytes,
                        _ => {
                            ranges.sums = sums.map(Arc::new);
                            break (metadata, tail);
                        }
                    }
                }
                Err(ParquetError::NeedMoreData(bytes)) => bytes as u64,
                Err(error) => return Err(damaged(error.to_string())),
            };
            if more > size_bytes.min(MOST_TAIL_BYTES) || more <= size_bytes - start {
                return Err(damaged(format!("its footer wants {more} bytes")));
            }
            start = size_bytes - more;
        };
        ranges.whole = (start == 0).then(|| tail.clone());
        if let Some(sums) = &ranges.sums
            && !seal::tail_is_whole(&tail[(sums.data_bytes - start) as usize..])
        {
            return Err(damaged("its footer is not as it was written".into()));
        }
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::try_new(Arc::new(metadata), options).map_err(|e| parquet_error(&path, e))?;
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
            Some(_) => Ok(Self { artifact, path, ranges, metadata }),
        }
    }

    /// Reads every byte and compares it with its checksum.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for bytes that are not as they were written.
    pub async fn verify(&self) -> Result<(), WorkerError> {
        const STEP_BYTES: u64 = 8 << 20;
        let Some(sums) = self.ranges.sums.clone() else { return self.read(&["image_id"]).await.map(|_| ()) };
        let mut at = 0;
        while at < sums.data_bytes {
            let end = (at + STEP_BYTES).min(sums.data_bytes);
            self.ranges.checked(at..end).await.map_err(|e| parquet_error(&self.path, e))?;
            at = end;
        }
        Ok(())
    }

    /// The table that the part belongs to.
    pub fn artifact(&self) -> Artifact {
        self.artifact
    }

    /// Rows of each row group.
    pub(crate) fn row_groups(&self) -> Vec<usize> {
        self.metadata.metadata().row_groups().iter().map(|g| g.num_rows().max(0) as usize).collect()
    }

    /// Reads columns of all rows.
    ///
    /// # Errors
    /// [`WorkerError::Transient`] for a part whose checksums do not hold: the next run writes it again;
    /// [`WorkerError::Broken`] for one that is no Parquet of this table.
    pub async fn read(&self, columns: &[&str]) -> Result<RecordBatch, WorkerError> {
        self.read_selected(columns, None, None).await
    }

    /// Reads columns of one row group.
    pub(crate) async fn read_row_group(&self, columns: &[&str], row_group: usize) -> Result<RecordBatch, WorkerError> {
        self.read_selected(columns, Some(row_group), None).await
    }

    /// Reads columns of some rows, given by rising index.
    ///
    /// # Errors
    /// As [`read`](Self::read).
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
        let projection = ProjectionMask::columns(file_schema, present.iter().copied());
        let error = |e| parquet_error(&self.path, e);
        let mut reader = self.ranges.clone();
        if rows.is_none() {
            reader.read_ahead(self.chunks(&projection, row_group)).await.map_err(error)?;
        }
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, self.metadata.clone())
            .with_projection(projection)
            .with_batch_size(1024);
        if let Some(row_group) = row_group {
            builder = builder.with_row_groups(vec![row_group]);
        }
        if let Some(rows) = rows {
            builder = builder.with_row_selection(rows);
        }
        let read = async {
            let stream = builder.build()?;
            Ok((stream.schema().clone(), stream.try_collect::<Vec<RecordBatch>>().await?))
        };
        // the Parquet crate panics on columns and pages that contradict themselves, which a part without checksums may have
        let read = AssertUnwindSafe(read).catch_unwind().await;
        let contradiction = |_| damaged(&self.path, "its columns or pages contradict themselves");
        let (read_schema, batches) = read.map_err(contradiction)?.map_err(error)?;
        let batch =
            concat_batches(&read_schema, &batches).map_err(|e| WorkerError::Broken(format!("{}: {e}", self.path)))?;
        adapt(&batch, wanted).map_err(|why| WorkerError::Broken(format!("{}: {why}", self.path)))
    }

    /// Where the columns of a projection lie, in one row group or in all.
    fn chunks(&self, projection: &ProjectionMask, row_group: Option<usize>) -> Vec<Range<u64>> {
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        let groups = groups.filter(|(index, _)| row_group.is_none_or(|wanted| wanted == *index));
        groups
            .flat_map(|(_, group)| group.columns().iter().enumerate())
            .filter(|(leaf, _)| projection.leaf_included(*leaf))
            .filter_map(|(_, chunk)| {
                let (start, length) = (chunk.data_page_offset(), chunk.compressed_size());
                let start = chunk.dictionary_page_offset().map_or(start, |dictionary| dictionary.min(start));
                let (start, length) = (u64::try_from(start).ok()?, u64::try_from(length).ok()?);
                Some(start..start.checked_add(length)?)
            })
            .collect()
    }
}

/// Columns of a whole table, a part after the other; `at_once` of them are being read. What is kept of them is the caller's.
pub fn batches<'a>(
    work: &'a WorkStore,
    table: &'a PinnedTable,
    columns: &'a [&'a str],
    at_once: usize,
) -> impl Stream<Item = Result<RecordBatch, WorkerError>> + 'a {
    let artifact = table.artifact;
    let read = table.parts.iter().map(move |part| {
        let (work, part) = (work.clone(), part.clone());
        let columns: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
        async move {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            PartReader::open(&work, artifact, &part).await?.read(&columns).await
        }
    });
    in_order(read, at_once, artifact.name())
}

/// Byte ranges of one object, as Parquet asks for them.
#[derive(Clone)]
struct ObjectRanges {
    store: Arc<DynObjectStore>,
    path: Path,
    sums: Option<Arc<DataSums>>,
    /// A small part, read at once.
    whole: Option<Bytes>,
    /// What was read before it was asked for.
    ahead: Arc<Vec<(Range<u64>, Bytes)>>,
}

impl ObjectRanges {
    async fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        Ok(self.read_all(&[range]).await?.remove(0))
    }

    async fn read_all(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetError> {
        let Some(whole) = &self.whole else { return Ok(self.store.get_ranges(&self.path, ranges).await?) };
        let within = |range: &Range<u64>| range.start <= range.end && range.end <= whole.len() as u64;
        let cut = |range: &Range<u64>| within(range).then(|| whole.slice(range.start as usize..range.end as usize));
        let beyond = || ParquetError::EOF(format!("it has {} bytes", whole.len()));
        ranges.iter().map(|range| cut(range).ok_or_else(beyond)).collect()
    }

    /// Reads ranges in one go, where they are small together.
    async fn read_ahead(&mut self, ranges: Vec<Range<u64>>) -> Result<(), ParquetError> {
        let bytes = ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.end - range.start));
        if self.whole.is_none() && ranges.len() > 1 && bytes <= MOST_AHEAD_BYTES {
            let read = self.get_byte_ranges(ranges.clone()).await?;
            self.ahead = Arc::new(ranges.into_iter().zip(read).collect());
        }
        Ok(())
    }

    /// A range that was read before, whole.
    fn already_read(&self, range: &Range<u64>) -> Option<Bytes> {
        let (from, bytes) = self.ahead.iter().find(|(from, _)| from.start <= range.start && range.end <= from.end)?;
        Some(bytes.slice((range.start - from.start) as usize..(range.end - from.start) as usize))
    }

    /// A range of data, compared with its checksums.
    async fn checked(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let Some(sums) = &self.sums else { return self.read(range).await };
        let whole = sums.whole_blocks(&range);
        let bytes = self.read(whole.clone()).await?;
        self.cut(&whole, &range, bytes)
    }

    fn cut(&self, whole: &Range<u64>, range: &Range<u64>, bytes: Bytes) -> Result<Bytes, ParquetError> {
        if let Some(at) = self.sums.as_ref().and_then(|sums| sums.first_bad(whole.start, &bytes)) {
            return Err(ParquetError::General(format!("its bytes from {at} on are not as they were written")));
        }
        let (start, end) = ((range.start - whole.start) as usize, (range.end - whole.start) as usize);
        if end > bytes.len() {
            return Err(ParquetError::EOF(format!("it ends before byte {}", range.end)));
        }
        Ok(bytes.slice(start..end))
    }
}

impl AsyncFileReader for ObjectRanges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.checked(range).await }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            if let Some(read) = ranges.iter().map(|range| self.already_read(range)).collect() {
                return Ok(read);
            }
            let Some(sums) = &self.sums else { return self.read_all(&ranges).await };
            let whole: Vec<Range<u64>> = ranges.iter().map(|range| sums.whole_blocks(range)).collect();
            let read = self.read_all(&whole).await?;
            let all = whole.iter().zip(&ranges).zip(read);
            all.map(|((whole, range), bytes)| self.cut(whole, range, bytes)).collect()
        }
        .boxed()
    }

    /// The reader has the metadata already: this is for the trait.
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async { Err(ParquetError::General("the metadata is read when a part is opened".into())) }.boxed()
    }
}

pub(super) fn projected_schema(artifact: Artifact, columns: &[&str]) -> Result<SchemaRef, WorkerError> {
    let schema = table::schema(artifact);
    let fields = columns
        .iter()
        .map(|c| schema.field_with_name(c).cloned())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| WorkerError::Broken(format!("table {}: {e}", artifact.name())))?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Brings a batch into the wanted columns and types; columns that an older file lacks are null.
pub(super) fn adapt(batch: &RecordBatch, wanted: SchemaRef) -> Result<RecordBatch, String> {
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

pub(super) fn consecutive(rows: &[usize]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}
