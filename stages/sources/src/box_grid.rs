//! Which boxes overlap a given one, without comparing all pairs.

/// Side of the cells of level 0 in degrees; each level doubles it.
const CELL_DEGREES: f64 = 0.02;

/// Boxes `(west, south, east, north)` in degrees, filed under the cells they touch. A box is
/// filed at the level whose cells are at least as large as it, hence under at most four cells.
pub struct BoxGrid {
    /// Sorted, so that the cells of one row at one level are neighbours.
    filed: Vec<(Cell, [f64; 4])>,
    /// Levels in use, ascending.
    levels: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    level: u8,
    row: i32,
    column: i32,
}

impl BoxGrid {
    /// `boxes` must be finite, with west < east and south < north, as `meta::is_box` says.
    pub fn new(boxes: impl Iterator<Item = [f64; 4]>) -> Self {
        let mut filed = Vec::new();
        for wsen in boxes {
            let level = level_of(wsen);
            let [first, last] = corners(level, wsen);
            for row in first.row..=last.row {
                for column in first.column..=last.column {
                    filed.push((Cell { level, row, column }, wsen));
                }
            }
        }
        filed.sort_unstable_by_key(|(cell, _)| *cell);
        let mut levels: Vec<_> = filed.iter().map(|(cell, _)| cell.level).collect();
        levels.dedup();
        Self { filed, levels }
    }

    /// Whether some filed box shares area with this one; a common border is not enough.
    pub fn overlaps(&self, wsen: [f64; 4]) -> bool {
        self.levels.iter().any(|&level| {
            let [first, last] = corners(level, wsen);
            (first.row..=last.row).any(|row| {
                let begin = Cell { row, ..first };
                let start = self.filed.partition_point(|(cell, _)| *cell < begin);
                self.filed[start..]
                    .iter()
                    .take_while(|(cell, _)| (cell.level, cell.row) == (level, row) && cell.column <= last.column)
                    .any(|(_, filed)| share_area(*filed, wsen))
            })
        })
    }
}

fn share_area(a: [f64; 4], b: [f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

fn level_of([west, south, east, north]: [f64; 4]) -> u8 {
    let extent = (east - west).max(north - south);
    // 2^15 cells of level 0 are wider than the Earth, so the search always ends.
    let level = (0..15).find(|&level| extent <= CELL_DEGREES * f64::from(1u32 << level));
    level.unwrap_or(15)
}

/// The cells of the south-west and north-east corner.
fn corners(level: u8, [west, south, east, north]: [f64; 4]) -> [Cell; 2] {
    let side = CELL_DEGREES * f64::from(1u32 << level);
    let cell =
        |lon: f64, lat: f64| Cell { level, row: (lat / side).floor() as i32, column: (lon / side).floor() as i32 };
    [cell(west, south), cell(east, north)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random_box(rng: &mut ChaCha8Rng) -> [f64; 4] {
        // Sides from 0.0005 to 2 degrees within a patch small enough for many overlaps.
        let (west, south) = (rng.random_range(-3.0..3.0), rng.random_range(-3.0..3.0));
        let side = |rng: &mut ChaCha8Rng| 0.0005 * 4000f64.powf(rng.random::<f64>().powi(3));
        [west, south, west + side(rng), south + side(rng)]
    }

    #[test]
    fn the_grid_agrees_with_comparing_all_pairs() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let filed: Vec<_> = (0..400).map(|_| random_box(&mut rng)).collect();
        let grid = BoxGrid::new(filed.iter().copied());
        let mut hits = 0;
        for _ in 0..2000 {
            let wsen = random_box(&mut rng);
            let expected = filed.iter().any(|&other| share_area(other, wsen));
            assert_eq!(grid.overlaps(wsen), expected, "{wsen:?}");
            hits += usize::from(expected);
        }
        assert!((200..1800).contains(&hits), "a lopsided sample: {hits}");
    }

    #[test]
    fn extremes_are_found_and_borders_do_not_count() {
        let world = [-180.0, -90.0, 180.0, 90.0];
        let tiny = [179.999, 89.999, 180.0, 90.0];
        assert!(BoxGrid::new([tiny].into_iter()).overlaps(world));
        assert!(BoxGrid::new([world].into_iter()).overlaps(tiny));
        assert!(!BoxGrid::new(std::iter::empty()).overlaps(world));
        let grid = BoxGrid::new([[0.0, 0.0, 1.0, 1.0]].into_iter());
        assert!(!grid.overlaps([1.0, 0.0, 2.0, 1.0]));
        assert!(grid.overlaps([0.999, 0.999, 2.0, 2.0]));
    }
}
