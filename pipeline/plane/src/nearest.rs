//! Which vectors are most like each one: every pair is compared, so that the answer is the same wherever it is computed.

use rayon::prelude::*;
use training::recall::{Cosines, DEFAULT_BLOCK_ROWS as TILE, Room, Scores};

/// Another vector, with its cosine.
pub(crate) type Near = (u32, f32);

/// The `most` nearest others of each vector, nearest first, those that come first among equals. `units_nd` are of length
/// one. In memory are a tile of cosines for each thread and the answer.
///
/// # Errors
/// Vectors that are not of length one, in words.
pub(crate) fn nearest(units_nd: &[f32], dim: usize, most: usize) -> Result<Vec<Vec<Near>>, String> {
    let cosines = Cosines::new(units_nd, units_nd, dim).map_err(|error| error.to_string())?;
    let (count, _) = cosines.shape();
    let all: Vec<u32> = (0..count as u32).collect();
    let blocks: Vec<Vec<Vec<Near>>> = all.par_chunks(TILE).map(|rows| of_rows(&cosines, rows, &all, most)).collect();
    Ok(blocks.into_iter().flatten().collect())
}

fn of_rows(cosines: &Cosines, rows: &[u32], all: &[u32], most: usize) -> Vec<Vec<Near>> {
    let (mut room, mut scores) = (Room::default(), vec![0.0; TILE * TILE]);
    let mut best: Vec<Best> = rows.iter().map(|_| Best::new(most)).collect();
    for columns in all.chunks(TILE) {
        cosines.fill(rows, columns, &mut room, &mut scores);
        for ((row, best), scores) in rows.iter().zip(&mut best).zip(scores.chunks_exact(TILE)) {
            for (column, score) in columns.iter().zip(scores).filter(|(column, _)| *column != row) {
                best.offer(*column, *score);
            }
        }
    }
    best.into_iter().map(Best::done).collect()
}

/// The best so far, and some that are no longer among them: they are sifted when there are too many.
struct Best {
    most: usize,
    kept: Vec<Near>,
    /// What is below is not among the best.
    least: f32,
}

impl Best {
    fn new(most: usize) -> Self {
        Self { most, kept: Vec::with_capacity(4 * most), least: f32::NEG_INFINITY }
    }

    fn offer(&mut self, column: u32, score: f32) {
        if score < self.least {
            return;
        }
        self.kept.push((column, score));
        if self.kept.len() >= 4 * self.most.max(1) {
            self.sift();
        }
    }

    fn sift(&mut self) {
        self.kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        self.kept.truncate(self.most);
        if let Some((_, score)) = self.kept.last().filter(|_| self.kept.len() == self.most) {
            self.least = *score;
        }
    }

    fn done(mut self) -> Vec<Near> {
        self.sift();
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_those_of_all_pairs_across_tiles() {
        const COUNT: usize = TILE + 40;
        let unit = |at: usize| {
            // every fiftieth is a copy: equals come in order
            let at = (at % 50 * 7 + if at.is_multiple_of(50) { 0 } else { at }) as f32;
            let vector = [(at * 0.7).sin(), (at * 1.3).cos(), (at * 2.9).sin()];
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.map(|x| x / length)
        };
        let units: Vec<[f32; 3]> = (0..COUNT).map(unit).collect();
        let found = nearest(units.as_flattened(), 3, 9).unwrap();
        assert_eq!(found.len(), COUNT);
        for (row, found) in found.iter().enumerate() {
            let cosine = |at: usize| units[row].iter().zip(&units[at]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let mut all: Vec<f64> = (0..COUNT).filter(|at| *at != row).map(cosine).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            assert!(found.len() == 9 && found.iter().all(|(at, _)| *at as usize != row));
            for ((at, score), expected) in found.iter().zip(&all) {
                assert!((f64::from(*score) - expected).abs() < 1e-5 && (cosine(*at as usize) - expected).abs() < 1e-5);
            }
        }
        let copies: Vec<u32> = found[0].iter().map(|(at, _)| *at).collect();
        assert_eq!(copies, [50, 100, 150, 200, 250, 300, 350, 400, 450]);
    }

    #[test]
    fn fewer_than_wanted_are_all_the_others() {
        assert_eq!(nearest(&[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], 2, 5).unwrap()[0], [(2, 0.6), (1, 0.0)]);
        assert!(nearest(&[2.0, 0.0], 2, 5).unwrap_err().contains("norm"));
    }
}
