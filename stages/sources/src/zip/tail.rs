//! From the last bytes of a file to the place of its central directory.

use super::{u16_at, u32_at, u64_at};
use crate::SourceError;

const END_SIGNATURE: &[u8; 4] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const LOCATOR_SIGNATURE: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LENGTH: usize = 20;
const ZIP64_END_SIGNATURE: &[u8; 4] = b"PK\x06\x06";
const ZIP64_END_LENGTH: usize = 56;
/// Signature of a directory entry.
pub(super) const ENTRY_SIGNATURE: &[u8; 4] = b"PK\x01\x02";
/// Bytes of a directory entry without name, extra field and comment.
pub(super) const ENTRY_LENGTH: u64 = 46;

/// How much of the end of the file to fetch first (less where the file is shorter): the end
/// record with the longest comment, the Zip64 locator and the Zip64 end record.
pub const TAIL_BYTES: u64 = (END_LENGTH + 65_535 + LOCATOR_LENGTH + ZIP64_END_LENGTH) as u64;

/// Where the central directory lies, in bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// First byte of the directory.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Declared number of entries; only its low 16 bits unless `zip64`.
    pub entries: u64,
    /// Bytes before the zip proper (a self-extractor, say), usually 0. Offsets of this struct and
    /// of the entries already contain it.
    pub archive_offset: u64,
    /// Whether the numbers come from a Zip64 end record.
    pub zip64: bool,
}

/// What the tail tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The directory's place is known.
    Found(Directory),
    /// The Zip64 end record lies before the tail: fetch this range and hand it to
    /// [`read_zip64_end`].
    NeedRange {
        /// First byte to fetch.
        offset: u64,
        /// Bytes to fetch.
        length: u64,
    },
}

/// Finds the central directory of a file of `file_size` bytes from its last
/// `min(file_size, TAIL_BYTES)` bytes.
///
/// A prefix before the zip and bytes after its end record are tolerated. Among several end
/// records the last consistent one counts, those that end exactly at the end of the file first.
///
/// # Errors
/// [`SourceError::Archive`]: not a zip, truncated, of several disks, or contradictory.
pub fn find_directory(file_size: u64, tail: &[u8]) -> Result<Tail, SourceError> {
    let wanted = file_size.min(TAIL_BYTES);
    let length = tail.len() as u64;
    if length < wanted || length > file_size {
        return Err(SourceError::Archive {
            offset: file_size.saturating_sub(length),
            problem: format!("the tail holds {length} bytes of a file of {file_size}: fetch the last {wanted}"),
        });
    }
    let tail = TailBytes { start: file_size - length, bytes: tail };
    let mut first_problem = None;
    for reaches_file_end in [true, false] {
        for position in tail.end_records(reaches_file_end) {
            match tail.read_end(position) {
                Ok(found) => return Ok(found),
                Err(problem) => {
                    first_problem.get_or_insert(problem);
                }
            }
        }
    }
    Err(first_problem.unwrap_or_else(|| SourceError::Archive {
        offset: tail.start,
        problem: format!("no end record in the last {length} of {file_size} bytes: not a zip, or truncated"),
    }))
}

/// Reads the Zip64 end record from `bytes`, which begin at `offset` of the file
/// (the range of [`Tail::NeedRange`]).
///
/// # Errors
/// [`SourceError::Archive`] if no such record is there or it contradicts itself.
pub fn read_zip64_end(offset: u64, bytes: &[u8]) -> Result<Directory, SourceError> {
    zip64_directory(offset, bytes, 0)
}

struct TailBytes<'a> {
    /// Offset of the first byte in the file.
    start: u64,
    bytes: &'a [u8],
}

impl TailBytes<'_> {
    /// Positions of end records from the last to the first; either those whose comment ends
    /// with the file or those with bytes after it.
    fn end_records(&self, reaches_file_end: bool) -> impl Iterator<Item = usize> + '_ {
        let last = self.bytes.len().saturating_sub(END_LENGTH - 1);
        (0..last).rev().filter(move |&at| {
            self.bytes[at..].starts_with(END_SIGNATURE) && {
                let end = at + END_LENGTH + usize::from(u16_at(self.bytes, at + 20));
                (end == self.bytes.len()) == reaches_file_end
            }
        })
    }

    fn starts_with(&self, position: usize, signature: &[u8; 4]) -> bool {
        self.bytes.get(position..).is_some_and(|rest| rest.starts_with(signature))
    }

    /// Position within the tail of a file offset, if it lies there.
    fn position_of(&self, offset: u64) -> Option<usize> {
        let position = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (position < self.bytes.len()).then_some(position)
    }

    fn read_end(&self, position: usize) -> Result<Tail, SourceError> {
        let end = &self.bytes[position..];
        let offset = self.start + position as u64;
        let (entries, length, directory_offset) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
        // A locator counts only if some number did not fit: otherwise its signature may just as
        // well be the end of a file name.
        let overflowed = entries == u16::MAX || length == u32::MAX || directory_offset == u32::MAX;
        if overflowed
            && let Some(locator) = position.checked_sub(LOCATOR_LENGTH)
            && self.starts_with(locator, LOCATOR_SIGNATURE)
        {
            return self.read_locator(locator);
        }
        if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != entries {
            return Err(several_disks(offset));
        }
        let declared = Directory {
            offset: directory_offset.into(),
            length: length.into(),
            entries: entries.into(),
            archive_offset: 0,
            zip64: false,
        };
        let directory_end = declared.offset + declared.length;
        let gap = self.directory_limit(position).checked_sub(directory_end).ok_or_else(|| SourceError::Archive {
            offset,
            problem: format!(
                "the end record puts the directory at {directory_offset}..{directory_end}, \
                     behind itself: truncated or damaged"
            ),
        })?;
        self.shift(declared, gap).map(Tail::Found)
    }

    /// Offset at which the directory must have ended: the end record, or Zip64 records before it.
    fn directory_limit(&self, end_position: usize) -> u64 {
        let zip64_length = LOCATOR_LENGTH + ZIP64_END_LENGTH;
        let has_zip64 = end_position.checked_sub(zip64_length).is_some_and(|at| {
            self.starts_with(at, ZIP64_END_SIGNATURE) && self.starts_with(at + ZIP64_END_LENGTH, LOCATOR_SIGNATURE)
        });
        let position = end_position - if has_zip64 { zip64_length } else { 0 };
        self.start + position as u64
    }

    /// Decides whether `gap` bytes between directory and end record are a prefix before the zip
    /// (offsets count from its end) or unused.
    fn shift(&self, declared: Directory, gap: u64) -> Result<Directory, SourceError> {
        if gap == 0 || declared.entries == 0 {
            return checked(declared);
        }
        let seen = |offset: u64| self.position_of(offset).map(|position| self.starts_with(position, ENTRY_SIGNATURE));
        let prefix = match (seen(declared.offset + gap), seen(declared.offset)) {
            // With the directory outside of the tail a prefix is the likelier reason; a wrong
            // guess is noticed at the first entry's signature.
            (Some(true) | None, _) => gap,
            (Some(false), _) => 0,
        };
        checked(Directory { offset: declared.offset + prefix, archive_offset: prefix, ..declared })
    }

    fn read_locator(&self, position: usize) -> Result<Tail, SourceError> {
        let locator = &self.bytes[position..];
        let offset = self.start + position as u64;
        if u32_at(locator, 4) != 0 || u32_at(locator, 16) > 1 {
            return Err(several_disks(offset));
        }
        let declared = u64_at(locator, 8);
        if let Some(at) = self.position_of(declared)
            && self.starts_with(at, ZIP64_END_SIGNATURE)
        {
            return zip64_directory(declared, &self.bytes[at..], 0).map(Tail::Found);
        }
        // Behind a prefix the declared offset is too small; the record stands before the locator.
        if let Some(at) = position.checked_sub(ZIP64_END_LENGTH)
            && self.starts_with(at, ZIP64_END_SIGNATURE)
            && let Some(prefix) = (self.start + at as u64).checked_sub(declared)
        {
            let record = declared + prefix;
            return zip64_directory(record, &self.bytes[at..], prefix).map(Tail::Found);
        }
        if declared < self.start {
            return Ok(Tail::NeedRange { offset: declared, length: ZIP64_END_LENGTH as u64 });
        }
        Err(SourceError::Archive {
            offset,
            problem: format!("the Zip64 locator points to {declared}, where no end record is: damaged"),
        })
    }
}

fn several_disks(offset: u64) -> SourceError {
    SourceError::Archive {
        offset,
        problem: "the archive is damaged or spans several disks; join it into one file".into(),
    }
}

fn zip64_directory(record_offset: u64, record: &[u8], archive_offset: u64) -> Result<Directory, SourceError> {
    let damaged = |problem: String| SourceError::Archive { offset: record_offset, problem };
    if record.len() < ZIP64_END_LENGTH || !record.starts_with(ZIP64_END_SIGNATURE) {
        return Err(damaged(format!("no Zip64 end record in the {} bytes here: damaged", record.len())));
    }
    let entries = u64_at(record, 32);
    if u32_at(record, 16) != 0 || u32_at(record, 20) != 0 || u64_at(record, 24) != entries {
        return Err(several_disks(record_offset));
    }
    let (length, declared) = (u64_at(record, 40), u64_at(record, 48));
    let offset = declared.checked_add(archive_offset);
    match offset.and_then(|offset| offset.checked_add(length).map(|end| (offset, end))) {
        Some((offset, end)) if end <= record_offset => {
            checked(Directory { offset, length, entries, archive_offset, zip64: true })
        }
        _ => Err(damaged(format!(
            "the Zip64 end record puts a directory of {length} bytes at {declared}, \
             behind itself: truncated or damaged"
        ))),
    }
}

fn checked(directory: Directory) -> Result<Directory, SourceError> {
    let least = directory.entries.checked_mul(ENTRY_LENGTH);
    if least.is_some_and(|least| least <= directory.length) {
        return Ok(directory);
    }
    Err(SourceError::Archive {
        offset: directory.offset,
        problem: format!(
            "{} entries do not fit into a directory of {} bytes: damaged",
            directory.entries, directory.length
        ),
    })
}
