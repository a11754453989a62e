//! The two stores of a build: the source, which is only ever read, and the work store, ours.

mod steady;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use manifests::build::StoreOptions;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, DynObjectStore, GetOptions, GetRange, GetResult, HeaderMap, HeaderValue, ObjectMeta, ObjectStoreExt,
    PutMode, PutOptions, RetryConfig,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::error::WorkerError;
pub(crate) use steady::may_pass;
use steady::{Persistence, Steady};

/// A store, and the folder in it that is ours.
#[derive(Clone)]
pub struct Store {
    store: Arc<DynObjectStore>,
    /// Folder inside of the store.
    root: Path,
    /// Address of the folder, ending with `/`.
    url: Url,
}

/// Opens the store of an address: `file://`, `s3://`, `gs://`, `az://`, `http(s)://`, or a path on
/// this machine. `anonymous` is the default where the options leave it open; `authorization` goes to that HTTP server
/// with every request, and not to another that it redirects to.
fn open(
    address: &str,
    options: &StoreOptions,
    anonymous: bool,
    authorization: Option<HeaderValue>,
) -> Result<Store, WorkerError> {
    let mut url = parse_address(address)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let configuration = |e: object_store::Error| WorkerError::Configuration(format!("store {address}: {e}"));
    let anonymous = options.anonymous.unwrap_or(anonymous);
    let client = ClientOptions::new()
        .with_timeout(Duration::from_secs(options.timeout_seconds))
        .with_connect_timeout(Duration::from_secs(options.timeout_seconds.min(10)))
        .with_allow_http(options.allow_http);
    // tries are counted in one place, below: a client that quietly sends a conditional write again, after an answer was
    // lost, is refused by what it wrote itself
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let host = url.host_str().unwrap_or_default().to_owned();
    let store: Arc<DynObjectStore> = match url.scheme() {
        // what counts is on the disk before anything names it: files and the folders that hold them
        "file" => Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true)),
        "s3" | "s3a" => {
            let mut builder = object_store::aws::AmazonS3Builder::from_env()
                .with_bucket_name(&host)
                .with_client_options(client)
                .with_retry(retry)
                .with_allow_http(options.allow_http)
                .with_skip_signature(anonymous)
                .with_virtual_hosted_style_request(!options.path_style && options.endpoint.is_empty());
            if !options.region.is_empty() {
                builder = builder.with_region(&options.region);
            }
            if !options.endpoint.is_empty() {
                builder = builder.with_endpoint(&options.endpoint);
            }
            Arc::new(builder.build().map_err(configuration)?)
        }
        "gs" => {
            let mut builder = object_store::gcp::GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(&host)
                .with_client_options(client)
                .with_retry(retry)
                .with_skip_signature(anonymous);
            if !options.endpoint.is_empty() {
                builder = builder.with_base_url(&options.endpoint);
            }
            Arc::new(builder.build().map_err(configuration)?)
        }
        "az" | "abfs" | "abfss" | "adl" | "azure" => {
            let mut builder = object_store::azure::MicrosoftAzureBuilder::from_env()
                .with_container_name(&host)
                .with_client_options(client)
                .with_retry(retry)
                .with_allow_http(options.allow_http)
                .with_skip_signature(anonymous);
            if !options.endpoint.is_empty() {
                builder = builder.with_endpoint(options.endpoint.clone());
            }
            Arc::new(builder.build().map_err(configuration)?)
        }
        "http" | "https" => {
            let origin = url.origin().ascii_serialization();
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization {
                headers.insert("authorization", value);
            }
            Arc::new(
                object_store::http::HttpBuilder::new()
                    .with_url(origin)
                    .with_client_options(client.with_allow_http(url.scheme() == "http").with_default_headers(headers))
                    .with_retry(retry)
                    .build()
                    .map_err(configuration)?,
            )
        }
        other => {
            return Err(WorkerError::Configuration(format!(
                "store {address}: unknown scheme {other:?}; use file, s3, gs, az, http or https"
            )));
        }
    };
    let persistence = Persistence {
        tries: options.retries as u32 + 1,
        first_pause: Duration::from_millis(if url.scheme() == "file" { 10 } else { 200 }),
        longest_pause: Duration::from_secs(if url.scheme() == "file" { 1 } else { 10 }),
    };
    let store: Arc<DynObjectStore> = Arc::new(Steady::new(store, persistence));
    let root =
        Path::from_url_path(url.path()).map_err(|e| WorkerError::Configuration(format!("store {address}: {e}")))?;
    Ok(Store { store, root, url })
}

/// An address, or an absolute path as one.
fn parse_address(address: &str) -> Result<Url, WorkerError> {
    let refused = |why: String| WorkerError::Configuration(format!("store {address}: {why}"));
    if !address.contains("://") {
        let folder = manifests::build::real_path(std::path::Path::new(address)).map_err(|e| refused(e.to_string()))?;
        return Url::from_directory_path(&folder).map_err(|()| refused("no usable path".into()));
    }
    let url = Url::parse(address).map_err(|e| refused(e.to_string()))?;
    if let ("file", Some(host)) = (url.scheme(), url.host_str()) {
        return Err(refused(format!(
            "{host} stands where a machine would; write file:///{host}… for a folder at the root, or a plain path"
        )));
    }
    // only the web has them; elsewhere the rest of the name would be cut off
    if !matches!(url.scheme(), "http" | "https") && (url.query().is_some() || url.fragment().is_some()) {
        return Err(refused("write ? as %3F and # as %23".into()));
    }
    Ok(url)
}

impl Store {
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Folder on this machine, if the store is the local file system.
    pub fn local_folder(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    fn path(&self, relative: &str) -> Result<Path, WorkerError> {
        let joined = format!("{}/{}", self.root, relative);
        Path::parse(joined.trim_start_matches('/')).map_err(|e| WorkerError::Broken(format!("path {relative:?}: {e}")))
    }

    /// Size, ETag and time of an object; `None`: it is not there.
    pub async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, WorkerError> {
        match self.store.head(&self.path(path)?).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(WorkerError::of_store(path, e)),
        }
    }

    /// Bytes of a range. With an ETag the object must still be the same.
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

    /// Begins to read a range. A weak ETag is compared here: servers match none by `If-Match`.
    async fn open_range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
        etag: Option<&str>,
    ) -> Result<GetResult, WorkerError> {
        let weak = etag.and_then(|etag| etag.strip_prefix("W/"));
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: etag.filter(|_| weak.is_none()).map(str::to_owned),
            ..GetOptions::default()
        };
        let result =
            self.store.get_opts(&self.path(path)?, options).await.map_err(|e| WorkerError::of_store(path, e))?;
        let now = result.meta.e_tag.as_deref().map(|now| now.trim_start_matches("W/"));
        match weak {
            Some(_) if weak != now => Err(WorkerError::changed(path)),
            _ => Ok(result),
        }
    }

    /// A range as a stream of chunks, for what is too large to hold.
    pub async fn stream_range(
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
            Err(e) => Err(WorkerError::of_store(path, e)),
        }
    }

    /// A whole object; `None`: it is not there. For our own small objects.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, WorkerError> {
        match self.store.get(&self.path(path)?).await {
            Ok(result) => Ok(Some(result.bytes().await.map_err(|e| WorkerError::of_store(path, e))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(WorkerError::of_store(path, e)),
        }
    }

    /// Names of all objects below a folder, relative to it, sorted.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, WorkerError> {
        Ok(self.list_identities(folder).await?.into_iter().map(|(name, _)| name).collect())
    }

    /// Like [`Store::list`], each name with the object's size and time.
    pub async fn list_metas(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, WorkerError> {
        let prefix = self.path(folder)?;
        let listed = self.store.list(Some(&prefix)).map_ok(|meta| {
            let name = meta.location.as_ref()[prefix.as_ref().len()..].trim_start_matches('/').to_owned();
            (name, meta)
        });
        let mut all: Vec<_> = listed.try_collect().await.map_err(|e| WorkerError::of_store(folder, e))?;
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Like [`Store::list`], each name with a text that changes when the object does.
    pub async fn list_identities(&self, folder: &str) -> Result<Vec<(String, String)>, WorkerError> {
        let prefix = self.path(folder)?;
        let mut names: Vec<(String, String)> = self
            .store
            .list(Some(&prefix))
            .map_ok(|meta| {
                let name = meta.location.as_ref()[prefix.as_ref().len()..].trim_start_matches('/').to_owned();
                (name, identity(&meta))
            })
            .try_collect()
            .await
            .map_err(|e| WorkerError::of_store(folder, e))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Names of the objects directly in the folder, sorted; folders end with `/`.
    pub async fn list_top(&self) -> Result<Vec<String>, WorkerError> {
        let listed = self
            .store
            .list_with_delimiter(Some(&self.root))
            .await
            .map_err(|e| WorkerError::of_store(self.url.as_str(), e))?;
        let folders = listed.common_prefixes.iter().filter_map(|p| p.filename().map(|name| format!("{name}/")));
        let objects = listed.objects.iter().filter_map(|m| m.location.filename().map(str::to_owned));
        let mut names: Vec<String> = folders.chain(objects).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// A text that changes when the object does.
pub(crate) fn identity(meta: &ObjectMeta) -> String {
    format!("{:?}|{}|{}", meta.e_tag, meta.size, meta.last_modified)
}

/// The input of a build. There is no way to write through it.
#[derive(Clone)]
pub struct SourceStore(Store);

impl SourceStore {
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

    /// # Errors
    /// A folder of this machine that is not there.
    pub fn required(&self) -> Result<(), WorkerError> {
        match self.local_folder() {
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
    pub fn open(address: &str, options: &StoreOptions) -> Result<Self, WorkerError> {
        let store = open(address, options, false, None)?;
        if matches!(store.url.scheme(), "http" | "https") {
            return Err(WorkerError::Configuration(format!(
                "work store {address}: plain HTTP has no conditional write; use file, s3, gs or az"
            )));
        }
        Ok(WorkStore(store))
    }

    /// The same folder in another store: for tests and benchmarks that put something between.
    pub fn over(self, layer: impl FnOnce(Arc<DynObjectStore>) -> Arc<DynObjectStore>) -> Self {
        WorkStore(Store { store: layer(self.0.store), ..self.0 })
    }

    /// A store in memory, which lies elsewhere as a bucket does.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let url = Url::parse("memory:///").expect("a constant");
        WorkStore(Store { store: Arc::new(object_store::memory::InMemory::new()), root: Path::default(), url })
    }

    /// Whether anything was made there; what only looks must make nothing.
    pub async fn is_there(&self) -> Result<bool, WorkerError> {
        match self.local_folder() {
            Some(folder) => Ok(folder.is_dir()),
            None => {
                let first = self.0.store.list(Some(&self.0.root)).try_next().await;
                Ok(first.map_err(|e| WorkerError::of_store(self.0.url.as_str(), e))?.is_some())
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
            "there is no work store at {place}; look at work.url, or make one with `urbancross run`"
        )))
    }

    /// Makes the folder of a store on this machine.
    pub fn make(&self) -> Result<(), WorkerError> {
        let Some(folder) = self.local_folder() else { return Ok(()) };
        crate::durable::create_folder(&folder)
    }

    /// The store from its root folder on, with an address for it: for the Delta kernel, which takes a `%` above its
    /// tables for an escape, and a `file://` address for a folder below the root of this machine.
    pub fn rooted(&self) -> (Arc<DynObjectStore>, Url) {
        let root = Url::parse("work://store/").expect("a constant");
        (Arc::new(PrefixStore::new(self.0.store.clone(), self.0.root.clone())), root)
    }

    /// The store itself, with absolute paths: for Parquet.
    pub fn object_store(&self) -> Arc<DynObjectStore> {
        self.0.store.clone()
    }

    /// Absolute path inside the store.
    pub fn absolute(&self, relative: &str) -> Result<Path, WorkerError> {
        self.0.path(relative)
    }

    /// Writes an object, whatever was there. Readers see the old or the new one, never a mixture.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), WorkerError> {
        self.0
            .store
            .put(&self.0.path(path)?, bytes.into())
            .await
            .map(|_| ())
            .map_err(|e| WorkerError::of_store(path, e))
    }

    /// Writes an object if there is none; `false`: somebody else was faster.
    pub async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<bool, WorkerError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.0.store.put_opts(&self.0.path(path)?, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(e) => Err(WorkerError::of_store(path, e)),
        }
    }

    pub async fn put_json(&self, path: &str, value: &impl Serialize) -> Result<(), WorkerError> {
        self.put(path, json_bytes(value)).await
    }

    pub async fn put_json_if_absent(&self, path: &str, value: &impl Serialize) -> Result<bool, WorkerError> {
        self.put_if_absent(path, json_bytes(value)).await
    }

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
        match self.get_json(path).await {
            Err(WorkerError::Broken(why)) => {
                tracing::warn!("{why}; it is passed over");
                Ok(None)
            }
            found => found,
        }
    }

    pub async fn delete(&self, path: &str) -> Result<(), WorkerError> {
        match self.0.store.delete(&self.0.path(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(WorkerError::of_store(path, e)),
        }
    }

    /// Does the store keep its word on conditional writes? Creates an object twice, and races
    /// `racers` creations of another: exactly one may win each.
    pub async fn probe_put_if_absent(&self, racers: usize) -> Result<bool, WorkerError> {
        let path = format!("probe/{}", crate::parts::attempt_id());
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

fn json_bytes(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec_pretty(value).expect("plain data serialises"))
}

#[cfg(test)]
mod tests;
