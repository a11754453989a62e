//! Counts whose memory does not grow with what is counted.

use std::collections::{BTreeMap, HashSet};

use report::Histogram;

/// How often values occur, to a thousandth.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<i32, u64>,
    total: u64,
}

impl Tally {
    /// Values beyond count as this one: shares, scores and words of a caption are far below.
    const MOST: f64 = 100_000.0;
    const STEPS: f64 = 1000.0;

    pub(super) fn add(&mut self, value: f64) {
        if value.is_finite() {
            let step = (value.clamp(-Self::MOST, Self::MOST) * Self::STEPS).round() as i32;
            *self.counts.entry(step).or_default() += 1;
            self.total += 1;
        }
    }

    /// Values that were counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn any_above(&self, value: f64) -> bool {
        self.counts.last_key_value().is_some_and(|(step, _)| f64::from(*step) / Self::STEPS > value)
    }

    pub(super) fn histogram(&self, bins: usize) -> Histogram {
        Histogram::from_counts(self.counts.iter().map(|(step, count)| (f64::from(*step) / Self::STEPS, *count)), bins)
    }
}

/// How many different keys there are: exact up to a number of them, then estimated from the share of keys that is kept
/// (adaptive sampling: Flajolet 1990).
#[derive(Debug, Default)]
pub(super) struct Distinct {
    kept: HashSet<u64>,
    /// Keys are kept that begin with so many zeros.
    zeros: u32,
}

impl Distinct {
    /// 16 MiB of keys; an estimate from half of them is off by about a seventh of a percent.
    const MOST: usize = 1 << 20;

    /// Keys must be spread evenly, as digests are.
    pub(super) fn add(&mut self, key: u64) {
        self.add_with(key, Self::MOST);
    }

    fn add_with(&mut self, key: u64, most: usize) {
        if key.leading_zeros() < self.zeros {
            return;
        }
        self.kept.insert(key);
        while self.kept.len() > most && self.zeros < u64::BITS {
            self.zeros += 1;
            let zeros = self.zeros;
            self.kept.retain(|key| key.leading_zeros() >= zeros);
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        self.zeros == 0
    }

    pub(super) fn count(&self) -> u64 {
        (self.kept.len() as u64) << self.zeros.min(u64::BITS - 1)
    }
}

/// How often words occur. Where there are very many, the rarest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<String, u64>);

impl Words {
    const MOST: usize = 1 << 18;

    pub(super) fn add(&mut self, word: &str) {
        self.add_with(word, Self::MOST);
    }

    fn add_with(&mut self, word: &str, most: usize) {
        if let Some(count) = self.0.get_mut(word) {
            *count += 1;
            return;
        }
        let mut least = 1;
        while self.0.len() >= most {
            self.0.retain(|_, count| *count > least);
            least *= 2;
        }
        self.0.insert(word.to_owned(), 1);
    }

    pub(super) fn most_frequent(self, shown: usize) -> Vec<(String, u64)> {
        let mut counts: Vec<_> = self.0.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.truncate(shown);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_has_few_steps_for_many_values() {
        let mut tally = Tally::default();
        (0..100_000).for_each(|i| tally.add(f64::from(i) / 100_000.0));
        [f64::NAN, f64::INFINITY].into_iter().for_each(|odd| tally.add(odd));
        assert_eq!((tally.total(), tally.counts.len()), (100_000, 1001));
        let histogram = tally.histogram(4);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 100_000);
        assert!(histogram.counts.iter().all(|count| count.abs_diff(25_000) <= 100), "{histogram:?}");
        assert!(tally.any_above(0.9) && !tally.any_above(1.0));
        // words of long captions
        tally.add(180.0);
        assert_eq!(tally.counts.last_key_value().map(|(step, _)| *step), Some(180_000));
        tally.add(f64::MAX);
        assert_eq!(tally.counts.last_key_value().map(|(step, _)| *step), Some(100_000_000));
    }

    #[test]
    fn distinct_keys_are_exact_until_there_are_many() {
        let key = |i: u64| stages::train_rows::caption_key(&format!("caption {i}"));
        let mut distinct = Distinct::default();
        for _ in 0..2 {
            (0..1000).for_each(|i| distinct.add_with(key(i), 1000));
        }
        assert_eq!((distinct.is_exact(), distinct.count()), (true, 1000));
        (0..50_000).for_each(|i| distinct.add_with(key(i), 1000));
        assert!(!distinct.is_exact() && distinct.kept.len() <= 1000);
        assert!((45_000..55_000).contains(&distinct.count()), "{}", distinct.count());
    }

    #[test]
    fn frequent_words_survive_rare_ones() {
        let mut words = Words::default();
        for i in 0..1000 {
            words.add_with("lake", 50);
            words.add_with(&format!("rare{i}"), 50);
        }
        assert!(words.0.len() <= 50);
        assert_eq!(words.most_frequent(1), [("lake".to_owned(), 1000)]);
    }
}
