//! Which sources of a batch are learnt from: the adaptive curriculum source sampler and its ablations.

use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Curriculum, Sampler, Settings, Similarity};
use crate::error::{Error, Result};

/// Keeps this stream apart from the data order's, which may have the same seed.
const STREAM: u64 = u64::from_le_bytes(*b"sampler\0");

/// Sources of the global batch to learn from, by their place in the batch, in data order: a rank's slice of them then
/// is no band of its own.
///
/// A pure function of the batch, the settings, epoch and step; ranks play no part in it. Equal similarities rank by
/// place.
///
/// # Errors
/// A batch whose sources are no multiple of its targets.
pub fn choose_sources(
    similarity: &Similarity,
    settings: &Settings,
    (epoch, step): (usize, usize),
) -> Result<Vec<usize>> {
    let (targets, sources) = (similarity.targets(), similarity.sources());
    if targets == 0 || sources < targets || !sources.is_multiple_of(targets) {
        let problem = format!(
            "has {sources} sources for {targets} targets: needs a whole multiple, so that every source is in a band"
        );
        return Err(Error::argument("batch", problem));
    }
    let ranks = ranks(settings, epoch, targets, sources / targets);
    let mut chosen: Vec<usize> = (0..sources).collect();
    match (settings.sampler, settings.curriculum) {
        (Sampler::Random, _) => chosen.shuffle(&mut rng(settings.seed, epoch, step)),
        (Sampler::Acss, Curriculum::None) => {}
        (Sampler::Acss, _) => {
            // One divisor for all: sums rank as means do. The sort is stable, so ties stay in data order.
            let sums = similarity.sums_over_targets();
            chosen.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
        }
    }
    chosen = match settings.sampler {
        // Of a shuffle each part is as good as another, and the first is as long as the band.
        Sampler::Random => chosen[..ranks.len()].to_vec(),
        Sampler::Acss => chosen[ranks].to_vec(),
    };
    chosen.sort_unstable();
    Ok(chosen)
}

/// Ranks that the curriculum takes in an epoch.
fn ranks(settings: &Settings, epoch: usize, targets: usize, bands: usize) -> Range<usize> {
    let band = (epoch / settings.epochs_per_band.max(1)).min(bands - 1);
    match settings.curriculum {
        Curriculum::Bands => band * targets..(band + 1) * targets,
        Curriculum::Cumulative => 0..(band + 1) * targets,
        Curriculum::Easiest | Curriculum::None => 0..targets,
    }
}

fn rng(seed: u64, epoch: usize, step: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (slot, word) in key.chunks_exact_mut(8).zip([seed, epoch as u64, step as u64, STREAM]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::super::aggregate;
    use super::*;

    /// Two targets and ten sources on an arc, the farther the higher their place modulo 10 times 7.
    fn arc() -> Similarity {
        let at = |angle: f32| [angle.cos(), angle.sin()];
        let sources: Vec<f32> = (0..10).flat_map(|i| at((i * 7 % 10) as f32 * 0.1)).collect();
        let targets: Vec<f32> = [at(0.0), at(-0.01)].concat();
        let sources = aggregate(&sources, &sources, 2).unwrap();
        Similarity::new(&aggregate(&targets, &targets, 2).unwrap(), &sources).unwrap()
    }

    fn chosen(settings: &Settings, epoch: usize) -> Vec<usize> {
        choose_sources(&arc(), settings, (epoch, 3)).unwrap()
    }

    #[test]
    fn bands_go_from_similar_to_dissimilar_are_disjoint_and_cover_the_batch() {
        let settings = Settings::default();
        // Place i lies at angle (7 i mod 10): angles 0, 1 are places 0, 3; angles 2, 3 places 6, 9; and so on.
        let expected = [[0, 3], [6, 9], [2, 5], [1, 8], [4, 7]];
        for (epoch, expected) in expected.iter().enumerate() {
            assert_eq!(chosen(&settings, epoch), expected);
        }
        assert_eq!(chosen(&settings, 99), expected[4], "after the last band it stays there");
        let mut all: Vec<usize> = (0..5).flat_map(|epoch| chosen(&settings, epoch)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        let slow = Settings { epochs_per_band: 3, ..settings };
        for epoch in 0..15 {
            assert_eq!(chosen(&slow, epoch), expected[epoch / 3]);
        }
    }

    #[test]
    fn the_alternatives_take_what_they_say() {
        let with = |curriculum| Settings { curriculum, ..Settings::default() };
        assert_eq!(chosen(&with(Curriculum::Cumulative), 0), [0, 3]);
        assert_eq!(chosen(&with(Curriculum::Cumulative), 1), [0, 3, 6, 9]);
        assert_eq!(chosen(&with(Curriculum::Cumulative), 8), (0..10).collect::<Vec<_>>());
        for epoch in [0, 2, 7] {
            assert_eq!(chosen(&with(Curriculum::Easiest), epoch), [0, 3]);
            assert_eq!(chosen(&with(Curriculum::None), epoch), [0, 1]);
        }
    }

    #[test]
    fn the_random_sampler_draws_as_many_and_depends_on_the_step_alone() {
        let settings = Settings { sampler: Sampler::Random, ..Settings::default() };
        let draw = |settings: &Settings, epoch, step| choose_sources(&arc(), settings, (epoch, step)).unwrap();
        assert_eq!(draw(&settings, 1, 2), draw(&settings, 1, 2));
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..50 {
            let drawn = draw(&settings, 0, step);
            assert!(drawn.len() == 2 && drawn[0] < drawn[1] && drawn[1] < 10, "{drawn:?}");
            seen.extend(drawn);
        }
        assert_eq!(seen.len(), 10, "every source comes up");
        let steps = |settings: &Settings, epoch| (0..20).map(|s| draw(settings, epoch, s)).collect::<Vec<_>>();
        assert_ne!(steps(&settings, 0), steps(&settings, 1));
        assert_ne!(steps(&settings, 0), steps(&Settings { seed: 1, ..settings }, 0));
        let cumulative = Settings { curriculum: Curriculum::Cumulative, ..settings };
        assert_eq!(draw(&cumulative, 2, 0).len(), 6, "the same number as with the sampler");
    }

    #[test]
    fn equal_sources_rank_by_place() {
        let same = aggregate(&[1.0; 12], &[1.0; 12], 2).unwrap();
        let target = aggregate(&[0.5; 4], &[1.0; 4], 2).unwrap();
        let similarity = Similarity::new(&target, &same).unwrap();
        for epoch in 0..3 {
            let chosen = choose_sources(&similarity, &Settings::default(), (epoch, 0)).unwrap();
            assert_eq!(chosen, [2 * epoch, 2 * epoch + 1]);
        }
    }

    #[test]
    fn a_batch_that_does_not_divide_into_bands_is_refused() {
        let (three, two) = (aggregate(&[1.0; 6], &[1.0; 6], 2).unwrap(), aggregate(&[1.0; 4], &[1.0; 4], 2).unwrap());
        for (targets, sources, words) in [(&two, &three, "3 sources for 2 targets"), (&three, &two, "2 sources for 3")]
        {
            let similarity = Similarity::new(targets, sources).unwrap();
            let error = choose_sources(&similarity, &Settings::default(), (0, 0)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
