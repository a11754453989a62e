//! Seeded randomness: every tile draws from a stream of its own, so that the world does not
//! depend on threads or on the number of tiles before it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A random stream with the few draws a scene needs.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Dice(generator)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// Uniform in low..=high.
    pub fn whole(&mut self, low: u32, high: u32) -> u32 {
        self.0.random_range(low..=high.max(low))
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.0.random::<f32>() < probability
    }

    /// -1 or 1.
    pub fn sign(&mut self) -> f32 {
        if self.chance(0.5) { 1.0 } else { -1.0 }
    }

    /// One of `items`, which is not empty.
    pub fn choose<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.0.random_range(0..items.len())]
    }

    /// One of `items` by weight; `items` is not empty, its weights are not all zero.
    pub fn weighted<T: Copy>(&mut self, items: &[(f32, T)]) -> T {
        let total: f32 = items.iter().map(|item| item.0).sum();
        let mut left = self.range(0.0, total);
        for &(weight, item) in items {
            if weight > 0.0 && left < weight {
                return item;
            }
            left -= weight;
        }
        items[items.len() - 1].1
    }

    /// A random order of 0..count (Fisher-Yates).
    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for index in (1..count).rev() {
            order.swap(index, self.0.random_range(0..=index));
        }
        order
    }
}
