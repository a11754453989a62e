//! The sandbox build with both stores behind an S3-compatible server (`moto`).

use pipeline::build::Build;
use pipeline::doctor::Machines;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::s3::{self, Server};
use pipeline_tests::{World, python_with, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_build_runs_against_an_s3_server() {
    let Some(python) = python_with(&s3::MODULES) else { return };
    let world = World::new(24);
    let server = Server::start(python, &world.path("world"));
    // the only environment of this test program's single test
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "testing");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "testing");
    }
    let options = s3::options(&server.endpoint);
    let set = |field: &str, value: &str| format!("{field}={value}");
    let set = [
        set("source.url", "s3://skyscript/SkyScript"),
        set("source.options", &options),
        set("work.url", "s3://work/build"),
        set("work.options", &options),
        set("score.clip", "none"),
        set("pretrain.epochs", "1"),
        set("pretrain.batch", "4"),
    ];
    let spec = world.spec("unused", &set.iter().map(String::as_str).collect::<Vec<_>>());
    let findings = pipeline::doctor::examine(Some(&spec), Machines::This).await;
    assert!(findings.iter().all(|f| f.good), "{findings:?}");
    let (build, quarantined) = run(spec.clone()).await.unwrap();
    assert!(quarantined.is_empty());
    assert_eq!(pipeline_tests::column(&build, manifests::Artifact::Images, "status").await.len(), 24);
    // a second run finds everything in the bucket, and asks for little
    let log = world.path("requests.log");
    let requests = || std::fs::read_to_string(&log).unwrap();
    let before = requests().lines().count();
    let (build, _) = run(spec).await.unwrap();
    asks_little(&requests().lines().skip(before).map(str::to_owned).collect::<Vec<_>>(), &build);
    assert!(pipeline::evaluate::stored(&build).await.unwrap().is_some());
    assert_eq!(pipeline_tests::version(&build, manifests::Artifact::Images).await, 1);
    a_training_goes_on_from_the_bucket(&world, &set).await;
}

/// At most five requests a table and none a shard, listing of the source excepted.
fn asks_little(requests: &[String], build: &Build) {
    let of_work: Vec<&String> = requests.iter().filter(|r| r.contains("/work")).collect();
    println!("{} requests to the work store, {} to the source", of_work.len(), requests.len() - of_work.len());
    let parts = of_work.iter().filter(|r| r.contains("/part-")).count();
    assert_eq!(parts, 0, "a run with nothing to do reads no part: {of_work:#?}");
    for artifact in pipeline_tests::tables(build) {
        let table = format!("tables/{}", artifact.name());
        let escaped = table.replace('/', "%2F");
        let count = of_work.iter().filter(|r| r.contains(&format!("{table}/")) || r.contains(&format!("{escaped}%2F")));
        assert!(count.count() <= 5, "{}: {of_work:#?}", artifact.name());
    }
    // that nobody has reviewed a caption, or refreshed tags, is found out by three each
    let of = |table: &str| of_work.iter().filter(|r| r.contains(table)).count();
    let of_absent = of("caption_reviews") + of("tag_refreshes");
    assert!(of("caption_reviews") <= 3 && of("tag_refreshes") <= 3, "{of_work:#?}");
    // and a few objects of the country: its layout and lease, what is settled, archive members, the training and its figures
    let tables = pipeline_tests::tables(build).len();
    assert!(of_work.len() - of_absent <= 5 * tables + 24, "{} tables: {of_work:#?}", tables);
}

/// A machine that dies during a training leaves its last checkpoint in the bucket: another one goes on from there, and
/// ends with the same weights.
async fn a_training_goes_on_from_the_bucket(world: &World, set: &[String]) {
    let spec = |work: &str, more: &[&str]| {
        let work = format!("work.url=s3://work/{work}");
        let set: Vec<&str> = set.iter().map(String::as_str).chain([work.as_str(), "pretrain.epochs=4"]).collect();
        world.spec("unused", &[set.as_slice(), more].concat())
    };
    let digest = |build: &Build| {
        let (work, country) = (build.work.clone(), build.spec.country.clone());
        async move {
            let records = workers::train::records(&work, &country, stages::Training::Pretrain).await.unwrap();
            records.last().map(|r| r.trained.model_digest.clone())
        }
    };
    let (unbroken, _) = run(spec("unbroken", &[])).await.unwrap();

    let scratch = tempfile::tempdir().unwrap();
    let mut first = pipeline_tests::open(spec("broken", &[])).await.unwrap();
    first.scratch = scratch.path().join("first");
    let stop = first.stop.clone();
    let watched = first.scratch.clone();
    // stopped as soon as a first checkpoint lies on the first machine
    let watch = tokio::spawn(async move {
        while !watched.exists() || !has_last(&watched) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let error = pipeline::run::run(&mut first, &RunOptions::default(), &Progress::new(true)).await.unwrap_err();
    assert_eq!(error.exit_code(), 143, "{error}");
    watch.await.unwrap();
    assert_eq!(digest(&first).await, None);

    let mut second = pipeline_tests::open(spec("broken", &[])).await.unwrap();
    second.scratch = scratch.path().join("second");
    let restored = second.scratch.clone();
    pipeline::run::run(&mut second, &RunOptions::default(), &Progress::new(true)).await.unwrap();
    assert!(has_last(&restored));
    assert_eq!(digest(&second).await, digest(&unbroken).await, "the same weights to the last bit");
    let saved = second.work.list("checkpoints/finland/pretrain").await.unwrap();
    let generations: std::collections::BTreeSet<&str> =
        saved.iter().filter_map(|name| name.split("/saved/").nth(1)?.split('/').next()).collect();
    assert!(saved.iter().any(|name| name.contains("/states/")), "{saved:?}");
    assert!(generations.len() < 6, "states that are passed are deleted: {generations:?}");
}

/// Is there a checkpoint to continue from anywhere below the folder?
fn has_last(folder: &std::path::Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        path.ends_with("last/position.json") || (path.is_dir() && has_last(&path))
    })
}
