//! A Parquet file of this machine that knows the digest of its bytes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};

use super::{WrittenFile, synced};
use crate::durable;
use crate::error::WorkerError;

/// Bytes that may wait for the end of their row group.
const GROUP_BYTES: usize = 32 << 20;
/// Rows of a group: a viewer fetches whole groups.
const GROUP_ROWS: usize = 1024;

/// A file that is being written.
pub(super) struct Sheet {
    path: PathBuf,
    writer: ArrowWriter<Hashing>,
    rows: u64,
}

impl Sheet {
    /// Begins a file. `pixels` names a column of encoded images: they do not compress, and no two are equal.
    pub(super) fn create(path: &Path, schema: SchemaRef, pixels: Option<&str>) -> Result<Self, WorkerError> {
        durable::create_folder(path.parent().unwrap_or(Path::new(".")))?;
        let file = File::create(path).map_err(|e| WorkerError::of_io(path, &e))?;
        let zstd = ZstdLevel::try_new(3).map(Compression::ZSTD).unwrap_or(Compression::UNCOMPRESSED);
        let mut properties = WriterProperties::builder()
            .set_compression(zstd)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_created_by(concat!("urbancross ", env!("CARGO_PKG_VERSION")).to_owned());
        if let Some(column) = pixels {
            let column = ColumnPath::from(column.split('.').map(str::to_owned).collect::<Vec<_>>());
            properties = properties
                .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_statistics_enabled(column, EnabledStatistics::None);
        }
        let sink = Hashing { file: BufWriter::new(file), sum: Sha256::new() };
        // Arrow's own schema in the footer would hide the entries beside it from pyarrow, and all types are Parquet's
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, schema, options).map_err(|e| of_parquet(path, e))?;
        Ok(Self { path: path.to_owned(), writer, rows: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), WorkerError> {
        self.rows += batch.num_rows() as u64;
        let written = self.writer.write(batch).and_then(|()| match self.writer.in_progress_size() > GROUP_BYTES {
            true => self.writer.flush(),
            false => Ok(()),
        });
        written.map_err(|e| of_parquet(&self.path, e))
    }

    /// Bytes of the file so far, with those that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64 + self.writer.in_progress_size() as u64
    }

    /// Closes the file, with these entries in its footer; it is on the disk when this returns. Its path and split are the
    /// caller's affair.
    pub(super) fn finish(mut self, metadata: &[(&str, String)]) -> Result<WrittenFile, WorkerError> {
        for (key, value) in metadata {
            self.writer.append_key_value_metadata(KeyValue::new((*key).to_owned(), value.clone()));
        }
        let sink = self.writer.into_inner().map_err(|e| of_parquet(&self.path, e))?;
        let file = sink.file.into_inner().map_err(|e| WorkerError::of_io(&self.path, e.error()))?;
        let bytes = synced(file, &self.path)?;
        let sha256 = sink.sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(WrittenFile { path: String::new(), split: None, rows: self.rows, bytes, sha256: Some(sha256) })
    }
}

fn of_parquet(path: &Path, error: parquet::errors::ParquetError) -> WorkerError {
    use std::error::Error;
    // a full disk is told as one
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => WorkerError::of_io(path, io),
        None => WorkerError::Broken(format!("{}: {error}", path.display())),
    }
}

struct Hashing {
    file: BufWriter<File>,
    sum: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
