//! Files by their names: `.osm.pbf`, `.osm`, `.osm.gz`, `.osm.bz2`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;

use crate::{Header, Kind, Object, OsmError, read_pbf, read_xml};

/// Reads the objects of an extract that are of wanted kinds, in the order of the file.
///
/// # Errors
/// [`OsmError::In`] naming the file and what is wrong with it; those of `take`.
pub fn read_objects(
    path: &Path,
    wanted: &dyn Fn(Kind) -> bool,
    take: &mut dyn FnMut(Object) -> Result<(), OsmError>,
) -> Result<Header, OsmError> {
    let file = File::open(path).map_err(OsmError::io(path))?;
    let file = BufReader::with_capacity(1 << 20, file);
    let name = path.to_string_lossy().to_lowercase();
    let mut some = |object: Object| if wanted(object.object_id().kind) { take(object) } else { Ok(()) };
    let read = if name.ends_with(".pbf") {
        read_pbf(file, wanted, &mut some)
    } else if name.ends_with(".osm.gz") {
        read_xml(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file)), &mut some)
    } else if name.ends_with(".osm") {
        read_xml(file, &mut some)
    } else if name.ends_with(".osm.bz2") {
        read_xml(BufReader::with_capacity(1 << 18, MultiBzDecoder::new(file)), &mut some)
    } else {
        Err(OsmError::Content("extracts are called .osm.pbf, .osm, .osm.gz or .osm.bz2".into()))
    };
    read.map_err(|why| why.inside(path))
}

/// A diff's XML, unpacked where it is packed.
pub(crate) fn unpacked(bytes: &[u8]) -> Box<dyn Read + '_> {
    match bytes {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(bytes)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(bytes)),
        _ => Box::new(bytes),
    }
}
