//! Pauses between tries: growing, bounded, and different in every process.

use std::time::Duration;

/// Pauses that double up to a bound. Each is drawn between nothing and its bound ("full jitter"), so that those who
/// failed together do not come back together.
pub struct Backoff {
    bound: Duration,
    most: Duration,
    state: u64,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self { bound: first, most, state: seed | 1 }
    }

    /// How long to wait before the next try.
    pub fn next(&mut self) -> Duration {
        // xorshift: enough to spread tries
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let share = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        let pause = self.bound.mul_f64(share);
        self.bound = (self.bound * 2).min(self.most);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(80));
        let bounds = [10, 20, 40, 80, 80, 80];
        for bound in bounds {
            assert!(backoff.next() <= Duration::from_millis(bound));
        }
        let draw = || Backoff::new(Duration::from_secs(9), Duration::from_secs(9)).next();
        assert_ne!(draw(), draw());
    }
}
