//! `.osm.pbf`: blobs of protocol buffers, most of them deflated.
//!
//! A reader of our own, since those there are take more than a sound file has, or panic: docs/decisions/0026.

mod block;
mod wire;

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::element::Object;
use crate::header::Header;
use crate::{Kind, OsmError};
use wire::Fields;

/// What the format permits: most bytes of a blob's header, and of a blob, packed or not.
const MOST_HEADER_BYTES: usize = 64 << 10;
const MOST_BLOB_BYTES: usize = 32 << 20;

/// What a reader of this kind knows how to read; a file that requires more is refused.
const KNOWN_FEATURES: [&str; 2] = ["OsmSchema-V0.6", "DenseNodes"];

/// Reads objects of the wanted kinds, and hands each to `take`, in the order of the file.
///
/// # Errors
/// [`OsmError::Content`] for bytes that are no PBF, [`OsmError::Limit`] for more than is taken; those of `take`.
pub fn read_pbf(
    input: impl Read,
    wanted: &dyn Fn(Kind) -> bool,
    take: &mut dyn FnMut(Object) -> Result<(), OsmError>,
) -> Result<Header, OsmError> {
    let mut input = input;
    let mut header: Option<Header> = None;
    let (mut packed, mut message) = (Vec::new(), Vec::new());
    while let Some(kind) = next_blob(&mut input, &mut packed)? {
        match kind.as_str() {
            "OSMHeader" if header.is_none() => {
                unpack(&packed, &mut message)?;
                header = Some(read_header(&message)?);
            }
            "OSMData" if header.is_some() => {
                unpack(&packed, &mut message)?;
                block::read(&message, wanted, take)?;
            }
            "OSMData" => return Err(OsmError::Content("its data begin before its header: it is no .osm.pbf".into())),
            // the format asks readers to pass over others
            _ => {}
        }
    }
    header.ok_or_else(|| OsmError::Content("it has no header: it is empty, or no .osm.pbf".into()))
}

/// The next blob's type, and its bytes; `None` at the end.
fn next_blob(input: &mut impl Read, blob: &mut Vec<u8>) -> Result<Option<String>, OsmError> {
    let mut length = [0; 4];
    let mut there = 0;
    while there < 4 {
        match input.read(&mut length[there..]) {
            Ok(0) if there == 0 => return Ok(None),
            Ok(0) => return Err(OsmError::Content("it ends within a blob: download it again".into())),
            Ok(read) => there += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(OsmError::stream(error)),
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MOST_HEADER_BYTES {
        return Err(OsmError::Content(format!(
            "a blob's header has {length} bytes, and the format permits {MOST_HEADER_BYTES}: it is no .osm.pbf"
        )));
    }
    read_exactly(input, length, blob)?;
    let (mut kind, mut size) = (None, None);
    let mut fields = Fields::of(blob);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => kind = Some(value.text()?.to_owned()),
            3 => size = Some(value.number()?),
            _ => {}
        }
    }
    let (Some(kind), Some(size)) = (kind, size) else {
        return Err(OsmError::Content("a blob's header lacks its type or size: it is no .osm.pbf".into()));
    };
    let size = usize::try_from(size).ok().filter(|size| *size <= MOST_BLOB_BYTES);
    let size = size.ok_or(OsmError::Limit { what: "bytes of a blob", limit: MOST_BLOB_BYTES as u64 })?;
    read_exactly(input, size, blob)?;
    Ok(Some(kind))
}

/// Reads so many bytes; only what is there is allocated.
fn read_exactly(input: &mut impl Read, length: usize, bytes: &mut Vec<u8>) -> Result<(), OsmError> {
    bytes.clear();
    let read = input.by_ref().take(length as u64).read_to_end(bytes).map_err(OsmError::stream)?;
    if read == length { Ok(()) } else { Err(OsmError::Content("it ends within a blob: download it again".into())) }
}

/// Unpacks a blob. What it claims to be is checked against what it is.
fn unpack(blob: &[u8], message: &mut Vec<u8>) -> Result<(), OsmError> {
    let (mut raw, mut deflated, mut claimed) = (None, None, None);
    let mut fields = Fields::of(blob);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => raw = Some(value.bytes()?),
            2 => claimed = Some(value.number()?),
            3 => deflated = Some(value.bytes()?),
            4..=7 => {
                return Err(OsmError::Content(
                    "its blobs are packed with LZMA, bzip2, LZ4 or zstd: pack them as usual, such as with `osmium cat \
                     -f pbf,pbf_compression=zlib`"
                        .into(),
                ));
            }
            _ => {}
        }
    }
    message.clear();
    match (raw, deflated) {
        (Some(raw), None) => message.extend_from_slice(raw),
        (None, Some(deflated)) => {
            let most = claimed.unwrap_or(0);
            if most > MOST_BLOB_BYTES as u64 {
                return Err(OsmError::Limit { what: "bytes of an unpacked blob", limit: MOST_BLOB_BYTES as u64 });
            }
            // one byte more shows a blob that is larger than it says
            let mut unpacked = ZlibDecoder::new(deflated).take(most + 1);
            unpacked.read_to_end(message).map_err(OsmError::stream)?;
            if message.len() as u64 != most {
                return Err(OsmError::Content(format!(
                    "a blob says that it has {most} bytes, and has others: refused"
                )));
            }
        }
        _ => return Err(OsmError::Content("a blob has no data: download the file again".into())),
    }
    Ok(())
}

fn read_header(message: &[u8]) -> Result<Header, OsmError> {
    let mut header = Header::default();
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => header.bounds = read_bounds(value.bytes()?)?,
            // required or optional: nodes are left out where ways tell their places, and most ways would lie nowhere
            4 | 5 if value.text()? == "LocationsOnWays" => {
                return Err(OsmError::Content(
                    "its ways tell where they lie (LocationsOnWays) and nodes may be left out, which is not read here: \
                     take the extract as it was before `osmium add-locations-to-ways`"
                        .into(),
                ));
            }
            4 => {
                let feature = value.text()?;
                if feature == "HistoricalInformation" {
                    return Err(OsmError::Content(
                        "it is a history, in which objects have many versions: make an extract of one moment with \
                         `osmium time-filter`"
                            .into(),
                    ));
                }
                if !KNOWN_FEATURES.contains(&feature) {
                    let feature = feature.chars().take(80).collect::<String>();
                    return Err(OsmError::Content(format!("it requires {feature:?}, which is not known here")));
                }
            }
            32 => header.timestamp = i64::try_from(value.number()?).ok().filter(|seconds| *seconds > 0),
            33 => header.sequence = Some(value.number()?),
            _ => {}
        }
    }
    Ok(header)
}

/// Left, right, top, bottom in units of 1e-9 degrees.
fn read_bounds(message: &[u8]) -> Result<Option<crate::Rect>, OsmError> {
    let mut sides = [None; 4];
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if let Some(side) = number.checked_sub(1).and_then(|at| sides.get_mut(at as usize)) {
            *side = Some(i128::from(value.signed()?));
        }
    }
    let [Some(left), Some(right), Some(top), Some(bottom)] = sides else { return Ok(None) };
    let corner = crate::Place::of_nanodegrees;
    Ok(corner(left, bottom).zip(corner(right, top)).map(|(low, high)| crate::Rect { low, high }))
}
