//! Choices that a seed repeats.

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// The choices of one trial: every scenario and round has its own.
    pub fn new(seed: u64, scenario: &str, round: u64) -> Dice {
        let named = scenario.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut dice = Dice(named);
        Dice(dice.draw() ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound.max(1) as u64) as usize
    }

    /// Choices of their own for somebody else.
    pub fn split(&mut self) -> Dice {
        Dice(self.draw())
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn choose<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_choices_and_rounds_differ() {
        let draws = |scenario, round| {
            let mut dice = Dice::new(7, scenario, round);
            (0..4).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draws("kill", 0), draws("kill", 0));
        assert_ne!(draws("kill", 0), draws("kill", 1));
        assert_ne!(draws("kill", 0), draws("pause", 0));
    }
}
