//! Runs beside other runs: late, stopped, overtaken. Whatever they do, the tables follow the newest source.

use std::sync::atomic::Ordering;

use manifests::{Artifact, paths};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, edit_a_finnish_image, open, recipes, run, tables};
use workers::publish::Summary;

const QUICK: [&str; 3] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];

/// A run that listed the source and looked at the tables before an edit, and goes on after another run has finished
/// with the edited source, brings nothing old back.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_run_brings_nothing_old_back() {
    let world = World::new(30);
    run(world.spec("work", &QUICK)).await.unwrap();
    let mut late = open(world.spec("work", &QUICK)).await.unwrap();
    edit_a_finnish_image(&world);
    run(world.spec("work", &QUICK)).await.unwrap();
    let after_edit = recipes(world.spec("work", &QUICK)).await;
    pipeline::run::run(&mut late, &RunOptions::default(), &Progress::new(true)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, after_edit);
    run(world.spec("fresh", &QUICK)).await.unwrap();
    let undisturbed = recipes(world.spec("fresh", &QUICK)).await;
    for table in ["geotags", "captions", "images", "splits", "segments"] {
        assert_eq!(after_edit[table], undisturbed[table], "{table}");
    }
}

/// The same with a run that had not begun to write when the first build of all was made by another.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_first_run_doubles_nothing() {
    let world = World::new(24);
    let mut late = open(world.spec("work", &QUICK)).await.unwrap();
    run(world.spec("work", &QUICK)).await.unwrap();
    let before = recipes(world.spec("work", &QUICK)).await;
    pipeline::run::run(&mut late, &RunOptions::default(), &Progress::new(true)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
    let summary: Option<Summary> = late.work.get_sealed(&paths::summary("finland", "geotags")).await.unwrap();
    let summary = summary.expect("a summary");
    assert_eq!((summary.computed, summary.by_other_runs), (0, 24), "the other run made them");
}

/// A run that is stopped after another one finished leaves the finished tables as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_replaces_nothing() {
    let world = World::new(24);
    let mut stopped = open(world.spec("work", &QUICK)).await.unwrap();
    run(world.spec("work", &QUICK)).await.unwrap();
    let before = recipes(world.spec("work", &QUICK)).await;
    stopped.stop.store(true, Ordering::Relaxed);
    let error = pipeline::run::run(&mut stopped, &RunOptions::default(), &Progress::new(true)).await.unwrap_err();
    assert_eq!(error.exit_code(), 143);
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
    let build = open(world.spec("work", &QUICK)).await.unwrap();
    for artifact in tables(&build) {
        assert_eq!(column(&build, artifact, "status").await.len(), 24, "{}", artifact.name());
    }
}

/// Another number of shards would put rows where nobody looks for them.
#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_shards_is_refused() {
    let world = World::new(12);
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    pipeline_tests::run_with(world.spec("work", &QUICK), until.clone()).await.unwrap();
    let other = [&QUICK[..], &["work.shards=5"]].concat();
    let error = open(world.spec("work", &other)).await.err().expect("refused");
    assert!(error.exit_code() == 65 && error.to_string().contains("built with work.shards = 3"), "{error}");
    // a store from before the number was kept: its rows say what it is
    std::fs::remove_dir_all(world.path("work/layouts")).unwrap();
    let error = pipeline_tests::run_with(world.spec("work", &other), until.clone()).await.err().expect("refused");
    assert!(error.to_string().contains("another number of shards"), "{error}");
    pipeline_tests::run_with(world.spec("work", &QUICK), until).await.unwrap();
    let newer = r#"{"format": 99, "shards": 3}"#;
    std::fs::write(world.path("work/layouts/finland.json"), newer).unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().expect("refused").to_string();
    assert!(error.contains("newer urbancross"), "{error}");
}

/// Parts that are gone or cut are made again, and only they.
#[tokio::test(flavor = "multi_thread")]
async fn lost_parts_are_made_again_and_only_they() {
    let world = World::new(30);
    let (build, _) = run(world.spec("work", &QUICK)).await.unwrap();
    let before = recipes(world.spec("work", &QUICK)).await;
    let part = |artifact: Artifact, pinned: &manifests::plan::PinnedTable, shard: usize| {
        world.path(&format!("work/tables/{}/{}", artifact.name(), pinned.parts[shard].path))
    };
    let captions = build.pin(Artifact::Captions).await.unwrap();
    let images = build.pin(Artifact::Images).await.unwrap();
    std::fs::remove_file(part(Artifact::Captions, &captions, 0)).unwrap();
    std::fs::write(part(Artifact::Images, &images, 1), b"").unwrap();
    let mut planned = open(world.spec("work", &QUICK)).await.unwrap();
    let captions_plan = pipeline::explain::explain(&mut planned, "captions").await.unwrap().join("\n");
    assert!(captions_plan.contains(&format!("{} its file was lost", captions.parts[0].rows)), "{captions_plan}");
    let (build, _) = run(world.spec("work", &QUICK)).await.unwrap();
    assert_eq!(recipes(world.spec("work", &QUICK)).await, before);
    for (artifact, old, lost) in [(Artifact::Captions, captions, 0), (Artifact::Images, images, 1)] {
        let new = build.pin(artifact).await.unwrap();
        for (shard, (old, new)) in old.parts.iter().zip(&new.parts).enumerate() {
            assert_eq!(old.path != new.path, shard == lost, "{} shard {shard}", artifact.name());
        }
    }
}
