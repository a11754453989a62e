//! Where a request takes its time, whoever reads whole tables has many of them in flight.

use std::collections::BTreeMap;
use std::time::Duration;

use manifests::attempts::Object;
use manifests::plan::PinnedTable;
use manifests::{Artifact, Plan, PlanCounts, Reason, ShardPlan, paths};
use pipeline::analyse::{Draw, Sample};
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline::{analyse, page};
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, open, run, run_with};
use stages::train_rows::TrainRows;
use workers::WorkerError;
use workers::changes::between;
use workers::parts::PartReader;
use workers::planning::begun;
use workers::pull::collect;
use workers::stores::WorkStore;
use workers::tables::Tables;
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

    let draw = Draw { images: 20, seed: 0 };
    let (most, sample) = in_flight(&mut build, async |build| Sample::draw(build, draw).await).await;
    assert!(most >= 6 && sample.len() == 20, "a sample: {most}");

    let captions = build.pin(Artifact::Captions).await.unwrap();
    let from = PinnedTable::empty(Artifact::Captions);
    let (most, changes) = in_flight(&mut build, async |build| {
        between(&build.work, Artifact::Captions, (&from, &captions), (("finland", "captions"), &[]), 0).await
    })
    .await;
    assert!(most >= 6 && changes.added == 48, "changes of a table: {most}");

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
    let requests = || reads.of(".parquet").into_values().sum::<usize>();
    let of_one = requests();
    let splits = [Members::Split("train"), Members::Split("val")];
    let [train, validation] = TableRows::open_each(&build.work, &inputs, splits).await.unwrap();
    assert_eq!((requests(), train.len()), (2 * of_one, rows.len()), "two splits are read as one is");
    let alone = TableRows::open(&build.work, &inputs, Members::Split("val")).await.unwrap();
    assert_eq!(validation.len(), alone.len());
    _ = reads.most_at_once();
    let group = (0..rows.groups().len()).find(|group| rows.groups()[*group] > 0).unwrap();
    let of_group = tokio::task::block_in_place(|| rows.read(group)).unwrap();
    let most = reads.most_at_once();
    assert!(most >= 4 && !of_group.is_empty(), "tables of a group of rows: {most}");
    let filled: Vec<usize> = (0..rows.groups().len()).filter(|group| rows.groups()[*group] > 0).collect();
    let of_groups = tokio::task::block_in_place(|| rows.read_many(&filled)).unwrap();
    let most = reads.most_at_once();
    assert!(most >= 8, "groups of a window: {most}");
    for (&group, read) in filled.iter().zip(&of_groups) {
        let alone = tokio::task::block_in_place(|| rows.read(group)).unwrap();
        assert!(alone.iter().map(|row| &row.image_id).eq(read.iter().map(|row| &row.image_id)), "group {group}");
        assert!(alone.iter().zip(read).all(|(a, b)| a.bytes == b.bytes && a.captions == b.captions), "group {group}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_shards_is_read_of_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let near = WorkStore::open(&folder.path().display().to_string(), &Default::default()).unwrap();
    let stale = |shard| ShardPlan { shard, kept: 0, carried: 0, changes: BTreeMap::from([(Reason::New, 1)]) };
    let plan = Plan {
        stage: "captions".into(),
        stage_version: 1,
        country: "finland".into(),
        shards: 100,
        output: PinnedTable::empty(Artifact::Captions),
        inputs: vec![PinnedTable::empty(Artifact::Geotags)],
        model: String::new(),
        parameters: "{}".into(),
        retry_errors: false,
        counts: PlanCounts { stale: (0..100).map(stale).collect(), kept_rows: 0 },
    };
    let leave = async |shard: u32, object: Object| {
        let path = format!("{}/{}", paths::markers("finland", "captions"), object.name(&plan.shard_key(shard)));
        near.put(&path, Default::default()).await.unwrap();
    };
    for shard in 60..100 {
        leave(shard, Object::Failed).await;
    }
    let (afar, reads) = Reads::from_afar(&near, Duration::from_millis(20));
    let tables = Tables::new(&near);
    let collected = collect(&afar, &tables, &plan, Duration::from_secs(60), 16).await.unwrap();
    let most = reads.most_at_once();
    assert!(most >= 8 && collected.failed.len() == 40 && collected.open.len() == 60, "failed shards: {most}");
    for shard in 0..60 {
        leave(shard, Object::Marker).await;
    }
    let begun = begun(&afar, &tables, &plan, 16).await.unwrap();
    let most = reads.most_at_once();
    // no marker names a part
    assert!(most >= 8 && begun.finished.is_empty() && begun.failed.len() == 40, "markers: {most}");
}
