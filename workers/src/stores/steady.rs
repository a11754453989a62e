//! Retries: the one layer through which every read and write of a store goes.
//!
//! Faults that may pass are tried again with growing, jittered pauses; a body that ends early goes on where it ended; a
//! conditional write whose answer was lost is recognised by its bytes. What is left after that is a fault that lasts.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, DynObjectStore, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};

use crate::backoff::Backoff;
use crate::cause::{may_pass, whole_chain};
use crate::metrics::{self, Metric};
use requests::counted;

/// How often something is tried, and how long the pauses grow.
#[derive(Debug, Clone, Copy)]
pub struct Persistence {
    pub tries: u32,
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Persistence {
    /// The answer to a request that may be sent as often as it takes.
    ///
    /// # Errors
    /// A fault that lasts.
    pub(super) async fn again<T, F: Future<Output = Result<T>>>(
        self,
        op: &'static str,
        mut act: impl FnMut() -> F,
    ) -> Result<T> {
        let mut tries = Tries::of(self);
        loop {
            match counted(op, act()).await {
                Err(error) => tries.pause(error).await?,
                done => return done,
            }
        }
    }
}

/// A store with [`Persistence`].
pub struct Steady {
    inner: Arc<DynObjectStore>,
    persistence: Persistence,
}

impl Steady {
    pub fn new(inner: Arc<DynObjectStore>, persistence: Persistence) -> Self {
        Self { inner, persistence }
    }

    fn tries(&self) -> Tries {
        Tries::of(self.persistence)
    }

    async fn again<T, F: Future<Output = Result<T>>>(&self, op: &'static str, act: impl FnMut() -> F) -> Result<T> {
        self.persistence.again(op, act).await
    }

    /// Does the object hold exactly these bytes? Asked after a conditional write that failed and was then refused.
    async fn holds(&self, location: &Path, payload: &PutPayload) -> Result<Option<PutResult>> {
        let found = self.get_opts(location, GetOptions::default()).await?;
        let meta = found.meta.clone();
        let held = found.bytes().await?;
        let same = held.len() == payload.content_length() && {
            let mut rest = held;
            payload.iter().all(|chunk| rest.split_to(chunk.len()) == chunk)
        };
        Ok(same.then(|| PutResult { e_tag: meta.e_tag, version: meta.version, extensions: Default::default() }))
    }
}

/// Tries that are left.
struct Tries {
    left: u32,
    backoff: Backoff,
}

impl Tries {
    fn of(Persistence { tries, first_pause, longest_pause }: Persistence) -> Self {
        Tries { left: tries, backoff: Backoff::new(first_pause, longest_pause) }
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// The error itself, where it lasts or no try is left.
    async fn pause(&mut self, error: Error) -> Result<()> {
        if self.left <= 1 || !may_pass(&error) {
            return Err(error);
        }
        self.left -= 1;
        metrics::add(Metric::Retries, &[("kind", "store")], 1.0);
        tracing::debug!(error = %whole_chain(&error), "a store failed and is asked again");
        tokio::time::sleep(self.backoff.next()).await;
        Ok(())
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Steady {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let conditional = options.mode != PutMode::Overwrite;
        let mut tries = self.tries();
        let mut failed = false;
        loop {
            match counted("put", self.inner.put_opts(location, payload.clone(), options.clone())).await {
                Err(refusal @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) if conditional && failed => {
                    // perhaps it was ours: an earlier try was carried out and only its answer was lost
                    return self.holds(location, &payload).await?.ok_or(refusal);
                }
                Err(error) => tries.pause(error).await?,
                done => return done,
            }
            failed = true;
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // parts are numbered by the call, so that one cannot be sent again from here: whoever writes starts over
        self.again("multipart", || self.inner.put_multipart_opts(location, options.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { "head" } else { "get" };
        let got = self.again(op, || self.inner.get_opts(location, options.clone())).await?;
        if options.head || !matches!(got.payload, GetResultPayload::Stream(_)) {
            return Ok(got);
        }
        let GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions } = got else {
            return Ok(got);
        };
        let body = Body {
            store: self.inner.clone(),
            location: location.clone(),
            etag: options.if_match.or_else(|| strong(meta.e_tag.as_deref())),
            begun: meta.clone(),
            at: range.start,
            end: range.end,
            stream: Some(body),
            persistence: self.persistence,
            tries: self.tries(),
            since_cut: 0,
        };
        let payload = GetResultPayload::Stream(body.into_stream());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        const GAP_BYTES: u64 = 1 << 20;
        object_store::coalesce_ranges(ranges, |range| self.get_range(location, range), GAP_BYTES).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, persistence) = (self.inner.clone(), self.persistence);
        locations
            .and_then(move |location| {
                let store = Steady::new(inner.clone(), persistence);
                async move {
                    store.again("delete", || store.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = Steady::new(self.inner.clone(), self.persistence);
        let prefix = prefix.cloned();
        let listed =
            async move { store.again("list", || store.inner.list(prefix.as_ref()).try_collect::<Vec<_>>()).await };
        futures::stream::once(listed).map_ok(|all| futures::stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = Steady::new(self.inner.clone(), self.persistence);
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        let listed = async move {
            store.again("list", || store.inner.list_with_offset(prefix.as_ref(), &offset).try_collect::<Vec<_>>()).await
        };
        futures::stream::once(listed).map_ok(|all| futures::stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.again("list", || self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.again("copy", || self.inner.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.again("rename", || self.inner.rename_opts(from, to, options.clone())).await
    }
}

/// An ETag that says whether bytes are the same; a weak one (`W/…`) does not.
pub(crate) fn strong(etag: Option<&str>) -> Option<String> {
    etag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned)
}

/// An ETag as all answers of a store have it: some are marked as weak, and some listings leave the quotes out.
pub(crate) fn bare(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// Are these the same object, as far as a store tells?
fn is_same(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    match (&one.e_tag, &other.e_tag) {
        (Some(one), Some(other)) => bare(one) == bare(other),
        _ => (one.size, one.last_modified) == (other.size, other.last_modified),
    }
}

/// A body that goes on where it was cut.
struct Body {
    store: Arc<DynObjectStore>,
    location: Path,
    etag: Option<String>,
    /// The object whose first bytes were had.
    begun: ObjectMeta,
    at: u64,
    end: u64,
    stream: Option<BoxStream<'static, Result<Bytes>>>,
    persistence: Persistence,
    tries: Tries,
    /// Bytes that came since it was cut last.
    since_cut: u64,
}

/// A cut body that has brought so much more is tried as often again: a request may take no longer than its time-out, however large
/// the object.
const PROGRESS_BYTES: u64 = 1 << 20;

impl Body {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::try_unfold(self, |mut body| async move { Ok(body.next().await?.map(|chunk| (chunk, body))) })
            .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            let failure = match &mut self.stream {
                Some(stream) => match stream.next().await {
                    Some(Ok(chunk)) => {
                        self.at += chunk.len() as u64;
                        self.since_cut += chunk.len() as u64;
                        return Ok(Some(chunk));
                    }
                    Some(Err(error)) => error,
                    None => Error::Generic {
                        store: "store",
                        source: format!("{}: its body ended {} bytes early", self.location, self.end - self.at).into(),
                    },
                },
                None => match self.reopen().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.stream = None;
            if self.since_cut >= PROGRESS_BYTES {
                self.tries = Tries::of(self.persistence);
            }
            self.since_cut = 0;
            self.tries.pause(failure).await?;
        }
    }

    async fn reopen(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let range = Some(GetRange::Bounded(self.at..self.end));
        let options = GetOptions { range, if_match: self.etag.clone(), ..GetOptions::default() };
        let got = counted("get", self.store.get_opts(&self.location, options)).await?;
        if got.range.start != self.at {
            let why = format!("{}: asked for bytes from {}, got them from {}", self.location, self.at, got.range.start);
            return Err(Error::NotSupported { source: why.into() });
        }
        // a store that knows no strong ETag compares nothing by itself
        if !is_same(&self.begun, &got.meta) {
            let why = format!("{}: it was written anew while it was read", self.location);
            return Err(Error::Precondition { path: self.location.to_string(), source: why.into() });
        }
        Ok(got.into_stream())
    }
}

mod requests;
#[cfg(test)]
mod tests;
