//! Sources that change between a plan and the reading of what it named: the build plans again, by itself.

#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use manifests::attempts::Object;
use manifests::{Plan, paths};
use pipeline::build::Build;
use pipeline::plan::{Model, plan_stage};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, open, rows, run, run_with, urbancross};
use workers::WorkerError;
use workers::claims::{ClaimBoard, Claimant, Withdrawal};
use workers::pull::Share;

const SET: [&str; 4] = ["work.shards=12", "score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];
const LEASE: Duration = Duration::from_secs(1);

/// Writes the same bytes anew, as when an archive is uploaded again.
fn write_anew(world: &World) {
    let mut written = 0;
    for archive in archives(world) {
        let bytes = std::fs::read(&archive).unwrap();
        let draft = archive.with_extension("draft");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::rename(&draft, &archive).unwrap();
        written += 1;
    }
    assert!(written > 0);
}

fn archives(world: &World) -> impl Iterator<Item = PathBuf> {
    walk(&world.path("world")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "zip"))
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn until(step: &str) -> RunOptions {
    RunOptions { until: Some(step.into()), ..RunOptions::default() }
}

async fn publish_images(build: &Build) -> Plan {
    let plan = plan_stage(build, &stages::images::stage(), &Model::default(), false).await.unwrap();
    build.virtual_inputs.slices.publish_plan(&build.work, &plan, 8).await.unwrap();
    plan
}

fn claimant(name: &str) -> Claimant {
    Claimant { worker: name.into(), node: "node".into(), engine_job: None }
}

async fn work(build: &Build, plan: &Plan, name: &str) -> Result<(), WorkerError> {
    let share = Share { index: 0, count: 2, lease: LEASE, claimant: claimant(name), leaves: false };
    pipeline::worker::work(build.spec.clone(), "images", &plan.key(), &share, Arc::default(), &Progress::new(true))
        .await
}

/// What was listed is read under that listing only; a run lists again, and comes to the end of one that nobody disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_source_changes_plans_again() {
    let world = World::new(30);
    let wanted = rows(&run(world.spec("undisturbed", &SET)).await.unwrap().0).await;
    let mut build = open(world.spec("work", &SET)).await.unwrap();
    write_anew(&world);
    pipeline::run::run(&mut build, &RunOptions::default(), &Progress::new(true)).await.unwrap();
    assert_eq!(rows(&build).await, wanted);
}

/// As `cp` writes a file that is there: for a while it holds half an archive. Who comes to that by listing again waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_being_written_is_waited_for() {
    let world = World::new(30);
    let wanted = rows(&run(world.spec("undisturbed", &SET)).await.unwrap().0).await;
    let mut build = open(world.spec("work", &SET)).await.unwrap();
    let archives: Vec<(PathBuf, Vec<u8>)> =
        archives(&world).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    archives.iter().for_each(|(path, bytes)| std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap());
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        archives.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    });
    pipeline::run::run(&mut build, &RunOptions::default(), &Progress::new(true)).await.unwrap();
    writer.join().unwrap();
    assert_eq!(rows(&build).await, wanted);
}

/// The first worker that finds it tells the others, whose stage is over; what is published again is another matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_source_changed_withdraws_the_plan() {
    let world = World::new(30);
    let (mut build, _) = run_with(world.spec("work", &SET), until("geotags")).await.unwrap();
    let plan = publish_images(&build).await;
    write_anew(&world);
    work(&build, &plan, "first").await.unwrap();
    let store = build.work.clone();
    let board = ClaimBoard::new(&store, &plan, LEASE);
    let look = board.look().await.unwrap();
    let withdrawn = look.withdrawn.clone().expect("it says so");
    assert!(look.is_over() && withdrawn.why.contains("it changed after it was listed"), "{withdrawn:?}");
    assert_eq!(withdrawn.by, claimant("first"));
    // would be tried in vain
    work(&build, &plan, "second").await.unwrap();
    assert_eq!(board.look().await.unwrap().withdrawn, Some(withdrawn.clone()));

    // the same work over what is there now; one that is late speaks of what was
    build.refresh().await.unwrap();
    let again = publish_images(&build).await;
    assert_eq!(again.key(), plan.key(), "where bytes lie is no part of it");
    board.withdraw(&Withdrawal { by: claimant("late"), ..withdrawn }).await.unwrap();
    assert_eq!(board.look().await.unwrap().withdrawn, None);
    work(&build, &again, "third").await.unwrap();
    assert!(board.look().await.unwrap().shards.values().all(|(turn, _)| turn.is_closed()));
}

/// An archive that is there no longer is no broken shard: the listing says what becomes of its rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_archive_is_gone_withdraws_the_plan() {
    let world = World::new(30);
    let (build, _) = run_with(world.spec("work", &SET), until("geotags")).await.unwrap();
    let plan = publish_images(&build).await;
    archives(&world).for_each(|path| std::fs::remove_file(path).unwrap());
    work(&build, &plan, "first").await.unwrap();
    let withdrawn = ClaimBoard::new(&build.work, &plan, LEASE).look().await.unwrap().withdrawn.expect("it says so");
    assert!(withdrawn.why.contains("is gone"), "{withdrawn:?}");
}

/// A driver's workers are in the middle of a stage when it happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_whose_source_changes_plans_again() {
    let world = World::new(300);
    let wanted = rows(&run_with(world.spec("undisturbed", &SET), until("captions")).await.unwrap().0).await;
    let spec = world.path("work.toml");
    std::fs::write(&spec, world.spec("work", &SET).to_toml()).unwrap();
    let mut driver = Command::new(urbancross());
    driver.arg("drive").arg(&spec).args(["--workers", "2", "--lease-seconds", "1", "--until", "captions"]);
    let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let markers = world.path("work").join(paths::markers("finland", "images"));
    let is_claim = |file: std::fs::DirEntry| {
        matches!(Object::of_name(&file.file_name().to_string_lossy()), Some((_, Object::Claim(_))))
    };
    while !std::fs::read_dir(&markers).into_iter().flatten().flatten().any(is_claim) {
        assert!(driver.try_wait().unwrap().is_none(), "it was faster than this test");
        std::thread::sleep(Duration::from_millis(2));
    }
    write_anew(&world);
    let output = driver.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("planning again") && !said.contains("starting another"), "{said}");
    let build = open(world.spec("work", &SET)).await.unwrap();
    assert_eq!(rows(&build).await, wanted);
}
