//! A simulated worker: shards under way that share its device, and slots that take the next ones.

use std::collections::VecDeque;

/// Shards under way in one worker: one for its device, and two around it that are fetched and written.
pub(super) const SLOTS: usize = 3;

/// A worker, which begins anew in every life.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// Rises when its node fails; what was to happen in an earlier life does not.
    pub(super) life: u32,
    /// Shards that were open at its last look, in the order in which it wants them.
    pub(super) queue: VecDeque<usize>,
    /// Slots that want a shard. One takes at a time.
    pub(super) takers: VecDeque<usize>,
    /// A slot is looking or claiming.
    pub(super) taking: bool,
    /// Nothing was open: it waits.
    pub(super) idle: bool,
    /// When the shards under way change next is told by an event with this number; others are out of date.
    pub(super) turn: u32,
    /// When its network was loaded, and its beats began.
    pub(super) began: f64,
    held: Vec<Held>,
    since: f64,
    /// Seconds that its device computed, over all lives.
    pub(super) busy: f64,
}

/// A shard under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) slot: usize,
    pub(super) shard: usize,
    /// Seconds of the device that it still needs.
    pub(super) left: f64,
    /// Since when it has it.
    pub(super) claimed: f64,
}

impl Worker {
    /// Time passes: chunks of all shards under way take turns on the device.
    fn advance(&mut self, now: f64) {
        let (elapsed, shards) = (now - self.since, self.held.len() as f64);
        self.since = now;
        if !self.held.is_empty() {
            self.busy += elapsed;
            self.held.iter_mut().for_each(|held| held.left -= elapsed / shards);
        }
    }

    /// Begins with a shard.
    pub(super) fn hold(&mut self, now: f64, held: Held) {
        self.advance(now);
        self.held.push(held);
    }

    /// When the next shard is done, if none comes or goes before.
    pub(super) fn next_finish(&self) -> Option<f64> {
        let least = self.held.iter().map(|held| held.left).min_by(f64::total_cmp)?;
        Some(self.since + least.max(0.0) * self.held.len() as f64)
    }

    /// Ends the shard that has least left.
    pub(super) fn finish(&mut self, now: f64) -> Option<Held> {
        self.advance(now);
        let least = (0..self.held.len()).min_by(|&a, &b| self.held[a].left.total_cmp(&self.held[b].left))?;
        Some(self.held.swap_remove(least))
    }

    /// Its node fails; what it had under way.
    pub(super) fn die(&mut self, now: f64) -> Vec<Held> {
        self.advance(now);
        let held = std::mem::take(&mut self.held);
        *self = Self { life: self.life + 1, busy: self.busy, ..Self::default() };
        held
    }
}
