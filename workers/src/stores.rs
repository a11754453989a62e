//! The two stores of a build: the source, which is only ever read, and the work store, ours.

mod address;
mod obstacle;
mod pieces;
mod sealed;
mod steady;
mod work;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use manifests::spec::StoreOptions;
use object_store::path::Path;
use object_store::{DynObjectStore, GetOptions, GetRange, GetResult, HeaderValue, ObjectMeta, ObjectStoreExt};
use url::Url;

use crate::error::WorkerError;
pub(crate) use address::is_loopback;
use address::open;
use pieces::Pieces;
pub use sealed::Hint;
pub(crate) use steady::bare;
pub use work::WorkStore;

/// A store, and the folder in it that is ours.
#[derive(Clone)]
pub struct Store {
    store: Arc<DynObjectStore>,
    /// The same one for large files; `None`: it takes them whole.
    pieces: Option<Pieces>,
    /// Folder inside of the store.
    root: Path,
    /// Address of the folder, ending with `/`.
    url: Url,
    /// Whether it is asked by nobody in particular.
    is_anonymous: bool,
}

impl Store {
    /// Address of the store, with a `/` at its end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Folder on this machine, if the store is the local file system.
    pub fn local_folder(&self) -> Option<std::path::PathBuf> {
        let folder = (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()?;
        // without the slash at its end
        Some(folder.components().collect())
    }

    fn path(&self, relative: &str) -> Result<Path, WorkerError> {
        let joined = format!("{}/{}", self.root, relative);
        Path::parse(joined.trim_start_matches('/')).map_err(|e| WorkerError::Broken(format!("path {relative:?}: {e}")))
    }

    /// What keeps an object of this machine from being read or written, and what to do about it; a path that ends with
    /// `/` is that of a folder.
    pub(crate) fn obstacle(&self, path: &str) -> Option<String> {
        obstacle::find(&self.local_folder()?, path)
    }

    /// Sorts an error of the store; `path` says which object was wanted.
    fn fault(&self, path: &str, error: object_store::Error) -> WorkerError {
        match self.obstacle(path) {
            Some(why) => WorkerError::Configuration(why),
            None => self.sorted(path, error),
        }
    }

    /// Sorts an error of the store; `what` was wanted.
    fn sorted(&self, what: &str, error: object_store::Error) -> WorkerError {
        use object_store::Error as E;
        match &error {
            E::PermissionDenied { path, .. } | E::Unauthenticated { path, .. } if self.is_anonymous => {
                let help = match self.url.scheme() {
                    "http" | "https" => "of web servers only public files are read",
                    _ => "set some in the environment, and options = { anonymous = false }",
                };
                WorkerError::Refused(format!(
                    "{what}: the store refuses access to {path} (403); it was asked without credentials: {help}"
                ))
            }
            _ => WorkerError::of_store(what, error),
        }
    }

    /// Size, ETag and time of an object; `None`: it is not there.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, WorkerError> {
        match self.store.head(&self.path(path)?).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.fault(path, e)),
        }
    }

    /// Bytes of a range. With an ETag the object must still be there, and the same.
    ///
    /// # Errors
    /// [`WorkerError::Outdated`] if the object has another ETag or is gone, [`WorkerError::Transient`] if the store does not answer.
    pub async fn get_range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
        etag: Option<&str>,
    ) -> Result<Bytes, WorkerError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let result = self.open_range(path, range, etag).await?;
        result.bytes().await.map_err(|e| WorkerError::of_store(path, e))
    }

    /// Do two ETags say that an object is the same? Those of files begin with the number by which a file system knows them, which is
    /// another one for the same file on another machine.
    pub(crate) fn is_same(&self, listed: &str, now: &str) -> bool {
        let (listed, now) = (bare(listed), bare(now));
        match (self.url.scheme(), listed.split_once('-'), now.split_once('-')) {
            ("file", Some((_, listed)), Some((_, now))) => listed == now,
            _ => listed == now,
        }
    }

    /// Whether an object is still the one that was listed; `None`: nothing tells.
    pub(crate) fn is_still(&self, listed: &str, now: &ObjectMeta) -> Option<bool> {
        if listed.starts_with(SIZE_AND_TIME) {
            return Some(listed == size_and_time(now));
        }
        now.e_tag.as_deref().map(|now| self.is_same(listed, now))
    }

    /// Begins to read a range. ETags of files, weak ones, which servers match by no `If-Match`, and what stands for one
    /// are compared here.
    async fn open_range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
        etag: Option<&str>,
    ) -> Result<GetResult, WorkerError> {
        let is_unsent = |etag: &&str| etag.starts_with("W/") || etag.starts_with(SIZE_AND_TIME);
        let compared = etag.filter(|etag| is_unsent(etag) || self.url.scheme() == "file");
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: etag.filter(|_| compared.is_none()).map(str::to_owned),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(&self.path(path)?, options).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } if etag.is_some() => WorkerError::gone(path),
            error => self.fault(path, error),
        })?;
        match compared {
            Some(listed) if self.is_still(listed, &result.meta) != Some(true) => Err(WorkerError::changed(path)),
            _ => Ok(result),
        }
    }

    /// A range as a stream of chunks, for what is too large to hold.
    pub(crate) async fn stream_range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
        etag: Option<&str>,
    ) -> Result<impl futures::Stream<Item = Result<Bytes, WorkerError>> + Unpin + use<>, WorkerError> {
        let result = self.open_range(path, range, etag).await?;
        let path = path.to_owned();
        Ok(result.into_stream().map_err(move |e| WorkerError::of_store(&path, e)))
    }

    /// A whole object as a stream of chunks; `None`: it is not there.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn stream(
        &self,
        path: &str,
    ) -> Result<Option<impl futures::Stream<Item = Result<Bytes, WorkerError>> + Unpin + use<>>, WorkerError> {
        match self.store.get(&self.path(path)?).await {
            Ok(result) => {
                let path = path.to_owned();
                Ok(Some(result.into_stream().map_err(move |e| WorkerError::of_store(&path, e))))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.fault(path, e)),
        }
    }

    /// A whole object; `None`: it is not there. For our own small objects.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, WorkerError> {
        match self.store.get(&self.path(path)?).await {
            Ok(result) => Ok(Some(result.bytes().await.map_err(|e| WorkerError::of_store(path, e))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.fault(path, e)),
        }
    }

    /// Names of all objects below a folder, relative to it, sorted.
    ///
    /// # Errors
    /// A store that does not answer or lets nobody in.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, WorkerError> {
        Ok(self.list_metas(folder).await?.into_iter().map(|(name, _)| name).collect())
    }

    /// Like [`Store::list`], each name with the object's size, ETag and time.
    pub(crate) async fn list_metas(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, WorkerError> {
        let prefix = self.path(folder)?;
        let listed = self.store.list(Some(&prefix)).map_ok(|meta| {
            let name = meta.location.as_ref()[prefix.as_ref().len()..].trim_start_matches('/').to_owned();
            (name, meta)
        });
        let mut all: Vec<_> = listed.try_collect().await.map_err(|e| self.fault(&format!("{folder}/"), e))?;
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Names of the objects directly in the folder, sorted; folders end with `/`.
    pub(crate) async fn list_top(&self) -> Result<Vec<String>, WorkerError> {
        let listed =
            self.store.list_with_delimiter(Some(&self.root)).await.map_err(|e| self.sorted(self.url.as_str(), e))?;
        let folders = listed.common_prefixes.iter().filter_map(|p| p.filename().map(|name| format!("{name}/")));
        let objects = listed.objects.iter().filter_map(|m| m.location.filename().map(str::to_owned));
        let mut names: Vec<String> = folders.chain(objects).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// Begins what stands for the ETag of an object that has none.
const SIZE_AND_TIME: &str = "T/";

fn size_and_time(meta: &ObjectMeta) -> String {
    format!("{SIZE_AND_TIME}{}-{}", meta.size, meta.last_modified.timestamp())
}

/// By what an object is known again: its ETag, or where the store gives none its size and time. A time of just now may
/// be that of the answer.
pub(crate) fn tag(meta: &ObjectMeta) -> Option<String> {
    const JUST_NOW: Duration = Duration::from_secs(60);
    let is_settled = SystemTime::from(meta.last_modified).elapsed().is_ok_and(|age| age > JUST_NOW);
    meta.e_tag.clone().or_else(|| is_settled.then(|| size_and_time(meta)))
}

/// A text that changes when the object does.
pub(crate) fn identity(meta: &ObjectMeta) -> String {
    format!("{:?}|{}|{}", meta.e_tag, meta.size, meta.last_modified)
}

/// The input of a build. There is no way to write through it.
#[derive(Clone)]
pub struct SourceStore(Store);

impl SourceStore {
    /// Opens a source that is only read; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for an address or options that name no store.
    pub fn open(address: &str, options: &StoreOptions) -> Result<Self, WorkerError> {
        open(address, options, true, None).map(SourceStore)
    }

    /// As [`open`](Self::open), for a server that knows its visitors by a header.
    pub(crate) fn open_as(
        address: &str,
        options: &StoreOptions,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, WorkerError> {
        open(address, options, true, authorization).map(SourceStore)
    }

    /// A source in any store, which is asked again as all are.
    #[cfg(test)]
    pub(crate) fn over(store: Arc<DynObjectStore>) -> Self {
        let pause = std::time::Duration::from_millis(1);
        let persistence = steady::Persistence { tries: 3, first_pause: pause, longest_pause: pause };
        let url = Url::parse("memory:///").expect("a constant");
        let store = Arc::new(steady::Steady::new(store, persistence));
        SourceStore(Store { store, pieces: None, root: Path::default(), url, is_anonymous: true })
    }

    /// # Errors
    /// A folder of this machine that is not there.
    pub fn required(&self) -> Result<(), WorkerError> {
        match self.local_folder() {
            Some(folder) if folder.is_file() => Err(WorkerError::Configuration(format!(
                "source.url: {} is a file; name the folder that holds it",
                folder.display()
            ))),
            Some(folder) if !folder.is_dir() => Err(WorkerError::Configuration(format!(
                "source.url: there is no folder {}; a path in a spec starts at the spec's folder, one of --set at the \
                 current folder",
                folder.display()
            ))),
            _ => Ok(()),
        }
    }
}

impl std::ops::Deref for SourceStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.0
    }
}

#[cfg(test)]
mod tests;
