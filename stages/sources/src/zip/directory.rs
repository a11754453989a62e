//! The central directory as a stream of entries.

use super::tail::{ENTRY_LENGTH, ENTRY_SIGNATURE as SIGNATURE};
use super::{Directory, Limits, Member, Method, u16_at, u32_at, u64_at};
use crate::{SourceError, path};

const HEADER_LENGTH: usize = ENTRY_LENGTH as usize;
const LOCAL_HEADER_LENGTH: u64 = 30;
const ZIP64_EXTRA: u16 = 1;

/// One entry of the directory, borrowed from the bytes fed: nothing is allocated until
/// [`Entry::member`].
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name as stored; [`Entry::name`] checks it.
    pub raw_name: &'a [u8],
    /// General purpose flags.
    pub flags: u16,
    /// Compression method, as stored.
    pub method: u16,
    /// CRC-32 of the extracted data.
    pub crc32: u32,
    /// Bytes in the archive.
    pub compressed_size: u64,
    /// Bytes once extracted, as declared.
    pub uncompressed_size: u64,
    /// Offset of the local header in the file.
    pub header_offset: u64,
    problem: Option<&'static str>,
}

impl<'a> Entry<'a> {
    /// The name, if it is UTF-8 and stays inside of its folder.
    ///
    /// Names in legacy code pages are refused rather than guessed: the message shows their bytes.
    ///
    /// # Errors
    /// [`SourceError::Member`].
    pub fn name(&self) -> Result<&'a str, SourceError> {
        let name = std::str::from_utf8(self.raw_name).map_err(|_| self.error("the name is not UTF-8".into()))?;
        path::check_relative(name).map_err(|problem| self.error(problem.into()))?;
        Ok(name)
    }

    /// Whether this is a folder, which has no data.
    pub fn is_folder(&self) -> bool {
        self.raw_name.ends_with(b"/")
    }

    /// The member this entry describes, as an owned value.
    ///
    /// # Errors
    /// [`SourceError::Member`] for a hostile name, an encrypted member, a compression method
    /// other than stored and deflated, and sizes or offsets that cannot be right.
    pub fn member(&self) -> Result<Member, SourceError> {
        let name = self.name()?;
        if let Some(problem) = self.problem {
            return Err(self.error(problem.into()));
        }
        // Bit 0: encrypted, bit 13: directory masked by strong encryption.
        if self.flags & 0x2001 != 0 {
            return Err(self.error("encrypted: decrypt the archive first".into()));
        }
        let method = match self.method {
            0 if self.compressed_size != self.uncompressed_size => {
                return Err(self.error(format!(
                    "stored, but of {} bytes and {} once extracted",
                    self.compressed_size, self.uncompressed_size
                )));
            }
            0 => Method::Stored,
            8 => Method::Deflated,
            other => {
                return Err(
                    self.error(format!("compression method {other} is not read: repack with deflate or stored"))
                );
            }
        };
        Ok(Member {
            name: name.to_owned(),
            method,
            crc32: self.crc32,
            compressed_size: self.compressed_size,
            uncompressed_size: self.uncompressed_size,
            header_offset: self.header_offset,
        })
    }

    fn error(&self, problem: String) -> SourceError {
        SourceError::Member { member: self.raw_name.escape_ascii().to_string(), problem }
    }
}

/// Parses the central directory chunk by chunk. Memory: at most one entry (192 KiB).
#[derive(Debug)]
pub struct DirectoryParser {
    directory: Directory,
    max_entries: u64,
    fed: u64,
    /// Bytes of complete entries.
    parsed: u64,
    entries: u64,
    /// Beginning of an entry that continues in the next chunk.
    partial: Vec<u8>,
}

impl DirectoryParser {
    /// # Errors
    /// [`SourceError::Limit`] for a directory over `max_directory_bytes` or `max_entries`.
    pub fn new(directory: Directory, limits: &Limits) -> Result<Self, SourceError> {
        let limit = |what: &str, value, setting, limit| {
            (value > limit).then(|| SourceError::Limit { what: what.into(), value, setting, limit })
        };
        let bytes =
            limit("bytes of the zip's directory", directory.length, "max_directory_bytes", limits.max_directory_bytes);
        let entries = limit("entries of the zip's directory", directory.entries, "max_entries", limits.max_entries);
        match bytes.or(entries) {
            Some(error) => Err(error),
            None => Ok(Self {
                directory,
                max_entries: limits.max_entries,
                fed: 0,
                parsed: 0,
                entries: 0,
                partial: Vec::new(),
            }),
        }
    }

    /// Takes the next bytes of the directory and calls `on_entry` for each entry they complete.
    /// After an error the parser is of no further use.
    ///
    /// # Errors
    /// [`SourceError::Archive`] for a damaged directory, and whatever `on_entry` returns.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        on_entry: &mut dyn FnMut(Entry<'_>) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        self.fed += chunk.len() as u64;
        if self.fed > self.directory.length {
            return Err(
                self.damaged(format!("{} bytes fed, but the directory has {}", self.fed, self.directory.length))
            );
        }
        let mut rest = chunk;
        if !self.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            // First the fixed part, which tells the length, then the whole entry.
            for _ in 0..2 {
                let missing = entry_length(&partial) - partial.len();
                let (head, tail) = rest.split_at(missing.min(rest.len()));
                partial.extend_from_slice(head);
                rest = tail;
            }
            if partial.len() < entry_length(&partial) {
                self.partial = partial;
                return Ok(());
            }
            self.entry(&partial, on_entry)?;
        }
        while rest.len() >= HEADER_LENGTH && rest.len() >= entry_length(rest) {
            let (entry, tail) = rest.split_at(entry_length(rest));
            self.entry(entry, on_entry)?;
            rest = tail;
        }
        if rest.len() >= SIGNATURE.len() {
            self.check_signature(rest)?;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Checks that the directory ended where and as it was declared; the number of entries.
    ///
    /// # Errors
    /// [`SourceError::Archive`] for missing bytes or another number of entries than declared
    /// (modulo 65,536 without Zip64, as old writers let it wrap).
    pub fn finish(self) -> Result<u64, SourceError> {
        if self.fed != self.directory.length || !self.partial.is_empty() {
            return Err(self.damaged(format!(
                "the directory breaks off: {} of {} bytes fed, the last {} an incomplete entry",
                self.fed,
                self.directory.length,
                self.partial.len()
            )));
        }
        let declared = self.directory.entries;
        let agrees =
            if self.directory.zip64 { self.entries == declared } else { self.entries % 65_536 == declared % 65_536 };
        if !agrees {
            return Err(self.damaged(format!("{} entries found, {declared} declared: damaged", self.entries)));
        }
        Ok(self.entries)
    }

    fn entry(
        &mut self,
        bytes: &[u8],
        on_entry: &mut dyn FnMut(Entry<'_>) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        self.check_signature(bytes)?;
        self.entries += 1;
        self.parsed += bytes.len() as u64;
        if self.entries > self.max_entries {
            return Err(SourceError::Limit {
                what: "entries of the zip's directory".into(),
                value: self.entries,
                setting: "max_entries",
                limit: self.max_entries,
            });
        }
        on_entry(parse_entry(bytes, &self.directory))
    }

    fn check_signature(&self, bytes: &[u8]) -> Result<(), SourceError> {
        if bytes.starts_with(SIGNATURE) {
            return Ok(());
        }
        Err(self.damaged(format!(
            "entry {} begins with `{}`, not with `{}`: damaged",
            self.entries,
            bytes[..SIGNATURE.len()].escape_ascii(),
            SIGNATURE.escape_ascii()
        )))
    }

    fn damaged(&self, problem: String) -> SourceError {
        SourceError::Archive { offset: self.directory.offset + self.parsed, problem }
    }
}

/// Length of the entry that begins here, or of its fixed part if that is not complete.
fn entry_length(bytes: &[u8]) -> usize {
    if bytes.len() < HEADER_LENGTH {
        return HEADER_LENGTH;
    }
    HEADER_LENGTH + usize::from(u16_at(bytes, 28)) + usize::from(u16_at(bytes, 30)) + usize::from(u16_at(bytes, 32))
}

fn parse_entry<'a>(bytes: &'a [u8], directory: &Directory) -> Entry<'a> {
    let name_end = HEADER_LENGTH + usize::from(u16_at(bytes, 28));
    let extra = &bytes[name_end..name_end + usize::from(u16_at(bytes, 30))];
    // The Zip64 field holds, in this order, only the values that did not fit.
    let mut values = [u32_at(bytes, 24), u32_at(bytes, 20), u32_at(bytes, 42)].map(u64::from);
    let mut problem = None;
    let mut zip64 = zip64_extra(extra);
    for value in &mut values {
        if *value != u64::from(u32::MAX) {
            continue;
        }
        match zip64.split_at_checked(8) {
            Some((head, tail)) => {
                *value = u64_at(head, 0);
                zip64 = tail;
            }
            None => problem = Some("its size or offset needs a Zip64 field that is not there"),
        }
    }
    let [uncompressed_size, compressed_size, header_offset] = values;
    let header_offset = header_offset.saturating_add(directory.archive_offset);
    let least_end = header_offset
        .saturating_add(LOCAL_HEADER_LENGTH)
        .saturating_add((name_end - HEADER_LENGTH) as u64)
        .saturating_add(compressed_size);
    if problem.is_none() && least_end > directory.offset {
        problem = Some("its data reaches into the central directory");
    }
    Entry {
        raw_name: &bytes[HEADER_LENGTH..name_end],
        flags: u16_at(bytes, 8),
        method: u16_at(bytes, 10),
        crc32: u32_at(bytes, 16),
        compressed_size,
        uncompressed_size,
        header_offset,
        problem,
    }
}

/// Content of the Zip64 extra field; empty if there is none or the fields before it are broken.
fn zip64_extra(mut extra: &[u8]) -> &[u8] {
    while extra.len() >= 4 {
        let length = usize::from(u16_at(extra, 2));
        let Some(content) = extra.get(4..4 + length) else {
            break;
        };
        if u16_at(extra, 0) == ZIP64_EXTRA {
            return content;
        }
        extra = &extra[4 + length..];
    }
    &[]
}
