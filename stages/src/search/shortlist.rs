//! Who might be among the best, as long as only bounds of the scores are known.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Candidates that are kept, besides those with hope, before the hopeless are thrown out.
const SPARE: usize = 1024;

/// A number in the order of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Number(f64);

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// All that might be among the `most` best: those whose score is at most below what so many others have at least.
#[derive(Debug, Clone)]
pub struct Shortlist<T> {
    most: usize,
    /// The highest of what scores are at least.
    least: BinaryHeap<Reverse<Number>>,
    kept: Vec<(f64, T)>,
    /// How many are kept when the hopeless are thrown out next.
    full: usize,
}

impl<T> Shortlist<T> {
    /// For the `most` best.
    pub fn new(most: usize) -> Self {
        Self { most, least: BinaryHeap::new(), kept: Vec::new(), full: SPARE }
    }

    /// Whatever scores less is not among the best.
    pub fn floor(&self) -> f64 {
        match self.least.peek() {
            Some(Reverse(Number(least))) if self.least.len() >= self.most => *least,
            _ if self.most == 0 => f64::INFINITY,
            _ => f64::NEG_INFINITY,
        }
    }

    /// Takes somebody whose score lies within bounds.
    pub fn offer(&mut self, (least, most): (f64, f64), of: T) {
        if most < self.floor() || self.most == 0 {
            return;
        }
        self.least.push(Reverse(Number(least)));
        if self.least.len() > self.most {
            self.least.pop();
        }
        self.kept.push((most, of));
        if self.kept.len() >= self.full {
            self.throw_out();
        }
    }

    fn throw_out(&mut self) {
        let floor = self.floor();
        self.kept.retain(|(most, _)| *most >= floor);
        self.full = SPARE + 2 * self.kept.len();
    }

    /// Takes the candidates of another list, of others than those here.
    pub fn merge(&mut self, other: Self) {
        self.least.extend(other.least);
        while self.least.len() > self.most {
            self.least.pop();
        }
        self.kept.extend(other.kept);
        self.throw_out();
    }

    /// All candidates that are left.
    pub fn into_candidates(mut self) -> Vec<T> {
        self.throw_out();
        self.kept.into_iter().map(|(_, of)| of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// Against a sort of the true scores, with ties, in one list and in two that are merged.
    #[test]
    fn nobody_who_is_among_the_best_is_missing_and_the_hopeless_are() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(9);
        for rows in [0, 1, 5, 50, 9000] {
            for most in [0, 1, 3, 60] {
                let scores: Vec<f64> = (0..rows).map(|_| f64::from(random.random_range(0..1000)) / 1000.0).collect();
                let bounds: Vec<(f64, f64)> = scores
                    .iter()
                    .map(|s| (s - random.random_range(0.0..0.01), s + random.random_range(0.0..0.01)))
                    .collect();
                let list = |range: std::ops::Range<usize>| {
                    let mut list = Shortlist::new(most);
                    range.for_each(|row| list.offer(bounds[row], row));
                    assert!(list.kept.len() < 3 * SPARE, "{}", list.kept.len());
                    list
                };
                let whole = list(0..rows).into_candidates();
                let mut merged = list(0..rows / 3);
                merged.merge(list(rows / 3..rows));
                assert_eq!(merged.into_candidates(), whole);
                let mut sorted: Vec<usize> = (0..rows).collect();
                sorted.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                if let Some(last) = sorted.get(most.wrapping_sub(1)).or(sorted.last()).filter(|_| most > 0) {
                    let best = (0..rows).filter(|row| scores[*row] >= scores[*last]);
                    assert!(best.into_iter().all(|row| whole.contains(&row)));
                    assert!(whole.iter().all(|row| scores[*row] >= scores[*last] - 0.03 || rows <= most));
                } else {
                    assert!(whole.is_empty());
                }
            }
        }
    }
}
