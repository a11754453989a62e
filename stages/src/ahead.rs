//! Work in two steps, the first one chunk ahead of the second.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

/// Lets another thread `prepare` each next chunk of `0..count` while this one does `consume` with the one before. No
/// more than two chunks exist at a time. The first error of `consume` ends both.
pub(crate) fn prepared_ahead<T: Send, E>(
    count: usize,
    at_once: usize,
    prepare: impl Fn(Range<usize>) -> T + Send,
    mut consume: impl FnMut(Range<usize>, T) -> Result<(), E>,
) -> Result<(), E> {
    let chunks = |count: usize| {
        let at_once = at_once.max(1);
        (0..count).step_by(at_once).map(move |start| start..(start + at_once).min(count))
    };
    std::thread::scope(|scope| {
        // without a place in between, the thread waits with one chunk until it is taken
        let (give, take) = sync_channel::<T>(0);
        scope.spawn(move || {
            for chunk in chunks(count) {
                if give.send(prepare(chunk)).is_err() {
                    return;
                }
            }
        });
        // in this order: `take` is dropped at the first error, which ends the thread
        chunks(count).zip(take).try_for_each(|(chunk, prepared)| consume(chunk, prepared))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn chunks_come_in_order_and_one_is_ahead() {
        let prepared = AtomicUsize::new(0);
        let mut seen = Vec::new();
        let done: Result<(), ()> = prepared_ahead(
            7,
            2,
            |chunk| {
                prepared.fetch_add(1, Ordering::SeqCst);
                chunk.map(|i| 10 * i).collect::<Vec<_>>()
            },
            |chunk, values| {
                // the next is prepared while this one is held; and never one more than that
                let wanted = (seen.len() + 2).min(4);
                while prepared.load(Ordering::SeqCst) < wanted {
                    std::thread::yield_now();
                }
                assert_eq!(prepared.load(Ordering::SeqCst), wanted);
                seen.push((chunk, values));
                Ok(())
            },
        );
        assert!(done.is_ok());
        assert_eq!(seen, [(0..2, vec![0, 10]), (2..4, vec![20, 30]), (4..6, vec![40, 50]), (6..7, vec![60])]);
    }

    #[test]
    fn an_error_ends_the_preparation_too() {
        let prepared = AtomicUsize::new(0);
        let done = prepared_ahead(
            1_000,
            1,
            |_| prepared.fetch_add(1, Ordering::SeqCst),
            |chunk, _| {
                if chunk.start == 3 { Err("stop") } else { Ok(()) }
            },
        );
        assert_eq!(done, Err("stop"));
        assert!(prepared.load(Ordering::SeqCst) <= 6);
        assert!(prepared_ahead(0, 4, |_| (), |_, ()| Err(())).is_ok(), "nothing to do");
    }
}
