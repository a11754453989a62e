//! A store that is far away: every request takes a while, is counted or timed, and then is answered by the store beneath.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, DynObjectStore, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use pipeline::build::Build;
use workers::stores::WorkStore;

/// How often each object was read, and how many at once.
#[derive(Debug, Default)]
pub struct Reads {
    counts: Mutex<BTreeMap<String, usize>>,
    now: AtomicUsize,
    most_at_once: AtomicUsize,
    writes: Mutex<Vec<(String, Duration)>>,
    listings: AtomicUsize,
    deletions_now: AtomicUsize,
    most_deletions: AtomicUsize,
    refused: Mutex<Option<String>>,
}

impl Reads {
    /// Listings of folders, whatever pages they had.
    pub fn listings(&self) -> usize {
        self.listings.load(Ordering::SeqCst)
    }

    /// Of objects whose path contains `part`.
    pub fn of(&self, part: &str) -> BTreeMap<String, usize> {
        let reads = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        reads.iter().filter(|(path, _)| path.contains(part)).map(|(path, reads)| (path.clone(), *reads)).collect()
    }

    /// Counts from now on what a build reads of its work store.
    pub fn count_of(build: &mut Build) -> Arc<Reads> {
        Self::count_from_afar(build, Duration::ZERO)
    }

    /// The same from a store that takes so long for each request.
    pub fn count_from_afar(build: &mut Build, request: Duration) -> Arc<Reads> {
        let (work, reads) = Self::from_afar(&build.work, request);
        build.work = work;
        reads
    }

    /// A store as it is from afar, and what is read of it there.
    pub fn from_afar(work: &WorkStore, request: Duration) -> (WorkStore, Arc<Reads>) {
        let reads = Arc::new(Reads::default());
        let counted = reads.clone();
        let count = |inner| Arc::new(Distant { inner, request, reads: counted }) as Arc<DynObjectStore>;
        (work.clone().over(count), reads)
    }

    /// Answers no more reads of this object, or of none.
    pub fn refuse(&self, path: Option<&str>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = path.map(str::to_owned);
    }

    fn refuses(&self, location: &Path) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().is_some_and(|path| location.to_string().ends_with(path.as_str()))
    }

    /// What writes took of objects whose path `is` one of these, the shortest first.
    pub fn writes(&self, is: impl Fn(&str) -> bool) -> Vec<Duration> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut took: Vec<Duration> = writes.iter().filter(|(path, _)| is(path)).map(|(_, took)| *took).collect();
        took.sort_unstable();
        took
    }

    /// Reads that waited for their answers at one time, since this was last asked.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.swap(0, Ordering::SeqCst)
    }

    /// Deletions that waited for their answers at one time, since this was last asked.
    pub fn most_deletions_at_once(&self) -> usize {
        self.most_deletions.swap(0, Ordering::SeqCst)
    }

    fn count(&self, location: &Path) {
        let mut reads = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *reads.entry(location.to_string()).or_default() += 1;
    }
}

/// Reads, writes and listings wait; deletions wait for a moment.
#[derive(Debug)]
pub struct Distant {
    pub inner: Arc<DynObjectStore>,
    pub request: Duration,
    pub reads: Arc<Reads>,
}

impl fmt::Display for Distant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from afar", self.inner)
    }
}

impl Distant {
    async fn wait(&self) {
        // even none at all would be rounded up to a millisecond
        if !self.request.is_zero() {
            tokio::time::sleep(self.request).await;
        }
    }

    fn waited<T: Send + 'static>(&self, stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        if self.request.is_zero() {
            return stream;
        }
        futures::stream::once(tokio::time::sleep(self.request))
            .flat_map(move |()| futures::stream::empty())
            .chain(stream)
            .boxed()
    }
}

#[async_trait::async_trait]
impl ObjectStore for Distant {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let began = Instant::now();
        self.wait().await;
        let put = self.inner.put_opts(location, payload, options).await;
        let mut writes = self.reads.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.push((location.to_string(), began.elapsed()));
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.wait().await;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.count(location);
        self.reads.most_at_once.fetch_max(self.reads.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.wait().await;
        self.reads.now.fetch_sub(1, Ordering::SeqCst);
        if self.reads.refuses(location) {
            return Err(Error::Generic { store: "distant", source: "503 slow down".into() });
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (request, reads) = (self.request, self.reads.clone());
        let waited = locations.then(move |location| {
            let reads = reads.clone();
            async move {
                let now = reads.deletions_now.fetch_add(1, Ordering::SeqCst) + 1;
                reads.most_deletions.fetch_max(now, Ordering::SeqCst);
                if !request.is_zero() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                reads.deletions_now.fetch_sub(1, Ordering::SeqCst);
                location
            }
        });
        self.inner.delete_stream(waited.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.reads.listings.fetch_add(1, Ordering::SeqCst);
        self.waited(self.inner.list(prefix))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.wait().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.wait().await;
        self.inner.copy_opts(from, to, options).await
    }
}
