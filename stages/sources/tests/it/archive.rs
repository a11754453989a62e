//! Writes small zips, honest and dishonest, and reads them as a caller would.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use sources::SourceError;
use sources::zip::*;

/// A member as it is written; every field may lie.
#[derive(Clone, Debug)]
pub struct File {
    pub name: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub crc32: u32,
    pub uncompressed_size: u64,
    pub data: Vec<u8>,
    pub local_extra: Vec<u8>,
}

impl File {
    pub fn stored(name: &str, data: &[u8]) -> Self {
        Self {
            name: name.into(),
            flags: 0,
            method: 0,
            crc32: crc32fast::hash(data),
            uncompressed_size: data.len() as u64,
            data: data.into(),
            local_extra: Vec::new(),
        }
    }

    pub fn deflated(name: &str, data: &[u8]) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        Self { method: 8, data: encoder.finish().unwrap(), ..Self::stored(name, data) }
    }
}

/// The local header and data of a member.
pub fn local(file: &File) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04\x14\0".to_vec();
    bytes.extend(file.flags.to_le_bytes());
    bytes.extend(file.method.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(file.crc32.to_le_bytes());
    bytes.extend((file.data.len() as u32).to_le_bytes());
    bytes.extend((file.uncompressed_size as u32).to_le_bytes());
    bytes.extend((file.name.len() as u16).to_le_bytes());
    bytes.extend((file.local_extra.len() as u16).to_le_bytes());
    bytes.extend(&file.name);
    bytes.extend(&file.local_extra);
    bytes.extend(&file.data);
    bytes
}

/// The directory entry of a member. With `zip64`, sizes and offset stand in the extra field.
pub fn entry(file: &File, header_offset: u64, zip64: bool) -> Vec<u8> {
    let sizes = [file.data.len() as u64, file.uncompressed_size];
    let narrow = |value: u64| if zip64 { u32::MAX } else { value as u32 };
    let mut bytes = b"PK\x01\x02\x14\x03\x14\0".to_vec();
    bytes.extend(file.flags.to_le_bytes());
    bytes.extend(file.method.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(file.crc32.to_le_bytes());
    sizes.iter().for_each(|&size| bytes.extend(narrow(size).to_le_bytes()));
    bytes.extend((file.name.len() as u16).to_le_bytes());
    bytes.extend(if zip64 { [28, 0] } else { [0; 2] });
    bytes.extend([0; 10]);
    bytes.extend(narrow(header_offset).to_le_bytes());
    bytes.extend(&file.name);
    if zip64 {
        bytes.extend([1, 0, 24, 0]);
        for value in [sizes[1], sizes[0], header_offset] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes
}

/// End records for a directory at `offset`; with `zip64`, the numbers stand in the Zip64 record.
pub fn end(entries: u64, length: u64, offset: u64, zip64: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if zip64 {
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for value in [entries, entries, length, offset] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend((offset + length).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let count = if zip64 { u16::MAX } else { entries as u16 };
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    for value in [length, offset] {
        bytes.extend((if zip64 { u32::MAX } else { value as u32 }).to_le_bytes());
    }
    bytes.extend([0; 2]);
    bytes
}

/// A whole archive.
pub fn zip(files: &[File], zip64: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for file in files {
        directory.extend(entry(file, bytes.len() as u64, zip64));
        bytes.extend(local(file));
    }
    let offset = bytes.len() as u64;
    bytes.extend(&directory);
    bytes.extend(end(files.len() as u64, directory.len() as u64, offset, zip64));
    bytes
}

pub fn find(bytes: &[u8]) -> Result<Directory, SourceError> {
    let size = bytes.len() as u64;
    let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES as usize)..];
    match find_directory(size, tail)? {
        Tail::Found(directory) => Ok(directory),
        Tail::NeedRange { offset, length } => {
            read_zip64_end(offset, range(bytes, offset..offset.saturating_add(length)))
        }
    }
}

/// The members of an archive, its directory fed in chunks; folders are left out.
pub fn members(bytes: &[u8], chunk: usize) -> Result<Vec<Result<Member, SourceError>>, SourceError> {
    let directory = find(bytes)?;
    let mut parser = DirectoryParser::new(directory, &Limits::default())?;
    let end = directory.offset + directory.length;
    let mut members = Vec::new();
    for part in range(bytes, directory.offset..end).chunks(chunk) {
        parser.feed(part, &mut |entry| {
            if !entry.is_folder() {
                members.push(entry.member());
            }
            Ok(())
        })?;
    }
    parser.finish()?;
    Ok(members)
}

/// One member's data, fetched the way a caller does: one request, rarely a second.
pub fn data(bytes: &[u8], member: &Member, limits: &Limits) -> Result<Vec<u8>, SourceError> {
    let first = member_range(member, None);
    let mut fetched = range(bytes, first);
    for _ in 0..2 {
        match extract(member, fetched, limits)? {
            Extracted::Data(data) => return Ok(data.into_owned()),
            Extracted::NeedMore { length } => {
                let start = member.header_offset;
                fetched = range(bytes, start..start.saturating_add(length));
            }
        }
    }
    Err(SourceError::Member { member: member.name.clone(), problem: "the file ends before the member does".into() })
}

/// The part of a range that lies in the file, as an object store gives it.
fn range(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    let clamp = |offset: u64| offset.min(bytes.len() as u64) as usize;
    &bytes[clamp(range.start)..clamp(range.end.max(range.start))]
}
