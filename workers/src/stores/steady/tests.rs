use std::sync::Mutex;

use object_store::memory::InMemory;

use super::*;

/// What befalls the next request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is not carried out.
    Refused,
    /// It is carried out, and the answer is lost.
    Unanswered,
    /// The body ends after so many bytes, with an error or without.
    Cut { after: usize, quietly: bool },
}

/// A store with a list of things that go wrong, in order.
#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    faults: Mutex<Vec<Fault>>,
}

fn fault() -> Error {
    Error::Generic { store: "faulty", source: "503 slow down".into() }
}

impl Faulty {
    fn next(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        (!faults.is_empty()).then(|| faults.remove(0))
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.next() {
            Some(Fault::Refused) => Err(fault()),
            Some(_) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(fault())
            }
            None => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let cut = match self.next() {
            Some(Fault::Cut { after, quietly }) => Some((after, quietly)),
            Some(_) => return Err(fault()),
            None => None,
        };
        let mut got = self.inner.get_opts(location, options).await?;
        if let Some((after, quietly)) = cut {
            let (range, meta, attributes) = (got.range.clone(), got.meta.clone(), got.attributes.clone());
            let bytes = got.bytes().await?;
            let mut chunks = vec![Ok(bytes.slice(..after.min(bytes.len())))];
            if !quietly {
                chunks.push(Err(fault()));
            }
            let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
            got = GetResult { payload, range, meta, attributes, extensions: Default::default() };
        }
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            None => self.inner.list(prefix),
            Some(_) => {
                let first = self.inner.list(prefix).take(1).chain(futures::stream::iter([Err(fault())]));
                first.boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn steady(faults: &[Fault]) -> Steady {
    let faulty = Faulty { inner: InMemory::new(), faults: Mutex::new(faults.to_vec()) };
    let persistence =
        Persistence { tries: 5, first_pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2) };
    Steady::new(Arc::new(faulty), persistence)
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_recognised() {
    let (store, at) = (steady(&[Fault::Unanswered]), Path::from("a"));
    store.put_opts(&at, "mine".into(), create()).await.unwrap();
    // without an earlier try of ours it is somebody else's, whatever its bytes
    let refused = store.put_opts(&at, "mine".into(), create()).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");
}

#[tokio::test]
async fn a_put_that_lost_to_others_is_not_taken_for_ours() {
    let (store, at) = (steady(&[]), Path::from("a"));
    store.put_opts(&at, "theirs".into(), create()).await.unwrap();
    let faulty = Faulty { inner: InMemory::new(), faults: Mutex::new(vec![Fault::Refused]) };
    faulty.inner.put(&at, "theirs".into()).await.unwrap();
    let store = Steady::new(Arc::new(faulty), store.persistence);
    let refused = store.put_opts(&at, "mine, longer".into(), create()).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");
}

#[tokio::test]
async fn a_cut_body_goes_on_where_it_ended() {
    let cuts = [Fault::Cut { after: 3, quietly: false }, Fault::Cut { after: 2, quietly: true }, Fault::Refused];
    let at = Path::from("a");
    let faulty = Faulty { inner: InMemory::new(), faults: Mutex::default() };
    faulty.inner.put(&at, "0123456789".into()).await.unwrap();
    faulty.faults.lock().unwrap().extend(cuts);
    let store = Steady::new(Arc::new(faulty), steady(&[]).persistence);
    assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "0123456789");
    assert_eq!(store.get_ranges(&at, &[1..3, 7..9]).await.unwrap(), ["12", "78"]);
}

/// A request may take no longer than its time-out: what is large is cut as often as it takes.
#[tokio::test]
async fn a_body_that_comes_further_is_gone_on_with_however_often_it_is_cut() {
    let at = Path::from("a");
    let bytes = vec![7; 12 * PROGRESS_BYTES as usize];
    let cut = |after| Fault::Cut { after, quietly: false };
    let read = async |cuts: Vec<Fault>| {
        let faulty = Faulty { inner: InMemory::new(), faults: Mutex::default() };
        faulty.inner.put(&at, bytes.clone().into()).await.unwrap();
        faulty.faults.lock().unwrap().extend(cuts);
        let store = Steady::new(Arc::new(faulty), steady(&[]).persistence);
        store.get(&at).await?.bytes().await
    };
    assert_eq!(read(vec![cut(PROGRESS_BYTES as usize); 10]).await.unwrap(), bytes);
    // one that brings next to nothing is given up
    assert!(read(vec![cut(1); 10]).await.is_err());
}

#[tokio::test]
async fn tries_are_bounded_and_what_lasts_is_not_tried_again() {
    let store = steady(&[Fault::Refused; 5]);
    assert!(store.put(&Path::from("a"), "x".into()).await.is_err());
    store.put(&Path::from("a"), "x".into()).await.unwrap();
    let store = steady(&[]);
    assert!(matches!(store.get(&Path::from("nothing")).await, Err(Error::NotFound { .. })));
    let status = |code: &str| Error::Generic {
        store: "s3",
        source: format!("Server returned non-2xx status code: {code}: x").into(),
    };
    assert!(may_pass(&status("503 Service Unavailable")) && may_pass(&status("429 Too Many Requests")));
    assert!(!may_pass(&status("400 Bad Request")));
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_made_anew() {
    let store = steady(&[]);
    for name in ["a", "b", "c"] {
        store.put(&Path::from(format!("x/{name}")), "1".into()).await.unwrap();
    }
    let faulty = Faulty { inner: InMemory::new(), faults: Mutex::new(vec![Fault::Refused]) };
    for name in ["a", "b", "c"] {
        faulty.inner.put(&Path::from(format!("x/{name}")), "1".into()).await.unwrap();
    }
    let store = Steady::new(Arc::new(faulty), store.persistence);
    let names: Vec<ObjectMeta> = store.list(Some(&Path::from("x"))).try_collect().await.unwrap();
    assert_eq!(names.len(), 3, "each once");
}
