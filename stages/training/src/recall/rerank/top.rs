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

/// The best answers of each query, at most so many, best first: those above the best that does not fit. So equal ones
/// are all among them or none is, however many there are. What is lost is no answer.
pub(super) fn top(asked: &Asked<'_>, most: usize) -> Vec<Vec<Answer>> {
    let start = |queries: std::ops::Range<usize>| vec![Best { answers: Vec::new(), floor: LOST }; queries.len()];
    let tiles = asked.by_tile(start, |best, answers, scores| {
        for (best, row) in best.iter_mut().zip(scores.chunks_exact(TILE)) {
            for (number, &score) in answers.clone().zip(row) {
                if score > best.floor {
                    best.answers.push(Answer { number: number as u32, score });
                    if best.answers.len() == 2 * most {
                        best.cut(most);
                    }
                }
            }
            best.cut(most);
        }
    });
    tiles.into_iter().flatten().map(|best| best.answers).collect()
}

/// What has been seen of a query's answers.
#[derive(Clone)]
struct Best {
    answers: Vec<Answer>,
    /// Higher than this is every answer that may be among the best.
    floor: f32,
}

impl Best {
    fn cut(&mut self, most: usize) {
        // stable: equal ones stay in their order
        self.answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        if let Some(first_out) = self.answers.get(most) {
            let floor = first_out.score;
            let kept = self.answers.partition_point(|answer| answer.score > floor);
            self.answers.truncate(kept);
            self.floor = floor;
        }
    }
}

/// Of each query's candidates the place, from 0, that the query has among all that ask for that candidate: so many score
/// higher. Equal ones share a place.
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
        waiting.sort_by(|a, b| b.score.total_cmp(&a.score));
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
            for &score in &row[..queries.len()] {
                let from = waiting.partition_point(|other| other.score >= score);
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
