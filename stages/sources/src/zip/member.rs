//! One member: which bytes to fetch for it, and its data out of them.

use std::borrow::Cow;
use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};

use super::{Limits, u16_at};
use crate::SourceError;

const LOCAL_HEADER_LENGTH: usize = 30;
/// Room for the local extra field, whose length only the local header tells. Archivers write up
/// to 36 bytes; more costs a second request, never an error.
const EXTRA_SLACK_BYTES: u64 = 128;
/// Members over this are refused whatever the limits say: they are held in memory.
const CEILING_BYTES: u64 = 1 << 31;

/// Compression methods that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Not compressed (method 0).
    Stored,
    /// Deflate (method 8).
    Deflated,
}

/// A file of the archive, as the central directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Relative path, UTF-8, without `..`.
    pub name: String,
    /// How the data is compressed.
    pub method: Method,
    /// CRC-32 of the extracted data.
    pub crc32: u32,
    /// Bytes in the archive.
    pub compressed_size: u64,
    /// Bytes once extracted.
    pub uncompressed_size: u64,
    /// Offset of the local header in the file.
    pub header_offset: u64,
}

/// What [`extract`] makes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extracted<'a> {
    /// The member's data; borrowed where it was stored uncompressed.
    Data(Cow<'a, [u8]>),
    /// The local header is longer than expected: fetch `length` bytes from `header_offset` on.
    NeedMore {
        /// Bytes that the member takes, local header included.
        length: u64,
    },
}

/// The bytes to fetch in one request: local header, name, extra field and data.
///
/// `next_header_offset` is the header of the next member in the order of the file, or the
/// directory's offset behind the last; it keeps the range from running into what follows.
pub fn member_range(member: &Member, next_header_offset: Option<u64>) -> Range<u64> {
    let start = member.header_offset;
    let least_end =
        start.saturating_add((LOCAL_HEADER_LENGTH + member.name.len()) as u64).saturating_add(member.compressed_size);
    let end = least_end.saturating_add(EXTRA_SLACK_BYTES);
    match next_header_offset {
        Some(next) if (least_end..end).contains(&next) => start..next,
        _ => start..end,
    }
}

/// Extracts a member from the bytes that begin at its `header_offset`. Bytes behind the member
/// are ignored.
///
/// # Errors
/// [`SourceError::Limit`] before anything is allocated, if sizes or their ratio are over
/// `limits`; [`SourceError::Member`] if the local header does not belong to the member, the
/// compressed data is damaged, or size or CRC-32 differ from the directory's.
pub fn extract<'a>(
    member: &Member,
    bytes_from_header: &'a [u8],
    limits: &Limits,
) -> Result<Extracted<'a>, SourceError> {
    check_limits(member, limits)?;
    let error = |problem: String| SourceError::Member { member: member.name.clone(), problem };
    let header = match bytes_from_header.get(..LOCAL_HEADER_LENGTH) {
        Some(header) => header,
        None => {
            return Ok(Extracted::NeedMore { length: member_range(member, None).end - member.header_offset });
        }
    };
    if !header.starts_with(b"PK\x03\x04") {
        return Err(error(format!(
            "no local header at byte {}: the archive changed or is damaged",
            member.header_offset
        )));
    }
    if u16_at(header, 6) & 1 != 0 {
        return Err(error("encrypted: decrypt the archive first".into()));
    }
    let name_end = LOCAL_HEADER_LENGTH + usize::from(u16_at(header, 26));
    let data_start = name_end + usize::from(u16_at(header, 28));
    // `check_limits` bounds the compressed size, so the sum cannot overflow.
    let length = data_start as u64 + member.compressed_size;
    if (bytes_from_header.len() as u64) < length {
        return Ok(Extracted::NeedMore { length });
    }
    let local_name = &bytes_from_header[LOCAL_HEADER_LENGTH..name_end];
    if local_name != member.name.as_bytes() {
        return Err(error(format!(
            "the local header at byte {} names `{}`: damaged",
            member.header_offset,
            local_name.escape_ascii()
        )));
    }
    let compressed = &bytes_from_header[data_start..length as usize];
    let data = match member.method {
        Method::Stored => Cow::Borrowed(compressed),
        Method::Deflated => {
            Cow::Owned(inflate(compressed, member.uncompressed_size as usize).map_err(|p| error(p.into()))?)
        }
    };
    if data.len() as u64 != member.uncompressed_size {
        return Err(error(format!("{} bytes extracted, {} declared", data.len(), member.uncompressed_size)));
    }
    let crc32 = crc32fast::hash(&data);
    if crc32 != member.crc32 {
        return Err(error(format!("CRC-32 is {crc32:08x}, {:08x} declared: damaged, fetch it again", member.crc32)));
    }
    Ok(Extracted::Data(data))
}

fn check_limits(member: &Member, limits: &Limits) -> Result<(), SourceError> {
    let limit = |what: &str, value, setting, limit| SourceError::Limit {
        what: format!("{what} of zip member `{}`", member.name),
        value,
        setting,
        limit,
    };
    let largest = member.compressed_size.max(member.uncompressed_size);
    let max_bytes = limits.max_member_bytes.min(CEILING_BYTES);
    if largest > max_bytes {
        return Err(limit("bytes", largest, "max_member_bytes", max_bytes));
    }
    let ratio = member.uncompressed_size / member.compressed_size.max(1);
    if ratio > limits.max_ratio && member.uncompressed_size > Limits::RATIO_FREE_BYTES {
        return Err(limit("compression ratio", ratio, "max_ratio", limits.max_ratio));
    }
    Ok(())
}

/// Inflates raw deflate data; never writes more than one byte past `size`.
fn inflate(compressed: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
    // The spare byte tells data that is too long from data that fits exactly.
    let mut data = vec![0; size + 1];
    let mut inflater = Decompress::new(false);
    let status = inflater
        .decompress(compressed, &mut data, FlushDecompress::Finish)
        .map_err(|_| "the deflated data is damaged: fetch it again")?;
    if inflater.total_out() > size as u64 {
        return Err("the data is longer than declared");
    }
    if status != Status::StreamEnd {
        return Err("the deflated data breaks off");
    }
    if inflater.total_in() != compressed.len() as u64 {
        return Err("the deflated data ends before its declared size");
    }
    data.truncate(inflater.total_out() as usize);
    Ok(data)
}
