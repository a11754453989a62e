//! GaLR's multivariate rerank.

use super::asked::{Asked, change};
use super::top::{Answer, places, top};
use crate::recall::tile::TILE;
use crate::recall::{Queries, Room, Scores};

/// Weights of the rerank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultivariateSettings {
    /// Candidates of a query at most; the others stay behind them, in their order.
    pub candidates: usize,
    /// Weight of the share of the column: 0.3 in the authors' code.
    pub share: f64,
    /// Weight of the place seen from the candidate: 1.1 there.
    pub reverse: f64,
}

impl Default for MultivariateSettings {
    fn default() -> Self {
        Self { candidates: 30, share: 0.3, reverse: 1.1 }
    }
}

/// Of query i and the j-th of its candidates c, from 0:
///
/// s'\[i, c\] = share · s⁺\[i, c\] / Σ s⁺\[·, c\] + exp(−0.05 (j + 1)) + reverse · exp(−0.05 (o + 1)),
///
/// o the place of c when the candidates are ordered by the place that i has in the list of c, then by j (GaLR,
/// `xiaoyuan1996/GaLR`, `postprocessing`), and s⁺ a score above 0, else 0. There sums take in scores below 0, which can
/// bring them near 0 and shares to any size. Equal scores share a place here: what no model can part no rerank parts by
/// its number, and of equal answers all are candidates or none is. There all other cells are 0; here they keep their
/// order behind the candidates, which moves no recall at K up to the number of candidates.
pub struct Multivariate<'a> {
    scores: &'a dyn Scores,
    by: Queries,
    /// By query, candidates in order of their number with what takes the place of their score.
    reranked: Vec<Vec<Answer>>,
}

const DECAY: f64 = 0.05;

impl<'a> Multivariate<'a> {
    /// Looks at all scores three times.
    pub fn new(scores: &'a dyn Scores, by: Queries, settings: MultivariateSettings) -> Self {
        let asked = Asked { scores, by };
        let candidates = top(&asked, settings.candidates);
        let places = places(&asked, &candidates);
        let (sums, highest) = columns(&asked);
        // every candidate comes before every other answer
        let above = f64::from(highest) + 1.0;
        let fade = |place: usize| (-DECAY * (place as f64 + 1.0)).exp();
        let reranked = candidates.iter().zip(&places).map(|(candidates, places)| {
            let j_of = |score: f32| candidates.partition_point(|other| other.score > score);
            let of_candidates = candidates.iter().zip(places);
            let both: Vec<(u32, usize)> = of_candidates.map(|(of, &place)| (place, j_of(of.score))).collect();
            let mut seen_from = both.clone();
            seen_from.sort_unstable();
            let mut reranked: Vec<Answer> = candidates
                .iter()
                .zip(&both)
                .map(|(candidate, both)| {
                    let (j, o) = (both.1, seen_from.partition_point(|other| other < both));
                    let sum = sums[candidate.number as usize];
                    let share = if sum > 0.0 { f64::from(candidate.score.max(0.0)) / sum } else { 0.0 };
                    let score = settings.share * share + fade(j) + settings.reverse * fade(o);
                    Answer { number: candidate.number, score: (above + score) as f32 }
                })
                .collect();
            reranked.sort_by_key(|answer| answer.number);
            reranked
        });
        Self { scores, by, reranked: reranked.collect() }
    }
}

/// Sums of the scores above 0 over all queries, for each answer, and the highest score of all, at least 0.
fn columns(asked: &Asked<'_>) -> (Vec<f64>, f32) {
    let turned = asked.turned();
    let start = |answers: std::ops::Range<usize>| (vec![0.0f64; answers.len()], 0.0f32);
    let tiles = turned.by_tile(start, |(sums, highest), queries, scores| {
        for (sum, row) in sums.iter_mut().zip(scores.chunks_exact(TILE)) {
            for &score in row[..queries.len()].iter().filter(|score| **score > 0.0) {
                *sum += f64::from(score);
                *highest = highest.max(score);
            }
        }
    });
    let highest = tiles.iter().map(|(_, highest)| *highest).fold(0.0, f32::max);
    (tiles.into_iter().flat_map(|(sums, _)| sums).collect(), highest)
}

impl Scores for Multivariate<'_> {
    fn shape(&self) -> (usize, usize) {
        self.scores.shape()
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        self.scores.fill(images, captions, room, scores);
        change(self.by, (images, captions), scores, |query, answer, score| {
            let candidates = &self.reranked[query as usize];
            let found = candidates.binary_search_by_key(&answer, |candidate| candidate.number);
            found.map_or(score, |at| candidates[at].score)
        });
    }
}
