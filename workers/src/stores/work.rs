//! The store that a build writes to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use manifests::spec::StoreOptions;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{DynObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::pieces::{Pieces, piece_bytes};
use super::steady::Persistence;
use super::{Store, identity, open};
use crate::error::WorkerError;

/// Tables, plans, markers, checkpoints and reports.
#[derive(Clone)]
pub struct WorkStore(Store);

impl std::ops::Deref for WorkStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.0
    }
}

impl WorkStore {
    /// Opens a store that is written to; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for an address or options that name no store, or one that cannot be written to.
    pub fn open(address: &str, options: &StoreOptions) -> Result<Self, WorkerError> {
        let store = open(address, options, false, None)?;
        if matches!(store.url.scheme(), "http" | "https") {
            return Err(WorkerError::Configuration(format!(
                "work store {address}: plain HTTP has no conditional write; use file, s3, gs or az"
            )));
        }
        match store.local_folder().as_deref().and_then(file_in_the_way) {
            Some(file) => Err(WorkerError::Configuration(format!(
                "work.url: {} is a file, not a folder; name another place",
                file.display()
            ))),
            None => Ok(WorkStore(store)),
        }
    }

    /// The same folder in another store: for tests and benchmarks that put something between. Files that go in pieces
    /// go past it.
    pub fn over(self, layer: impl FnOnce(Arc<DynObjectStore>) -> Arc<DynObjectStore>) -> Self {
        WorkStore(Store { store: layer(self.0.store), ..self.0 })
    }

    /// A store in memory, which lies elsewhere as a bucket does.
    pub(crate) fn in_memory() -> Self {
        let url = Url::parse("memory:///").expect("a constant");
        let store = Arc::new(object_store::memory::InMemory::new());
        let persistence = Persistence { tries: 1, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };
        let pieces = Some(Pieces { store: store.clone(), persistence });
        WorkStore(Store { store, pieces, root: Path::default(), url, is_anonymous: false })
    }

    /// Whether anything was made there; what only looks must make nothing.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn is_there(&self) -> Result<bool, WorkerError> {
        match self.local_folder() {
            Some(folder) => Ok(folder.is_dir()),
            None => {
                let first = self.0.store.list(Some(&self.0.root)).try_next().await;
                Ok(first.map_err(|e| self.0.sorted(self.0.url.as_str(), e))?.is_some())
            }
        }
    }

    /// # Errors
    /// A store that nobody has made yet.
    pub async fn required(&self) -> Result<(), WorkerError> {
        if self.is_there().await? {
            return Ok(());
        }
        let place = self.local_folder().map_or_else(|| self.0.url.to_string(), |folder| folder.display().to_string());
        Err(WorkerError::Configuration(format!(
            "there is no work store at {place}; look at work.url, or create one with `urbancross run`"
        )))
    }

    /// Makes the folder of a store on this machine.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] if the path cannot be a folder, [`WorkerError::DiskFull`].
    pub fn make(&self) -> Result<(), WorkerError> {
        let Some(folder) = self.local_folder() else { return Ok(()) };
        crate::durable::create_folder(&folder).map_err(|error| match error {
            WorkerError::Configuration(why) => WorkerError::Configuration(format!(
                "work.url: no folder can be created there: {why}; name one that you may write to"
            )),
            other => other,
        })
    }

    /// The store from its root folder on, with an address for it: for the Delta kernel, which takes a `%` above its
    /// tables for an escape, and a `file://` address for a folder below the root of this machine.
    pub(crate) fn rooted(&self) -> (Arc<DynObjectStore>, Url) {
        let root = Url::parse("work://store/").expect("a constant");
        (Arc::new(PrefixStore::new(self.0.store.clone(), self.0.root.clone())), root)
    }

    /// The store itself, with absolute paths: for Parquet.
    pub(crate) fn object_store(&self) -> Arc<DynObjectStore> {
        self.0.store.clone()
    }

    /// Absolute path inside the store.
    pub(crate) fn absolute(&self, relative: &str) -> Result<Path, WorkerError> {
        self.0.path(relative)
    }

    /// Writes an object, whatever was there. Readers see the old or the new one, never a mixture.
    ///
    /// # Errors
    /// [`WorkerError::DiskFull`]; a store that does not answer or lets nobody in.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), WorkerError> {
        self.0.store.put(&self.0.path(path)?, bytes.into()).await.map(|_| ()).map_err(|e| self.0.fault(path, e))
    }

    /// Writes an object from a file of this machine, whatever was there; a large one in pieces.
    ///
    /// # Errors
    /// As [`put`](Self::put), and what keeps the file from being read.
    pub(crate) async fn put_file(&self, path: &str, file: &std::path::Path) -> Result<(), WorkerError> {
        let unread = |e: std::io::Error| WorkerError::of_io(file, &e);
        let opened = std::fs::File::open(file).map_err(unread)?;
        let bytes = opened.metadata().map_err(unread)?.len();
        match self.0.pieces.clone().zip(piece_bytes(bytes)) {
            Some((pieces, piece_bytes)) => {
                let before = self.head(path).await?.map(|meta| identity(&meta));
                let Err(error) = pieces.put(self.0.path(path)?, opened, piece_bytes).await else { return Ok(()) };
                // its last request may have done its work, and the answer was lost
                match self.head(path).await? {
                    Some(meta) if meta.size == bytes && Some(identity(&meta)) != before => Ok(()),
                    _ => Err(self.0.fault(path, error)),
                }
            }
            None => self.put(path, std::fs::read(file).map_err(unread)?.into()).await,
        }
    }

    /// Writes an object if there is none; `false`: somebody else was faster.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<bool, WorkerError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.0.store.put_opts(&self.0.path(path)?, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                // a folder of this name is no object
                self.0.obstacle(path).map_or(Ok(false), |why| Err(WorkerError::Configuration(why)))
            }
            Err(e) => Err(self.0.fault(path, e)),
        }
    }

    /// Writes an object as JSON, whatever was there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_json(&self, path: &str, value: &impl Serialize) -> Result<(), WorkerError> {
        self.put(path, json_bytes(value)).await
    }

    /// Writes an object as JSON if there is none; `false`: somebody else was faster.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_json_if_absent(&self, path: &str, value: &impl Serialize) -> Result<bool, WorkerError> {
        self.put_if_absent(path, json_bytes(value)).await
    }

    /// Reads an object of JSON; `None`: it is not there.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] if it is no JSON of this kind; a store that does not answer.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, WorkerError> {
        let Some(bytes) = self.get(path).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            WorkerError::Broken(format!(
                "{}{path} is not what this version writes ({e}); delete it and run again",
                self.0.url
            ))
        })
    }

    /// An object that only saves work: one that cannot be read is as good as none.
    ///
    /// # Errors
    /// Only where the store does not answer.
    pub async fn get_hint<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, WorkerError> {
        let Some(bytes) = self.hint_bytes(path).await? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        Ok(read.inspect_err(|error| self.pass_over(path, &error.to_string())).ok())
    }

    /// The bytes of a hint; `None` too where something else lies in its place.
    pub(super) async fn hint_bytes(&self, path: &str) -> Result<Option<Bytes>, WorkerError> {
        match self.get(path).await {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            other => match self.obstacle(path) {
                Some(why) => {
                    tracing::warn!("{why}; until then {path} counts as absent");
                    Ok(None)
                }
                None => other,
            },
        }
    }

    /// Says once that a hint counts as absent: whoever writes it next replaces it.
    pub(super) fn pass_over(&self, path: &str, why: &str) {
        tracing::warn!(
            "{}{path} cannot be read ({why}): it counts as absent until the next run replaces it",
            self.url()
        );
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn delete(&self, path: &str) -> Result<(), WorkerError> {
        match self.0.store.delete(&self.0.path(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.0.fault(path, e)),
        }
    }

    /// The store's clock, which writes the times of objects, in milliseconds since 1970. It is asked with an object.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(crate) async fn now_millis(&self) -> Result<i64, WorkerError> {
        let path = format!("probe/clock-{}", crate::attempt::id());
        self.put(&path, Bytes::new()).await?;
        let meta = self.head(&path).await?;
        self.delete(&path).await?;
        meta.map(|meta| meta.last_modified.timestamp_millis())
            .ok_or_else(|| WorkerError::Transient(format!("{}{path} is gone as soon as it is written", self.0.url)))
    }

    /// Does the store keep its word on conditional writes? Creates an object twice, and races
    /// `racers` creations of another: exactly one may win each.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn probe_put_if_absent(&self, racers: usize) -> Result<bool, WorkerError> {
        let path = format!("probe/{}", crate::attempt::id());
        let race = format!("{path}-race");
        let first = self.put_if_absent(&path, Bytes::from_static(b"1")).await?;
        let second = self.put_if_absent(&path, Bytes::from_static(b"2")).await?;
        let wins =
            futures::future::try_join_all((0..racers).map(|i| self.put_if_absent(&race, Bytes::from(i.to_string()))))
                .await;
        self.delete(&path).await?;
        self.delete(&race).await?;
        Ok(first && !second && wins?.into_iter().filter(|w| *w).count() == 1)
    }
}

/// What stands where a folder is to be, or above it, and is none.
fn file_in_the_way(folder: &std::path::Path) -> Option<&std::path::Path> {
    folder.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir())
}

fn json_bytes(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec_pretty(value).expect("plain data serialises"))
}
