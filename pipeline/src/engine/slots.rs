//! Slots for processes on this machine, which the tasks of a run share: whoever stands earlier in the run is served first.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many processes may run at once.
pub struct Slots {
    all: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Tasks that asked for a slot and have to wait for one.
    waiting: BTreeSet<usize>,
}

/// Slots that are taken; dropping it gives them back.
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: usize,
}

impl Slots {
    /// `all` slots, and at least one.
    pub fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { all: all.max(1), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn all(&self) -> usize {
        self.all
    }

    /// Takes so many slots for a task, or all where it wants more than there are. `None`: not now; until the task asks again,
    /// or gives up, none that stands behind it gets a slot, or one that wants several would never find them free.
    pub(super) fn take(self: &Arc<Self>, task: usize, wanted: usize) -> Option<Slot> {
        let (wanted, mut state) = (wanted.clamp(1, self.all), self.state());
        if state.waiting.range(..task).next().is_some() || self.all - state.taken < wanted {
            state.waiting.insert(task);
            return None;
        }
        state.waiting.remove(&task);
        state.taken += wanted;
        Some(Slot { slots: self.clone(), number: wanted })
    }

    /// A task no longer waits for a slot.
    pub(super) fn give_up(&self, task: usize) {
        self.state().waiting.remove(&task);
    }

    /// Is there a slot that nobody wants?
    pub fn is_one_idle(&self) -> bool {
        let state = self.state();
        state.taken < self.all && state.waiting.is_empty()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        state.taken = state.taken.saturating_sub(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_processes_than_places_and_the_first_task_is_served_first() {
        let slots = Slots::new(3);
        assert!(slots.is_one_idle());
        let first = slots.take(1, 2).unwrap();
        let second = slots.take(2, 1).unwrap();
        assert!(slots.take(2, 1).is_none() && slots.take(0, 2).is_none());
        drop(second);
        assert!(!slots.is_one_idle(), "a slot is free, and tasks wait");
        assert!(slots.take(2, 1).is_none(), "task 0 waits for two, and gets the next");
        assert!(slots.take(0, 2).is_none());
        drop(first);
        let wide = slots.take(0, 2).unwrap();
        let narrow = slots.take(2, 1).unwrap();
        assert!(slots.take(3, 1).is_none());
        drop((wide, narrow));
        assert!(!slots.is_one_idle());
        slots.give_up(3);
        assert!(slots.is_one_idle());
        // whoever wants more than there are gets all
        let all = slots.take(5, 8).unwrap();
        assert!(slots.take(4, 1).is_none());
        drop(all);
        assert!(slots.take(4, 1).is_some());
    }
}
