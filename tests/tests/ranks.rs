//! Trainings of several processes: the same numbers, an end that names who died, and a way on.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_tests::{World, open, urbancross};
use stages::Training;
use stages::pretrain::{CURVE_FILE, read_curve};
use workers::train::TrainingRecord;

fn spec(world: &World, work: &str, processes: usize, epochs: usize) -> PathBuf {
    let path = world.path(&format!("{work}-{processes}.toml"));
    let text = world.spec_text(work).replace("epochs = 2\n", &format!("epochs = {epochs}\n"));
    let text = format!("{text}\n[ranks]\nprocesses = {processes}\ntimeout_seconds = 20\n");
    std::fs::write(&path, text).unwrap();
    path
}

fn start(spec: &Path) -> Child {
    let mut command = Command::new(urbancross());
    command.args(["run", "--until", "pretrain"]).arg(spec);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Runs to the end: exit code and messages.
fn finish(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("the program ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn record(world: &World, work: &str, set: &[&str]) -> TrainingRecord {
    let build = open(world.spec(work, set)).await.unwrap();
    pipeline::plan::standing_record(&build, Training::Pretrain).await.unwrap().expect("trained")
}

fn losses(world: &World, work: &str, record: &TrainingRecord) -> Vec<f64> {
    let path = world.path(work).join("checkpoints/finland/pretrain").join(&record.key).join(CURVE_FILE);
    read_curve(&std::fs::read_to_string(path).unwrap()).iter().filter_map(|point| point.loss).collect()
}

/// The process that runs as `rank` for the launcher.
fn child_of(launcher: u32, rank: &str) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let wanted = format!("RANK={rank}");
        let is_rank = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        (parent == launcher && is_rank).then_some(process)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_learn_what_one_learns() {
    let world = World::new(40);
    for (work, processes) in [("one", 1), ("two", 2)] {
        let (code, messages) = finish(start(&spec(&world, work, processes, 2)));
        assert_eq!(code, Some(0), "{messages}");
    }
    let (one, two) = (record(&world, "one", &[]).await, record(&world, "two", &[]).await);
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
    let mut launcher = start(&spec(&world, "killed", 2, 40));
    let last = world.path("killed").join("checkpoints/finland/pretrain");
    let deadline = Instant::now() + Duration::from_secs(120);
    // the first checkpoint of the training proper
    let saved =
        || std::fs::read_dir(&last).is_ok_and(|runs| runs.flatten().any(|run| run.path().join("last").exists()));
    while !saved() {
        assert!(Instant::now() < deadline, "no checkpoint came");
        assert!(launcher.try_wait().unwrap().is_none(), "it ended too early: {}", finish(launcher).1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let victim = child_of(launcher.id(), "1").expect("rank 1 is running");
    assert!(Command::new("kill").args(["-KILL", &victim.to_string()]).status().unwrap().success());
    let began = Instant::now();
    let (code, messages) = finish(launcher);
    assert_eq!(code, Some(75), "{messages}");
    assert!(messages.contains("rank 1"), "{messages}");
    assert!(began.elapsed() < Duration::from_secs(30), "the others must end within the time-out");
    let (code, messages) = finish(start(&spec(&world, "killed", 1, 40)));
    assert_eq!(code, Some(0), "{messages}");
    let record = record(&world, "killed", &["pretrain.epochs=40"]).await;
    assert_eq!((record.trained.epochs, record.trained.samples), (40, 40 * (record.trained.train_rows / 8 * 8)));
}
