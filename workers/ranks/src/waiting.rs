//! A rank that waits says for whom, before anybody takes it for dead.

use std::time::{Duration, Instant};

use training::communicator::rank_list;

/// How long a rank waits in silence.
const FIRST: Duration = Duration::from_secs(5);
/// How often it says so afterwards.
const AGAIN: Duration = Duration::from_secs(60);

/// Tells once, and then every minute, what is waited for.
pub(crate) struct Waiting {
    rank: u32,
    next: Instant,
}

impl Waiting {
    pub(crate) fn new(rank: u32) -> Self {
        Self { rank, next: Instant::now() + FIRST }
    }

    pub(crate) fn for_ranks(&mut self, missing: &[usize]) {
        self.for_what(|| rank_list(missing, "", "").trim_end().to_owned());
    }

    pub(crate) fn for_what(&mut self, what: impl FnOnce() -> String) {
        if let Some(words) = self.told(Instant::now(), what) {
            tracing::warn!("{words}");
        }
    }

    fn told(&mut self, now: Instant, what: impl FnOnce() -> String) -> Option<String> {
        if now < self.next {
            return None;
        }
        self.next = now + AGAIN;
        Some(format!("rank {} waits for {}", self.rank, what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_says_within_ten_seconds_for_whom_it_waits() {
        let began = Instant::now();
        let mut waiting = Waiting::new(3);
        let mut told = Vec::new();
        for second in 0..200 {
            told.extend(
                waiting.told(began + Duration::from_secs(second), || "rank 1".into()).map(|words| (second, words)),
            );
        }
        let seconds: Vec<u64> = told.iter().map(|(second, _)| *second).collect();
        assert!(seconds[0] <= 10 && seconds.len() == 4, "{seconds:?}");
        assert_eq!(told[0].1, "rank 3 waits for rank 1");
    }
}
