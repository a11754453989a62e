//! Where a request takes its time, whoever reads whole tables has many of them in flight.

use std::time::Duration;

use manifests::Artifact;
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline::{analyse, page};
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, open, run, run_with};
use stages::train_rows::TrainRows;
use workers::WorkerError;
use workers::parts::PartReader;
use workers::train::{Members, TableRows};
use workers::upkeep::verify;

/// Most reads in flight at once while somebody reads a build.
async fn in_flight<T>(build: &mut Build, read: impl AsyncFnOnce(&Build) -> Result<T, WorkerError>) -> (usize, T) {
    let near = build.work.clone();
    let reads = Reads::count_from_afar(build, Duration::from_millis(20));
    let answer = read(build).await.unwrap();
    build.work = near;
    (reads.most_at_once(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_tables_are_read_many_shards_at_once() {
    let world = World::new(48);
    let set = ["work.shards=8", "score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];
    let (mut build, _) = run(world.spec("work", &set)).await.unwrap();

    let (most, page) =
        in_flight(&mut build, async |build| page::make(std::slice::from_ref(build), &[], "today").await).await;
    assert!(most >= 6, "a report: {most}");
    let near = page::make(&[open(world.spec("work", &set)).await.unwrap()], &[], "today").await.unwrap();
    assert!(page == near, "a report does not depend on who answers first");

    let (most, analysis) = in_flight(&mut build, async |build| analyse::analyse(build).await).await;
    assert!(most >= 6 && analysis.tags.images == 48, "an analysis: {most}");

    let (most, faults) =
        in_flight(&mut build, async |build| verify::faults(&build.work, &build.tables, "finland", |_| {}).await).await;
    assert!(most >= 6 && faults.is_empty(), "a check: {most}, {faults:?}");

    let mut inputs = Vec::new();
    for artifact in
        [Artifact::Images, Artifact::Captions, Artifact::Splits, Artifact::Segments, Artifact::SegmentScores]
    {
        inputs.push(build.pin(artifact).await.unwrap());
    }
    let reads = Reads::count_from_afar(&mut build, Duration::from_millis(20));
    let mut rows = TableRows::open(&build.work, &inputs, Members::Split("train")).await.unwrap();
    let most = reads.most_at_once();
    assert!(most >= 6 && rows.len() > 20, "rows of a training: {most}");
    let group = (0..rows.groups().len()).find(|group| rows.groups()[*group] > 0).unwrap();
    let of_group = tokio::task::block_in_place(|| rows.read(group)).unwrap();
    let most = reads.most_at_once();
    assert!(most >= 4 && !of_group.is_empty(), "tables of a group of rows: {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_of_narrow_columns_are_read_in_one_go() {
    let world = World::new(150);
    let set = ["work.shards=1", "score.clip=none"];
    let options = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    run_with(world.spec("work", &set), options).await.unwrap();
    let mut build = open(world.spec("work", &set)).await.unwrap();
    let images = build.pin(Artifact::Images).await.unwrap();
    let reads = Reads::count_from_afar(&mut build, Duration::from_millis(20));
    let reader = PartReader::open(&build.work, Artifact::Images, &images.parts[0]).await.unwrap();
    assert_eq!(reader.read(&["image_id", "status"]).await.unwrap().num_rows(), 150);
    // the footer, and then three row groups, which a store may answer together
    let requests: usize = reads.of(".parquet").into_values().sum();
    assert!(requests == 2 || reads.most_at_once() > 1, "{requests} requests one after the other");
}
