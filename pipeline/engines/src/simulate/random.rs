//! Random numbers of a simulation: the same everywhere for one seed, whatever other crates do.

/// SplitMix64: good enough to draw failures, and ten lines.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A sequence of its own for each stream of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        Self(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, and at most 1.
    pub(super) fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Time to the next event of those that come once in `mean` seconds.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.share().ln()
    }

    /// Of mean 0 and deviation 1, by Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        let (radius, turn) = ((-2.0 * self.share().ln()).sqrt(), std::f64::consts::TAU * self.share());
        radius * turn.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_their_means_and_streams_differ() {
        let mut random = Random::new(1, 0);
        let n = 20_000;
        let mean = |draw: &mut dyn FnMut() -> f64| (0..n).map(|_| draw()).sum::<f64>() / f64::from(n);
        assert!((mean(&mut || random.share()) - 0.5).abs() < 0.01);
        assert!((mean(&mut || random.exponential(3.0)) - 3.0).abs() < 0.1);
        assert!(mean(&mut || random.normal()).abs() < 0.03);
        assert!((mean(&mut || random.normal().powi(2)) - 1.0).abs() < 0.05);
        assert_ne!(Random::new(1, 0).share(), Random::new(1, 1).share());
        assert_eq!(Random::new(7, 3).share(), Random::new(7, 3).share());
    }
}
