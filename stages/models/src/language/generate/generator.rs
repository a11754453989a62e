//! Continuous batching: whoever is done leaves the batch, and the next request takes the place.

use super::search::{Next, Rules, Search};
use super::{Branch, GenerationSettings, NextLogits, Nucleus, RequestId, Step};
use crate::{ModelError, Result};
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// Draws text from a network by fixed settings.
#[derive(Clone, Debug)]
pub struct Generator {
    settings: GenerationSettings,
    end_ids: Vec<u32>,
    seeds: Vec<Option<u64>>,
    histories: Vec<Vec<u32>>,
}

/// A request in the batch.
struct Running {
    search: Search,
    /// What the network is to append next.
    branches: Vec<Branch>,
}

/// All requests of a run, by their numbers.
struct Progress {
    waiting: VecDeque<usize>,
    running: BTreeMap<RequestId, Running>,
    outputs: Vec<Vec<u32>>,
    max_batch: usize,
}

impl Generator {
    /// `end_ids` are the tokens that end a text; there may be none.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that make no sense.
    pub fn new(settings: GenerationSettings, end_ids: &[u32]) -> Result<Self> {
        settings.validate()?;
        Ok(Self { settings, end_ids: end_ids.to_vec(), seeds: Vec::new(), histories: Vec::new() })
    }

    /// Draws of the requests that have a seed here, by their numbers, come of it alone: not of the settings' seed and
    /// the request's number.
    pub fn with_seeds(mut self, seeds: Vec<Option<u64>>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Ids of the prompts of requests, by their numbers: they count as the network's
    /// [`history`](NextLogits::history) does, in its place.
    pub fn with_histories(mut self, histories: Vec<Vec<u32>>) -> Self {
        self.histories = histories;
        self
    }

    /// Whether a text has no end token behind it.
    pub(crate) fn is_cut(&self, ids: &[u32]) -> bool {
        ids.last().is_none_or(|id| !self.end_ids.contains(id))
    }

    fn search(&self, number: usize) -> Search {
        match (self.settings.sampling, self.seeds.get(number)) {
            (Some(nucleus), Some(&Some(seed))) => {
                let sampling = Some(Nucleus { seed, ..nucleus });
                Search::new(&GenerationSettings { sampling, ..self.settings.clone() }, 0)
            }
            _ => Search::new(&self.settings, number),
        }
    }

    /// How it draws text.
    pub fn settings(&self) -> &GenerationSettings {
        &self.settings
    }

    /// The new ids of `requests` requests, with the end token if it came; at most `max_batch` run at a time.
    ///
    /// `prompts` is asked for prompts by their numbers when there is room for them, more than once if need be. When
    /// the device reports that its memory is used up, the batch starts again at half its size. No result depends on
    /// `max_batch`.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the vocabulary is too small for the beams, [`ModelError::Input`] if `prompts`
    /// returns another number than it was asked for, and whatever `prompts` or the network returns.
    pub fn run<N: NextLogits>(
        &self,
        network: &mut N,
        requests: usize,
        max_batch: usize,
        mut prompts: impl FnMut(&[usize]) -> Result<Vec<N::Prompt>>,
    ) -> Result<Vec<Vec<u32>>> {
        let wanted = 2 * self.settings.num_beams;
        if self.settings.num_beams > 1 && network.vocab_size() < wanted {
            return Err(ModelError::Config(format!(
                "num_beams = {} wants a vocabulary of at least {wanted}, this one has {}",
                self.settings.num_beams,
                network.vocab_size()
            )));
        }
        let mut progress = Progress {
            waiting: (0..requests).collect(),
            running: BTreeMap::new(),
            outputs: vec![Vec::new(); requests],
            max_batch: max_batch.clamp(1, requests.max(1)),
        };
        while !progress.waiting.is_empty() || !progress.running.is_empty() {
            let admitted = progress.next_admitted();
            let step = self.step(network, &mut progress, &admitted, &mut prompts);
            match step {
                Ok(()) => {}
                Err(error) if is_out_of_memory(&error) && progress.running.len() + admitted.len() > 1 => {
                    progress.halve(network, admitted);
                }
                Err(error) => {
                    progress.halve(network, admitted);
                    return Err(error);
                }
            }
        }
        Ok(progress.outputs)
    }

    /// Admits requests if there are any, or else lets all running ones go on by one token.
    fn step<N: NextLogits>(
        &self,
        network: &mut N,
        progress: &mut Progress,
        admitted: &[usize],
        prompts: &mut impl FnMut(&[usize]) -> Result<Vec<N::Prompt>>,
    ) -> Result<()> {
        if admitted.is_empty() {
            let steps: Vec<Step<'_>> = progress
                .running
                .iter()
                .map(|(&request, running)| Step { request, branches: &running.branches })
                .collect();
            let logits = network.advance(&steps)?;
            return self.choose(network, progress, logits, |_| true);
        }
        let prompts = prompts(admitted)?;
        if prompts.len() != admitted.len() {
            return Err(ModelError::Input(format!("{} prompts for {} requests", prompts.len(), admitted.len())));
        }
        let prompts: Vec<_> = admitted.iter().map(|&number| RequestId(number)).zip(prompts).collect();
        let logits = network.admit(&prompts)?;
        for &number in admitted {
            let search = self.search(number);
            progress.running.insert(RequestId(number), Running { search, branches: Vec::new() });
        }
        // `admitted` ascends, as do the keys of `running`.
        self.choose(network, progress, logits, |id| admitted.binary_search(&id.0).is_ok())
    }

    /// Lets the requests that have logits choose their next tokens, and those that are done leave.
    fn choose<N: NextLogits>(
        &self,
        network: &mut N,
        progress: &mut Progress,
        mut logits: Vec<f32>,
        has_logits: impl Fn(RequestId) -> bool,
    ) -> Result<()> {
        let common = network.history();
        let rules = |id: RequestId| {
            let history = self.histories.get(id.0).map_or(common, Vec::as_slice);
            Rules { settings: &self.settings, end_ids: &self.end_ids, history }
        };
        let width = network.vocab_size();
        let mut rest = logits.as_mut_slice();
        let mut chosen = Vec::new();
        for (&id, running) in progress.running.iter_mut().filter(|(id, _)| has_logits(**id)) {
            let length = running.search.rows() * width;
            if length > rest.len() {
                return Err(ModelError::Input("the network gave logits for fewer sequences than there are".to_owned()));
            }
            let (own, others) = rest.split_at_mut(length);
            chosen.push((id, running, own));
            rest = others;
        }
        let done = chosen
            .into_par_iter()
            .map(|(id, running, logits)| match running.search.advance(logits, rules(id))? {
                Next::Done(ids) => Ok(Some((id, ids))),
                Next::Branches(branches) => {
                    running.branches = branches;
                    Ok(None)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        for (id, ids) in done.into_iter().flatten() {
            network.release(id);
            progress.running.remove(&id);
            progress.outputs[id.0] = ids;
        }
        Ok(())
    }
}

impl Progress {
    /// Requests to be admitted now, in ascending order. Places are filled a quarter of the batch at a time, since
    /// prompts are cheaper together.
    fn next_admitted(&mut self) -> Vec<usize> {
        let free = self.max_batch.saturating_sub(self.running.len());
        let enough = (self.max_batch / 4).max(1);
        if free < enough && !self.running.is_empty() {
            return Vec::new();
        }
        let count = free.min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }

    /// Sends everybody back to wait, in order, for a batch of half the size.
    fn halve<N: NextLogits>(&mut self, network: &mut N, admitted: Vec<usize>) {
        let running = std::mem::take(&mut self.running);
        let mut back: Vec<usize> = running.into_keys().map(|id| id.0).chain(admitted).collect();
        back.sort_unstable();
        back.dedup();
        self.max_batch = (back.len() / 2).max(1);
        for number in back.into_iter().rev() {
            network.release(RequestId(number));
            self.waiting.push_front(number);
        }
    }
}

/// Whether the device has too little memory for what was asked. Drivers say so in words alone.
fn is_out_of_memory(error: &ModelError) -> bool {
    let ModelError::Tensor(error) = error else {
        return false;
    };
    let message = error.to_string().to_lowercase().replace('_', " ");
    message.contains("out of memory") || message.contains("memory allocation")
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Logits from a hash of the whole sequence; runs out of memory above a number of rows.
    struct Hashed {
        sequences: BTreeMap<RequestId, Vec<Vec<u32>>>,
        most_rows: usize,
        largest_batch: usize,
    }

    const VOCABULARY: usize = 40;

    impl Hashed {
        fn new(most_rows: usize) -> Self {
            Self { sequences: BTreeMap::new(), most_rows, largest_batch: 0 }
        }

        fn logits(ids: &[u32]) -> Vec<f32> {
            let seed = ids.iter().fold(17u64, |h, &id| (h ^ id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let value = |i: u64| ((seed ^ i).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32 / 4e6;
            (0..VOCABULARY as u64).map(value).collect()
        }

        fn check(&mut self) -> Result<()> {
            self.largest_batch = self.largest_batch.max(self.sequences.len());
            match self.sequences.values().flatten().count() > self.most_rows {
                true => Err(candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY)".to_owned()).into()),
                false => Ok(()),
            }
        }
    }

    impl NextLogits for Hashed {
        type Prompt = u32;
        fn vocab_size(&self) -> usize {
            VOCABULARY
        }
        fn history(&self) -> &[u32] {
            &[]
        }
        fn admit(&mut self, prompts: &[(RequestId, u32)]) -> Result<Vec<f32>> {
            prompts.iter().for_each(|&(id, first)| drop(self.sequences.insert(id, vec![vec![first]])));
            self.check()?;
            Ok(prompts.iter().flat_map(|(_, first)| Self::logits(&[*first])).collect())
        }
        fn advance(&mut self, steps: &[Step<'_>]) -> Result<Vec<f32>> {
            for step in steps {
                let old = &self.sequences[&step.request];
                let new = step.branches.iter().map(|b| [old[b.parent].as_slice(), &[b.token]].concat()).collect();
                self.sequences.insert(step.request, new);
            }
            self.check()?;
            Ok(steps.iter().flat_map(|s| &self.sequences[&s.request]).flat_map(|ids| Self::logits(ids)).collect())
        }
        fn release(&mut self, id: RequestId) {
            self.sequences.remove(&id);
        }
    }

    fn settings() -> [GenerationSettings; 3] {
        let base = GenerationSettings { max_new_tokens: 30, repetition_penalty: 1.2, ..GenerationSettings::default() };
        let nucleus = Nucleus { top_k: 0, top_p: 0.9, temperature: 1.0, seed: 5 };
        [
            base.clone(),
            GenerationSettings { num_beams: 3, ..base.clone() },
            GenerationSettings { sampling: Some(nucleus), ..base },
        ]
    }

    fn run(network: &mut Hashed, settings: GenerationSettings, max_batch: usize) -> Result<Vec<Vec<u32>>> {
        let generator = Generator::new(settings, &[0, 1]).unwrap();
        generator.run(network, 23, max_batch, |numbers| Ok(numbers.iter().map(|&n| n as u32 + 100).collect()))
    }

    #[test]
    fn no_text_depends_on_its_batch() {
        for settings in settings() {
            let alone = run(&mut Hashed::new(usize::MAX), settings.clone(), 1).unwrap();
            assert!(alone.iter().any(|ids| ids.len() < 30) && alone.iter().all(|ids| !ids.is_empty()));
            for max_batch in [2, 5, 8, 100] {
                let mut network = Hashed::new(usize::MAX);
                assert_eq!(run(&mut network, settings.clone(), max_batch).unwrap(), alone);
                assert_eq!(network.largest_batch, max_batch.min(23));
                assert!(network.sequences.is_empty());
            }
        }
    }

    #[test]
    fn a_text_without_its_end_is_cut() {
        for settings in settings() {
            let texts = run(&mut Hashed::new(usize::MAX), settings.clone(), 8).unwrap();
            let generator = Generator::new(settings, &[0, 1]).unwrap();
            assert!(texts.iter().any(|ids| !generator.is_cut(ids)), "{texts:?}");
            // 0 and 1 end a text wherever they come
            assert!(texts.iter().all(|ids| generator.is_cut(ids) != ids.iter().any(|id| *id < 2)), "{texts:?}");
            assert!(generator.is_cut(&[]));
        }
    }

    #[test]
    fn a_seed_of_its_own_makes_a_text_independent_of_its_number() {
        let nucleus = Nucleus { top_k: 0, top_p: 1.0, temperature: 1.0, seed: 5 };
        let settings = GenerationSettings { sampling: Some(nucleus), max_new_tokens: 12, ..Default::default() };
        let run = |seeds: Vec<Option<u64>>| {
            let generator = Generator::new(settings.clone(), &[]).unwrap().with_seeds(seeds);
            generator.run(&mut Hashed::new(usize::MAX), 4, 3, |numbers| Ok(vec![7; numbers.len()])).unwrap()
        };
        let texts = run(vec![Some(1), Some(2), Some(1), None]);
        assert_eq!(texts[0], texts[2]);
        assert!(texts[0] != texts[1] && texts[1] != texts[3]);
        assert_eq!(run(vec![None, Some(1)])[1], texts[0]);
        assert_eq!(run(vec![])[3], texts[3]);
    }

    #[test]
    fn the_words_of_a_prompt_count_as_said_where_they_are_given() {
        let settings = GenerationSettings { repetition_penalty: 50.0, max_new_tokens: 12, ..Default::default() };
        let run = |histories: Vec<Vec<u32>>| {
            let generator = Generator::new(settings.clone(), &[]).unwrap().with_histories(histories);
            generator.run(&mut Hashed::new(usize::MAX), 3, 2, |numbers| Ok(vec![7; numbers.len()])).unwrap()
        };
        let plain = run(Vec::new());
        let told = run(vec![vec![], plain[1][..4].to_vec()]);
        assert_eq!((&told[0], &told[2]), (&plain[0], &plain[2]));
        assert!(told[1][0] != plain[1][0] && plain[1][..4].iter().all(|id| !told[1].contains(id)), "{told:?}");
    }

    #[test]
    fn a_batch_too_large_for_the_device_is_halved() {
        for settings in settings() {
            let alone = run(&mut Hashed::new(usize::MAX), settings.clone(), 1).unwrap();
            assert_eq!(run(&mut Hashed::new(7), settings.clone(), 16).unwrap(), alone);
            let mut hopeless = Hashed::new(0);
            let error = run(&mut hopeless, settings, 16).unwrap_err().to_string();
            assert!(error.contains("OUT_OF_MEMORY") && hopeless.sequences.is_empty(), "{error}");
        }
    }

    #[test]
    fn a_vocabulary_too_small_for_the_beams_is_an_error() {
        let settings = GenerationSettings { num_beams: 30, ..GenerationSettings::default() };
        let error = run(&mut Hashed::new(usize::MAX), settings, 4).unwrap_err().to_string();
        assert!(error.contains("num_beams = 30"), "{error}");
        let none = Generator::new(GenerationSettings::default(), &[]).unwrap();
        assert!(none.run(&mut Hashed::new(1), 0, 4, |_| Ok(Vec::new())).unwrap().is_empty());
    }
}
