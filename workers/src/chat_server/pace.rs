//! When the next request may begin.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Spreads requests over time, and holds all of them back where a server asks for it.
pub(super) struct Pace {
    /// Between two requests.
    apart: Duration,
    times: Mutex<Times>,
}

#[derive(Clone, Copy)]
struct Times {
    /// When the next request has its turn.
    next: Instant,
    /// Until when nobody begins.
    held: Instant,
}

impl Pace {
    /// `per_minute` 0: as they come.
    pub(super) fn new(per_minute: u32) -> Self {
        let apart = if per_minute == 0 { Duration::ZERO } else { Duration::from_secs(60) / per_minute };
        let now = Instant::now();
        Self { apart, times: Mutex::new(Times { next: now, held: now }) }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) {
        let turn = self.change(|times| {
            let turn = times.next.max(Instant::now());
            times.next = turn + self.apart;
            turn
        });
        sleep_until(turn).await;
        // a pause may have been asked for meanwhile, and another during it
        loop {
            let held = self.change(|times| times.held);
            if held <= Instant::now() {
                return;
            }
            sleep_until(held).await;
        }
    }

    /// Nobody begins for a while.
    pub(super) fn hold(&self, pause: Duration) {
        self.change(|times| times.held = times.held.max(Instant::now() + pause));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Times) -> T) -> T {
        change(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_keep_their_distance_and_pauses_hold_everybody() {
        let pace = Pace::new(1200);
        let began = Instant::now();
        for _ in 0..3 {
            pace.turn().await;
        }
        assert!(began.elapsed() >= Duration::from_millis(100));
        let free = Pace::new(0);
        let began = Instant::now();
        free.turn().await;
        free.hold(Duration::from_millis(90));
        free.hold(Duration::from_millis(1));
        tokio::join!(free.turn(), free.turn());
        assert!(began.elapsed() >= Duration::from_millis(90));
    }
}
