//! Workers that share a plan: dead, stopped, poisoned, late ones; whatever becomes of them, the tables are those of one run.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use manifests::attempts::{End, Object};
use manifests::{Artifact, BuildSpec, Plan, paths};
use pipeline::build::Build;
use pipeline::plan::{Model, plan_stage};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::run_record::RunRecord;
use pipeline_tests::{World, open, rows, run, run_with, urbancross};
use workers::WorkerError;
use workers::claims::{Attempted, Claimant};
use workers::publish::Summary;
use workers::pull::{Collected, Share, collect};
use workers::stores::WorkStore;
use workers::upkeep::gc;

const QUICK: [&str; 4] = ["work.shards=12", "score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];
const LEASE: Duration = Duration::from_secs(1);

fn spec_file(world: &World, work: &str, set: &[&str]) -> PathBuf {
    let path = world.path(&format!("{work}.toml"));
    std::fs::write(&path, world.spec(work, set).to_toml()).unwrap();
    path
}

fn share(index: u32, count: u32) -> Share {
    let claimant = Claimant { worker: index.to_string(), node: format!("node{index}"), engine_job: None };
    Share { index, count, lease: LEASE, claimant, leaves: false }
}

/// A published plan of images, with nothing done.
async fn planned_images(world: &World, work: &str) -> (Build, Plan) {
    let until = RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    let (build, _) = run_with(world.spec(work, &QUICK), until).await.unwrap();
    let plan = plan_stage(&build, &stages::images::stage(), &Model::default(), false).await.unwrap();
    build.virtual_inputs.slices.publish_plan(&build.work, &plan, 8).await.unwrap();
    (build, plan)
}

async fn work(spec: BuildSpec, stage: &str, plan: &str, share: &Share) -> Result<(), WorkerError> {
    let stop = Arc::new(AtomicBool::new(false));
    pipeline::worker::work(spec, stage, plan, share, stop, &Progress::new(true)).await
}

async fn collected(build: &Build, plan: &Plan) -> Collected {
    collect(&build.work, &build.tables, plan, LEASE, 8).await.unwrap()
}

/// An object of an attempt on a shard.
async fn put(work: &WorkStore, plan: &Plan, shard: u32, object: Object) {
    let name = object.name(&plan.shard_key(shard));
    let by = Claimant { worker: "9".into(), node: "gone".into(), engine_job: None };
    let attempted = Attempted { shard, epoch: 1, by, why: None };
    work.put_json(&format!("{}/{name}", paths::markers("finland", &plan.stage)), &attempted).await.unwrap();
}

fn finish(arguments: &[&str], spec: &PathBuf) -> (Option<i32>, String) {
    let mut command = Command::new(urbancross());
    let output = command.arg(arguments[0]).arg(spec).args(&arguments[1..]).output().expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Workers of a driver, by their process numbers.
fn children(driver: u32) -> Vec<i32> {
    let listed = std::fs::read_to_string(format!("/proc/{driver}/task/{driver}/children")).unwrap_or_default();
    let workers = listed.split_whitespace().filter_map(|id| id.parse::<i32>().ok());
    let is_worker = |id: &i32| {
        std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.split(|b| *b == 0).any(|a| a == b"worker"))
    };
    workers.filter(is_worker).collect()
}

/// Three workers, of which some are killed at any time, make the rows of one run; and the driver may be killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_one_run_whoever_dies() {
    let world = World::new(60);
    let (build, _) = run(world.spec("alone", &QUICK)).await.unwrap();
    let wanted = rows(&build).await;
    let spec = spec_file(&world, "shared", &QUICK);
    let arguments = ["drive", "--workers", "3", "--lease-seconds", "1"];
    let (mut kills, mut driver_kills, began) = (0, 0, Instant::now());
    let code = loop {
        let mut driver = Command::new(urbancross());
        driver.arg(arguments[0]).arg(&spec).args(&arguments[1..]);
        let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let code = loop {
            if let Some(status) = driver.try_wait().unwrap() {
                break status.code();
            }
            if kills < 6
                && let Some(worker) = children(driver.id()).first()
            {
                // somewhere in its life
                std::thread::sleep(Duration::from_millis(40 * (1 + kills % 4)));
                _ = Command::new("kill").args(["-KILL", &worker.to_string()]).status();
                kills += 1;
            }
            if kills >= 3 && driver_kills == 0 {
                driver.kill().unwrap();
                driver_kills = 1;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(began.elapsed() < Duration::from_secs(240), "it does not end");
        if driver_kills == 1 && code.is_none() {
            driver_kills = 2;
            continue;
        }
        break code;
    };
    assert_eq!((code, driver_kills), (Some(0), 2));
    assert!(kills >= 3, "{kills}");
    let (build, _) = run(world.spec("shared", &QUICK)).await.unwrap();
    assert_eq!(build.commits(), 0, "nothing was left to do");
    let made = rows(&build).await;
    for (table, wanted) in wanted {
        assert!(made[&table] == wanted, "{table} differs");
    }
}

/// The driver knows that they are gone: nobody waits for as long as they might have been silent, which is ten minutes here.
#[tokio::test(flavor = "multi_thread")]
async fn what_killed_workers_held_is_free_at_once() {
    let world = World::new(300);
    let spec = spec_file(&world, "work", &QUICK);
    let mut driver = Command::new(urbancross());
    driver.arg("drive").arg(&spec).args(["--workers", "2", "--lease-seconds", "600", "--until", "segments"]);
    let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let markers = world.path("work").join(paths::markers("finland", "segments"));
    let held = || {
        let names = std::fs::read_dir(&markers).into_iter().flatten().flatten();
        let names: Vec<String> = names.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        let (mut claimed, mut over) = (BTreeSet::new(), BTreeSet::new());
        for (key, object) in names.iter().filter_map(|name| Object::of_name(name)) {
            match object {
                Object::Claim(_) => _ = claimed.insert(key.to_owned()),
                Object::Marker | Object::End(..) => _ = over.insert(key.to_owned()),
                _ => {}
            }
        }
        claimed.difference(&over).count()
    };
    let began = Instant::now();
    loop {
        assert!(driver.try_wait().unwrap().is_none(), "it was faster than this test");
        if held() > 0 {
            for worker in children(driver.id()) {
                _ = Command::new("kill").args(["-KILL", &worker.to_string()]).status();
            }
            if held() > 0 {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    while driver.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(240), "it waits for those that it has seen die");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = driver.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A worker that somebody has suspended, for a debugger or by Ctrl-Z, holds nobody up once others have done its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_worker_holds_nothing_up() {
    let world = World::new(48);
    let spec = spec_file(&world, "work", &QUICK);
    let mut driver = Command::new(urbancross());
    driver.arg("drive").arg(&spec).args(["--workers", "2", "--lease-seconds", "1", "--until", "captions"]);
    let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let worker = loop {
        if let Some(worker) = children(driver.id()).first() {
            break *worker;
        }
        assert!(driver.try_wait().unwrap().is_none(), "it had no worker");
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(Command::new("kill").args(["-STOP", &worker.to_string()]).status().unwrap().success());
    let code = loop {
        if let Some(status) = driver.try_wait().unwrap() {
            break status.code();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it waits for the suspended worker");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(0));
}

/// A driver that is told to stop publishes what is done, as a run does.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_driver_publishes_what_is_done() {
    let world = World::new(300);
    let spec = spec_file(&world, "work", &QUICK);
    let mut driver = Command::new(urbancross());
    driver.arg("drive").arg(&spec).args(["--workers", "2", "--until", "segments"]);
    let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let markers = world.path("work").join(paths::markers("finland", "segments"));
    let done = || {
        let names = std::fs::read_dir(&markers).into_iter().flatten().flatten();
        names.filter(|f| matches!(Object::of_name(&f.file_name().to_string_lossy()), Some((_, Object::Marker)))).count()
    };
    while done() < 2 {
        assert!(driver.try_wait().unwrap().is_none(), "it was faster than this test");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-TERM", &driver.id().to_string()]).status().unwrap().success());
    let output = driver.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(143), "{said}");
    let stopped =
        said.lines().filter(|line| line.starts_with("stopped on request; run the same command again")).count();
    assert_eq!(stopped, 1, "its workers say who they are, and give no advice: {said}");
    assert!(!said.contains("error: "), "{said}");
    let build = open(world.spec("work", &QUICK)).await.unwrap();
    let live = build.pin(Artifact::Segments).await.unwrap().parts.len();
    assert!(live >= 2 && live >= done(), "{live} of {} published", done());
}

/// Records of runs go with everything else that is old.
#[tokio::test]
async fn records_of_old_runs_are_cleared_away() {
    let world = World::new(1);
    let spec = spec_file(&world, "work", &QUICK);
    let work = WorkStore::open(&world.path("work").display().to_string(), &Default::default()).unwrap();
    work.make().unwrap();
    let record = |of: &'static str| RunRecord::new(&work, of, "1a2b3c4d");
    let ours = ["finland", "spain_to_finland"].map(record);
    let others = ["spain", "finland_to_spain"].map(record);
    for record in ours.iter().chain(&others) {
        record.set_cancelled(true).await.unwrap();
    }
    let (code, said) = finish(&["gc", "--delete"], &spec);
    assert!(code == Some(0) && ours[0].is_cancelled().await.unwrap(), "it is young: {said}");
    let (code, said) = finish(&["gc", "--delete", "--keep-days", "0"], &spec);
    for (records, are_there) in [(ours, false), (others, true)] {
        for record in records {
            assert!(code == Some(0) && record.is_cancelled().await.unwrap() == are_there, "{said}");
        }
    }
}

/// What a cluster would be given can be seen without one.
#[test]
fn every_engine_renders_every_step() {
    let world = World::new(1);
    let (spec, profile) = (spec_file(&world, "work", &QUICK), world.path("profile.toml"));
    std::fs::write(
        &profile,
        format!("[kubernetes]\nimage = \"x\"\n[slurm]\nlogs = \"{}\"\n", world.path("logs").display()),
    )
    .unwrap();
    for engine in ["slurm", "kubernetes", "ray"] {
        let out = world.path(engine);
        let arguments = ["render", "--engine", engine, "--profile", &profile.display().to_string(), "--output"];
        let (code, said) = finish(&[&arguments[..], &[&out.display().to_string()]].concat(), &spec);
        assert_eq!(code, Some(0), "{engine}: {said}");
        assert!(std::fs::read_dir(&out).unwrap().count() > 0, "{engine} renders nothing");
    }
    // a training as Kubeflow's trainer takes it, instead of a job
    let (profile, out) = (profile.display().to_string(), world.path("trainjobs"));
    let words = |engine| ["render", "--trainjob", "--engine", engine, "--profile", &profile, "--output"];
    let trainjobs = |engine| finish(&[&words(engine)[..], &[&out.display().to_string()]].concat(), &spec);
    let files = |folder: &PathBuf| -> Vec<String> {
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    };
    assert_eq!(trainjobs("kubernetes").0, Some(0));
    let text = files(&out).concat();
    let train_job = text.split("---\n").find(|object| object.contains("\nkind: TrainJob\n")).expect("a TrainJob");
    assert!(train_job.starts_with("apiVersion: trainer.kubeflow.org/") && train_job.contains("-pretrain-train1\n"));
    let jobs = files(&world.path("kubernetes")).concat();
    let count = |text: &str, kind: &str| text.matches(&format!("\nkind: {kind}\n")).count();
    assert_eq!((count(&text, "TrainJob"), count(&text, "Job") + 1), (1, count(&jobs, "Job")), "it stands for one job");
    assert_eq!(trainjobs("kubernetes").0, Some(0));
    assert_eq!(files(&out).concat(), text, "the same bytes");
    for engine in ["slurm", "ray"] {
        let (code, said) = trainjobs(engine);
        assert!(code == Some(65) && said.contains("--engine kubernetes"), "{said}");
    }
    assert!(!world.path("work").exists(), "nothing is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_claimed_is_taken_when_its_lease_ends() {
    let world = World::new(24);
    let (build, plan) = planned_images(&world, "work").await;
    let claimed: Vec<u32> = plan.counts.stale.iter().map(|stale| stale.shard).take(3).collect();
    for shard in &claimed {
        put(&build.work, &plan, *shard, Object::Claim(1)).await;
    }
    assert_eq!(collected(&build, &plan).await.running, claimed.into_iter().collect());
    let spec = world.spec("work", &QUICK);
    let (one, two, key) = (share(0, 2), share(1, 2), plan.key());
    let both = tokio::join!(work(spec.clone(), "images", &key, &one), work(spec, "images", &key, &two));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    let after = collected(&build, &plan).await;
    assert!(after.is_closed() && after.finished.len() == plan.counts.stale.len() && after.failed.is_empty());
    // each shard was worked on once: nobody doubled another's
    let names = build.work.list(&paths::markers("finland", "images")).await.unwrap();
    let claims = names.iter().filter_map(|name| Object::of_name(name)).filter(|(_, o)| matches!(o, Object::Claim(_)));
    assert_eq!(claims.count(), plan.counts.stale.len() + 3);
}

/// What takes more memory than there is kills each of its workers, and leaves no word.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_kills_its_workers_is_closed_and_can_be_opened_again() {
    let world = World::new(24);
    let (build, plan) = planned_images(&world, "work").await;
    let spec = spec_file(&world, "work", &QUICK);
    let nothing_to_open = || {
        let (code, said) = finish(&["retry", "--errors"], &spec);
        assert!(code == Some(0) && said.contains("no shard that is to be made is closed as failed"), "{said}");
    };
    // one that was closed, and that a run has made since
    let made = plan.counts.stale[1].shard;
    for object in [Object::Failed, Object::Marker] {
        put(&build.work, &plan, made, object).await;
    }
    nothing_to_open();
    for object in [Object::Failed, Object::Marker] {
        let name = object.name(&plan.shard_key(made));
        build.work.delete(&format!("{}/{name}", paths::markers("finland", "images"))).await.unwrap();
    }
    let shard = plan.counts.stale[0].shard;
    for epoch in 1..=5 {
        put(&build.work, &plan, shard, Object::Claim(epoch)).await;
    }
    let drive = ["drive", "--workers", "2", "--lease-seconds", "1", "--until", "images"];
    let (code, said) = finish(&drive, &spec);
    assert!(code == Some(65) && said.contains(&format!("images: 1 shard failed: shard {shard}")), "{code:?} {said}");
    assert!(said.contains("--allow-failed 1") && said.contains("retry"), "{said}");
    // what is allowed is gone on without, and is no end of the work on it
    let (code, said) = finish(&[&drive[..], &["--allow-failed", "1"]].concat(), &spec);
    assert!(code == Some(0) && said.contains("going on without"), "{code:?} {said}");
    let live = open(world.spec("work", &QUICK)).await.unwrap().pin(Artifact::Images).await.unwrap();
    assert!(live.part(shard).is_none() && live.parts.len() == plan.counts.stale.len() - 1);
    let (code, said) = finish(&["retry", "--errors"], &spec);
    assert!(code == Some(0) && said.contains("1 shard open again"), "{code:?} {said}");
    assert_eq!(finish(&drive, &spec).0, Some(0));
    let live = open(world.spec("work", &QUICK)).await.unwrap().pin(Artifact::Images).await.unwrap();
    assert_eq!(live.parts.len(), plan.counts.stale.len());
    // what was published is wanted no more, though the marker is gone
    build.work.delete(&paths::marker("finland", "images", &plan.shard_key(shard))).await.unwrap();
    put(&build.work, &plan, shard, Object::Failed).await;
    nothing_to_open();
}

/// The table still names the part that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_part_that_cannot_be_made_again_is_gone_on_without() {
    let world = World::new(24);
    let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    let (build, _) = run_with(world.spec("work", &QUICK), until).await.unwrap();
    let images = build.pin(Artifact::Images).await.unwrap();
    let lost: Vec<_> = images.parts.iter().filter(|part| part.rows > 0).take(2).collect();
    for part in &lost {
        std::fs::remove_file(world.path("work").join(paths::table(Artifact::Images)).join(&part.path)).unwrap();
    }
    let build = open(world.spec("work", &QUICK)).await.unwrap();
    let plan = plan_stage(&build, &stages::images::stage(), &Model::default(), false).await.unwrap();
    assert_eq!(plan.counts.stale.len(), 2);
    let shard = lost[0].shard;
    for epoch in 1..=2 {
        put(&build.work, &plan, shard, Object::End(epoch, End::Permanent)).await;
    }
    let spec = spec_file(&world, "work", &QUICK);
    let drive = ["drive", "--workers", "1", "--lease-seconds", "1", "--until", "images", "--allow-failed", "1"];
    // beside one that is made again, and alone
    for _ in 0..2 {
        let (code, said) = finish(&drive, &spec);
        assert!(code == Some(0) && said.contains("going on without"), "{code:?} {said}");
        assert!(said.contains(&format!("images: 1 shard failed: shard {shard}")), "{said}");
        let live = open(world.spec("work", &QUICK)).await.unwrap().pin(Artifact::Images).await.unwrap();
        assert!(live.lost == BTreeSet::from([shard]) && live.parts.len() == images.parts.len(), "{live:?}");
    }
}

/// What the build's own settings have made of such a shard is nothing that a sweep over others may learn from.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_goes_on_without_a_failed_shard() {
    let world = World::new(24);
    let (build, _) = run(world.spec("work", &QUICK)).await.unwrap();
    let own = build.pin(Artifact::SegmentScores).await.unwrap();
    let swept = open(world.spec("work", &[&QUICK[..], &["score.max_segments=1"]].concat())).await.unwrap();
    let stage = stages::map_stages(&swept.spec).into_iter().find(|stage| stage.name == "segment_scores").unwrap();
    let plan = plan_stage(&swept, &stage, &Model::default(), false).await.unwrap();
    let shard = plan.counts.stale[0].shard;
    assert!(own.part(shard).is_some());
    for epoch in 1..=5 {
        put(&build.work, &plan, shard, Object::Claim(epoch)).await;
    }
    let spec = spec_file(&world, "work", &QUICK);
    let drive = ["drive", "--workers", "2", "--lease-seconds", "1", "--over", "score.max_segments=1"];
    let (code, said) = finish(&drive, &spec);
    assert!(code == Some(65) && said.contains(&format!("segment_scores: shard {shard} failed")), "{code:?} {said}");
    assert!(said.contains("--allow-failed 1") && said.contains("retry SPEC --errors"), "{said}");
    let (code, said) = finish(&[&drive[..], &["--allow-failed", "1"]].concat(), &spec);
    assert_eq!(code, Some(0), "{said}");
    let mut trained = workers::train::runs(&build.work, "finland", stages::Training::Pretrain).await.unwrap().finished;
    let last = trained.pop().unwrap();
    let scores = last.inputs.iter().find(|table| table.artifact == Artifact::SegmentScores).unwrap();
    assert!(scores.part(shard).is_none() && scores.parts.len() == own.parts.len() - 1, "{scores:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_cannot_be_made_fails_after_a_second_worker() {
    let world = World::new(24);
    let (build, plan) = planned_images(&world, "work").await;
    // a part that the stage reads is damaged: neither worker can read it
    let shard = plan.counts.stale[0].shard;
    let part = plan.input(Artifact::Geotags).and_then(|input| input.part(shard)).unwrap();
    let path = format!("{}/{}", paths::table(Artifact::Geotags), part.path);
    let mut bytes = build.work.get(&path).await.unwrap().unwrap().to_vec();
    let middle = bytes.len() / 3;
    bytes[middle..middle + 16].fill(0xff);
    build.work.put(&path, bytes.into()).await.unwrap();
    let spec = world.spec("work", &QUICK);
    let (one, two, key) = (share(0, 2), share(1, 2), plan.key());
    let both = tokio::join!(work(spec.clone(), "images", &key, &one), work(spec, "images", &key, &two));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    let after = collected(&build, &plan).await;
    assert!(after.is_closed() && after.finished.len() == plan.counts.stale.len() - 1, "{after:?}");
    let failed = &after.failed[0];
    assert_eq!((failed.shard, failed.attempts.len()), (shard, 2));
    assert_ne!(failed.attempts[0].by.worker, failed.attempts[1].by.worker, "a second worker tried it");
    assert!(failed.why().contains("on node"), "{}", failed.why());
}

/// A worker that is stopped gives its shard back with the rows that it has made.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_leaves_its_rows_for_the_next() {
    let world = World::new(400);
    let set = [&QUICK[..], &["work.shards=1"]].concat();
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(world.spec("work", &set), until).await.unwrap();
    let stage = stages::map_stages(&build.spec).into_iter().find(|stage| stage.name == "segments").unwrap();
    let plan = plan_stage(&build, &stage, &Model::default(), false).await.unwrap();
    build.virtual_inputs.slices.publish_plan(&build.work, &plan, 8).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (markers, key) = (paths::markers("finland", "segments"), plan.key());
    let there = |object: Object| format!("{markers}/{}", object.name(&plan.shard_key(0)));
    // beats that come soon
    let (first, quiet) = (Share { lease: LEASE / 10, ..share(0, 2) }, Progress::new(true));
    let worker = pipeline::worker::work(world.spec("work", &set), "segments", &key, &first, stop.clone(), &quiet);
    let watcher = async {
        // its first beat: it is in the middle of its work
        while build.work.head(&there(Object::Beat(1))).await.unwrap().is_none() {
            let done = build.work.head(&there(Object::Marker)).await.unwrap();
            assert!(done.is_none(), "it was faster than its beat");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (ended, ()) = tokio::join!(worker, watcher);
    assert_eq!(ended.unwrap_err().exit_code(), 143);
    for object in [Object::End(1, End::Released), Object::Partial] {
        assert!(build.work.head(&there(object)).await.unwrap().is_some(), "{object:?}");
    }
    // no lease has to end
    let began = Instant::now();
    let patient = Share { lease: Duration::from_secs(3600), ..share(1, 2) };
    work(world.spec("work", &set), "segments", &plan.key(), &patient).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(600));
    assert!(collected(&build, &plan).await.is_closed());
}

/// On Slurm a driver comes back when its workers have done everything; and what one left that was stopped is older than
/// the plan.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_began_when_its_workers_did_and_has_ended() {
    let world = World::new(24);
    let (build, plan) = planned_images(&world, "work").await;
    let shard = plan.counts.stale[0].shard;
    put(&build.work, &plan, shard, Object::Claim(1)).await;
    let claim = format!("{}/{}", paths::markers("finland", "images"), Object::Claim(1).name(&plan.shard_key(shard)));
    let ago = |path: &str, seconds: u64| {
        let file = std::fs::File::options().write(true).open(world.path("work").join(path)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    ago(&claim, 5000);
    ago(&paths::plan("finland", "images", &plan.key()), 1000);
    work(world.spec("work", &QUICK), "images", &plan.key(), &share(0, 1)).await.unwrap();
    let (code, said) = finish(&["drive", "--workers", "2", "--until", "images"], &spec_file(&world, "work", &QUICK));
    assert_eq!(code, Some(0), "{said}");
    let summary: Summary = build.work.get_record(&paths::summary("finland", "images")).await.unwrap().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let ended = summary.started_unix_seconds + summary.seconds;
    assert!(ended > now - 600.0 && ended < now + 1.0, "{ended} at {now}");
    assert!((999.0..2000.0).contains(&summary.seconds), "{summary:?}");
}

/// Workers that find no plan, or a cut one, are started again, and find it.
#[test]
fn a_plan_that_is_lost_or_cut_is_published_again() {
    let world = World::new(40);
    let spec = spec_file(&world, "work", &QUICK);
    for (stage, is_cut) in [("images", true), ("captions", false)] {
        let mut driver = Command::new(urbancross());
        driver.arg("drive").arg(&spec).args(["--workers", "2", "--lease-seconds", "2", "--until", stage]);
        let words = world.path(&format!("{stage}.words"));
        let said = std::fs::File::create(&words).unwrap();
        let mut driver = driver.stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let (folder, began) = (world.path("work/plans/finland").join(stage), Instant::now());
        let plan = loop {
            let plans = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            if let Some(plan) = plans.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")) {
                break plan;
            }
            assert!(driver.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(120));
            std::thread::sleep(Duration::from_millis(1));
        };
        if is_cut {
            std::fs::write(&plan, "{").unwrap()
        } else {
            std::fs::remove_file(&plan).unwrap()
        }
        let code = driver.wait().unwrap().code();
        let said = std::fs::read_to_string(&words).unwrap();
        assert_eq!(code, Some(0), "{stage}: {said}");
        // processes take longer to start than the file to go
        assert!(said.contains("there is no plan"), "{stage}: {said}");
    }
}

/// A stage may take longer than gc keeps anything, and is published when all of its shards are closed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_long_stage_has_finished_is_kept() {
    let world = World::new(40);
    let (build, plan) = planned_images(&world, "work").await;
    work(world.spec("work", &QUICK), "images", &plan.key(), &share(0, 1)).await.unwrap();
    let keep = Duration::from_secs(2);
    tokio::time::sleep(keep + Duration::from_millis(500)).await;
    let shard = plan.counts.stale[0].shard;
    let object =
        |object: Object| format!("{}/{}", paths::markers("finland", "images"), object.name(&plan.shard_key(shard)));
    let all = plan.counts.stale.len();
    let clear = async || {
        let retention = gc::Retention { keep, delete: true };
        gc::gc(&build.work, &build.tables, "finland", retention).await.unwrap();
        collected(&build, &plan).await.finished.len()
    };
    // all are made, and the driver waits in a queue to publish them
    assert_eq!(clear().await, all);
    // one shard is being made
    build.work.delete(&object(Object::Marker)).await.unwrap();
    put(&build.work, &plan, shard, Object::Claim(9)).await;
    assert_eq!(clear().await, all - 1);
    assert!(build.work.head(&paths::plan("finland", "images", &plan.key())).await.unwrap().is_some());
    for epoch in 1..=9 {
        build.work.delete(&object(Object::Claim(epoch))).await.unwrap();
    }
    assert_eq!(clear().await, 0, "nobody works on it any more");
}

/// Its shard is made again, by workers that the driver of then starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_nobody_can_read_is_none() {
    let world = World::new(40);
    let (build, plan) = planned_images(&world, "work").await;
    let spec = world.spec("work", &QUICK);
    work(spec.clone(), "images", &plan.key(), &share(0, 1)).await.unwrap();
    assert!(collected(&build, &plan).await.is_closed());
    let shard = plan.counts.stale[0].shard;
    let marker = format!("{}/{}", paths::markers("finland", "images"), Object::Marker.name(&plan.shard_key(shard)));
    build.work.put(&marker, "{\"digest\":\"0\",\"value\":{}}".into()).await.unwrap();
    assert!(!collected(&build, &plan).await.is_closed());
    build.work.put(&marker, "{".into()).await.unwrap();
    let (code, said) = finish(&["drive", "--workers", "2", "--until", "images"], &spec_file(&world, "work", &QUICK));
    assert_eq!(code, Some(0), "{said}");
    let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    let (again, _) = run_with(spec, until).await.unwrap();
    assert_eq!(again.commits(), 0, "nothing was left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_would_make_other_rows_makes_none() {
    let world = World::new(24);
    let (build, plan) = planned_images(&world, "work").await;
    let code =
        |ended: Result<(), WorkerError>| ended.map_err(|error| (error.exit_code(), error.to_string())).unwrap_err();
    let of = |set: &[&str]| world.spec("work", &[&QUICK[..], set].concat());
    let (exit, said) = code(work(of(&[]), "images", "0a1b2c", &share(0, 1)).await);
    // a driver that begins publishes it again
    assert!(exit == 75 && said.contains("there is no plan"), "{said}");
    let (exit, said) = code(work(of(&[]), "imags", &plan.key(), &share(0, 1)).await);
    assert!(exit == 65 && said.contains("the stages with shards are geotags, images"), "{said}");
    // a program of another version
    let other = Plan { stage_version: plan.stage_version + 1, ..plan.clone() };
    build.work.put_sealed(&paths::plan("finland", "images", &other.key()), &other).await.unwrap();
    let (exit, said) = code(work(of(&[]), "images", &other.key(), &share(0, 1)).await);
    assert!(exit == 65 && said.contains("run the same version"), "{said}");
    // a spec that was edited while the run lives
    let other = Plan { parameters: "{\"side\":7}".into(), ..plan.clone() };
    build.work.put_sealed(&paths::plan("finland", "images", &other.key()), &other).await.unwrap();
    let (exit, said) = code(work(of(&[]), "images", &other.key(), &share(0, 1)).await);
    assert!(exit == 65 && said.contains("other settings"), "{said}");
    assert_eq!(collected(&build, &plan).await.finished.len(), 0);
}
