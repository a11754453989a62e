//! Objects that change while they are read: what was listed is had whole, or nothing of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::*;
use crate::archive::MemberPlace;
use crate::stores::bare;

/// What a store says of its objects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tags {
    Strong,
    Weak,
    None,
}

/// A store in which an object is written anew before a request for its bytes.
#[derive(Debug)]
struct Changing {
    inner: InMemory,
    tags: Tags,
    /// Requests for bytes that come before.
    change_after: usize,
    /// What it is then; `None`: it is removed.
    anew: Option<PutPayload>,
    requests: AtomicUsize,
    /// Whether the first body ends in its middle.
    cuts: AtomicBool,
}

impl Changing {
    fn tagged(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.e_tag = match self.tags {
            Tags::Strong => meta.e_tag,
            Tags::Weak => meta.e_tag.map(|tag| format!("W/\"{tag}\"")),
            Tags::None => None,
        };
        if self.tags == Tags::None {
            // what was written just now has no time that tells anything
            meta.last_modified -= std::time::Duration::from_secs(3600);
        }
        meta
    }
}

impl fmt::Display for Changing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("changing")
    }
}

#[async_trait]
impl ObjectStore for Changing {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !options.head && self.requests.fetch_add(1, Ordering::Relaxed) == self.change_after {
            match &self.anew {
                Some(anew) => _ = self.inner.put(location, anew.clone()).await?,
                None => self.inner.delete(location).await?,
            }
        }
        let is_head = options.head;
        let got = self.inner.get_opts(location, options).await?;
        let (range, meta, attributes) = (got.range.clone(), self.tagged(got.meta.clone()), got.attributes.clone());
        let bytes = got.bytes().await?;
        let chunks = match !is_head && self.cuts.swap(false, Ordering::Relaxed) {
            true => {
                let cut = Error::Generic { store: "changing", source: "connection reset".into() };
                vec![Ok(bytes.slice(..bytes.len() / 2)), Err(cut)]
            }
            false => vec![Ok(bytes)],
        };
        let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
        Ok(GetResult { payload, range, meta, attributes, extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const SETTINGS: FetchSettings = FetchSettings { concurrency: 1, request_bytes: 1 << 20 };
const DATA: usize = 1000;
/// Bytes between two members, so that each has a request of its own.
const APART: usize = 2 * MAX_GAP_BYTES as usize;
/// More bytes than are fetched with a local header unasked.
const EXTRA: usize = 20_000;

/// A zip's local entry with a stored member, and behind it what is in no member.
fn entry(name: &str, data: &[u8], behind: usize) -> Vec<u8> {
    let size = (data.len() as u32).to_le_bytes();
    let mut entry = b"PK\x03\x04".to_vec();
    entry.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    entry.extend(crc32fast::hash(data).to_le_bytes());
    entry.extend([size, size].concat());
    entry.extend((name.len() as u16).to_le_bytes());
    entry.extend((EXTRA as u16).to_le_bytes());
    entry.extend(name.as_bytes());
    entry.extend(vec![0; EXTRA]);
    entry.extend(data);
    entry.extend(vec![0; behind]);
    entry
}

/// An archive of two members, full of one byte.
fn archive(fill: u8, behind: usize) -> Vec<u8> {
    [entry("one", &[fill; DATA], APART), entry("two", &[fill; DATA], behind)].concat()
}

fn member(name: &str, header_offset: usize, fill: u8) -> MemberPlace {
    MemberPlace {
        name: name.into(),
        stored: true,
        crc32: crc32fast::hash(&[fill; DATA]),
        compressed_bytes: DATA as u64,
        uncompressed_bytes: DATA as u64,
        header_offset: header_offset as u64,
    }
}

/// A store with one object, which becomes `anew` after so many requests for its bytes; and its ETag as it is listed.
async fn changing(
    object: &str,
    before: &[u8],
    anew: Option<&[u8]>,
    (tags, change_after): (Tags, usize),
) -> (Arc<Changing>, Option<String>) {
    let inner = InMemory::new();
    inner.put(&Path::from(object), before.to_vec().into()).await.unwrap();
    let anew = anew.map(|bytes| PutPayload::from(bytes.to_vec()));
    let (requests, cuts) = (AtomicUsize::new(0), AtomicBool::new(false));
    let store = Arc::new(Changing { inner, tags, change_after, anew, requests, cuts });
    let etag = store.head(&Path::from(object)).await.unwrap().e_tag;
    (store, etag)
}

fn place(object: &str, etag: Option<&str>, member: Option<MemberPlace>) -> Option<ObjectRange> {
    Some(ObjectRange { object: object.into(), etag: etag.map(str::to_owned), bytes: None, member })
}

fn outdated<T: fmt::Debug>(fetched: std::result::Result<T, WorkerError>) -> bool {
    matches!(&fetched, Err(WorkerError::Outdated(_))) || panic!("{fetched:?}")
}

/// Between the requests of one read an archive is written anew: with other bytes, with the same and others behind them,
/// or it is removed. Whichever request meets it, the read is of the one that was listed or of none.
#[tokio::test]
async fn an_archive_that_changes_between_requests_is_read_whole_or_not_at_all() {
    let (before, second) = (archive(1, 0), archive(1, 0).len() - entry("two", &[1; DATA], 0).len());
    let (other, longer) = (archive(2, 0), archive(1, 1));
    for tags in [Tags::Strong, Tags::Weak] {
        let read = async |anew: Option<&[u8]>, change_after: usize| {
            let (store, etag) = changing("a.zip", &before, anew, (tags, change_after)).await;
            let source = SourceStore::over(store.clone());
            let places = [("one", 0), ("two", second)]
                .map(|(name, at)| place("a.zip", etag.as_deref(), Some(member(name, at, 1))));
            (fetch(&source, &places, SETTINGS).await, store.requests.load(Ordering::Relaxed))
        };
        let (undisturbed, requests) = read(Some(&other), usize::MAX).await;
        let whole = Some(Ok(vec![1; DATA]));
        assert_eq!((undisturbed.unwrap(), requests), (vec![whole.clone(), whole], 4), "each header was long");
        for (anew, change_after) in
            [Some(&other[..]), Some(&longer), None].into_iter().flat_map(|anew| (0..4).map(move |at| (anew, at)))
        {
            assert!(outdated(read(anew, change_after).await.0), "{tags:?} {change_after}");
        }
    }
}

/// Of what was listed without ETag and time the members' checksums are all that tells.
#[tokio::test]
async fn without_etags_a_torn_archive_has_broken_members() {
    let (before, second) = (archive(1, 0), archive(1, 0).len() - entry("two", &[1; DATA], 0).len());
    let other = archive(2, 0);
    let (store, etag) = changing("a.zip", &before, Some(&other), (Tags::None, 2)).await;
    let places =
        [("one", 0), ("two", second)].map(|(name, at)| place("a.zip", etag.as_deref(), Some(member(name, at, 1))));
    let fetched = fetch(&SourceStore::over(store), &places, SETTINGS).await.unwrap();
    assert_eq!(fetched[0], Some(Ok(vec![1; DATA])));
    assert!(matches!(&fetched[1], Some(Err(_))), "{:?}", fetched[1]);
}

/// What a store without ETags says of an object's size and time stands for one.
#[tokio::test]
async fn without_etags_size_and_time_tell_an_archive_from_a_later_one() {
    let (before, later) = (archive(1, 0), archive(2, 1));
    let read = async |change_after: usize| {
        let (store, etag) = changing("a.zip", &before, Some(&later), (Tags::None, change_after)).await;
        let listed = tag(&store.head(&Path::from("a.zip")).await.unwrap());
        assert!(etag.is_none() && listed.is_some(), "{listed:?}");
        let places = [place("a.zip", listed.as_deref(), Some(member("one", 0, 1)))];
        fetch(&SourceStore::over(store), &places, SETTINGS).await
    };
    assert_eq!(read(usize::MAX).await.unwrap(), [Some(Ok(vec![1; DATA]))]);
    for change_after in [0, 1] {
        assert!(outdated(read(change_after).await), "{change_after}");
    }
}

/// A single object is the one that was listed, too: its row is known by that.
#[tokio::test]
async fn an_object_that_changes_after_it_was_listed_is_not_read() {
    for tags in [Tags::Strong, Tags::Weak] {
        let read = async |anew: Option<&[u8]>, change_after: usize, is_early: bool| {
            let (store, etag) = changing("a.jpg", &[1; DATA], anew, (tags, change_after)).await;
            if is_early {
                match anew {
                    Some(anew) => _ = store.inner.put(&"a.jpg".into(), anew.to_vec().into()).await.unwrap(),
                    None => store.inner.delete(&"a.jpg".into()).await.unwrap(),
                }
            }
            fetch(&SourceStore::over(store), &[place("a.jpg", etag.as_deref(), None)], SETTINGS).await
        };
        assert_eq!(read(None, usize::MAX, false).await.unwrap(), [Some(Ok(vec![1; DATA]))]);
        for anew in [Some(&[2; DATA][..]), Some(&[1; DATA]), Some(&[1; 3]), None] {
            // between listing and reading, and between its size and its bytes
            assert!(outdated(read(anew, usize::MAX, true).await));
            assert!(outdated(read(anew, 0, false).await));
        }
    }
    // an answer may write its ETag in another way than the listing
    let (store, etag) = changing("a.jpg", &[1; DATA], None, (Tags::Weak, usize::MAX)).await;
    let places = [place("a.jpg", etag.as_deref().map(bare), None)];
    assert_eq!(fetch(&SourceStore::over(store), &places, SETTINGS).await.unwrap(), [Some(Ok(vec![1; DATA]))]);
    // one that was listed without an ETag is what it is now
    let (store, _) = changing("a.jpg", &[1; DATA], None, (Tags::None, usize::MAX)).await;
    assert_eq!(
        fetch(&SourceStore::over(store), &[place("b.jpg", None, None)], SETTINGS).await.unwrap(),
        [Some(Err("b.jpg is not there".to_owned()))]
    );
}

/// A body that was cut goes on in the object that it began in, whatever the store knows of it.
#[tokio::test]
async fn a_cut_body_does_not_go_on_in_another_object() {
    for tags in [Tags::Strong, Tags::Weak, Tags::None] {
        let read = async |anew: &[u8], change_after: usize| {
            let (store, etag) = changing("a.jpg", &[1; DATA], Some(anew), (tags, change_after)).await;
            store.cuts.store(true, Ordering::Relaxed);
            fetch(&SourceStore::over(store), &[place("a.jpg", etag.as_deref(), None)], SETTINGS).await
        };
        assert_eq!(read(&[2; DATA], usize::MAX).await.unwrap(), [Some(Ok(vec![1; DATA]))], "{tags:?}");
        assert!(outdated(read(&[2; DATA], 1).await), "{tags:?}");
    }
}

/// A member that cannot be unpacked while its archive is written tells nothing of the member.
#[tokio::test]
async fn an_archive_that_changed_is_no_archive_of_broken_members() {
    let folder = tempfile::tempdir().unwrap();
    let source = SourceStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
    std::fs::write(folder.path().join("a.zip"), "before").unwrap();
    let listed = source.head("a.zip").await.unwrap().unwrap().e_tag;
    check_unchanged(&source, "a.zip", listed.as_deref()).await.unwrap();
    // an ETag that is written in another way is the same one
    check_unchanged(&source, "a.zip", listed.as_deref().map(bare)).await.unwrap();
    std::fs::write(folder.path().join("a.zip"), "afterwards").unwrap();
    let error = check_unchanged(&source, "a.zip", listed.as_deref()).await.unwrap_err();
    assert!(matches!(&error, WorkerError::Outdated(why) if why.contains("it changed")), "{error}");
    std::fs::remove_file(folder.path().join("a.zip")).unwrap();
    let error = check_unchanged(&source, "a.zip", listed.as_deref()).await.unwrap_err();
    assert!(matches!(&error, WorkerError::Outdated(why) if why.contains("is gone")), "{error}");
    check_unchanged(&source, "a.zip", None).await.unwrap();
}
