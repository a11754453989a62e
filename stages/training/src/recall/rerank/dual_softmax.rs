//! The dual softmax.

use super::asked::{Asked, change};
use crate::recall::tile::TILE;
use crate::recall::{LOST, Queries, Room, Scores};

/// s'\[i, c\] = s\[i, c\] · softmax over captions (s\[i, ·\] / τ₁)\[c\] · softmax over images (s\[·, c\] / τ₂)\[i\].
///
/// Such products leave the range of f32, so their logarithms are ranked, and the factor that all answers of a query share
/// is left out: the order is that of s'. Scores below 0 come behind all others, those that the softmaxes made smallest
/// first, as s' has them.
pub struct DualSoftmax<'a> {
    scores: &'a dyn Scores,
    by: Queries,
    /// 1/τ₁ + 1/τ₂.
    sharpness: f64,
    /// Logarithm of the sum over all queries, for each answer.
    log_sums: Vec<f64>,
}

/// Between the logarithms of positive products and the negated ones of negative products.
const GAP: f64 = 1e4;

impl<'a> DualSoftmax<'a> {
    /// Looks at all scores once. `temperatures`: τ₁ of an image's captions, τ₂ of a caption's images; at least
    /// 0.001, so that logarithms stay within the gap between the signs.
    pub fn new(scores: &'a dyn Scores, by: Queries, temperatures: (f64, f64)) -> Self {
        let (of_images, of_captions) = (1.0 / temperatures.0, 1.0 / temperatures.1);
        let turned = Asked { scores, by }.turned();
        // the softmax whose sum differs between the answers of a query
        let sharp = if by == Queries::Images { of_captions } else { of_images };
        let start = |answers: std::ops::Range<usize>| vec![LogSum::default(); answers.len()];
        let tiles = turned.by_tile(start, |sums, queries, scores| {
            for (sum, row) in sums.iter_mut().zip(scores.chunks_exact(TILE)) {
                let row = &row[..queries.len()];
                row.iter().filter(|score| **score > LOST).for_each(|score| sum.add(f64::from(*score) * sharp));
            }
        });
        let log_sums = tiles.into_iter().flatten().map(LogSum::value).collect();
        Self { scores, by, sharpness: of_images + of_captions, log_sums }
    }

    fn rank(&self, score: f32, answer: u32) -> f32 {
        if score <= LOST {
            return LOST;
        }
        let score = f64::from(score);
        let logarithm = score.abs().ln() + score * self.sharpness - self.log_sums[answer as usize];
        (match score.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => logarithm,
            Some(std::cmp::Ordering::Less) => -2.0 * GAP - logarithm,
            _ => -GAP,
        }) as f32
    }
}

impl Scores for DualSoftmax<'_> {
    fn shape(&self) -> (usize, usize) {
        self.scores.shape()
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        self.scores.fill(images, captions, room, scores);
        change(self.by, (images, captions), scores, |_, answer, score| self.rank(score, answer));
    }
}

/// The logarithm of a sum of exponentials, term by term.
#[derive(Clone, Copy)]
struct LogSum {
    highest: f64,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self { highest: f64::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    fn add(&mut self, exponent: f64) {
        if exponent > self.highest {
            self.sum = self.sum * (self.highest - exponent).exp() + 1.0;
            self.highest = exponent;
        } else {
            self.sum += (exponent - self.highest).exp();
        }
    }

    /// 0 where there was no term.
    fn value(self) -> f64 {
        if self.sum > 0.0 { self.highest + self.sum.ln() } else { 0.0 }
    }
}
