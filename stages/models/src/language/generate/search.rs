//! What one request does with the logits of its beams.

use super::Branch;
use super::beam::BeamSearch;
use super::logits::{best_candidates, draw, forbid, largest, nucleus, penalise_repeats};
use super::settings::{GenerationSettings, Nucleus};
use crate::ops::inference::log_softmax_rows;
use crate::{ModelError, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A request between two steps of the network.
#[derive(Clone, Debug)]
pub(super) enum Search {
    One { ids: Vec<u32>, sampling: Option<Box<(Nucleus, ChaCha8Rng)>> },
    Beams(BeamSearch),
}

/// What is the same for all requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) settings: &'a GenerationSettings,
    pub(super) end_ids: &'a [u32],
    /// See [`NextLogits::history`](super::NextLogits::history).
    pub(super) history: &'a [u32],
}

/// How a request goes on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    Branches(Vec<Branch>),
    /// The new ids, with the end token if it came.
    Done(Vec<u32>),
}

impl Search {
    /// The search of the request with this number.
    pub(super) fn new(settings: &GenerationSettings, number: usize) -> Self {
        if settings.num_beams > 1 {
            return Search::Beams(BeamSearch::new(settings));
        }
        let sampling = settings.sampling.map(|nucleus| {
            let mut generator = ChaCha8Rng::seed_from_u64(nucleus.seed);
            // A stream of its own, so that no draw depends on the other requests.
            generator.set_stream(number as u64);
            Box::new((nucleus, generator))
        });
        Search::One { ids: Vec::new(), sampling }
    }

    /// Number of running beams: rows of logits that [`advance`](Self::advance) is given.
    pub(super) fn rows(&self) -> usize {
        match self {
            Search::One { .. } => 1,
            Search::Beams(search) => search.beams().len(),
        }
    }

    /// Chooses next tokens by the logits `[rows, V]`, which are changed on the way.
    pub(super) fn advance(&mut self, logits: &mut [f32], rules: Rules<'_>) -> Result<Next> {
        match self {
            Search::One { ids, sampling } => {
                rules.apply(logits, ids);
                let token = match sampling {
                    None => largest(logits),
                    Some(sampling) => {
                        let (Nucleus { top_k, top_p, temperature, .. }, generator) = &mut **sampling;
                        draw(&nucleus(logits, *top_k, *top_p, *temperature), generator.random())
                    }
                };
                let token = token.ok_or_else(|| {
                    ModelError::Input("no token has a finite logit; check weights and number type".to_owned())
                })?;
                ids.push(token);
                match rules.end_ids.contains(&token) || ids.len() == rules.settings.max_new_tokens {
                    true => Ok(Next::Done(std::mem::take(ids))),
                    false => Ok(Next::Branches(vec![Branch { parent: 0, token }])),
                }
            }
            Search::Beams(search) => {
                let width = (logits.len() / search.beams().len()).max(1);
                log_softmax_rows(logits, width);
                for (scores, beam) in logits.chunks_exact_mut(width).zip(search.beams()) {
                    rules.apply(scores, &beam.ids);
                }
                let scored: Vec<(f32, &[f32])> =
                    search.beams().iter().map(|beam| beam.score).zip(logits.chunks_exact(width)).collect();
                let wanted = BeamSearch::wanted(rules.settings.num_beams, rules.end_ids.len());
                let candidates = best_candidates(&scored, wanted);
                match search.advance(&candidates, rules.end_ids)? {
                    Some(branches) => Ok(Next::Branches(branches)),
                    None => Ok(Next::Done(search.clone().best())),
                }
            }
        }
    }
}

impl Rules<'_> {
    /// Repetition penalty, then minimal length, in transformers' order.
    fn apply(&self, scores: &mut [f32], ids: &[u32]) {
        penalise_repeats(scores, self.history.iter().chain(ids), self.settings.repetition_penalty);
        if self.history.len() + ids.len() < self.settings.min_length {
            forbid(scores, self.end_ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules<'a>(settings: &'a GenerationSettings, history: &'a [u32]) -> Rules<'a> {
        Rules { settings, end_ids: &[0], history }
    }

    #[test]
    fn the_end_waits_for_the_minimal_length() {
        let settings = GenerationSettings { min_length: 2, ..GenerationSettings::default() };
        let mut search = Search::new(&settings, 0);
        let mut next = |history: &[u32]| search.advance(&mut [3.0, 1.0, 2.0], rules(&settings, history)).unwrap();
        assert_eq!(next(&[]), Next::Branches(vec![Branch { parent: 0, token: 2 }]));
        assert_eq!(next(&[]), Next::Branches(vec![Branch { parent: 0, token: 2 }]));
        assert_eq!(next(&[]), Next::Done(vec![2, 2, 0]));
        // A start token counts.
        let mut search = Search::new(&settings, 0);
        search.advance(&mut [3.0, 1.0, 2.0], rules(&settings, &[5])).unwrap();
        let next = search.advance(&mut [3.0, 1.0, 2.0], rules(&settings, &[5])).unwrap();
        assert_eq!(next, Next::Done(vec![2, 0]));
    }

    #[test]
    fn draws_depend_on_seed_and_number_alone() {
        let nucleus = Nucleus { top_k: 0, top_p: 1.0, temperature: 1.0, seed: 3 };
        let draw = |number, seed| {
            let sampling = Some(Nucleus { seed, ..nucleus });
            let settings = GenerationSettings { sampling, max_new_tokens: 40, ..GenerationSettings::default() };
            let mut search = Search::new(&settings, number);
            loop {
                let rules = Rules { end_ids: &[], ..rules(&settings, &[]) };
                if let Next::Done(ids) = search.advance(&mut [0.0; 50], rules).unwrap() {
                    return ids;
                }
            }
        };
        assert_eq!(draw(1, 3), draw(1, 3));
        assert_ne!(draw(1, 3), draw(2, 3));
        assert_ne!(draw(1, 3), draw(1, 4));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        for num_beams in [1, 2] {
            let settings = GenerationSettings { num_beams, ..GenerationSettings::default() };
            assert!(Search::new(&settings, 0).advance(&mut [f32::NAN; 9], rules(&settings, &[])).is_err());
        }
    }
}
