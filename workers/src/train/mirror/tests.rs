use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path as StorePath;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{
    CopyOptions, DynObjectStore, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use super::*;

const RUN: &str = "checkpoints/x/pretrain/key";

fn machine(work: &WorkStore) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let folder = Mirror::new(work, scratch.path(), RUN).folder().to_owned();
    (scratch, folder)
}

fn step(folder: &Path, step: &str) {
    durable::write(&folder.join("last/position.json"), step.as_bytes()).unwrap();
}

fn at(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("last/position.json")).unwrap()
}

/// The same store, where every answer to a request for an object takes so long.
fn slow(work: &WorkStore, answer: Duration) -> WorkStore {
    let config = ThrottleConfig { wait_get_per_call: answer, ..ThrottleConfig::default() };
    work.clone().over(|store| Arc::new(ThrottledStore::new(store, config)))
}

/// A store that takes no more than this in one request.
const MOST_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct Narrow(Arc<DynObjectStore>);

impl fmt::Display for Narrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("narrow")
    }
}

#[async_trait]
impl ObjectStore for Narrow {
    async fn put_opts(&self, at: &StorePath, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        if payload.content_length() > MOST_BYTES {
            return Err(Error::Generic { store: "narrow", source: "status code: 400: EntityTooLarge".into() });
        }
        self.0.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &StorePath,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &StorePath, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, StoreResult<StorePath>>,
    ) -> BoxStream<'static, StoreResult<StorePath>> {
        self.0.delete_stream(all)
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
}

/// What is in a folder, in order.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Two machines on one run: whoever goes on from an older state loses, and a machine that comes back goes on from
/// the newest state and not from its own. After three states of the other one the number of its next one is free again.
#[tokio::test]
async fn the_newest_state_of_a_run_counts() {
    paused_for(1).await;
    paused_for(3).await;
}

async fn paused_for(saves: usize) {
    let work = WorkStore::in_memory();
    let ((one, here), (other, there)) = (machine(&work), machine(&work));
    let mut first = Mirror::new(&work, one.path(), RUN);
    first.restore().await.unwrap();
    step(&here, "1");
    first.save().await.unwrap();

    let mut second = Mirror::new(&work, other.path(), RUN);
    second.restore().await.unwrap();
    assert_eq!(at(&there), "1");
    for _ in 0..saves {
        step(&there, "2");
        second.save().await.unwrap();
    }

    // the first one was only paused
    step(&here, "old");
    let lost = first.save().await.unwrap_err();
    assert!(lost.exit_code() == 75 && lost.to_string().contains("goes on with it"), "{lost}");
    let newest = work.list(&format!("{RUN}/{SAVED}")).await.unwrap().pop();
    assert_eq!(newest, Some(state_name(1 + saves as u64)));
    // it dies and comes back
    let mut again = Mirror::new(&work, one.path(), RUN);
    again.restore().await.unwrap();
    assert_eq!(at(&here), "2");
    step(&here, "3");
    again.save().await.unwrap();
    // what this machine has beyond its last saved state is not thrown away
    step(&here, "4");
    let mut again = Mirror::new(&work, one.path(), RUN);
    again.restore().await.unwrap();
    assert_eq!(at(&here), "4");
    assert!(work.list(&format!("{RUN}/{SAVED}")).await.unwrap().len() <= 2);
}

/// Whoever starts a training again asks whether it has saved more, wherever its store lies.
#[tokio::test]
async fn what_a_run_has_saved_is_another_text_when_it_is_more() {
    let folder = tempfile::tempdir().unwrap();
    let here = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
    for work in [here, WorkStore::in_memory()] {
        let (scratch, run) = machine(&work);
        let saved = async || crate::train::saved(&work, RUN).await.unwrap();
        let mut mirror = Mirror::new(&work, scratch.path(), RUN);
        let mut seen = vec![saved().await];
        for at in ["1", "2"] {
            step(&run, at);
            mirror.save().await.unwrap();
            seen.push(saved().await);
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
        // figures of steps that are not saved, the same state once more, and what other runs save are no more
        work.put_json(&format!("{RUN}2/last/position.json"), &7).await.unwrap();
        durable::write(&run.join("curve.csv"), b"7").unwrap();
        step(&run, "2");
        mirror.save().await.unwrap();
        assert_eq!(saved().await, seen[2]);
    }
}

/// The number of a state says what the next one is called: it must be the one that its name has.
#[tokio::test]
async fn a_state_that_contradicts_its_name_is_refused() {
    let work = WorkStore::in_memory();
    let (scratch, _) = machine(&work);
    let hostile = Saved { number: u64::MAX, ..Saved::default() };
    work.put_json(&format!("{RUN}/{SAVED}/00000001.json"), &hostile).await.unwrap();
    let error = Mirror::new(&work, scratch.path(), RUN).restore().await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains("00000001.json"), "{error}");
}

/// The files of the state that is being read are gone: another machine has saved the next one, or they are lost.
#[tokio::test]
async fn a_state_that_is_overtaken_while_it_is_read_gives_way_to_the_next() {
    let work = WorkStore::in_memory();
    let ((one, here), (other, there)) = (machine(&work), machine(&work));
    let mut first = Mirror::new(&work, one.path(), RUN);
    durable::write(&here.join("best/model"), b"weights").unwrap();
    step(&here, "1");
    first.save().await.unwrap();
    step(&here, "a later 2");
    let distant = slow(&work, Duration::from_millis(40));
    let mut second = Mirror::new(&distant, other.path(), RUN);
    // after the description of the first state and before its last file
    let save = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        first.save().await
    };
    let (restored, saved) = futures::join!(second.restore(), save);
    saved.unwrap();
    restored.unwrap();
    assert_eq!(at(&there), "a later 2");
    assert_eq!(names_in(there.parent().unwrap()), ["key"], "no draft stays");

    work.delete(&format!("{RUN}/{}", first.saved.files["last/position.json"])).await.unwrap();
    let (third, elsewhere) = machine(&work);
    let error = Mirror::new(&work, third.path(), RUN).restore().await.unwrap_err();
    assert!(matches!(error, WorkerError::Missing { .. }), "{error}");
    assert!(names_in(elsewhere.parent().unwrap()).is_empty(), "no draft stays");
}

/// A checkpoint of a large model is gigabytes, and a request may take no longer than its time-out.
#[tokio::test]
async fn a_file_that_is_too_large_for_one_request_is_saved_and_published() {
    let work = WorkStore::in_memory().over(|store| Arc::new(Narrow(store)));
    let ((one, here), (other, there)) = (machine(&work), machine(&work));
    let bytes: Vec<u8> = (0..=250).cycle().take(3 * MOST_BYTES + 1).collect();
    durable::write(&here.join("last/model"), &bytes).unwrap();
    durable::write(&here.join("result/model"), &bytes).unwrap();
    let mut first = Mirror::new(&work, one.path(), RUN);
    first.save().await.unwrap();
    Mirror::new(&work, other.path(), RUN).restore().await.unwrap();
    assert!(std::fs::read(there.join("last/model")).unwrap() == bytes);
    first.publish("result").await.unwrap();
    let (third, _) = machine(&work);
    let fetched = Mirror::new(&work, third.path(), RUN).fetch("result").await.unwrap();
    assert!(std::fs::read(fetched.join("model")).unwrap() == bytes);
}

/// Processes of one machine may need the same result at once.
#[tokio::test]
async fn a_result_that_two_processes_bring_is_there_once() {
    let work = WorkStore::in_memory();
    let ((one, here), (other, there)) = (machine(&work), machine(&work));
    durable::write(&here.join("result/model"), b"weights").unwrap();
    Mirror::new(&work, one.path(), RUN).publish("result").await.unwrap();
    let distant = slow(&work, Duration::from_millis(10));
    let (first, second) = (Mirror::new(&distant, other.path(), RUN), Mirror::new(&distant, other.path(), RUN));
    let (first, second) = futures::join!(first.fetch("result"), second.fetch("result"));
    for brought in [first, second] {
        assert_eq!(std::fs::read(brought.unwrap().join("model")).unwrap(), b"weights");
    }
    assert_eq!(names_in(&there), ["result"], "no draft stays");
}

/// A copy that was cut off is made again.
#[tokio::test]
async fn half_a_copy_is_forgotten() {
    let work = WorkStore::in_memory();
    let ((one, here), (other, there)) = (machine(&work), machine(&work));
    durable::write(&here.join("result/model"), b"weights").unwrap();
    Mirror::new(&work, one.path(), RUN).publish("result").await.unwrap();
    durable::write(&there.join("result/model"), b"wei").unwrap();
    let mirror = Mirror::new(&work, other.path(), RUN);
    assert!(mirror.forget("result").unwrap());
    assert_eq!(std::fs::read(mirror.fetch("result").await.unwrap().join("model")).unwrap(), b"weights");
}
