//! Functions of one row of logits `[V]`.

use std::collections::BTreeSet;

/// Makes ids that occurred less likely: a negative score is multiplied by `penalty`, another divided
/// (`RepetitionPenaltyLogitsProcessor`).
pub(super) fn penalise_repeats<'a>(scores: &mut [f32], seen: impl Iterator<Item = &'a u32>, penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let penalty = penalty as f32;
    for &id in seen.collect::<BTreeSet<_>>() {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Rules ids out.
pub(super) fn forbid(scores: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The first of the largest scores; `None` if no score is above minus infinity.
pub(super) fn largest(scores: &[f32]) -> Option<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (chunk, start) in scores.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
        if maximum(chunk) > best.0 {
            for (&score, id) in chunk.iter().zip(start..) {
                if score > best.0 {
                    best = (score, Some(id));
                }
            }
        }
    }
    best.1
}

/// A token that might continue a beam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Log-probability of the whole sequence.
    pub(super) score: f32,
    pub(super) beam: usize,
    pub(super) token: u32,
}

/// The `count` best continuations of all beams, best first; the earlier beam and token wins a tie.
///
/// `beams` holds the score of each beam and the log-probabilities `[V]` of its next tokens.
pub(super) fn best_candidates(beams: &[(f32, &[f32])], count: usize) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::with_capacity(count + 1);
    for (beam, &(beam_score, scores)) in beams.iter().enumerate() {
        for (chunk, start) in scores.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
            let bar = if best.len() < count { f32::NEG_INFINITY } else { best[count - 1].score };
            // Rounding is monotone: no element passes the bar where the largest does not.
            if maximum(chunk) + beam_score <= bar {
                continue;
            }
            for (&score, token) in chunk.iter().zip(start..) {
                let score = score + beam_score;
                let bar = if best.len() < count { f32::NEG_INFINITY } else { best[count - 1].score };
                if score > bar {
                    let place = best.partition_point(|other| other.score >= score);
                    best.insert(place, Candidate { score, beam, token });
                    best.truncate(count);
                }
            }
        }
    }
    best
}

/// Ids and probabilities of the smallest set of tokens that holds `top_p` of the probability, likeliest first; of the
/// probability of the `top_k` likeliest, unless that is 0.
pub(super) fn nucleus(scores: &[f32], top_k: usize, top_p: f64, temperature: f64) -> Vec<(u32, f64)> {
    let Some(max) = largest(scores).map(|id| scores[id as usize] as f64) else {
        return Vec::new();
    };
    let weight = |&score: &f32| ((score as f64 - max) / temperature).exp();
    let total: f64 = scores.iter().map(weight).filter(|weight| weight.is_finite()).sum();
    let mut tokens: Vec<(u32, f64)> =
        (0..).zip(scores.iter().map(|score| weight(score) / total)).filter(|(_, p)| *p > 0.0).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut enough = top_p;
    if top_k > 0 {
        tokens.truncate(top_k);
        enough *= tokens.iter().map(|(_, p)| p).sum::<f64>();
    }
    let mut before = 0.0;
    let kept = tokens.iter().take_while(|(_, p)| {
        let keep = before < enough;
        before += p;
        keep
    });
    let kept = kept.count();
    tokens.truncate(kept);
    tokens
}

/// The token that a uniform number from [0, 1) draws.
pub(super) fn draw(tokens: &[(u32, f64)], uniform: f64) -> Option<u32> {
    let mut rest = uniform * tokens.iter().map(|(_, p)| p).sum::<f64>();
    for &(id, p) in tokens {
        if rest < p {
            return Some(id);
        }
        rest -= p;
    }
    tokens.last().map(|&(id, _)| id)
}

/// Scores looked at in one go.
const CHUNK: usize = 64;

/// The largest of a few scores, without branches.
fn maximum(scores: &[f32]) -> f32 {
    const LANES: usize = 8;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &score| if score > max { score } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_penalised_once_and_towards_less_likely() {
        let mut scores = [2.0, -2.0, 1.0, 0.0];
        penalise_repeats(&mut scores, [0, 1, 1, 3, 9].iter(), 2.0);
        assert_eq!(scores, [1.0, -4.0, 1.0, 0.0]);
        penalise_repeats(&mut scores, [0].iter(), 1.0);
        forbid(&mut scores, &[0, 7]);
        assert_eq!(scores, [f32::NEG_INFINITY, -4.0, 1.0, 0.0]);
    }

    #[test]
    fn the_first_of_the_largest_is_found() {
        let mut scores = vec![-1.0; 200];
        (scores[130], scores[131], scores[5]) = (3.0, 3.0, f32::NAN);
        assert_eq!(largest(&scores), Some(130));
        assert_eq!(largest(&[f32::NEG_INFINITY, f32::NAN]), None);
        assert_eq!(largest(&[]), None);
    }

    #[test]
    fn candidates_are_those_of_a_full_sort() {
        let rows: Vec<Vec<f32>> =
            (0..3).map(|beam| (0..500).map(|i| -((i * 7919 + beam * 271) % 1009) as f32 / 8.0).collect()).collect();
        let beams: Vec<(f32, &[f32])> = [-1.0, -0.5, -2.0].into_iter().zip(rows.iter().map(Vec::as_slice)).collect();
        let mut all = Vec::new();
        for (beam, (score, row)) in beams.iter().enumerate() {
            all.extend(row.iter().zip(0..).map(|(s, token)| Candidate { score: s + score, beam, token }));
        }
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        for count in [1, 2, 10, 77] {
            assert_eq!(best_candidates(&beams, count), all[..count]);
        }
        assert_eq!(best_candidates(&[(0.0, &[f32::NEG_INFINITY, f32::NAN, 1.0])], 2).len(), 1);
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_holds_p() {
        let scores = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        let ids = |top_k, top_p| nucleus(&scores, top_k, top_p, 1.0).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(0, 0.3), [1]);
        assert_eq!(ids(0, 0.5), [1, 3]);
        assert_eq!(ids(0, 0.8), [1, 3, 2]);
        assert_eq!(ids(0, 1.0), [1, 3, 2, 0]);
        // of the likeliest two, one has four sevenths
        assert_eq!((ids(2, 0.5), ids(2, 0.6), ids(2, 1.0)), (vec![1], vec![1, 3], vec![1, 3]));
        assert_eq!((ids(1, 1.0), ids(9, 1.0)), (vec![1], vec![1, 3, 2, 0]));
        let cold = nucleus(&scores, 0, 1.0, 0.5);
        assert!((cold[0].1 - 0.16 / 0.30).abs() < 1e-6);
        assert!(nucleus(&[f32::NEG_INFINITY], 0, 0.5, 1.0).is_empty());
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let tokens = [(7, 0.3), (2, 0.1)];
        assert_eq!([0.0, 0.74, 0.76, 0.999].map(|u| draw(&tokens, u)), [Some(7), Some(7), Some(2), Some(2)]);
        assert_eq!(draw(&[], 0.5), None);
    }
}
