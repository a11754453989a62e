//! Trainings of several processes: the same numbers, an end that names who died, and a way on.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_tests::{World, open, urbancross};
use stages::Training;
use stages::fit::{CURVE_FILE, read_curve};
use workers::train::TrainingRecord;

/// `in_parts`: each rank keeps a part of the optimiser's state.
fn spec(world: &World, work: &str, (processes, in_parts): (usize, bool), epochs: usize) -> PathBuf {
    let path = world.path(&format!("{work}-{processes}.toml"));
    let text = world.spec_text(work).replace("epochs = 2\n", &format!("epochs = {epochs}\n"));
    let ranks = format!("processes = {processes}\nshard_optimiser = {in_parts}\ntimeout_seconds = 20\n");
    let text = format!("{text}\n[ranks]\n{ranks}");
    std::fs::write(&path, text).unwrap();
    path
}

fn start(spec: &Path) -> Child {
    start_by("run", spec)
}

fn start_by(command: &str, spec: &Path) -> Child {
    let (words, mut command) = ([command, "--until", "pretrain"], Command::new(urbancross()));
    command.args(words).arg(spec);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for the first checkpoint of the training proper.
async fn first_checkpoint(world: &World, work: &str, launcher: &mut Child) {
    let runs = world.path(work).join("checkpoints/finland/pretrain");
    let deadline = Instant::now() + Duration::from_secs(120);
    let saved =
        || std::fs::read_dir(&runs).is_ok_and(|runs| runs.flatten().any(|run| run.path().join("last").exists()));
    while !saved() {
        assert!(Instant::now() < deadline, "no checkpoint came");
        assert!(launcher.try_wait().unwrap().is_none(), "it ended too early");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs to the end: exit code and messages.
fn finish(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("the program ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn record(world: &World, work: &str, set: &[&str]) -> TrainingRecord {
    let build = open(world.spec(work, set)).await.unwrap();
    pipeline::trainings::current_record(&build, Training::Pretrain).await.unwrap().expect("trained")
}

fn losses(world: &World, work: &str, record: &TrainingRecord) -> Vec<f64> {
    let path = world.path(work).join("checkpoints/finland/pretrain").join(&record.key).join(CURVE_FILE);
    read_curve(&std::fs::read_to_string(path).unwrap()).iter().filter_map(|point| point.loss).collect()
}

/// The process that runs as `rank` for the launcher.
fn child_of(launcher: u32, rank: &str) -> Option<u32> {
    let wanted = format!("RANK={rank}");
    child_with(launcher, "environ", &wanted)
}

/// The process of the launcher that has these words in a file about it.
fn child_with(launcher: u32, file: &str, words: &str) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        let told = std::fs::read(entry.path().join(file)).ok()?;
        let is_wanted = told.split(|byte| *byte == 0).any(|told| told == words.as_bytes());
        (parent == launcher && is_wanted).then_some(process)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_learn_what_one_learns() {
    let world = World::new(40);
    for (work, ranks) in [("one", (1, false)), ("two", (2, false)), ("parts", (2, true))] {
        let (code, messages) = finish(start(&spec(&world, work, ranks, 2)));
        assert_eq!(code, Some(0), "{messages}");
    }
    let (one, two) = (record(&world, "one", &[]).await, record(&world, "two", &[]).await);
    let parts = record(&world, "parts", &[]).await;
    assert_eq!(parts.parameters, two.parameters, "nor is who keeps the optimiser's state");
    assert_eq!(losses(&world, "parts", &parts), losses(&world, "two", &two), "nor does it move a bit");
    assert_eq!(one.parameters, two.parameters, "the number of ranks is no setting of a training");
    assert_eq!((one.trained.samples, one.trained.epochs), (two.trained.samples, two.trained.epochs));
    let (alone, together) = (losses(&world, "one", &one), losses(&world, "two", &two));
    assert!(alone.len() >= 4 && alone.len() == together.len(), "{alone:?} {together:?}");
    for (a, b) in alone.iter().zip(&together) {
        assert!((a - b).abs() < 1e-2 * a.abs().max(1.0), "{alone:?} {together:?}");
    }
    let recalls = [&one, &two].map(|record| record.trained.best_validation_mean_recall);
    assert!((recalls[0] - recalls[1]).abs() < 10.0, "{recalls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rank_ends_all_and_the_run_goes_on_with_another_number() {
    let world = World::new(40);
    let mut launcher = start(&spec(&world, "killed", (2, true), 40));
    first_checkpoint(&world, "killed", &mut launcher).await;
    let victim = child_of(launcher.id(), "1").expect("rank 1 is running");
    assert!(Command::new("kill").args(["-KILL", &victim.to_string()]).status().unwrap().success());
    let began = Instant::now();
    let (code, messages) = finish(launcher);
    assert_eq!(code, Some(75), "{messages}");
    assert!(messages.contains("rank 1 was killed"), "{messages}");
    assert!(began.elapsed() < Duration::from_secs(30), "the others must end within the time-out");
    let (code, messages) = finish(start(&spec(&world, "killed", (1, false), 40)));
    assert_eq!(code, Some(0), "{messages}");
    let record = record(&world, "killed", &["pretrain.epochs=40"]).await;
    assert_eq!((record.trained.epochs, record.trained.samples), (40, 40 * (record.trained.train_rows / 8 * 8)));
}

/// A driver starts again what was killed, from the last checkpoint, for as long as that comes further; also of a build alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_starts_a_killed_training_again() {
    let world = World::new(40);
    for (work, ranks) in [("alone", (1, false)), ("ranks", (2, true))] {
        let mut driver = start_by("drive", &spec(&world, work, ranks, 40));
        first_checkpoint(&world, work, &mut driver).await;
        let runs = world.path(work).join("checkpoints/finland/pretrain");
        let position = || {
            let run = std::fs::read_dir(&runs).ok()?.flatten().map(|run| run.path().join("last/position.json"));
            run.filter_map(|position| std::fs::read_to_string(position).ok()).next()
        };
        let (mut before, deadline) = (None, Instant::now() + Duration::from_secs(240));
        // more often than it would be started if it came no further
        for _ in 0..4 {
            let victim = loop {
                assert!(Instant::now() < deadline, "it does not go on");
                assert!(driver.try_wait().unwrap().is_none(), "it ended too early");
                let victim = match ranks.0 {
                    1 => child_with(driver.id(), "cmdline", "train"),
                    _ => child_of(driver.id(), "1"),
                };
                match (victim, position()) {
                    (Some(victim), now @ Some(_)) if now != before => {
                        before = now;
                        break victim;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            assert!(Command::new("kill").args(["-KILL", &victim.to_string()]).status().unwrap().success());
            while Path::new(&format!("/proc/{victim}/exe")).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let (code, messages) = finish(driver);
        assert_eq!(code, Some(0), "{messages}");
        assert_eq!(messages.matches("it goes on from what it has saved").count(), 4, "{messages}");
        let record = record(&world, work, &["pretrain.epochs=40"]).await;
        assert_eq!((record.trained.epochs, record.trained.samples), (40, 40 * (record.trained.train_rows / 8 * 8)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_hangs_is_killed_and_named() {
    let world = World::new(40);
    let path = spec(&world, "hung", (2, false), 400);
    let text = std::fs::read_to_string(&path).unwrap().replace("timeout_seconds = 20", "timeout_seconds = 4");
    std::fs::write(&path, text).unwrap();
    let mut launcher = start(&path);
    first_checkpoint(&world, "hung", &mut launcher).await;
    let victim = child_of(launcher.id(), "1").expect("rank 1 is running");
    assert!(Command::new("kill").args(["-STOP", &victim.to_string()]).status().unwrap().success());
    let (code, messages) = finish(launcher);
    assert_eq!(code, Some(75), "{messages}");
    assert!(messages.contains("rank 1 hung and was killed"), "{messages}");
    assert!(!Path::new(&format!("/proc/{victim}")).exists());
}

/// As a terminal sends it: to the whole group of processes at once.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_lets_every_rank_end_its_step() {
    use std::os::unix::process::CommandExt;
    let world = World::new(40);
    let mut command = Command::new(urbancross());
    command.args(["run", "--until", "pretrain"]).arg(spec(&world, "stopped", (2, true), 400)).process_group(0);
    let mut launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    first_checkpoint(&world, "stopped", &mut launcher).await;
    let group = format!("-{}", launcher.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let (code, messages) = finish(launcher);
    assert_eq!(code, Some(143), "{messages}");
    // the launcher and both ranks: a rank that a second signal ends says nothing
    assert_eq!(messages.matches("stopped on request").count(), 3, "{messages}");
}

/// Ranks whose launcher was killed end by themselves: a later run finds its folder free, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn ranks_end_with_their_launcher() {
    let world = World::new(40);
    let mut launcher = start(&spec(&world, "orphaned", (2, true), 40));
    first_checkpoint(&world, "orphaned", &mut launcher).await;
    let ranks = ["0", "1"].map(|rank| child_of(launcher.id(), rank).expect("the rank is running"));
    launcher.kill().unwrap();
    // the ranks have the launcher's standard error: it ends with the last of them
    let (code, messages) = finish(launcher);
    assert_eq!(code, None);
    assert_eq!(messages.matches("stopped on request").count(), 2, "{messages}");
    assert!(ranks.iter().all(|rank| !Path::new(&format!("/proc/{rank}/exe")).exists()));
    let (code, messages) = finish(start(&spec(&world, "orphaned", (2, true), 40)));
    assert_eq!(code, Some(0), "{messages}");
}

/// Several ranks do not wait for a process that trains their run: the ranks that wait for them would time out.
#[tokio::test(flavor = "multi_thread")]
async fn ranks_are_told_that_their_run_is_taken() {
    let world = World::new(40);
    // with a lease it would wait before it starts a rank
    let without_lease = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap().replace("shards = 3", "shards = 3\nlease_seconds = 0");
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut first = start(&without_lease(spec(&world, "taken", (1, false), 400)));
    first_checkpoint(&world, "taken", &mut first).await;
    let (code, messages) = finish(start(&without_lease(spec(&world, "taken", (2, true), 400))));
    assert_eq!(code, Some(75), "{messages}");
    assert!(messages.contains("another process trains this run"), "{messages}");
    first.kill().unwrap();
    first.wait().unwrap();
}
