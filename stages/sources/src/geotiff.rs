//! The ground of a GeoTIFF: the box in degrees that its keys tell, for the coordinate systems that satellite images come in.
//!
//! Read are longitude and latitude on WGS 84 (EPSG:4326) and the zones of UTM on WGS 84 (EPSG:32601–32660, 32701–32760), with a
//! tie point and a pixel scale, or a matrix without turns (OGC 19-008r4, sections 7.1 and 7.2); in TIFF and BigTIFF. Everything
//! else that places a picture on the ground is refused by name: a guess would put it somewhere else.

use crate::utm;

/// West, south, east, north in degrees.
pub type GroundBox = [f64; 4];

const IMAGE_WIDTH: u16 = 256;
const IMAGE_LENGTH: u16 = 257;
const PIXEL_SCALE: u16 = 33_550;
const TIE_POINT: u16 = 33_922;
const TRANSFORMATION: u16 = 34_264;
const GEO_KEYS: u16 = 34_735;

const MODEL_TYPE: u16 = 1024;
const RASTER_TYPE: u16 = 1025;
const GEODETIC_SYSTEM: u16 = 2048;
const PROJECTED_SYSTEM: u16 = 3072;
const WGS_84: u16 = 4326;
/// The picture's corner is that of its first pixel, or the middle of that pixel.
const PIXEL_IS_POINT: u16 = 2;

/// Entries of a directory, and keys, at most.
const MOST_ENTRIES: usize = 4096;
/// Numbers of a tag at most.
const MOST_NUMBERS: usize = 4 * MOST_ENTRIES;

/// The box that a TIFF's keys tell. `None`: it is no TIFF, or none that says where it lies.
///
/// # Errors
/// What is wrong with its keys, or which system is not known here.
pub fn ground_of(bytes: &[u8]) -> Result<Option<GroundBox>, String> {
    let Some(tiff) = Tiff::open(bytes)? else { return Ok(None) };
    let keys = tiff.numbers(GEO_KEYS)?;
    let (scale, tie, matrix) = (tiff.numbers(PIXEL_SCALE)?, tiff.numbers(TIE_POINT)?, tiff.numbers(TRANSFORMATION)?);
    if keys.is_empty() && scale.is_empty() && tie.is_empty() && matrix.is_empty() {
        return Ok(None);
    }
    if keys.is_empty() {
        return Err("it lies on the ground, but no GeoKeys say in which coordinate system".into());
    }
    let Placed { across, down, column, row, x, y } = match (scale.as_slice(), tie.as_slice(), matrix.as_slice()) {
        (&[across, down, ..], &[column, row, _, x, y, _], _) => Placed { across, down, column, row, x, y },
        (_, _, []) => {
            return Err(format!(
                "it has {} numbers of a pixel scale and {} of tie points, where 3 and 6 place it",
                scale.len(),
                tie.len()
            ));
        }
        (_, _, matrix) => Placed::by(matrix)?,
    };
    let (width, height) = (tiff.number(IMAGE_WIDTH)?, tiff.number(IMAGE_LENGTH)?);
    let keys = GeoKeys(keys);
    let half = if keys.value(RASTER_TYPE) == Some(PIXEL_IS_POINT) { 0.5 } else { 0.0 };
    let west = x - (column + half) * across;
    let north = y + (row + half) * down;
    let edges = [west, north - height * down, west + width * across, north];
    if edges.iter().any(|edge| !edge.is_finite()) || across <= 0.0 || down <= 0.0 || width < 1.0 || height < 1.0 {
        return Err(format!("its tie point and pixel scale make no box: {edges:?}"));
    }
    checked(keys.in_degrees(edges)?).map(Some)
}

/// A point of the picture with its place, and the sides of a pixel.
struct Placed {
    across: f64,
    down: f64,
    column: f64,
    row: f64,
    x: f64,
    y: f64,
}

impl Placed {
    /// By the four rows of a matrix that makes x, y and z of column, row, height and 1.
    fn by(matrix: &[f64]) -> Result<Self, String> {
        let &[across, x_by_row, _, x, y_by_column, up, _, y, ..] = matrix else {
            return Err(format!("its transformation matrix has {} numbers, 16 are wanted", matrix.len()));
        };
        // what a program's rounding leaves of nothing
        let nothing = 1e-9 * across.abs().max(up.abs());
        if matrix.len() != 16 || x_by_row.abs() > nothing || y_by_column.abs() > nothing || across <= 0.0 || up >= 0.0 {
            return Err(
                "its transformation matrix turns or mirrors the picture, and only pictures with north up have a \
                        box of their own: `gdalwarp` writes it so"
                    .into(),
            );
        }
        Ok(Self { across, down: -up, column: 0.0, row: 0.0, x, y })
    }
}

fn checked(ground: GroundBox) -> Result<GroundBox, String> {
    let [west, south, east, north] = ground;
    let is_box = west < east && south < north && (-180.0..=180.0).contains(&west) && east <= 180.0;
    match is_box && (-90.0..=90.0).contains(&south) && north <= 90.0 {
        true => Ok(ground),
        false => Err(format!("its box is none in degrees: west {west}, south {south}, east {east}, north {north}")),
    }
}

/// Four numbers a key: its id, where its value stands (0: here), how many, the value.
struct GeoKeys(Vec<f64>);

impl GeoKeys {
    fn value(&self, wanted: u16) -> Option<u16> {
        let entries = self.0.get(4..)?.chunks_exact(4);
        let mut found = entries.filter(|entry| entry[0] == f64::from(wanted) && entry[1] == 0.0);
        found.next().map(|entry| entry[3] as u16)
    }

    fn in_degrees(&self, edges: GroundBox) -> Result<GroundBox, String> {
        let known = "known are EPSG:4326 and the zones of UTM on WGS 84 (EPSG:32601 to 32660 and 32701 to 32760)";
        let systems = (self.value(MODEL_TYPE), self.value(GEODETIC_SYSTEM), self.value(PROJECTED_SYSTEM));
        match systems {
            (Some(2), Some(WGS_84), _) => Ok(edges),
            (Some(1), _, Some(system @ (32_601..=32_660 | 32_701..=32_760))) => {
                let (zone, south) = (system % 100, system > 32_700);
                Ok(utm::in_degrees(edges, zone as u8, south))
            }
            (Some(1), _, Some(system)) => Err(format!("its coordinates are of EPSG:{system}: {known}")),
            (Some(2), Some(system), _) => Err(format!("its degrees are of EPSG:{system}: {known}")),
            _ => Err(format!("its GeoKeys name no coordinate system: {known}")),
        }
    }
}

/// The first directory of a TIFF.
struct Tiff<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    /// Whether offsets and numbers of values have eight bytes, and not four.
    is_big: bool,
    /// Tag, type, number of values, and the place of the bytes that hold them or say where they are.
    entries: Vec<(u16, u16, usize, usize)>,
}

impl<'a> Tiff<'a> {
    fn open(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let (is_big_endian, is_big) = match bytes.first_chunk::<4>() {
            Some(b"II*\0") => (false, false),
            Some(b"MM\0*") => (true, false),
            Some(b"II+\0") => (false, true),
            Some(b"MM\0+") => (true, true),
            _ => return Ok(None),
        };
        let mut tiff = Self { bytes, is_big_endian, is_big, entries: Vec::new() };
        let directory = tiff.offset(if is_big { 8 } else { 4 })?;
        let (number, first) = match is_big {
            false => (usize::from(tiff.u16(directory)?), directory.saturating_add(2)),
            true => (tiff.offset(directory)?, directory.saturating_add(8)),
        };
        if number > MOST_ENTRIES {
            return Err(format!("its directory has {number} entries, at most {MOST_ENTRIES} are read"));
        }
        let (length, value) = if is_big { (20, 12) } else { (12, 8) };
        for entry in 0..number {
            let at = first.saturating_add(length * entry);
            let (tag, kind) = (tiff.u16(at)?, tiff.u16(at.saturating_add(2))?);
            let count = tiff.offset(at.saturating_add(4))?;
            tiff.entries.push((tag, kind, count, at.saturating_add(value)));
        }
        Ok(Some(tiff))
    }

    /// A number as wide as offsets are.
    fn offset(&self, at: usize) -> Result<usize, String> {
        let number = if self.is_big { self.u64(at)? } else { self.u32(at)?.into() };
        usize::try_from(number).map_err(|_| format!("it speaks of {number} bytes or values"))
    }

    fn u64(&self, at: usize) -> Result<u64, String> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], String> {
        let found = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        let mut found = found.ok_or_else(|| format!("cut off: it speaks of byte {at} and has {}", self.bytes.len()))?;
        if self.is_big_endian {
            found.reverse();
        }
        Ok(found)
    }

    fn u16(&self, at: usize) -> Result<u16, String> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, String> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// All values of a tag; none where it is not there.
    fn numbers(&self, wanted: u16) -> Result<Vec<f64>, String> {
        let Some(&(_, kind, count, place)) = self.entries.iter().find(|(tag, ..)| *tag == wanted) else {
            return Ok(Vec::new());
        };
        let size = match kind {
            3 => 2,
            4 => 4,
            12 | 16 => 8,
            _ => return Err(format!("tag {wanted} is of type {kind}, and neither whole numbers nor doubles")),
        };
        if count > MOST_NUMBERS {
            return Err(format!("tag {wanted} has {count} values, at most {MOST_NUMBERS} are read"));
        }
        let room = if self.is_big { 8 } else { 4 };
        let at = if size * count <= room { place } else { self.offset(place)? };
        let value = |number: usize| {
            let at = at.saturating_add(size * number);
            match kind {
                3 => self.u16(at).map(f64::from),
                4 => self.u32(at).map(f64::from),
                16 => self.u64(at).map(|number| number as f64),
                _ => self.array(at).map(f64::from_le_bytes),
            }
        };
        (0..count).map(value).collect()
    }

    fn number(&self, tag: u16) -> Result<f64, String> {
        self.numbers(tag)?.first().copied().ok_or_else(|| format!("tag {tag} is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Value<'a> {
        Shorts(&'a [u16]),
        Doubles(&'a [f64]),
    }
    use Value::{Doubles, Shorts};

    /// A TIFF of nothing but a directory.
    fn tiff(big_endian: bool, tags: &[(u16, Value<'_>)]) -> Vec<u8> {
        let order = |bytes: &mut Vec<u8>, value: &[u8]| match big_endian {
            true => bytes.extend(value.iter().rev()),
            false => bytes.extend(value),
        };
        let mut bytes = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        order(&mut bytes, &8u32.to_le_bytes());
        order(&mut bytes, &(tags.len() as u16).to_le_bytes());
        let mut data = Vec::new();
        let start = 8 + 2 + 12 * tags.len();
        for (tag, value) in tags {
            let (kind, count, mut values) = match value {
                Shorts(values) => (3u16, values.len(), Vec::new()),
                Doubles(values) => (12u16, values.len(), Vec::new()),
            };
            match value {
                Shorts(list) => list.iter().for_each(|v| order(&mut values, &v.to_le_bytes())),
                Doubles(list) => list.iter().for_each(|v| order(&mut values, &v.to_le_bytes())),
            }
            order(&mut bytes, &tag.to_le_bytes());
            order(&mut bytes, &kind.to_le_bytes());
            order(&mut bytes, &(count as u32).to_le_bytes());
            if values.len() <= 4 {
                values.resize(4, 0);
                bytes.extend(values);
            } else {
                order(&mut bytes, &((start + data.len()) as u32).to_le_bytes());
                data.extend(values);
            }
        }
        bytes.extend(data);
        bytes
    }

    fn placed(keys: &[u16], scale: &[f64], tie: &[f64]) -> Vec<u8> {
        let mut all = vec![1, 1, 0, keys.len() as u16 / 4];
        all.extend(keys);
        let tags = [
            (256, Shorts(&[100])),
            (257, Shorts(&[50])),
            (PIXEL_SCALE, Doubles(scale)),
            (TIE_POINT, Doubles(tie)),
            (GEO_KEYS, Shorts(&all)),
        ];
        tiff(false, &tags)
    }

    const DEGREES: [u16; 8] = [1024, 0, 1, 2, 2048, 0, 1, 4326];

    #[test]
    fn degrees_are_read_in_both_byte_orders() {
        let keys = [1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326];
        for big_endian in [false, true] {
            let bytes = tiff(
                big_endian,
                &[
                    (256, Shorts(&[100])),
                    (257, Shorts(&[50])),
                    (PIXEL_SCALE, Doubles(&[0.01, 0.02, 0.0])),
                    (TIE_POINT, Doubles(&[0.0, 0.0, 0.0, 10.0, 60.0, 0.0])),
                    (GEO_KEYS, Shorts(&keys)),
                ],
            );
            assert_eq!(ground_of(&bytes), Ok(Some([10.0, 59.0, 11.0, 60.0])));
        }
        // the tie point may be of any pixel, and of its middle
        let at = |keys: &[u16]| {
            ground_of(&placed(keys, &[0.01, 0.02, 0.0], &[50.0, 25.0, 0.0, 10.5, 59.5, 0.0])).unwrap().unwrap()
        };
        assert!(at(&DEGREES).iter().zip([10.0, 59.0, 11.0, 60.0]).all(|(a, b)| (a - b).abs() < 1e-9));
        let middle = [&DEGREES[..], &[1025, 0, 1, 2]].concat();
        assert!(at(&middle).iter().zip([9.995, 59.01, 10.995, 60.01]).all(|(a, b)| (a - b).abs() < 1e-9));
    }

    fn by_matrix(matrix: &[f64], raster: u16) -> Result<Option<GroundBox>, String> {
        let keys = [1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, raster, 2048, 0, 1, 4326];
        ground_of(&tiff(
            false,
            &[
                (256, Shorts(&[100])),
                (257, Shorts(&[50])),
                (TRANSFORMATION, Doubles(matrix)),
                (GEO_KEYS, Shorts(&keys)),
            ],
        ))
    }

    #[test]
    fn a_matrix_with_north_up_places_a_picture_and_any_other_is_refused() {
        let rows = [[0.01, 0.0, 0.0, 10.0], [0.0, -0.02, 0.0, 60.0], [0.0; 4], [0.0, 0.0, 0.0, 1.0]];
        let matrix = rows.concat();
        assert_eq!(by_matrix(&matrix, 1), Ok(Some([10.0, 59.0, 11.0, 60.0])));
        let middle = by_matrix(&matrix, PIXEL_IS_POINT).unwrap().unwrap();
        assert!(middle.iter().zip([9.995, 59.01, 10.995, 60.01]).all(|(a, b)| (a - b).abs() < 1e-9), "{middle:?}");
        for (at, value) in [(1, 0.001), (4, 0.001), (0, -0.01), (5, 0.02), (0, f64::NAN), (5, 0.0)] {
            let mut other = matrix.clone();
            other[at] = value;
            let why = by_matrix(&other, 1).unwrap_err();
            assert!(why.contains("turns or mirrors") || why.contains("make no box"), "{at}: {why}");
        }
        assert!(by_matrix(&matrix[..7], 1).unwrap_err().contains("7 numbers"));
        assert!(by_matrix(&matrix[..12], 1).is_err());
    }

    #[test]
    fn a_big_tiff_is_read_as_a_plain_one() {
        let keys = [1u16, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326];
        let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        // a width of LONG8, a height of SHORT
        let tags: [(u16, u16, u64, Vec<u8>); 5] = [
            (256, 16, 1, 100u64.to_le_bytes().to_vec()),
            (257, 3, 1, 50u16.to_le_bytes().to_vec()),
            (PIXEL_SCALE, 12, 3, doubles(&[0.01, 0.02, 0.0])),
            (TIE_POINT, 12, 6, doubles(&[0.0, 0.0, 0.0, 10.0, 60.0, 0.0])),
            (GEO_KEYS, 3, 12, keys.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ];
        let mut bytes = [&b"II+\0\x08\0\0\0"[..], &16u64.to_le_bytes(), &5u64.to_le_bytes()].concat();
        let start = bytes.len() + 20 * tags.len();
        let mut data: Vec<u8> = Vec::new();
        for (tag, kind, count, values) in &tags {
            bytes.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat());
            let mut field = values.clone();
            if values.len() > 8 {
                field = ((start + data.len()) as u64).to_le_bytes().to_vec();
                data.extend(values);
            }
            field.resize(8, 0);
            bytes.extend(field);
        }
        bytes.extend(data);
        assert_eq!(ground_of(&bytes), Ok(Some([10.0, 59.0, 11.0, 60.0])));
        for cut in 0..bytes.len() {
            let _ = ground_of(&bytes[..cut]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = ground_of(&damaged);
            }
        }
    }

    #[test]
    fn zones_of_utm_become_degrees() {
        // 1 km x 500 m at Helsinki, zone 35 north; by PROJ 9
        let keys = [1024, 0, 1, 1, 3072, 0, 1, 32_635];
        let ground = ground_of(&placed(&keys, &[10.0, 10.0, 0.0], &[0.0, 0.0, 0.0, 385_000.0, 6_672_500.0, 0.0]));
        let ground = ground.unwrap().unwrap();
        for (ours, theirs) in ground.iter().zip(HELSINKI) {
            assert!((ours - theirs).abs() < 1e-7, "{ground:?}");
        }
    }

    const HELSINKI: [f64; 4] = [24.927174998174, 60.168665998746, 24.945466222167, 60.173433099140];

    #[test]
    fn what_is_not_known_is_refused_by_name_and_what_says_nothing_is_none() {
        assert_eq!(ground_of(b"\xff\xd8\xff a JPEG"), Ok(None));
        assert_eq!(ground_of(b""), Ok(None));
        assert_eq!(ground_of(&tiff(false, &[(256, Shorts(&[1]))])), Ok(None));
        let (scale, tie) = ([3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 10.0, 60.0, 0.0]);
        for (keys, words) in [
            (vec![1024, 0, 1, 1, 3072, 0, 1, 3857], "EPSG:3857"),
            (vec![1024, 0, 1, 1, 3072, 0, 1, 32_661], "EPSG:32661"),
            (vec![1024, 0, 1, 2, 2048, 0, 1, 4258], "EPSG:4258"),
            (vec![1024, 0, 1, 3], "no coordinate system"),
            (DEGREES.to_vec(), "none in degrees"),
        ] {
            let why = ground_of(&placed(&keys, &scale, &tie)).unwrap_err();
            assert!(why.contains(words), "{keys:?}: {why}");
        }
        for (scale, tie, words) in [
            (&[0.01, 0.0, 0.0][..], &tie[..], "make no box"),
            (&[f64::NAN, 0.01, 0.0], &tie, "make no box"),
            (&[0.01, -0.01, 0.0], &tie, "make no box"),
            (&[0.01], &tie, "3 and 6"),
            (&[0.01, 0.01, 0.0], &tie[..3], "3 and 6"),
        ] {
            let why = ground_of(&placed(&DEGREES, scale, tie)).unwrap_err();
            assert!(why.contains(words), "{scale:?} {tie:?}: {why}");
        }
        let without_keys = tiff(false, &[(PIXEL_SCALE, Doubles(&scale))]);
        assert!(ground_of(&without_keys).unwrap_err().contains("which coordinate system"));
        assert!(ground_of(b"II+\0\x08\0\0\0").unwrap_err().contains("cut off"));
    }

    #[test]
    fn damaged_files_are_errors_and_nothing_worse() {
        let whole = placed(&DEGREES, &[0.01, 0.02, 0.0], &[0.0, 0.0, 0.0, 10.0, 60.0, 0.0]);
        for cut in 0..whole.len() {
            let _ = ground_of(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = ground_of(&damaged);
            }
        }
        assert!(ground_of(&whole[..20]).unwrap_err().contains("cut off"));
    }
}
