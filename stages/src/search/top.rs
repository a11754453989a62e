//! The best of many, found in one pass, and the score that they are ordered by.

use std::cmp::Ordering;

/// Sums that run beside each other: a number of its own, so that a score does not depend on the machine.
const LANES: usize = 8;

/// Inner product in double precision, summed in an order that depends on the width alone: the same pair has the same score
/// in whatever batch, row group or machine, and equal pictures tie.
pub fn similarity(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 =
        a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a_lanes.zip(b_lanes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored<T> {
    /// Similarity to the query.
    pub score: f64,
    /// Decides between equal scores: the lesser one is first.
    pub id: String,
    /// What else is known of it.
    pub of: T,
}

/// The best of what was offered: highest score first, of equal scores the lesser id. What is in it does not depend on the
/// order of the offers, as long as no id comes twice.
#[derive(Debug, Clone)]
pub struct Top<T> {
    most: usize,
    /// In order.
    best: Vec<Scored<T>>,
}

impl<T> Top<T> {
    /// Keeps at most so many.
    pub fn new(most: usize) -> Self {
        Self { most, best: Vec::new() }
    }

    /// Takes what belongs among the best; `of` is asked only then.
    pub fn offer(&mut self, score: f64, id: &str, of: impl FnOnce() -> T) {
        let at = self.best.partition_point(|held| order((held.score, &held.id), (score, id)) == Ordering::Less);
        if at < self.most {
            self.best.truncate(self.most - 1);
            self.best.insert(at, Scored { score, id: id.to_owned(), of: of() });
        }
    }

    /// Takes what another search found.
    pub fn merge(&mut self, other: Top<T>) {
        for Scored { score, id, of } in other.best {
            self.offer(score, &id, || of);
        }
    }

    /// Best first.
    pub fn into_sorted(self) -> Vec<Scored<T>> {
        self.best
    }
}

fn order(a: (f64, &str), b: (f64, &str)) -> Ordering {
    b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    /// Scores with many ties, against a sort of everything; offered in one go, and in two that are merged.
    #[test]
    fn the_best_are_those_of_a_full_sort_whatever_comes_first() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for _ in 0..200 {
            let rows = random.random_range(0..40);
            let mut all: Vec<(f64, String)> =
                (0..rows).map(|i| (f64::from(random.random_range(-3..3)) / 4.0, format!("i{i:02}"))).collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            all.shuffle(&mut random);
            let most = random.random_range(0..12);
            sorted.truncate(most);
            let found = |top: Top<()>| top.into_sorted().into_iter().map(|s| (s.score, s.id)).collect::<Vec<_>>();
            let of = |rows: &[(f64, String)]| {
                let mut top = Top::new(most);
                rows.iter().for_each(|(score, id)| top.offer(*score, id, || ()));
                top
            };
            assert_eq!(found(of(&all)), sorted);
            let (one, other) = all.split_at(all.len() / 3);
            let mut merged = of(one);
            merged.merge(of(other));
            assert_eq!(found(merged), sorted);
        }
    }

    #[test]
    fn a_score_is_the_cosine_of_unit_vectors() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        for width in [0, 1, 7, 8, 9, 64, 65] {
            let [a, b]: [Vec<f32>; 2] = std::array::from_fn(|_| (0..width).map(|_| random.random::<f32>()).collect());
            let plain: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((similarity(&a, &b) - plain).abs() < 1e-12, "width {width}");
            assert_eq!(similarity(&a, &b), similarity(&b, &a));
        }
        assert_eq!(similarity(&[0.6, 0.8], &[0.8, 0.6]), f64::from(0.6f32) * f64::from(0.8f32) * 2.0);
    }
}
