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
        (Manner::Status(403), "without credentials", 65),
        (Manner::Status(404), "is not there", 65),
        (Manner::Status(400), "400", 65),
        (Manner::Status(410), "410", 65),
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

/// A store on this machine is asked without a proxy, whoever says where it is: the spec or the environment.
#[test]
fn a_store_on_loopback_is_asked_without_a_proxy() {
    let world = World::new(4);
    std::fs::create_dir(world.path("served")).unwrap();
    std::os::unix::fs::symlink(world.path("world"), world.path("served/bucket")).unwrap();
    let spec = world.path("spec.toml");
    let text = world.spec_text("work").replace("batch = 8", "batch = 2");
    std::fs::write(&spec, text.replace(&world.path("world").display().to_string(), "s3://bucket")).unwrap();
    let (address, asked) = serve(world.path("served"), Manner::AfterFaults(0));
    let (proxy, on_the_way) = serve(world.path("served"), Manner::Status(403));
    let variables = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", ""];
    for variable in variables {
        let endpoint = address.trim_end_matches('/');
        let named = if variable.is_empty() { format!(", endpoint = \"{endpoint}\"") } else { String::new() };
        let options = format!("source.options={{ allow_http = true, retries = 0{named} }}");
        let mut command = std::process::Command::new(pipeline_tests::urbancross());
        command.arg("plan").arg(&spec).args(["--set", &options]).env("AWS_REGION", "nowhere");
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"] {
            command.env(name, &proxy);
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        if !variable.is_empty() {
            command.env(variable, endpoint);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{variable}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(on_the_way.load(Ordering::SeqCst), 0);
    assert!(asked.load(Ordering::SeqCst) > 0);
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
    assert!(matches!(error, WorkerError::Outdated(_)) && error.to_string().contains("changed"), "{error}");
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
