//! Where nodes lie: an index on the disk, a few bytes a node, of which memory holds one entry for 512.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{OsmError, Place};

/// Nodes that are sorted in memory before they go to the disk: 16 MiB.
const BUFFER: usize = 1 << 20;
const BLOCK: usize = 512;
/// Unpacked blocks that are kept: 48 MiB.
const CACHED: usize = 4096;

struct BlockEntry {
    first: i64,
    last: i64,
    offset: u64,
    bytes: u32,
}

/// Writes nodes in any order; those of extracts come sorted, and make one run.
pub(crate) struct LocationWriter {
    file: BufWriter<File>,
    offset: u64,
    buffer: Vec<(i64, Place)>,
    blocks: Vec<BlockEntry>,
    /// Where runs begin among the blocks.
    runs: Vec<usize>,
}

fn failed(cause: std::io::Error) -> OsmError {
    OsmError::Io { path: "the index of nodes in the folder for temporary files".into(), cause }
}

impl LocationWriter {
    /// In a file of this folder that has no name.
    pub(crate) fn create(folder: &Path) -> Result<Self, OsmError> {
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { file, offset: 0, buffer: Vec::new(), blocks: Vec::new(), runs: Vec::new() })
    }

    pub(crate) fn push(&mut self, id: i64, place: Place) -> Result<(), OsmError> {
        self.buffer.push((id, place));
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), OsmError> {
        // stable: of a node that is there twice the last place comes last
        self.buffer.sort_by_key(|(id, _)| *id);
        self.buffer.reverse();
        self.buffer.dedup_by_key(|(id, _)| *id);
        self.buffer.reverse();
        let follows = self.blocks.last().zip(self.buffer.first()).is_some_and(|(block, node)| block.last < node.0);
        if !follows {
            self.runs.push(self.blocks.len());
        }
        for nodes in self.buffer.chunks(BLOCK) {
            let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { continue };
            let packed = pack(nodes);
            self.file.write_all(&packed).map_err(failed)?;
            let bytes = packed.len() as u32;
            self.blocks.push(BlockEntry { first: first.0, last: last.0, offset: self.offset, bytes });
            self.offset += u64::from(bytes);
        }
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Locations, OsmError> {
        self.flush()?;
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(Locations { file, blocks: self.blocks, runs: self.runs, cache: HashMap::new(), bytes: self.offset })
    }
}

fn pack(nodes: &[(i64, Place)]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(nodes.len() * 6);
    let (mut id, mut place) = (0, Place::default());
    for (next, at) in nodes {
        put(&mut packed, next.wrapping_sub(id));
        put(&mut packed, i64::from(at.lon) - i64::from(place.lon));
        put(&mut packed, i64::from(at.lat) - i64::from(place.lat));
        (id, place) = (*next, *at);
    }
    packed
}

pub(crate) fn put(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// `None`: the bytes end, or no number begins there.
pub(crate) fn get(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0u64;
    for at in 0..10 {
        let byte = *bytes.get(at)?;
        number |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    None
}

fn unpack(mut packed: &[u8]) -> Option<Vec<(i64, Place)>> {
    let mut nodes = Vec::with_capacity(BLOCK);
    let (mut id, mut lon, mut lat) = (0i64, 0i64, 0i64);
    while !packed.is_empty() {
        id = id.wrapping_add(get(&mut packed)?);
        lon += get(&mut packed)?;
        lat += get(&mut packed)?;
        nodes.push((id, Place { lon: i32::try_from(lon).ok()?, lat: i32::try_from(lat).ok()? }));
    }
    Some(nodes)
}

/// The places of nodes, to be asked for by id.
pub(crate) struct Locations {
    file: File,
    blocks: Vec<BlockEntry>,
    runs: Vec<usize>,
    cache: HashMap<usize, Vec<(i64, Place)>>,
    bytes: u64,
}

impl Locations {
    /// What it takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where a node lies; `None`: it was not in the file.
    pub(crate) fn get(&mut self, id: i64) -> Result<Option<Place>, OsmError> {
        for run in (0..self.runs.len()).rev() {
            let begins = self.runs[run];
            let ends = self.runs.get(run + 1).copied().unwrap_or(self.blocks.len());
            let at = begins + self.blocks[begins..ends].partition_point(|block| block.last < id);
            if at == ends || self.blocks[at].first > id {
                continue;
            }
            let nodes = self.block(at)?;
            if let Ok(found) = nodes.binary_search_by_key(&id, |(id, _)| *id) {
                return Ok(Some(nodes[found].1));
            }
        }
        Ok(None)
    }

    fn block(&mut self, at: usize) -> Result<&[(i64, Place)], OsmError> {
        if !self.cache.contains_key(&at) {
            if self.cache.len() >= CACHED {
                self.cache.clear();
            }
            let entry = &self.blocks[at];
            let mut packed = vec![0; entry.bytes as usize];
            self.file.seek(SeekFrom::Start(entry.offset)).map_err(failed)?;
            self.file.read_exact(&mut packed).map_err(failed)?;
            let nodes = unpack(&packed).ok_or_else(|| failed(std::io::Error::other("it was changed meanwhile")))?;
            self.cache.insert(at, nodes);
        }
        Ok(self.cache.get(&at).map_or(&[], Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn nodes_in_any_order_are_found_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut dice = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut writer = LocationWriter::create(folder.path()).unwrap();
        let mut known = HashMap::new();
        for step in 0..2_300_000i64 {
            let id = if step % 7 == 0 { dice.random_range(1..1 << 53) } else { step * 3 };
            let place = Place { lon: dice.random_range(-1_800_000_000..=1_800_000_000), lat: (step as i32) * 100 };
            writer.push(id, place).unwrap();
            known.insert(id, place);
        }
        let mut locations = writer.finish().unwrap();
        for (id, place) in known.iter().take(20_000) {
            assert_eq!(locations.get(*id).unwrap(), Some(*place));
        }
        for id in (1..20_000).filter(|id| !known.contains_key(id)) {
            assert_eq!(locations.get(id).unwrap(), None);
        }
    }

    #[test]
    fn a_sorted_country_is_one_run_of_a_few_bytes_a_node() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LocationWriter::create(folder.path()).unwrap();
        for i in 0..3_000_000i64 {
            let at = |period: i64| ((i * 37) % period) as i32;
            writer.push(i * 2 + 1, Place { lon: 240_000_000 + at(9_000), lat: 600_000_000 + at(7_000) }).unwrap();
        }
        let locations = writer.finish().unwrap();
        assert_eq!(locations.runs.len(), 1);
        assert!(locations.bytes() < 3_000_000 * 6, "{} bytes", locations.bytes());
        // 32 bytes for 512 nodes stay in memory
        assert!(locations.blocks.len() < 3_000_000 / BLOCK + 8);
    }
}
