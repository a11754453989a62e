//! The best answers of every query.

use super::asked::Asked;
use crate::recall::LOST;
use crate::recall::tile::TILE;

/// An answer with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) number: u32,
    pub(super) score: f32,
}

/// The `most` best answers of each query, best first; of equal ones the first. What is lost is no answer.
pub(super) fn top(asked: &Asked<'_>, most: usize) -> Vec<Vec<Answer>> {
    let start = |queries: std::ops::Range<usize>| vec![Vec::<Answer>::with_capacity(2 * most); queries.len()];
    let tiles = asked.by_tile(start, |best, answers, scores| {
        for (best, row) in best.iter_mut().zip(scores.chunks_exact(TILE)) {
            // answers come in order, so a later one that is no better than the last of a full list is out
            let mut floor = if best.len() >= most { best[most - 1].score } else { LOST };
            for (number, &score) in answers.clone().zip(row) {
                if score > floor {
                    best.push(Answer { number: number as u32, score });
                    if best.len() == 2 * most {
                        cut(best, most);
                        floor = best[most - 1].score;
                    }
                }
            }
            cut(best, most);
        }
    });
    tiles.into_iter().flatten().collect()
}

fn cut(best: &mut Vec<Answer>, most: usize) {
    // stable: equal ones stay in their order
    best.sort_by(|a, b| b.score.total_cmp(&a.score));
    best.truncate(most);
}

/// Of each query's candidates the place, from 0, that the query has among all that ask for that candidate: so many score
/// higher, or equal and come before.
pub(super) fn places(asked: &Asked<'_>, candidates: &[Vec<Answer>]) -> Vec<Vec<u32>> {
    let (_, answers) = asked.shape();
    // by answer: the scores and numbers of those whose candidate it is, and where their place belongs
    let mut waiting: Vec<Vec<Waiting>> = vec![Vec::new(); answers];
    for (query, candidates) in candidates.iter().enumerate() {
        for (slot, candidate) in candidates.iter().enumerate() {
            waiting[candidate.number as usize].push(Waiting {
                query: query as u32,
                slot: slot as u32,
                score: candidate.score,
            });
        }
    }
    for waiting in &mut waiting {
        waiting.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.query.cmp(&b.query)));
    }
    let turned = asked.turned();
    let start = |answers: std::ops::Range<usize>| {
        // how many first come in before each of the waiting
        let ahead: Vec<Vec<u32>> = waiting[answers.clone()].iter().map(|waiting| vec![0; waiting.len()]).collect();
        (answers.start, ahead)
    };
    let tiles = turned.by_tile(start, |(first, ahead), queries, scores| {
        for (at, (ahead, row)) in ahead.iter_mut().zip(scores.chunks_exact(TILE)).enumerate() {
            let waiting = &waiting[*first + at];
            if waiting.is_empty() {
                continue;
            }
            for (query, &score) in queries.clone().zip(row) {
                let is_ahead = |other: &Waiting| (score, other.query) > (other.score, query as u32);
                let from = waiting.partition_point(|other| !is_ahead(other));
                if let Some(ahead) = ahead.get_mut(from) {
                    *ahead += 1;
                }
            }
        }
    });
    let mut places: Vec<Vec<u32>> = candidates.iter().map(|candidates| vec![0; candidates.len()]).collect();
    for (first, ahead) in tiles {
        for (waiting, ahead) in waiting[first..].iter().zip(ahead) {
            let mut sum = 0;
            for (waiting, ahead) in waiting.iter().zip(ahead) {
                sum += ahead;
                places[waiting.query as usize][waiting.slot as usize] = sum;
            }
        }
    }
    places
}

/// A query that wants to know its place.
#[derive(Clone, Copy)]
struct Waiting {
    query: u32,
    slot: u32,
    score: f32,
}
