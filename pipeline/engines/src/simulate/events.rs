//! What will happen, in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Events yet to come; those of one time in the order in which they were added.
#[derive(Debug)]
pub(super) struct Events<E> {
    heap: BinaryHeap<Reverse<At<E>>>,
    added: u64,
}

#[derive(Debug)]
struct At<E> {
    seconds: f64,
    number: u64,
    event: E,
}

impl<E> Events<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), added: 0 }
    }

    pub(super) fn add(&mut self, seconds: f64, event: E) {
        self.added += 1;
        self.heap.push(Reverse(At { seconds, number: self.added, event }));
    }

    pub(super) fn next(&mut self) -> Option<(f64, E)> {
        self.heap.pop().map(|Reverse(at)| (at.seconds, at.event))
    }
}

impl<E> Ord for At<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.seconds.total_cmp(&other.seconds).then(self.number.cmp(&other.number))
    }
}

impl<E> PartialOrd for At<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for At<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for At<E> {}
