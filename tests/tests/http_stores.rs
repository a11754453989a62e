//! Sources over HTTP that refuse, fail or dawdle.

use std::sync::atomic::Ordering;

use pipeline_tests::http::{Manner, serve};
use pipeline_tests::{World, column, open, run};
use workers::WorkerError;

const QUICK: [&str; 4] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=2", "segment.segmenter=none"];

fn set(more: &[String]) -> Vec<&str> {
    QUICK.iter().copied().chain(more.iter().map(String::as_str)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_read_over_http_through_passing_faults() {
    let world = World::new(16);
    let (address, requests) = serve(world.path("world"), Manner::AfterFaults(3));
    let more = [format!("source.url={address}")];
    let (build, quarantined) = run(world.spec("work", &set(&more))).await.unwrap();
    assert!(quarantined.is_empty());
    assert_eq!(column(&build, manifests::Artifact::Images, "status").await.len(), 16);
    // directories by range, members coalesced: far fewer requests than the 32 members, CSVs and probes apart
    let made = requests.load(Ordering::SeqCst);
    assert!(made < 60, "{made} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_refuse_or_dawdle_are_named() {
    let world = World::new(4);
    let cases = [
        (Manner::Status(403), "refuses access", 65),
        (Manner::Status(404), "is not there", 65),
        (Manner::Status(500), "500", 75),
        (Manner::Slow, "timed out", 75),
        (Manner::NoRanges, "range requests", 65),
    ];
    for (manner, words, exit_code) in cases {
        let (address, _) = serve(world.path("world"), manner);
        let more = [format!("source.url={address}"), "source.options={ timeout_seconds = 1, retries = 1 }".to_owned()];
        let error = open(world.spec("work", &set(&more))).await.err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit_code(), exit_code, "{error}");
    }
    let more =
        ["source.url=http://127.0.0.1:9/".to_owned(), "source.options={ timeout_seconds = 1, retries = 0 }".to_owned()];
    let error = open(world.spec("work", &set(&more))).await.err().unwrap();
    assert!(matches!(error, WorkerError::Transient(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_etags_are_compared_and_never_sent() {
    let world = World::new(8);
    let (address, _) = serve(world.path("world"), Manner::WeakEtags);
    let more = [format!("source.url={address}")];
    let (build, quarantined) = run(world.spec("work", &set(&more))).await.unwrap();
    assert!(quarantined.is_empty());
    assert_eq!(column(&build, manifests::Artifact::Images, "status").await.len(), 8);
    // an archive that changes under its reader is still noticed
    let source = workers::stores::SourceStore::open(&address, &build.spec.source.options).unwrap();
    let error = source.get_range("images2.zip", 0..4, Some("W/\"1\"")).await.unwrap_err();
    assert!(matches!(error, WorkerError::Transient(_)) && error.to_string().contains("changed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captioned_folder_over_http_is_refused() {
    let world = World::new(4);
    let (address, requests) = serve(world.path("world"), Manner::AfterFaults(0));
    let more = [
        format!("source.url={address}"),
        "source.kind=captioned".to_owned(),
        "caption.captioner=given".to_owned(),
        "source.tables=[]".to_owned(),
    ];
    let error = open(world.spec("work", &set(&more))).await.err().unwrap();
    assert!(error.to_string().contains("no listing"), "{error}");
    assert_eq!((error.exit_code(), requests.load(Ordering::SeqCst)), (65, 0));
}
