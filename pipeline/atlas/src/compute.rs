//! Where answers are computed: on threads of their own, few at once. Those that serve connections always have time.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

use crate::trouble::Trouble;

/// How much is computed at once. What waits holds at most an uploaded picture.
#[derive(Debug, Clone, Copy)]
pub struct ComputeLimits {
    /// Threads.
    pub threads: usize,
    /// Questions that are computed at once.
    pub at_once: usize,
    /// Questions that may wait; more are refused.
    pub waiting: usize,
    /// How long one may take, waiting included.
    pub time: Duration,
}

/// Threads for answers.
pub struct Compute {
    runtime: Option<Runtime>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    limits: ComputeLimits,
}

impl Compute {
    /// Starts the threads.
    ///
    /// # Errors
    /// Whatever keeps threads from starting.
    pub fn start(limits: ComputeLimits) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(limits.threads.max(1)).thread_name("atlas").enable_all();
        // threads that read local files: as many as the rest of the program has
        let runtime = builder.max_blocking_threads(32).build()?;
        let permits = Arc::new(Semaphore::new(limits.at_once.max(1)));
        Ok(Self { runtime: Some(runtime), permits, waiting: AtomicUsize::new(0), limits })
    }

    /// The threads, for what is opened before anybody asks.
    pub fn handle(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }

    /// Computes an answer when it is its turn. Whoever stops waiting, the work is dropped at its next step.
    ///
    /// # Errors
    /// What the job says; [`Trouble::Busy`] if too many wait, [`Trouble::Slow`] after the time that one may take.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = Result<T, Trouble>> + Send + 'static,
    ) -> Result<T, Trouble> {
        let Some(handle) = self.handle() else { return Err(Trouble::Busy) };
        let until = tokio::time::Instant::now() + self.limits.time;
        let permit = {
            let _place = Place::take(&self.waiting, self.limits.waiting).ok_or(Trouble::Busy)?;
            let turn = tokio::time::timeout_at(until, self.permits.clone().acquire_owned());
            turn.await.map_err(|_| Trouble::Slow)?.map_err(|_| Trouble::Busy)?
        };
        // the permit goes along: what is not stopped yet still counts
        let task = handle.spawn(async move {
            let _permit = permit;
            job.await
        });
        let mut task = Aborted(task);
        match tokio::time::timeout_at(until, &mut task.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(Trouble::Broken(error.to_string())),
            Err(_) => Err(Trouble::Slow),
        }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A place among those that wait.
struct Place<'c>(&'c AtomicUsize);

impl<'c> Place<'c> {
    fn take(waiting: &'c AtomicUsize, most: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::AcqRel);
        let place = Place(waiting);
        (before < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Stopped when nobody waits for it any more.
struct Aborted<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ComputeLimits {
        ComputeLimits { threads: 1, at_once: 2, waiting: 3, time: Duration::from_secs(5) }
    }

    #[tokio::test]
    async fn no_more_run_at_once_than_may_and_the_rest_wait() {
        let compute = Compute::start(limits()).unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let job = |now: Arc<AtomicUsize>, most: Arc<AtomicUsize>| async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        let run = || compute.run(job(now.clone(), most.clone()));
        let all = tokio::join!(run(), run(), run(), run(), run());
        assert_eq!(all, (Ok(()), Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!(most.load(Ordering::SeqCst), 2);
        // two run, three wait, and the sixth is refused
        let refused = tokio::join!(run(), run(), run(), run(), run(), run());
        assert_eq!(refused.5, Err(Trouble::Busy));
        assert_eq!(refused.4, Ok(()));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_stopped_and_makes_room() {
        let limits = ComputeLimits { at_once: 1, time: Duration::from_millis(50), ..limits() };
        let compute = Compute::start(limits).unwrap();
        let forever = compute.run(async {
            std::future::pending::<()>().await;
            Ok(())
        });
        assert_eq!(forever.await, Err(Trouble::Slow));
        assert_eq!(compute.run(async { Ok(7) }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let compute = Compute::start(limits()).unwrap();
        let answer = compute.run::<()>(async { panic!("on purpose") }).await;
        assert!(matches!(answer, Err(Trouble::Broken(_))), "{answer:?}");
    }
}
