//! Places for processes on this machine, which the tasks of a run share: whoever stands earlier in the run is served first.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many processes may run at once.
pub struct Places {
    all: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Tasks that asked for a place and have to wait for one.
    waiting: BTreeSet<usize>,
}

/// Places that are taken; dropping it gives them back.
pub(super) struct Place {
    places: Arc<Places>,
    number: usize,
}

impl Places {
    /// `all` places, and at least one.
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

    /// Takes so many places for a task, or all where it wants more than there are. `None`: not now; until the task asks again,
    /// or gives up, none that stands behind it gets a place, or one that wants several would never find them free.
    pub(super) fn take(self: &Arc<Self>, task: usize, wanted: usize) -> Option<Place> {
        let (wanted, mut state) = (wanted.clamp(1, self.all), self.state());
        if state.waiting.range(..task).next().is_some() || self.all - state.taken < wanted {
            state.waiting.insert(task);
            return None;
        }
        state.waiting.remove(&task);
        state.taken += wanted;
        Some(Place { places: self.clone(), number: wanted })
    }

    /// A task no longer waits for a place.
    pub(super) fn give_up(&self, task: usize) {
        self.state().waiting.remove(&task);
    }

    /// Is there a place that nobody wants?
    pub fn is_one_idle(&self) -> bool {
        let state = self.state();
        state.taken < self.all && state.waiting.is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.taken = state.taken.saturating_sub(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_processes_than_places_and_the_first_task_is_served_first() {
        let places = Places::new(3);
        assert!(places.is_one_idle());
        let first = places.take(1, 2).unwrap();
        let second = places.take(2, 1).unwrap();
        assert!(places.take(2, 1).is_none() && places.take(0, 2).is_none());
        drop(second);
        assert!(!places.is_one_idle(), "a place is free, and tasks wait");
        assert!(places.take(2, 1).is_none(), "task 0 waits for two, and gets the next");
        assert!(places.take(0, 2).is_none());
        drop(first);
        let wide = places.take(0, 2).unwrap();
        let narrow = places.take(2, 1).unwrap();
        assert!(places.take(3, 1).is_none());
        drop((wide, narrow));
        assert!(!places.is_one_idle());
        places.give_up(3);
        assert!(places.is_one_idle());
        // whoever wants more than there are gets all
        let all = places.take(5, 8).unwrap();
        assert!(places.take(4, 1).is_none());
        drop(all);
        assert!(places.take(4, 1).is_some());
    }
}
