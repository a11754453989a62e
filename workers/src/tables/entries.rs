//! Entries of a Delta log, read once: they never change, and a torn one must not pass for an empty one. A log that lies
//! in the place of another one is found out where it is listed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, DynObjectStore, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::cause::TornEntry;
use crate::stores::identity;

/// Bytes of entries that are kept; what comes after is read again each time.
const MOST_BYTES: usize = 32 << 20;

/// A store whose log entries are checked and kept.
pub(super) struct LogEntries {
    inner: Arc<DynObjectStore>,
    /// Files that are taken for absent.
    hidden: Arc<HashSet<Path>>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<Path, (Bytes, ObjectMeta)>,
    bytes: usize,
    /// The newest entry of each log, of those that were listed.
    newest: HashMap<Path, ObjectMeta>,
    /// How often another log was found in the place of each.
    times_anew: HashMap<Path, u64>,
}

impl LogEntries {
    pub(super) fn new(inner: Arc<DynObjectStore>, hidden: HashSet<Path>) -> Self {
        Self { inner, hidden: Arc::new(hidden), kept: Arc::default() }
    }

    /// How often a listing has found another log in the place of this one: its folder was moved away, and the table made
    /// anew. What was known of it before is of no use.
    pub(super) fn times_anew(&self, log: &Path) -> u64 {
        self.kept.lock().map_or(0, |kept| kept.times_anew.get(log).copied().unwrap_or(0))
    }
}

impl Kept {
    /// Learns from a listing of a log, which begins at the latest with what was its newest entry `before`.
    fn learn(&mut self, log: &Path, before: Option<&ObjectMeta>, listed: &[ObjectMeta]) {
        let is_before = |meta: &ObjectMeta, before: &ObjectMeta| {
            meta.location == before.location && identity(meta) == identity(before)
        };
        if before.is_some_and(|before| !listed.iter().any(|meta| is_before(meta, before))) {
            *self.times_anew.entry(log.clone()).or_default() += 1;
            self.newest.remove(log);
            self.entries.retain(|path, _| !path.prefix_matches(log));
            self.bytes = self.entries.values().map(|(bytes, _)| bytes.len()).sum();
        }
        let newest = listed.iter().filter(|meta| is_entry(&meta.location)).max_by(|a, b| a.location.cmp(&b.location));
        // another listing may have come later and ended earlier
        let known = self.newest.get(log).map(|meta| &meta.location);
        if let Some(newest) = newest.filter(|newest| known < Some(&newest.location)) {
            self.newest.insert(log.clone(), newest.clone());
        }
    }
}

/// Is this `…/_delta_log/00000000000000000017.json`?
fn is_entry(location: &Path) -> bool {
    let mut parts = location.as_ref().rsplit('/');
    let version = parts.next().and_then(|name| name.strip_suffix(".json"));
    version.is_some_and(|v| v.len() == 20 && v.bytes().all(|b| b.is_ascii_digit()))
        && parts.next() == Some("_delta_log")
}

/// Each line of an entry is a JSON object. A power cut or a full disk of others leaves fewer bytes, or zeros.
fn is_whole(entry: &[u8]) -> bool {
    let lines: Vec<&[u8]> = entry.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    !lines.is_empty() && lines.iter().all(|line| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok())
}

impl fmt::Display for LogEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for LogEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for LogEntries {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.hidden.contains(location) {
            return Err(Error::NotFound { path: location.to_string(), source: "it is hidden".into() });
        }
        if options.head || options.range.is_some() || !is_entry(location) {
            return self.inner.get_opts(location, options).await;
        }
        let kept = self.kept.lock().ok().and_then(|kept| kept.entries.get(location).cloned());
        let (bytes, meta) = match kept {
            Some(kept) => kept,
            None => {
                let got = self.inner.get_opts(location, options).await?;
                let meta = got.meta.clone();
                let bytes = got.bytes().await?;
                if !is_whole(&bytes) {
                    let torn = TornEntry { location: location.to_string(), bytes: bytes.len() };
                    return Err(Error::NotSupported { source: Box::new(torn) });
                }
                if let Ok(mut kept) = self.kept.lock()
                    && kept.bytes + bytes.len() <= MOST_BYTES
                {
                    kept.bytes += bytes.len();
                    kept.entries.insert(location.clone(), (bytes.clone(), meta.clone()));
                }
                (bytes, meta)
            }
        };
        let range = 0..bytes.len() as u64;
        let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    /// Sorted: the kernel relies on that, and the file system does not.
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let log = prefix.cloned().unwrap_or_default();
        let before = self.kept.lock().ok().and_then(|kept| kept.newest.get(&log).cloned());
        // in the same request
        let from = before.as_ref().and_then(|before| before.location.as_ref().strip_suffix(".json"));
        let from = from.map(Path::from).filter(|from| from < offset);
        let listed = self.inner.list_with_offset(prefix, from.as_ref().unwrap_or(offset));
        let (hidden, kept, offset) = (self.hidden.clone(), self.kept.clone(), offset.clone());
        let sorted = listed.try_collect::<Vec<ObjectMeta>>().map_ok(move |mut all| {
            if let Ok(mut kept) = kept.lock() {
                kept.learn(&log, before.as_ref(), &all);
            }
            all.retain(|meta| meta.location > offset && !hidden.contains(&meta.location));
            all.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            futures::stream::iter(all.into_iter().map(Ok))
        });
        sorted.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commits_are_entries_and_only_whole_ones_pass() {
        assert!(is_entry(&Path::from("a/tables/x/_delta_log/00000000000000000017.json")));
        for other in ["_delta_log/00000000000000000010.checkpoint.parquet", "_delta_log/_last_checkpoint", "x/17.json"]
        {
            assert!(!is_entry(&Path::from(other)), "{other}");
        }
        assert!(is_whole(b"{\"commitInfo\":{}}\n{\"add\":{}}\n"));
        for torn in [&b""[..], b"\n", b"\0\0\0\0", b"{\"commitInfo\":{}}\n{\"add\":{\"pa"] {
            assert!(!is_whole(torn));
        }
    }
}
