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
