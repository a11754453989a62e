//! Builds that are killed or stopped come to the same end as builds that are not.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use manifests::Artifact;
use pipeline_tests::{World, column, open, tables, urbancross};

use super::stopped::wait_until_it_trains;

fn start(spec: &std::path::Path) -> Child {
    Command::new(urbancross())
        .arg("run")
        .arg(spec)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

fn finish(spec: &std::path::Path) {
    let output = Command::new(urbancross()).arg("run").arg(spec).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn outcome(world: &World, work: &str) -> (Vec<std::collections::BTreeMap<String, String>>, String, String) {
    let build = open(world.spec(work, &[])).await.unwrap();
    let mut digests = Vec::new();
    for (artifact, column_name) in [
        (Artifact::Geotags, "tags_digest"),
        (Artifact::Splits, "split_digest"),
        (Artifact::Images, "bytes_digest"),
        (Artifact::Captions, "captions_digest"),
        (Artifact::Segments, "segments_digest"),
        (Artifact::SegmentScores, "scores_digest"),
        (Artifact::TextEmbeddings, "embedding_digest"),
    ] {
        digests.push(column(&build, artifact, column_name).await);
    }
    let record =
        pipeline::trainings::current_record(&build, stages::Training::Pretrain).await.unwrap().expect("trained");
    let evaluation = pipeline::evaluate::stored(&build).await.unwrap().expect("evaluated");
    (digests, record.trained.model_digest, format!("{:?}", evaluation.recall))
}

/// SIGKILL again and again, each time a little later, then a run to the end. Recipes hold the
/// digest of the model, so equal digests say that the weights are equal to the last bit.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_build_ends_like_an_unbroken_one() {
    let world = World::new(40);
    let spec_of = |work: &str| {
        let path = world.path(&format!("{work}.toml"));
        std::fs::write(&path, world.spec_text(work)).unwrap();
        path
    };
    let (unbroken, broken) = (spec_of("unbroken"), spec_of("broken"));
    finish(&unbroken);
    let mut killed = 0;
    for round in 1..=8 {
        let mut child = start(&broken);
        tokio::time::sleep(Duration::from_millis(250 * round)).await;
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "no round met a running build");
    finish(&broken);
    assert_eq!(outcome(&world, "unbroken").await, outcome(&world, "broken").await);
}

/// SIGTERM: the program says so with its exit code and keeps what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_build_says_so_and_goes_on() {
    let world = World::new(40);
    let spec = world.path("spec.toml");
    let text = world.spec_text("work").replace("\"bootstrap\"", "\"none\"");
    // long enough to be met while it trains
    std::fs::write(&spec, text.replace("epochs = 2", "epochs = 100000")).unwrap();
    let mut command = Command::new(urbancross());
    command.arg("run").arg(&spec).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    wait_until_it_trains(&mut child, &world.path("work"));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(said.contains("stopped on request"), "{said}");
    let rows = async |artifact: Artifact| {
        let build = open(world.spec("work", &["score.clip=none"])).await.unwrap();
        column(&build, artifact, "status").await.len()
    };
    assert_eq!(rows(Artifact::SegmentScores).await, 40, "what was made before is kept");
    std::fs::write(&spec, text).unwrap();
    finish(&spec);
    assert_eq!(rows(Artifact::ImageEmbeddings).await, 40);
}

/// Two workers on one build: both end well, every row is there once, and one of them trained while the other waited.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_do_not_harm_each_other() {
    let world = World::new(40);
    let spec = world.path("spec.toml");
    std::fs::write(&spec, world.spec_text("work")).unwrap();
    let children = [start(&spec), start(&spec)];
    for mut child in children {
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
    let build = open(world.spec("work", &[])).await.unwrap();
    for artifact in tables(&build) {
        assert_eq!(column(&build, artifact, "status").await.len(), 40, "{}", artifact.name());
    }
    let records = workers::train::records(&build.work, "finland", stages::Training::Pretrain).await.unwrap();
    assert_eq!(records.len(), 1);
    finish(&world.path("spec.toml"));
    assert_eq!(workers::train::records(&build.work, "finland", stages::Training::Pretrain).await.unwrap(), records);
}
