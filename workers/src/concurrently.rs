//! Several shards read at once.

use std::future::Future;

use futures::{Stream, StreamExt};

use crate::error::WorkerError;

/// What some futures give, in their order. `at_once` of them are at work, each on a task of its own, since reading a part
/// is decoding it. An error says `what` they do where one of them ends without an answer.
///
/// At most `at_once` answers wait to be taken, so what the caller keeps of them bounds the memory.
pub fn in_order<F, T>(
    futures: impl IntoIterator<Item = F>,
    at_once: usize,
    what: &'static str,
) -> impl Stream<Item = Result<T, WorkerError>>
where
    F: Future<Output = Result<T, WorkerError>> + Send + 'static,
    T: Send + 'static,
{
    futures::stream::iter(futures)
        .map(move |future| {
            let mut task = Ended(tokio::spawn(future));
            async move { (&mut task.0).await.map_err(|e| WorkerError::Broken(format!("{what}: {e}")))? }
        })
        .buffered(at_once.max(1))
}

/// A task that ends when nobody waits for it any more.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn answers_come_in_order_from_a_few_at_once() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let futures = (0..20_u64).map(|i| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20 - i)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(i)
            }
        });
        let all: Vec<u64> = in_order(futures, 4, "a test").try_collect().await.unwrap();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn who_has_enough_leaves_nobody_at_work() {
        let done = Arc::new(AtomicUsize::new(0));
        let futures = (0..20_u64).map(|i| {
            let done = done.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(i * 50)).await;
                done.fetch_add(1, Ordering::SeqCst);
                Ok(i)
            }
        });
        let mut answers = Box::pin(in_order(futures, 8, "a test"));
        assert_eq!(answers.try_next().await.unwrap(), Some(0));
        drop(answers);
        let then = done.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(done.load(Ordering::SeqCst), then);
    }

    #[tokio::test]
    async fn the_first_error_ends_it() {
        let futures =
            (0..3).map(|i| async move { if i == 1 { Err(WorkerError::Broken("the second".into())) } else { Ok(i) } });
        let error = in_order(futures, 2, "a test").try_collect::<Vec<i32>>().await.unwrap_err();
        assert_eq!(error.to_string(), "the second");
    }
}
