//! One file of an index, an Arrow file that is memory-mapped: ids, vectors in one byte a number with how far off they are, and
//! the vectors. Its name says the checksum of its bytes, which are read and checked before anything in them is believed.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, FixedSizeListArray, Float32Array, Int8Array, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Float32Type, Int8Type, Schema};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::root_as_footer;
use arrow::ipc::writer::FileWriter;
use bytes::Bytes;
use memmap2::Mmap;
use stages::search::{Quantised, quantise};

use super::ENDING;
use crate::durable::sync_folder;
use crate::error::WorkerError;

/// Bytes that are read at once to check them.
const CHECKED_BYTES: usize = 1 << 20;
/// What an Arrow file ends with: the length of its footer and its magic number.
const TRAILER_BYTES: usize = 10;

/// Rows of a file that lie in one piece.
#[derive(Debug)]
pub(super) struct Rows {
    ids: StringArray,
    codes: Int8Array,
    steps: Float32Array,
    errors: Float32Array,
    vectors: Float32Array,
    /// Where the vectors lie in the file.
    vectors_at: u64,
    width: usize,
}

impl Rows {
    /// Columns of a batch in a file's bytes.
    fn of(batch: &RecordBatch, bytes: &Buffer) -> Option<Self> {
        let (codes, vectors) = (batch.column(1).as_fixed_size_list_opt()?, batch.column(4).as_fixed_size_list_opt()?);
        let numbers = vectors.values().as_primitive_opt::<Float32Type>()?;
        let vectors_at = (numbers.values().as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
        Some(Self {
            ids: batch.column(0).as_string_opt::<i32>()?.clone(),
            codes: codes.values().as_primitive_opt::<Int8Type>()?.clone(),
            steps: batch.column(2).as_primitive_opt::<Float32Type>()?.clone(),
            errors: batch.column(3).as_primitive_opt::<Float32Type>()?.clone(),
            vectors: numbers.clone(),
            vectors_at: vectors_at as u64,
            width: usize::try_from(vectors.value_length()).ok()?,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    /// Numbers of a vector.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn id(&self, row: usize) -> &str {
        self.ids.value(row)
    }

    /// Quantised vectors of some rows.
    pub(super) fn codes(&self, rows: std::ops::Range<usize>) -> &[i8] {
        &self.codes.values()[rows.start * self.width..rows.end * self.width]
    }

    pub(super) fn quantised(&self, row: usize) -> Quantised {
        Quantised { step: self.steps.value(row), error: self.errors.value(row) }
    }

    /// A vector, read where there is a reader: pages that are mapped count as memory, and the system maps many at once.
    pub(super) fn vector(&self, row: usize, reader: Option<&File>) -> Vec<f32> {
        let mapped = &self.vectors.values()[row * self.width..][..self.width];
        let mut bytes = vec![0; self.width * size_of::<f32>()];
        let at = self.vectors_at + (row * bytes.len()) as u64;
        match reader.map(|file| file.read_exact_at(&mut bytes, at)) {
            Some(Ok(())) => bytes.as_chunks().0.iter().map(|number| f32::from_le_bytes(*number)).collect(),
            _ => mapped.to_vec(),
        }
    }
}

/// A file of an index, in memory as far as it was read.
#[derive(Debug)]
pub struct IndexFile {
    path: PathBuf,
    name: String,
    pub(super) pieces: Vec<Rows>,
}

impl IndexFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for one whose bytes are not those that were written.
    pub fn open(path: &Path) -> Result<Self, WorkerError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let io = |e: std::io::Error| WorkerError::Broken(format!("{}: {e}", path.display()));
        let damaged = |why: &str| WorkerError::Broken(format!("{}: {why}", path.display()));
        let mut file = File::open(path).map_err(io)?;
        let said = name.strip_suffix(ENDING).and_then(|stem| u32::from_str_radix(stem.rsplit('-').next()?, 16).ok());
        let (mut crc, mut bytes) = (crc32fast::Hasher::new(), vec![0; CHECKED_BYTES]);
        loop {
            match file.read(&mut bytes).map_err(io)? {
                0 => break,
                read => crc.update(&bytes[..read]),
            }
        }
        if said != Some(crc.finalize()) {
            return Err(damaged("its checksum is not the one in its name"));
        }
        // SAFETY: files of the cache are written under another name and never changed; whoever removes one leaves its
        // mapped pages as they are.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let pieces = decode(&Buffer::from(Bytes::from_owner(map))).map_err(|e| damaged(&e.to_string()))?;
        Ok(Self { path: path.to_owned(), name, pieces })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The file once more, to read from. Not kept open: there may be more of them than a process may open.
    pub(super) fn reader(&self) -> Option<File> {
        File::open(&self.path).ok()
    }
}

/// The batches of an Arrow file, without copying them.
fn decode(bytes: &Buffer) -> Result<Vec<Rows>, ArrowError> {
    let wrong = || ArrowError::IpcError("no index".into());
    let trailer = bytes.len().checked_sub(TRAILER_BYTES).ok_or_else(wrong)?;
    let length = read_footer_length(bytes[trailer..].try_into().map_err(|_| wrong())?)?;
    let start = trailer.checked_sub(length).ok_or_else(wrong)?;
    let footer = root_as_footer(&bytes[start..trailer]).map_err(|e| ArrowError::IpcError(e.to_string()))?;
    let schema = try_fb_to_schema(footer.schema().ok_or_else(wrong)?)?;
    let decoder = FileDecoder::new(Arc::new(schema), footer.version()).with_require_alignment(true);
    let mut pieces = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let length = usize::try_from(block.bodyLength()).ok().zip(usize::try_from(block.metaDataLength()).ok());
        let length = length.map(|(body, head)| body.saturating_add(head)).ok_or_else(wrong)?;
        let offset = usize::try_from(block.offset()).map_err(|_| wrong())?;
        if offset.saturating_add(length) > start {
            return Err(wrong());
        }
        let batch = decoder.read_record_batch(block, &bytes.slice_with_length(offset, length))?.ok_or_else(wrong)?;
        pieces.push(Rows::of(&batch, bytes).ok_or_else(wrong)?);
    }
    Ok(pieces)
}

/// Writes a file of an index. One that is not finished leaves nothing.
pub struct IndexWriter {
    draft: PathBuf,
    file: Option<FileWriter<Checksummed>>,
    width: usize,
}

struct Checksummed {
    file: BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl Write for Checksummed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for IndexWriter {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.draft);
    }
}

impl IndexWriter {
    /// Begins a file under a name that nobody looks for.
    ///
    /// # Errors
    /// [`WorkerError::DiskFull`], and what the file system refuses.
    pub fn create(draft: &Path) -> Result<Self, WorkerError> {
        File::create(draft).map_err(|e| WorkerError::of_io(draft, &e))?;
        Ok(Self { draft: draft.to_owned(), file: None, width: 0 })
    }

    fn begin(&mut self, width: usize) -> Result<&mut FileWriter<Checksummed>, WorkerError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                self.width = width;
                let file = File::create(&self.draft).map_err(|e| WorkerError::of_io(&self.draft, &e))?;
                let file = Checksummed { file: BufWriter::new(file), crc: crc32fast::Hasher::new() };
                FileWriter::try_new(file, &schema(width)).map_err(|e| self.failed(&e))?
            }
        };
        Ok(self.file.insert(file))
    }

    fn failed(&self, error: &ArrowError) -> WorkerError {
        match error {
            ArrowError::IoError(_, error) => WorkerError::of_io(&self.draft, error),
            error => WorkerError::Broken(format!("{}: {error}", self.draft.display())),
        }
    }

    /// Writes rows with their ids. `false`: their vectors are not of one width, or not finite, and do not belong into an
    /// index.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn write(&mut self, rows: &[(&str, &[f32])]) -> Result<bool, WorkerError> {
        let Some((_, first)) = rows.first() else { return Ok(true) };
        self.begin(first.len())?;
        let width = self.width;
        if width == 0 || rows.iter().any(|(_, v)| v.len() != width || v.iter().any(|number| !number.is_finite())) {
            return Ok(false);
        }
        let mut codes = vec![0; width * rows.len()];
        let quantised =
            rows.iter().zip(codes.chunks_exact_mut(width)).map(|((_, vector), codes)| quantise(vector, codes));
        let (steps, errors): (Vec<f32>, Vec<f32>) = quantised.map(|of| (of.step, of.error)).unzip();
        let vectors: Vec<f32> = rows.iter().flat_map(|(_, vector)| vector.iter().copied()).collect();
        let list = |data_type: DataType, values: Arc<dyn Array>| {
            let field = Arc::new(Field::new_list_field(data_type, false));
            FixedSizeListArray::try_new(field, width as i32, values, None)
        };
        let batch = list(DataType::Int8, Arc::new(Int8Array::from(codes))).and_then(|codes| {
            let columns: Vec<Arc<dyn Array>> = vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|(id, _)| id))),
                Arc::new(codes),
                Arc::new(Float32Array::from(steps)),
                Arc::new(Float32Array::from(errors)),
                Arc::new(list(DataType::Float32, Arc::new(Float32Array::from(vectors)))?),
            ];
            RecordBatch::try_new(Arc::new(schema(width)), columns)
        });
        let written = batch.and_then(|batch| self.file.as_mut().map_or(Ok(()), |file| file.write(&batch)));
        written.map_err(|e| self.failed(&e))?;
        Ok(true)
    }

    /// Puts the file under the name that it is found by, and opens it.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`WorkerError::Broken`] if it cannot be read back.
    pub fn finish(mut self, key: &str) -> Result<IndexFile, WorkerError> {
        self.begin(1)?;
        let Some(file) = self.file.take() else { return Err(WorkerError::Broken("no file was begun".into())) };
        let Checksummed { file, crc } = file.into_inner().map_err(|e| self.failed(&e))?;
        let folder = self.draft.parent().unwrap_or(Path::new("."));
        let path = folder.join(format!("{key}-{:08x}{ENDING}", crc.finalize()));
        let placed = file.into_inner().map_err(|e| e.into_error()).and_then(|file| file.sync_all());
        placed.and_then(|()| std::fs::rename(&self.draft, &path)).map_err(|e| WorkerError::of_io(&path, &e))?;
        sync_folder(folder)?;
        IndexFile::open(&path)
    }
}

fn schema(width: usize) -> Schema {
    let list = |name: &str, item: DataType| {
        Field::new_fixed_size_list(name, Field::new_list_field(item, false), width as i32, false)
    };
    Schema::new(vec![
        Field::new("image_id", DataType::Utf8, false),
        list("codes", DataType::Int8),
        Field::new("step", DataType::Float32, false),
        Field::new("error", DataType::Float32, false),
        list("vector", DataType::Float32),
    ])
}
