//! Checksums of a part: whatever is read of it is what was written.
//!
//! Parquet has checksums of pages, which the Parquet crate reads and does not write. So a part carries its own: a CRC-32
//! of every 16 KiB of data in the footer's metadata, and a CRC-32 of everything after the data in the footer itself,
//! taken with zeros in its own place. Other readers see two entries of metadata more.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, ParquetMetaData};

const BLOCK_BYTES: usize = 16 << 10;
const BLOCKS_KEY: &str = "urbancross.data_crc32";
const TAIL_KEY: &str = "urbancross.tail_crc32";
/// Stands before the eight digits of the tail's checksum, where they are looked for.
const TAIL_MARK: &[u8] = b"tail-crc32:";
const NO_DIGITS: &[u8; 8] = b"00000000";
/// No part has more blocks: half a terabyte.
const MOST_BLOCKS: usize = 1 << 25;

/// Sums of the data as it goes by.
#[derive(Default)]
struct Sums {
    blocks: Vec<u32>,
    block: crc32fast::Hasher,
    in_block: usize,
    data_bytes: u64,
    /// What comes after the data; `None` until it begins.
    tail: Option<Vec<u8>>,
}

impl Sums {
    fn add(&mut self, mut bytes: &[u8]) {
        self.data_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.in_block));
            self.block.update(now);
            self.in_block += now.len();
            if self.in_block == BLOCK_BYTES {
                self.end_block();
            }
            bytes = rest;
        }
    }

    fn end_block(&mut self) {
        self.blocks.push(std::mem::take(&mut self.block).finalize());
        self.in_block = 0;
    }
}

/// Where a part's bytes go on their way to the store.
pub(super) struct Sealing<W> {
    inner: W,
    sums: Arc<Mutex<Sums>>,
}

/// Tells a [`Sealing`] that the data is complete.
pub(super) struct Seal(Arc<Mutex<Sums>>);

fn locked(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W> Sealing<W> {
    pub(super) fn new(inner: W) -> (Self, Seal) {
        let sums = Arc::new(Mutex::new(Sums::default()));
        (Self { inner, sums: sums.clone() }, Seal(sums))
    }
}

impl Seal {
    /// What goes into the footer, once all data has been written.
    pub(super) fn entries(&self) -> [KeyValue; 2] {
        let mut sums = locked(&self.0);
        if sums.in_block > 0 {
            sums.end_block();
        }
        sums.tail = Some(Vec::new());
        let mut text = format!("{BLOCK_BYTES}:{}:", sums.data_bytes);
        sums.blocks.iter().for_each(|crc| text.push_str(&format!("{crc:08x}")));
        let mark = String::from_utf8_lossy(&[TAIL_MARK, NO_DIGITS].concat()).into_owned();
        [KeyValue::new(BLOCKS_KEY.to_owned(), text), KeyValue::new(TAIL_KEY.to_owned(), mark)]
    }
}

impl<W: AsyncFileWriter> AsyncFileWriter for Sealing<W> {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        {
            let mut sums = locked(&self.sums);
            if let Some(tail) = &mut sums.tail {
                tail.extend_from_slice(&bytes);
                return async { Ok(()) }.boxed();
            }
            sums.add(&bytes);
        }
        self.inner.write(bytes)
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<()>> {
        let tail = locked(&self.sums).tail.take();
        async move {
            if let Some(mut tail) = tail {
                let Some(at) = digits_at(&tail) else {
                    return Err(ParquetError::General("the footer has no place for its checksum".into()));
                };
                let crc = crc32fast::hash(&tail);
                tail[at..at + NO_DIGITS.len()].copy_from_slice(format!("{crc:08x}").as_bytes());
                self.inner.write(tail.into()).await?;
            }
            self.inner.complete().await
        }
        .boxed()
    }
}

/// Where the digits of the tail's checksum stand.
fn digits_at(tail: &[u8]) -> Option<usize> {
    let found = tail.windows(TAIL_MARK.len()).rposition(|window| window == TAIL_MARK)? + TAIL_MARK.len();
    (found + NO_DIGITS.len() <= tail.len()).then_some(found)
}

/// Checksums of a part's data, read from its footer.
#[derive(Debug)]
pub(super) struct DataSums {
    block_bytes: u64,
    pub(super) data_bytes: u64,
    blocks: Vec<u32>,
}

impl DataSums {
    /// `Ok(None)`: the part is of a version that had none.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn of(metadata: &ParquetMetaData) -> std::result::Result<Option<Self>, String> {
        let pairs = metadata.file_metadata().key_value_metadata();
        let text = pairs.and_then(|pairs| pairs.iter().find(|p| p.key == BLOCKS_KEY)).and_then(|p| p.value.as_ref());
        text.map(|text| Self::parse(text).ok_or(format!("{BLOCKS_KEY} cannot be read"))).transpose()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, ':');
        let (block_bytes, data_bytes): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let digits = fields.next()?.as_bytes();
        let count = digits.len() / 8;
        let fits = block_bytes > 0 && count <= MOST_BLOCKS && data_bytes.div_ceil(block_bytes) == count as u64;
        if !fits || !digits.len().is_multiple_of(8) {
            return None;
        }
        let crc = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        Some(Self { block_bytes, data_bytes, blocks: digits.chunks_exact(8).map(crc).collect::<Option<_>>()? })
    }

    /// The smallest range of whole blocks that holds a range of data.
    pub(super) fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start / self.block_bytes * self.block_bytes;
        let end = range.end.div_ceil(self.block_bytes).saturating_mul(self.block_bytes).min(self.data_bytes);
        start..end.max(range.end)
    }

    /// Checks the bytes of whole blocks. Returns the offset of the first block that is not as it was written.
    pub(super) fn first_bad(&self, start: u64, bytes: &[u8]) -> Option<u64> {
        let first = (start / self.block_bytes) as usize;
        let blocks = bytes.chunks(self.block_bytes as usize).enumerate();
        let data = bytes.len().min(self.data_bytes.saturating_sub(start) as usize);
        for (i, block) in blocks {
            let offset = i * self.block_bytes as usize;
            let block = &block[..block.len().min(data.saturating_sub(offset))];
            if !block.is_empty() && self.blocks.get(first + i) != Some(&crc32fast::hash(block)) {
                return Some(start + offset as u64);
            }
        }
        None
    }
}

/// Is everything after the data as it was written?
pub(super) fn tail_is_whole(tail: &[u8]) -> bool {
    let Some(at) = digits_at(tail) else { return false };
    let (before, rest) = tail.split_at(at);
    let (digits, after) = rest.split_at(NO_DIGITS.len());
    let mut crc = crc32fast::Hasher::new();
    [before, NO_DIGITS, after].into_iter().for_each(|bytes| crc.update(bytes));
    format!("{:08x}", crc.finalize()).as_bytes() == digits
}
