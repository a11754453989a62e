//! The snapshot that answers are made from, and how it becomes a newer one.
//!
//! Somebody who asks sets off a look at the store, at most one every few seconds, and does not wait for it. A server that
//! nobody asks makes no requests. What is loaded beside goes on answering until the newer one is whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use workers::WorkerError;

use super::Now;
use super::models::Specs;
use super::snapshot::Opened;
use super::thumbnails::Thumbnails;
use crate::progress::Progress;

/// Builds that are served.
pub struct Served {
    inner: Arc<Inner>,
    pub(super) thumbnails: Thumbnails,
}

struct Inner {
    specs: Specs,
    every: Duration,
    threads: Handle,
    stop: Arc<AtomicBool>,
    now: Mutex<Now>,
    looked: Mutex<Instant>,
    looks: AtomicBool,
}

impl Served {
    /// Opens builds, on the threads where answers are computed. `every`: how often others' commits are looked for.
    /// `stop`: set when the server is to end, also while vectors are made.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for builds that are not finished, [`WorkerError::Stopped`]; tables or a store
    /// that cannot be read.
    pub async fn open(
        specs: Specs,
        every: Duration,
        threads: Handle,
        stop: Arc<AtomicBool>,
        progress: &Progress,
    ) -> Result<Self, WorkerError> {
        let snapshot = Opened::now(&specs, &stop).await?.load(None, progress).await?;
        let inner = Inner {
            specs,
            every,
            threads,
            stop,
            now: Mutex::new(Arc::new(snapshot)),
            looked: Mutex::new(Instant::now()),
            looks: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner), thumbnails: Thumbnails::default() })
    }

    /// How many models search how many images.
    pub fn counts(&self) -> (usize, u64) {
        let now = self.inner.now();
        (now.models.len(), now.catalogue.total)
    }

    pub(super) fn now(&self) -> Now {
        self.inner.look_if_due();
        self.inner.now()
    }
}

impl Inner {
    fn now(&self) -> Now {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look_if_due(self: &Arc<Self>) {
        let is_due = self.looked.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= self.every;
        if !is_due || self.looks.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.clone();
        let look = move || {
            match inner.threads.block_on(inner.look()) {
                // what is loaded stays as it is
                Err(error) if !matches!(error, WorkerError::Stopped) => {
                    tracing::warn!(%error, "the newest versions could not be opened; the older ones are served on");
                }
                _ => {}
            }
            *inner.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            inner.looks.store(false, Ordering::Release);
        };
        // a thread of its own: models are loaded, and vectors may be made
        if std::thread::Builder::new().name("look".into()).spawn(look).is_err() {
            self.looks.store(false, Ordering::Release);
        }
    }

    async fn look(&self) -> Result<(), WorkerError> {
        let older = self.now();
        let opened = Opened::now(&self.specs, &self.stop).await?;
        if opened.state == older.state {
            return Ok(());
        }
        let newer = opened.load(Some(&older), &Progress::new(true)).await?;
        tracing::info!("a newer version of the tables is served");
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(newer);
        Ok(())
    }
}
