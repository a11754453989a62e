//! Planning, mapping and publishing share nothing but the store, and a plan reads only what may have changed.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use manifests::shard_of;
use manifests::spec::DeviceName;
use manifests::weights::Weights;
use manifests::{Artifact, PartFile, Plan, paths};
use pipeline::build::Build;
use pipeline::explain::explain;
use pipeline::plan::{Model, plan_stage};
use pipeline::preview::{Finished, preview, removals};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, column, edit_a_finnish_image, open, run, run_with};
use stages::stage::StageContext;
use workers::WorkerError;
use workers::fetch::FetchSettings;
use workers::join::{COMMITTED_COLUMNS, ShardJoin};
use workers::map::{MapContext, MapResult, Observer, map_plan};
use workers::parts::PartReader;
use workers::publish::publish;
use workers::slices::InputStores;
use workers::stores::{SourceStore, WorkStore};
use workers::tables::Tables;

struct Silent;

impl Observer for Silent {
    fn rows(&self, _: u64, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
}

/// Stops the work once it was told of so many chunks.
struct StopsAfter {
    chunks: AtomicUsize,
    stop: AtomicBool,
}

impl Observer for StopsAfter {
    fn rows(&self, _: u64, _: u64, _: u64) {
        if self.chunks.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn note(&self, _: &str) {}
}

async fn planned(build: &Build) -> Plan {
    plan_stage(build, &stages::geotags::stage(), &Model::default(), false).await.unwrap()
}

/// A worker that has a spec, a store and the key of a plan; `publishes` what it has made, unless it is killed before.
async fn worker(world: &World, key: &str, publishes: bool) -> Result<(), WorkerError> {
    let spec = world.spec("work", &[]);
    let work = WorkStore::open(&spec.work.url, &spec.work.options).unwrap();
    let source = SourceStore::open(&spec.source.url, &spec.source.options).unwrap();
    let (tables, stage) = (Tables::new(&work), stages::geotags::stage());
    let plan: Plan = work.get_sealed(&paths::plan("finland", stage.name, key)).await.unwrap().unwrap();
    assert!(plan.is_of("finland") && !plan.is_of("spain") && plan.key() == key);
    let context = MapContext {
        work: &work,
        slices: &work,
        tables: &tables,
        source: &source,
        fetch: FetchSettings { concurrency: 4, request_bytes: 1 << 20 },
        stop: &AtomicBool::new(false),
        observer: &Silent,
    };
    let stage_context = StageContext {
        spec: &spec,
        device: DeviceName::Cpu,
        model_folder: None,
        weights: &Weights::default(),
        server: None,
        stop: Arc::new(AtomicBool::new(false)),
    };
    let mapped = map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await?;
    assert!(!publishes || publish(&tables, &plan, &mapped.finished).await.unwrap().overtaken.is_empty());
    Ok(())
}

fn pack_anew(archive: &Path) {
    let mut old = zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap();
    let mut new = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for member in (0..old.len()).rev() {
        new.raw_copy_file(old.by_index_raw(member).unwrap()).unwrap();
    }
    std::fs::write(archive, new.finish().unwrap().into_inner()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_needs_a_plan_the_spec_and_the_store() {
    let world = World::new(24);
    let planner = open(world.spec("work", &[])).await.unwrap();
    planner.claim_layout().await.unwrap();
    let plan = planned(&planner).await;
    planner.virtual_inputs.slices.publish_plan(&planner.work, &plan, 4).await.unwrap();
    let key = plan.key();
    // archives that were packed anew: the same rows, so the same plan, and other places
    ["meta2.zip", "meta3.zip"].iter().for_each(|archive| pack_anew(&world.path("world").join(archive)));
    let planner = open(world.spec("work", &[])).await.unwrap();
    let anew = planned(&planner).await;
    assert!(anew.key() == key && anew.inputs != plan.inputs, "other places are slices of other sizes");
    planner.virtual_inputs.slices.publish_plan(&planner.work, &anew, 4).await.unwrap();
    // the listing is in the slices: what only the planner reads is gone
    let csv = world.path("world/dataframe");
    std::fs::rename(&csv, world.path("dataframe")).unwrap();
    // without its slices a worker says what brings them back, and that another try can help
    let slices = world.path("work").join(paths::table(Artifact::Listing)).join("country=finland");
    std::fs::rename(&slices, world.path("slices")).unwrap();
    let error = worker(&world, &key, true).await.unwrap_err();
    assert!(error.exit_code() == 75 && error.to_string().contains("planning writes it again"), "{error}");
    std::fs::rename(world.path("slices"), &slices).unwrap();
    worker(&world, &key, true).await.unwrap();
    std::fs::rename(world.path("dataframe"), &csv).unwrap();
    let after = planned(&open(world.spec("work", &[])).await.unwrap()).await;
    assert_eq!((after.computed(), after.kept()), (0, 24));
    let options = RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    let (alone, _) = run_with(world.spec("alone", &[]), options).await.unwrap();
    let together = open(world.spec("work", &[])).await.unwrap();
    assert_eq!(column(&alone, Artifact::Geotags, "recipe").await, column(&together, Artifact::Geotags, "recipe").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_has_finished_waits_for_publishing() {
    let world = World::new(24);
    let planner = open(world.spec("work", &[])).await.unwrap();
    planner.claim_layout().await.unwrap();
    let plan = planned(&planner).await;
    planner.virtual_inputs.slices.publish_plan(&planner.work, &plan, 4).await.unwrap();
    worker(&world, &plan.key(), false).await.unwrap();
    let rows_of = |shard: u32| plan.counts.stale.iter().find(|stale| stale.shard == shard).unwrap().computed();
    let geotags = async || {
        let mut build = open(world.spec("work", &[])).await.unwrap();
        let lines = preview(&mut build, false, false).await.unwrap();
        assert!(lines.iter().any(|line| line.step == "captions" && line.rows == 24), "they depend on these rows");
        let line = lines.into_iter().find(|line| line.step == "geotags").unwrap();
        (line.rows, line.finished)
    };
    assert_eq!(geotags().await, (0, Some(Finished { shards: 3, of: 3, rows: 24 })));
    // a part that is gone is no part, and looking removes nothing
    let folder = world.path("work").join(paths::table(Artifact::Geotags)).join("country=finland");
    let parts = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of_shard = |path: &std::path::PathBuf| paths::shard_of_part(path.to_str().unwrap()) == Some(1);
    let (part, aside) = (parts.into_iter().find(of_shard).unwrap(), world.path("aside"));
    std::fs::rename(&part, &aside).unwrap();
    let finished = Finished { shards: 2, of: 3, rows: 24 - rows_of(1) };
    assert_eq!(geotags().await, (rows_of(1), Some(finished)));
    assert_eq!(
        finished.in_words(),
        format!("2 of 3 shards are finished and wait for publishing ({} rows made)", 24 - rows_of(1))
    );
    std::fs::rename(&aside, &part).unwrap();
    assert_eq!(geotags().await.0, 0);
    let until = RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    run_with(world.spec("work", &[]), until).await.unwrap();
    assert_eq!(geotags().await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_rows_of_before_are_copied_loses_none() {
    let world = World::new(300);
    let mut build = open(world.spec("work", &["work.shards=1"])).await.unwrap();
    let reads = Reads::count_of(&mut build);
    build.claim_layout().await.unwrap();
    let (plan, stage) = (planned(&build).await, stages::geotags::stage());
    let partial = paths::partial("finland", stage.name, &plan.shard_key(0));
    let mapped = async |chunks: usize| -> MapResult {
        let stops = StopsAfter { chunks: AtomicUsize::new(chunks), stop: AtomicBool::new(false) };
        let context = MapContext {
            work: &build.work,
            slices: build.virtual_inputs.slices.store(),
            tables: &build.tables,
            source: &build.source,
            fetch: FetchSettings { concurrency: 4, request_bytes: 1 << 20 },
            stop: &stops.stop,
            observer: &stops,
        };
        let stage_context = StageContext {
            spec: &build.spec,
            device: DeviceName::Cpu,
            model_folder: None,
            weights: &build.weights,
            server: None,
            stop: Arc::default(),
        };
        map_plan(&context, &stage, &plan, stage_context, &[DeviceName::Cpu]).await.unwrap()
    };
    let aside = async || build.work.get_sealed::<PartFile>(&partial).await.unwrap();
    let aside_after = async |chunks: usize| {
        let mapped = mapped(chunks).await;
        assert!(mapped.stopped && mapped.finished.is_empty());
        aside().await.unwrap().rows
    };
    let two_chunks = aside_after(2).await;
    assert!((129..300).contains(&two_chunks), "{two_chunks}");
    assert_eq!(aside_after(1).await, two_chunks);

    let part = aside().await.unwrap();
    let path = world.path("work").join(paths::table(Artifact::Geotags)).join(&part.path);
    let stores = InputStores { tables: &build.work, slices: build.virtual_inputs.slices.store() };
    let taken_over = async || {
        let join = ShardJoin::load(stores, &stage, &plan, 0, Some(&part)).await?;
        Ok::<_, WorkerError>(join.tasks.iter().filter(|task| task.partial.is_some()).count() as u64)
    };
    assert_eq!(taken_over().await.unwrap(), two_chunks);
    // a store that does not answer for a moment still has the part; one that has it no longer says so
    reads.refuse(Some(&part.path));
    let error = taken_over().await.unwrap_err();
    assert!(matches!(error, WorkerError::Transient(_)), "{error}");
    reads.refuse(None);
    std::fs::rename(&path, world.path("aside")).unwrap();
    assert_eq!(taken_over().await.unwrap(), 0);
    std::fs::rename(world.path("aside"), &path).unwrap();
    // rows that cannot be copied are made again
    damage_content(&build.work, &part, &path).await;
    assert_eq!(taken_over().await.unwrap(), two_chunks, "which rows it has can still be read");
    let mapped = mapped(usize::MAX).await;
    let marker = &mapped.finished[0].marker;
    assert_eq!((marker.part.rows, marker.computed, marker.taken_over), (plan.computed(), plan.computed(), 0));
    assert_eq!(aside().await, None);
}

/// Damages a part in what its rows hold, and not in which they are.
async fn damage_content(work: &WorkStore, part: &PartFile, path: &Path) {
    let whole = std::fs::read(path).unwrap();
    for at in (0..whole.len()).rev().step_by(1 << 10) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(path, damaged).unwrap();
        let Ok(reader) = PartReader::open(work, Artifact::Geotags, part).await else { continue };
        if reader.read(&COMMITTED_COLUMNS).await.is_ok() && reader.verify().await.is_err() {
            return;
        }
    }
    panic!("each block of {} says which rows it has", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_says_which_parameter_makes_its_rows_stale() {
    let world = World::new(24);
    let until = RunOptions { until: Some("segments".into()), ..RunOptions::default() };
    run_with(world.spec("work", &["segment.felzenszwalb.scale=60.0"]), until).await.unwrap();
    let mut build = open(world.spec("work", &["segment.felzenszwalb.scale=80.0"])).await.unwrap();
    let lines = explain(&mut build, "segments").await.unwrap();
    assert!(lines.contains(&"      parameter settings.scale: 60.0 → 80.0 (24 rows)".to_owned()), "{lines:?}");
    let edited = edit_a_finnish_image(&world);
    let mut build = open(world.spec("work", &[])).await.unwrap();
    let lines = explain(&mut build, "geotags").await.unwrap();
    let rows = manifests::words::count(edited.len(), "row");
    let is_said =
        |line: &String| line.starts_with("      listing.meta") && line.ends_with(&format!(" changed ({rows})"));
    assert!(lines.iter().any(is_said), "{lines:?}");
}

/// Overwrites all parts of a table but those of one shard, without a change of their size.
fn spoil(work: &Path, table: Artifact, but: u32) {
    for entry in std::fs::read_dir(work.join(paths::table(table)).join("country=finland")).unwrap() {
        let path = entry.unwrap().path();
        if paths::shard_of_part(path.to_str().unwrap()) != Some(but) {
            let size = std::fs::metadata(&path).unwrap().len() as usize;
            std::fs::write(path, vec![0; size]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_without_a_change_are_not_read() {
    let world = World::new(24);
    let options = RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    run_with(world.spec("work", &[]), options).await.unwrap();
    // the archive of meta records is packed anew: only edited members count
    let edited = edit_a_finnish_image(&world);
    let shards: Vec<u32> = edited.iter().map(|id| manifests::shard_of(id, 3)).collect();
    assert!(shards.iter().all(|shard| *shard == shards[0]), "one shard in three: {edited:?}");
    spoil(&world.path("work"), Artifact::Geotags, shards[0]);
    let build = open(world.spec("work", &[])).await.unwrap();
    let plan = planned(&build).await;
    assert_eq!((plan.computed(), plan.kept()), (edited.len() as u64, 24 - edited.len() as u64));
    assert_eq!(plan.counts.stale.iter().map(|shard| shard.shard).collect::<Vec<_>>(), [shards[0]]);
    // without what earlier runs left everything is looked at, and found spoilt
    std::fs::remove_file(world.path("work").join(paths::settled("finland"))).unwrap();
    let build = open(world.spec("work", &[])).await.unwrap();
    let error = plan_stage(&build, &stages::geotags::stage(), &Model::default(), false).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// Shards of which a part was read, by table and number of times.
fn shards_read(reads: &Reads) -> Vec<(u32, usize)> {
    reads.of(".parquet").iter().map(|(path, reads)| (paths::shard_of_part(path).unwrap(), *reads)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_an_image_reads_the_shard_that_holds_it() {
    let world = World::new(30);
    let spec = || world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"]);
    let (build, _) = run(spec()).await.unwrap();
    let images = column(&build, Artifact::Splits, "split").await;
    let edited = edit_a_finnish_image(&world).remove(0);
    let is_elsewhere =
        |(image, split): &(&String, &String)| shard_of(image, 3) != shard_of(&edited, 3) && *split == "train";
    let (in_another, _) = images.iter().find(is_elsewhere).unwrap();
    for (image, state) in [(&edited, "stale: input changed"), (in_another, "its model may change: `urbancross plan`")] {
        let mut build = open(spec()).await.unwrap();
        let reads = Reads::count_of(&mut build);
        let lines = explain(&mut build, image).await.unwrap();
        assert!(lines.iter().any(|line| line.contains(state)), "{lines:?}");
        assert!(image == &edited || lines.iter().any(|line| line.trim() == "train"), "from the table: {lines:?}");
        let read = shards_read(&reads);
        assert!(!read.is_empty() && read.iter().all(|(shard, _)| *shard == shard_of(image, 3)), "{image}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_looks_once_for_rows_that_leave_and_only_where_something_changed() {
    let world = World::new(24);
    let until = || RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    run_with(world.spec("work", &[]), until()).await.unwrap();
    let shard = shard_of(&edit_a_finnish_image(&world)[0], 3);
    let mut build = open(world.spec("work", &[])).await.unwrap();
    let old = build.pin(Artifact::Geotags).await.unwrap();
    let reads = Reads::count_of(&mut build);
    for _ in 0..2 {
        assert!(removals(&mut build).await.unwrap().in_words().is_empty());
        assert_eq!(shards_read(&reads), [(shard, 1)]);
    }
    // as much as planning and mapping read, the new part aside
    pipeline::run::run(&mut build, &until(), &Progress::new(true)).await.unwrap();
    assert_eq!(reads.of(&old.part(shard).unwrap().path).into_values().sum::<usize>(), 3);
    // what others may have changed is looked at again
    edit_a_finnish_image(&world);
    build.refresh().await.unwrap();
    let before = shards_read(&reads).iter().map(|(_, reads)| reads).sum::<usize>();
    removals(&mut build).await.unwrap();
    assert!(shards_read(&reads).iter().map(|(_, reads)| reads).sum::<usize>() > before);
}
