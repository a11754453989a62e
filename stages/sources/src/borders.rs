//! Borders of countries as lines, for maps: out of the same embedded polygons that tell where a box lies.
//!
//! The polygons are cut by a raster of one degree, and their reader keeps them to itself; so the file is read here once
//! more. A side that lies on the edge of its cell is a cut; every other one is a border, or a coast.

use country_boundaries::BOUNDARIES_ODBL_360X180;

use crate::SourceError;

const VERSION: u16 = 2;
/// What the edge of a cell is written as.
const EDGE: u16 = u16::MAX;

/// Lines of degrees east and north: the borders of all countries and their coasts, generous at sea.
///
/// # Errors
/// [`SourceError::Setting`] if the embedded data is damaged.
pub fn borders() -> Result<Vec<Vec<[f32; 2]>>, SourceError> {
    lines_of(BOUNDARIES_ODBL_360X180)
        .ok_or_else(|| SourceError::Setting("the embedded polygons of countries are damaged".into()))
}

fn lines_of(bytes: &[u8]) -> Option<Vec<Vec<[f32; 2]>>> {
    let mut reader = Reader(bytes);
    if reader.u16()? != VERSION {
        return None;
    }
    for _ in 0..reader.u32()? {
        reader.text()?;
        reader.take(8)?;
    }
    let (width, cells) = (reader.u32()?, reader.u32()?);
    let height = cells.checked_div(width)?;
    let mut lines = Vec::new();
    for cell in 0..cells {
        for _ in 0..reader.u8()? {
            reader.text()?;
        }
        for _ in 0..reader.u8()? {
            let is_country = !reader.text()?.contains(&b'-');
            // outer rings, then inner ones
            for _ in 0..2 {
                for _ in 0..reader.u8()? {
                    let ring = reader.ring()?;
                    if is_country {
                        let place = |point| place(point, (cell % width, cell / width), (width, height));
                        lines.extend(without_cuts(&ring).into_iter().map(|line| line.into_iter().map(place).collect()));
                    }
                }
            }
        }
    }
    Some(lines)
}

fn place([x, y]: [u16; 2], (column, row): (u32, u32), (width, height): (u32, u32)) -> [f32; 2] {
    let share = |local: u16| f64::from(local) / f64::from(EDGE);
    let east = -180.0 + 360.0 * (f64::from(column) + share(x)) / f64::from(width);
    // rows go from north to south, and within a row from south to north
    let north = 90.0 - 180.0 * (f64::from(row) + 1.0 - share(y)) / f64::from(height);
    [east as f32, north as f32]
}

/// The parts of a ring that are no cuts along the edge of the cell.
fn without_cuts(ring: &[[u16; 2]]) -> Vec<Vec<[u16; 2]>> {
    let is_cut = |a: [u16; 2], b: [u16; 2]| (0..2).any(|axis| a[axis] == b[axis] && matches!(a[axis], 0 | EDGE));
    let mut lines: Vec<Vec<[u16; 2]>> = Vec::new();
    let mut goes_on = false;
    let next = ring.iter().skip(1).chain(ring.first());
    for (&from, &to) in ring.iter().zip(next) {
        if from == to {
            continue;
        }
        if is_cut(from, to) {
            goes_on = false;
            continue;
        }
        match lines.last_mut().filter(|_| goes_on) {
            Some(line) => line.push(to),
            None => lines.push(vec![from, to]),
        }
        goes_on = true;
    }
    lines
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.number::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'b [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn ring(&mut self) -> Option<Vec<[u16; 2]>> {
        let points = self.u32()? as usize;
        let bytes = self.take(points.checked_mul(4)?)?;
        let point = |bytes: &[u8]| [u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])];
        Some(bytes.chunks_exact(4).map(point).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::country::CountryPolygons;

    #[test]
    fn cuts_of_the_raster_are_no_borders() {
        let square = [[0, 0], [0, EDGE], [300, EDGE], [200, 500], [300, 0]];
        assert_eq!(without_cuts(&square), [vec![[300, EDGE], [200, 500], [300, 0]]]);
        assert!(without_cuts(&[[0, 0], [EDGE, 0], [EDGE, EDGE], [0, EDGE]]).is_empty());
        assert!(without_cuts(&[]).is_empty());
    }

    #[test]
    fn on_each_side_of_a_border_lies_another_country() {
        let lines = borders().unwrap();
        let polygons = CountryPolygons::new().unwrap();
        // between Spain and Portugal, and between Finland and Russia
        for (west, south, east, north, pair) in
            [(-7.5, 38.5, -6.8, 41.0, ["ES", "PT"]), (28.0, 61.0, 31.5, 66.0, ["FI", "RU"])]
        {
            let inside = |[x, y]: &[f32; 2]| (west..east).contains(x) && (south..north).contains(y);
            let points: Vec<[f32; 2]> = lines.iter().flatten().filter(|point| inside(point)).copied().collect();
            assert!(points.len() > 50, "{pair:?}: {}", points.len());
            for [x, y] in points {
                let around = [(-0.05, 0.0), (0.05, 0.0), (0.0, -0.05), (0.0, 0.05)];
                let sides = around.map(|(east, north)| polygons.country_at(f64::from(x) + east, f64::from(y) + north));
                assert!(sides.iter().all(|side| side.is_none_or(|side| pair.contains(&side))), "{x} {y} {sides:?}");
                assert!(sides.iter().any(|side| *side != sides[0]), "{x} {y} {sides:?}");
            }
        }
    }

    #[test]
    fn damaged_data_is_no_panic() {
        assert!(lines_of(&[]).is_none());
        for end in (0..4000).step_by(7) {
            assert!(lines_of(&BOUNDARIES_ODBL_360X180[..end]).is_none(), "{end}");
        }
    }
}
