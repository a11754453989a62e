//! k-reciprocal reranking between images and captions.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::asked::{Asked, change};
use super::top::top;
use crate::recall::{LOST, Queries, Room, Scores};

/// What the rerank is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReciprocalSettings {
    /// Answers among which two must find each other, at most.
    pub neighbours: usize,
    /// Share of the score itself; the rest is what neighbours have in common.
    pub own: f64,
}

impl Default for ReciprocalSettings {
    fn default() -> Self {
        Self { neighbours: 20, own: 0.3 }
    }
}

/// s'\[i, c\] = own · s\[i, c\] + (1 − own) · J(V_i, V_c).
///
/// R(x) are the k-reciprocal neighbours of x on the other side: those among its k best answers among whose k best answers
/// it is; of equal answers all are among the best or none is. V_i of a query puts exp(s) on each of R(i) and shares it
/// out to a sum of 1; V_c of an answer is the mean of V over R(c), the queries that it is found by. J is Σ min / Σ max.
/// This is the rerank of Zhong et al. (2017) between two modalities: inside of one, cosines of CLIP do not compare with
/// those across. That step is ours.
pub struct Reciprocal<'a> {
    scores: &'a dyn Scores,
    by: Queries,
    own: f32,
    /// By query and by answer: weights over answers, in order of their number. They sum to 1, or there are none.
    queries: Vec<Vec<(u32, f32)>>,
    answers: Vec<Vec<(u32, f32)>>,
}

impl<'a> Reciprocal<'a> {
    /// Looks at all scores twice.
    pub fn new(scores: &'a dyn Scores, by: Queries, settings: ReciprocalSettings) -> Self {
        let asked = Asked { scores, by };
        let (found, found_by) = (top(&asked, settings.neighbours), top(&asked.turned(), settings.neighbours));
        let queries: Vec<Vec<(u32, f32)>> = found
            .par_iter()
            .enumerate()
            .map(|(query, found)| {
                let is_mutual = |answer: u32| found_by[answer as usize].iter().any(|q| q.number == query as u32);
                let mutual = found.iter().filter(|answer| is_mutual(answer.number));
                let mut weights: Vec<(u32, f64)> =
                    mutual.map(|answer| (answer.number, f64::from(answer.score).exp())).collect();
                weights.sort_by_key(|(answer, _)| *answer);
                let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
                weights.into_iter().map(|(answer, weight)| (answer, (weight / sum) as f32)).collect()
            })
            .collect();
        let answers: Vec<Vec<(u32, f32)>> = found_by
            .par_iter()
            .enumerate()
            .map(|(answer, found_by)| {
                let is_mutual = |query: u32| found[query as usize].iter().any(|a| a.number == answer as u32);
                let mutual: Vec<u32> = found_by.iter().map(|q| q.number).filter(|q| is_mutual(*q)).collect();
                let mut weights = BTreeMap::<u32, f64>::new();
                for (answer, weight) in mutual.iter().flat_map(|query| &queries[*query as usize]) {
                    *weights.entry(*answer).or_default() += f64::from(*weight);
                }
                weights.into_iter().map(|(a, weight)| (a, (weight / mutual.len() as f64) as f32)).collect()
            })
            .collect();
        Self { scores, by, own: settings.own as f32, queries, answers }
    }
}

/// Σ min / Σ max of two lists of weights in order of number.
fn in_common(one: &[(u32, f32)], other: &[(u32, f32)]) -> f32 {
    let (mut least, mut total) = (0.0f32, 0.0f32);
    let (mut a, mut b) = (one.iter().peekable(), other.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => break,
            (Some((x, weight)), Some((y, other))) if x == y => {
                least += weight.min(*other);
                total += weight.max(*other);
                a.next();
                b.next();
            }
            (Some((x, weight)), other) if other.is_none_or(|(y, _)| x < y) => {
                total += weight;
                a.next();
            }
            (_, Some((_, weight))) => {
                total += weight;
                b.next();
            }
            (Some(_), None) => break,
        }
    }
    if total > 0.0 { least / total } else { 0.0 }
}

impl Scores for Reciprocal<'_> {
    fn shape(&self) -> (usize, usize) {
        self.scores.shape()
    }

    fn fill(&self, images: &[u32], captions: &[u32], room: &mut Room, scores: &mut [f32]) {
        self.scores.fill(images, captions, room, scores);
        change(self.by, (images, captions), scores, |query, answer, score| {
            if score <= LOST {
                return LOST;
            }
            let common = in_common(&self.queries[query as usize], &self.answers[answer as usize]);
            self.own * score + (1.0 - self.own) * common
        });
    }
}
