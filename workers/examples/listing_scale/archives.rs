//! Writes zips of very many small members, without holding what they hold.

use std::io::{BufWriter, Read, Seek, Write};
use std::path::Path;

const CONTENT: &[u8] = b"x";

/// What a local header and an entry of the directory share.
fn fields(name: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    // version, flags (names are UTF-8), stored, time, date
    [20u16, 0x800, 0, 0, 0x21].iter().for_each(|field| fields.extend_from_slice(&field.to_le_bytes()));
    let length = CONTENT.len() as u32;
    [crc32fast::hash(CONTENT), length, length].iter().for_each(|field| fields.extend_from_slice(&field.to_le_bytes()));
    [name.len() as u16, 0].iter().for_each(|field| fields.extend_from_slice(&field.to_le_bytes()));
    fields
}

pub fn write(path: &Path, members: impl Iterator<Item = String>) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    let mut directory = BufWriter::new(tempfile::tempfile()?);
    let (mut offset, mut directory_bytes, mut entries) = (0u64, 0u64, 0u64);
    for name in members {
        let fields = fields(&name);
        file.write_all(b"PK\x03\x04")?;
        file.write_all(&fields)?;
        file.write_all(name.as_bytes())?;
        file.write_all(CONTENT)?;
        directory.write_all(b"PK\x01\x02\x14\0")?;
        directory.write_all(&fields)?;
        // no comment, first disk, no attributes
        directory.write_all(&[0; 10])?;
        directory.write_all(&(offset as u32).to_le_bytes())?;
        directory.write_all(name.as_bytes())?;
        offset += 4 + (fields.len() + name.len() + CONTENT.len()) as u64;
        directory_bytes += 6 + (fields.len() + 14 + name.len()) as u64;
        entries += 1;
    }
    let mut directory = directory.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    directory.rewind()?;
    std::io::copy(&mut directory.take(directory_bytes), &mut file)?;
    // more entries than the old end can count: the new one, where it is, and the old one
    file.write_all(b"PK\x06\x06")?;
    file.write_all(&44u64.to_le_bytes())?;
    file.write_all(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    for number in [entries, entries, directory_bytes, offset] {
        file.write_all(&number.to_le_bytes())?;
    }
    file.write_all(b"PK\x06\x07\0\0\0\0")?;
    file.write_all(&(offset + directory_bytes).to_le_bytes())?;
    file.write_all(&1u32.to_le_bytes())?;
    file.write_all(b"PK\x05\x06\0\0\0\0")?;
    file.write_all(&[0xff; 12])?;
    file.write_all(&[0; 2])?;
    file.flush()
}
