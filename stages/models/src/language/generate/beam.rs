//! Beam search over scores, after transformers' `BeamSearchScorer` and `BeamHypotheses` (4.40).

use super::Branch;
use super::logits::Candidate;
use super::settings::{EarlyStopping, GenerationSettings};
use crate::{ModelError, Result};

/// The beams of one request.
#[derive(Clone, Debug)]
pub(super) struct BeamSearch {
    num_beams: usize,
    max_new_tokens: usize,
    beams: Vec<Beam>,
    finished: Finished,
    /// Tokens that every running beam has.
    generated: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Beam {
    pub(super) ids: Vec<u32>,
    /// Sum of the log-probabilities.
    pub(super) score: f32,
}

impl BeamSearch {
    /// One empty beam: all beams begin with the same logits.
    pub(super) fn new(settings: &GenerationSettings) -> Self {
        Self {
            num_beams: settings.num_beams,
            max_new_tokens: settings.max_new_tokens,
            beams: vec![Beam { ids: Vec::new(), score: 0.0 }],
            finished: Finished {
                room: settings.num_beams,
                length_penalty: settings.length_penalty,
                early_stopping: settings.early_stopping,
                hypotheses: Vec::new(),
                worst: f64::INFINITY,
            },
            generated: 0,
        }
    }

    pub(super) fn beams(&self) -> &[Beam] {
        &self.beams
    }

    /// How many candidates [`advance`](Self::advance) wants: enough for every beam to go on if all others end.
    pub(super) fn wanted(num_beams: usize, end_ids: usize) -> usize {
        num_beams * (1 + end_ids).max(2)
    }

    /// Chooses the next beams from candidates sorted best first. `None`: the search is over.
    pub(super) fn advance(&mut self, candidates: &[Candidate], end_ids: &[u32]) -> Result<Option<Vec<Branch>>> {
        self.generated += 1;
        let mut next = Vec::with_capacity(self.num_beams);
        let mut branches = Vec::with_capacity(self.num_beams);
        for (rank, candidate) in candidates.iter().enumerate() {
            let parent = &self.beams[candidate.beam];
            if end_ids.contains(&candidate.token) {
                // An end counts only where a running beam would have been taken.
                if rank < self.num_beams {
                    let ids = [parent.ids.as_slice(), &[candidate.token]].concat();
                    self.finished.add(ids, candidate.score, self.generated);
                }
                continue;
            }
            let ids = [parent.ids.as_slice(), &[candidate.token]].concat();
            next.push(Beam { ids, score: candidate.score });
            branches.push(Branch { parent: candidate.beam, token: candidate.token });
            if next.len() == self.num_beams {
                break;
            }
        }
        let (Some(best), true) = (candidates.first(), next.len() == self.num_beams) else {
            return Err(ModelError::Input(format!(
                "{} beams have {} continuations with a finite score; the network gives no numbers, or its vocabulary \
                 is smaller than twice the number of beams",
                self.num_beams,
                candidates.len()
            )));
        };
        self.beams = next;
        let done = self.finished.is_done(best.score, self.generated, self.max_new_tokens);
        if !done && self.generated == self.max_new_tokens {
            for beam in &self.beams {
                self.finished.add(beam.ids.clone(), beam.score, self.generated);
            }
        }
        Ok((!done && self.generated < self.max_new_tokens).then_some(branches))
    }

    /// The best finished sequence.
    pub(super) fn best(self) -> Vec<u32> {
        let best = self.finished.hypotheses.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, ids)| ids).unwrap_or_default()
    }
}

/// The best finished beams (`BeamHypotheses`).
#[derive(Clone, Debug)]
struct Finished {
    room: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    /// Score by length, ids with their end.
    hypotheses: Vec<(f64, Vec<u32>)>,
    worst: f64,
}

impl Finished {
    fn by_length(&self, score: f32, length: usize) -> f64 {
        score as f64 / (length as f64).powf(self.length_penalty)
    }

    fn add(&mut self, ids: Vec<u32>, score: f32, length: usize) {
        let score = self.by_length(score, length);
        if self.hypotheses.len() < self.room {
            self.worst = self.worst.min(score);
            self.hypotheses.push((score, ids));
        } else if score > self.worst {
            self.hypotheses.push((score, ids));
            let smallest = |hypotheses: &[(f64, Vec<u32>)]| {
                let scores = hypotheses.iter().map(|(score, _)| *score).enumerate();
                scores.min_by(|a, b| a.1.total_cmp(&b.1))
            };
            if let Some((index, _)) = smallest(&self.hypotheses) {
                self.hypotheses.remove(index);
            }
            self.worst = smallest(&self.hypotheses).map_or(f64::INFINITY, |(_, score)| score);
        }
    }

    /// Whether no running beam, of which the best has `best_score`, is to be waited for.
    fn is_done(&self, best_score: f32, generated: usize, max_new_tokens: usize) -> bool {
        if self.hypotheses.len() < self.room {
            return false;
        }
        let length = match self.early_stopping {
            EarlyStopping::Immediate => return true,
            // A positive penalty favours length: the best is what a beam could become at its longest.
            EarlyStopping::Never if self.length_penalty > 0.0 => max_new_tokens,
            EarlyStopping::Never | EarlyStopping::Heuristic => generated,
        };
        self.worst >= self.by_length(best_score, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    fn settings(num_beams: usize, early_stopping: EarlyStopping) -> GenerationSettings {
        GenerationSettings { num_beams, max_new_tokens: 4, early_stopping, ..GenerationSettings::default() }
    }

    fn candidate(score: f32, beam: usize, token: u32) -> Candidate {
        Candidate { score, beam, token }
    }

    #[test]
    fn an_end_counts_only_among_the_best() {
        let mut search = BeamSearch::new(&settings(2, EarlyStopping::Heuristic));
        let candidates = [candidate(-1.0, 0, 5), candidate(-2.0, 0, 6), candidate(-3.0, 0, END)];
        search.advance(&candidates, &[END]).unwrap().unwrap();
        assert!(search.finished.hypotheses.is_empty());
        let candidates =
            [candidate(-2.0, 1, END), candidate(-2.5, 0, 7), candidate(-2.6, 1, END), candidate(-3.0, 1, 8)];
        let branches = search.advance(&candidates, &[END]).unwrap().unwrap();
        assert_eq!(branches, [Branch { parent: 0, token: 7 }, Branch { parent: 1, token: 8 }]);
        assert_eq!(search.finished.hypotheses, [(-1.0, vec![6, END])]);
        assert_eq!(search.beams()[1].ids, [6, 8]);
    }

    #[test]
    fn the_three_rules_stop_at_different_times() {
        // Two finished beams with -1 each by length; the best running one has -3 at length 2.
        let run = |early_stopping, length_penalty| {
            let mut search = BeamSearch::new(&GenerationSettings { length_penalty, ..settings(2, early_stopping) });
            let first =
                [candidate(-1.0, 0, END), candidate(-1.0, 0, END), candidate(-1.5, 0, 5), candidate(-1.6, 0, 6)];
            search.advance(&first, &[END]).unwrap().is_none()
        };
        assert!(run(EarlyStopping::Immediate, 1.0));
        // The best candidate counts, ended or not: -1 at length 1 does not beat -1.
        assert!(run(EarlyStopping::Heuristic, 1.0));
        // Four tokens of -1 in all would be -0.25 each.
        assert!(!run(EarlyStopping::Never, 1.0));
        assert!(run(EarlyStopping::Never, 0.0));
    }

    #[test]
    fn the_worst_finished_beam_gives_way() {
        let mut finished = BeamSearch::new(&settings(2, EarlyStopping::Heuristic)).finished;
        for (id, score) in [(1, -3.0), (2, -1.0), (3, -4.0), (4, -2.0)] {
            finished.add(vec![id], score, 1);
        }
        assert_eq!(finished.hypotheses, [(-1.0, vec![2]), (-2.0, vec![4])]);
        assert_eq!(finished.worst, -2.0);
    }

    #[test]
    fn open_beams_count_when_the_length_is_used_up() {
        let mut search =
            BeamSearch::new(&GenerationSettings { max_new_tokens: 1, ..settings(2, EarlyStopping::Never) });
        let candidates = [candidate(-1.0, 0, 5), candidate(-0.5, 0, END), candidate(-2.0, 0, 6)];
        assert!(search.advance(&candidates, &[END]).unwrap().is_none());
        assert_eq!(search.best(), [END]);
    }

    #[test]
    fn too_few_candidates_are_an_error() {
        let mut search = BeamSearch::new(&settings(2, EarlyStopping::Heuristic));
        assert!(search.advance(&[candidate(-1.0, 0, 5)], &[END]).is_err());
        assert!(search.advance(&[], &[END]).is_err());
    }
}
