//! Reading a zip in place by byte ranges (PKWARE APPNOTE 6.3.10).
//!
//! The caller fetches, these functions parse:
//! 1. the last [`TAIL_BYTES`] of the object → [`find_directory`] (and, rarely, one more range →
//!    [`read_zip64_end`]) → where the central directory lies;
//! 2. the directory's bytes in chunks of any size → [`DirectoryParser`] → entries, in constant
//!    memory however many there are;
//! 3. [`member_range`] of the wanted members, grouped by [`coalesce`] → [`extract`].
//!
//! ```
//! use sources::zip::{DirectoryParser, Extracted, Limits, Tail, extract, find_directory, member_range};
//! let archive = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/zip-good-one_member"));
//! let limits = Limits::default();
//! let Tail::Found(directory) = find_directory(archive.len() as u64, archive)? else { panic!("a Zip64") };
//! let mut members = Vec::new();
//! let mut parser = DirectoryParser::new(directory, &limits)?;
//! let (from, to) = (directory.offset as usize, (directory.offset + directory.length) as usize);
//! parser.feed(&archive[from..to], &mut |entry| Ok(members.push(entry.member()?)))?;
//! assert_eq!((parser.finish()?, members[0].name.as_str()), (1, "images2/a1_CH_19.jpg"));
//! let range = member_range(&members[0], Some(directory.offset));
//! let Extracted::Data(data) = extract(&members[0], &archive[range.start as usize..], &limits)? else { panic!("more") };
//! assert_eq!(data.len() as u64, members[0].uncompressed_size);
//! # Ok::<(), sources::SourceError>(())
//! ```
//!
//! Damage to the directory is an error of the archive. Everything about one member (encryption,
//! unknown compression, hostile name, wrong checksum) is an error of that member alone.

mod directory;
mod member;
mod ranges;
mod tail;

pub use directory::{DirectoryParser, Entry};
pub use member::{Extracted, Member, Method, extract, member_range};
pub use ranges::coalesce;
pub use tail::{Directory, TAIL_BYTES, Tail, find_directory, read_zip64_end};

/// How much a zip may ask for. Checked before memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest member, compressed and uncompressed, in bytes.
    pub max_member_bytes: u64,
    /// Largest uncompressed size over compressed size. Members of at most
    /// [`Limits::RATIO_FREE_BYTES`] are exempt: they cannot do harm.
    pub max_ratio: u64,
    /// Largest central directory in bytes.
    pub max_directory_bytes: u64,
    /// Most entries of a central directory.
    pub max_entries: u64,
}

impl Limits {
    /// Uncompressed size up to which any compression ratio is accepted.
    pub const RATIO_FREE_BYTES: u64 = 1 << 20;
}

impl Default for Limits {
    /// 64 MiB a member, ratio 100, 16 Mi entries, directory of 4 GiB (streamed, never held).
    fn default() -> Self {
        Self { max_member_bytes: 64 << 20, max_ratio: 100, max_directory_bytes: 4 << 30, max_entries: 16 << 20 }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
