//! Removing small holes and islands from masks.

use pixels::PixelError;
use pixels::mask::Rle;

/// Pixels of one column, `start..end`, and the region that they belong to.
#[derive(Clone, Copy)]
struct Run {
    column: usize,
    start: usize,
    end: usize,
    region: usize,
}

/// Connected pixels, diagonals included.
struct Region {
    area: usize,
    /// Row and column of the first pixel in row-major order: the order in which regions are counted.
    first: (usize, usize),
}

/// Fills holes of less than `min_area` pixels, then removes islands of less (`remove_small_regions`, twice). The largest
/// island stays in any case. Returns the mask and whether it was changed.
pub(super) fn without_small_regions(mask: &Rle, min_area: usize) -> Result<(Rle, bool), PixelError> {
    let (height, width) = (mask.height as usize, mask.width as usize);
    let set: Vec<(usize, usize)> = mask.runs().collect();
    let (filled, has_filled) = fill_small(&set, height, width, min_area);
    let (kept, has_removed) = remove_small(&filled, height, min_area);
    if !has_filled && !has_removed {
        return Ok((mask.clone(), false));
    }
    Ok((Rle::from_runs(mask.height, mask.width, kept)?, true))
}

fn fill_small(set: &[(usize, usize)], height: usize, width: usize, min_area: usize) -> (Vec<(usize, usize)>, bool) {
    let mut clear = Vec::with_capacity(set.len() + 1);
    let mut end = 0;
    for &(start, next) in set {
        clear.push((end, start));
        end = next;
    }
    clear.push((end, height * width));
    let (runs, regions) = connect(&clear, height);
    if regions.iter().all(|region| region.area >= min_area) {
        return (set.to_vec(), false);
    }
    let holes = runs.iter().filter(|run| regions[run.region].area < min_area).map(|run| run.place(height));
    let mut filled: Vec<(usize, usize)> = set.iter().copied().chain(holes).collect();
    filled.sort_unstable();
    (filled, true)
}

fn remove_small(set: &[(usize, usize)], height: usize, min_area: usize) -> (Vec<(usize, usize)>, bool) {
    let (runs, regions) = connect(set, height);
    if regions.iter().all(|region| region.area >= min_area) {
        return (set.to_vec(), false);
    }
    let largest = (0..regions.len()).min_by_key(|&i| (std::cmp::Reverse(regions[i].area), regions[i].first));
    let keeps_some = regions.iter().any(|region| region.area >= min_area);
    let keeps = |run: &&Run| match keeps_some {
        true => regions[run.region].area >= min_area,
        false => Some(run.region) == largest,
    };
    (runs.iter().filter(keeps).map(|run| run.place(height)).collect(), true)
}

impl Run {
    /// As column-major start and end.
    fn place(&self, height: usize) -> (usize, usize) {
        (self.column * height + self.start, self.column * height + self.end)
    }
}

/// Runs of single columns and the regions that they form.
fn connect(places: &[(usize, usize)], height: usize) -> (Vec<Run>, Vec<Region>) {
    let mut runs: Vec<Run> = Vec::new();
    for &(mut start, end) in places {
        while start < end {
            let column = start / height;
            let stop = end.min((column + 1) * height);
            let region = runs.len();
            runs.push(Run { column, start: start - column * height, end: stop - column * height, region });
            start = stop;
        }
    }
    // `parents` is a forest over the runs; roots stand for regions.
    let mut parents: Vec<usize> = (0..runs.len()).collect();
    let mut left = 0;
    for right in 0..runs.len() {
        let run = runs[right];
        // Runs of the column before that touch this one; those above it touch no later run of its column either.
        while left < right && (runs[left].column + 1 < run.column || is_above(&runs[left], &run)) {
            left += 1;
        }
        let neighbours =
            runs[left..right].iter().take_while(|other| other.column < run.column && other.start <= run.end);
        for other in left..left + neighbours.count() {
            let (a, b) = (root(&mut parents, other), root(&mut parents, right));
            parents[a.max(b)] = a.min(b);
        }
    }
    let mut regions: Vec<Region> = Vec::new();
    let mut numbers = vec![0; runs.len()];
    for index in 0..runs.len() {
        let top = root(&mut parents, index);
        let run = &mut runs[index];
        // The smallest index is the root, so that it comes first.
        if top == index {
            numbers[index] = regions.len();
            regions.push(Region { area: 0, first: (run.start, run.column) });
        }
        run.region = numbers[top];
        let region = &mut regions[run.region];
        region.area += run.end - run.start;
        region.first = region.first.min((run.start, run.column));
    }
    (runs, regions)
}

/// Whether `other`, of the column before, ends too far above `run` to touch it.
fn is_above(other: &Run, run: &Run) -> bool {
    other.column + 1 == run.column && other.end < run.start
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Rle {
        let bits: Vec<bool> = rows.iter().flat_map(|row| row.bytes().map(|byte| byte == b'#')).collect();
        Rle::from_row_major(&bits, rows.len() as u32, rows[0].len() as u32).unwrap()
    }

    fn assert_cleaned(before: &[&str], min_area: usize, after: &[&str]) {
        let (cleaned, changed) = without_small_regions(&mask(before), min_area).unwrap();
        assert_eq!(cleaned, mask(after), "{before:?}");
        assert_eq!(changed, before != after);
    }

    #[test]
    fn holes_are_filled_and_islands_removed() {
        let before = ["######..", "#....#.#", "#.##.#..", "#.#.####", "#######."];
        assert_cleaned(&before, 1, &before);
        // The hole of eight pixels is connected over a corner; the one of a single pixel is filled.
        assert_cleaned(&before, 3, &["######..", "#....#..", "#.##.#..", "#.#.####", "########"]);
        assert_cleaned(&before, 9, &["########", "########", "########", "########", "########"]);
    }

    #[test]
    fn diagonal_neighbours_are_connected() {
        let before = ["#...", ".#..", "..#.", "...#"];
        assert_cleaned(&before, 4, &before);
        assert_cleaned(&["#..#", ".#..", "..#.", "...."], 2, &["#...", ".#..", "..#.", "...."]);
    }

    #[test]
    fn the_largest_island_stays() {
        assert_cleaned(&["##....", "...###", "#....."], 100, &["######"; 3]);
        assert_cleaned(&["#.....", "....##", "......"], 14, &["......", "....##", "......"]);
        // Of equal islands the first one, row by row.
        assert_cleaned(&["#....#", "......", "......"], 10, &["#.....", "......", "......"]);
    }

    #[test]
    fn it_agrees_with_a_flood_fill() {
        for seed in 0..40u32 {
            let (height, width) = (5 + seed as usize % 7, 4 + seed as usize % 9);
            let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
            let bits: Vec<u8> = (0..height * width)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    u8::from(state >> 30 != 0) ^ u8::from(seed % 2 == 0)
                })
                .collect();
            let rle = Rle::from_row_major(&bits, height as u32, width as u32).unwrap();
            let (_, regions) = connect(&rle.runs().collect::<Vec<_>>(), height);
            let mut areas: Vec<usize> = regions.iter().map(|region| region.area).collect();
            areas.sort_unstable();
            assert_eq!(areas, flood_areas(bits, height, width));
        }
    }

    fn flood_areas(mut bits: Vec<u8>, height: usize, width: usize) -> Vec<usize> {
        let mut areas = Vec::new();
        for start in 0..bits.len() {
            let (mut stack, mut area) = (vec![start], 0);
            while let Some(pixel) = stack.pop() {
                if bits[pixel] == 0 {
                    continue;
                }
                bits[pixel] = 0;
                area += 1;
                let (y, x) = (pixel / width, pixel % width);
                for ny in y.saturating_sub(1)..(y + 2).min(height) {
                    for nx in x.saturating_sub(1)..(x + 2).min(width) {
                        stack.push(ny * width + nx);
                    }
                }
            }
            if area > 0 {
                areas.push(area);
            }
        }
        areas.sort_unstable();
        areas
    }
}
