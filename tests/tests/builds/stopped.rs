//! A run beside one that is stopped, as by Ctrl-Z: it says so, and does not wait as for one that works.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_tests::{World, urbancross};

/// A run in a session of its own: what is signalled to it reaches nobody else.
fn start(spec: &Path) -> Option<Child> {
    let mut command = Command::new("setsid");
    command.arg(urbancross()).arg("run").arg(spec).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| pipeline_tests::skipped(format!("no setsid: {error}"))).ok()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a run trains.
pub(super) fn wait_until_it_trains(run: &mut Child, work: &Path) {
    let waiting = Instant::now();
    while !trains(work) {
        assert!(run.try_wait().unwrap().is_none() && waiting.elapsed() < Duration::from_secs(300), "it trains nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Has a training taken its folder, and said so in its lock?
fn trains(work: &Path) -> bool {
    let runs = std::fs::read_dir(work.join("checkpoints/finland/pretrain"));
    let mut files = runs.into_iter().flatten().flatten().map(|entry| entry.path());
    files.any(|path| path.extension().is_some_and(|end| end == "lock") && path.metadata().is_ok_and(|m| m.len() > 0))
}

#[test]
fn a_run_beside_a_stopped_one_says_so_and_ends_soon() {
    let world = World::new(40);
    let spec = world.path("spec.toml");
    // long enough to be met while it trains
    let text = world.spec_text("work").replace("\"bootstrap\"", "\"none\"").replace("epochs = 2", "epochs = 100000");
    std::fs::write(&spec, text).unwrap();
    let Some(mut first) = start(&spec) else { return };
    wait_until_it_trains(&mut first, &world.path("work"));
    signal(&first, "-STOP");
    let began = Instant::now();
    let second = Command::new(urbancross()).arg("run").arg(&spec).output().unwrap();
    let took = began.elapsed();
    signal(&first, "-KILL");
    first.wait().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(75), "{said}");
    let id = first.id();
    for words in [
        format!("waiting for process {id} on "),
        "which runs a build of this country and is stopped".to_owned(),
        "another process trains this run; its result is waited for".to_owned(),
        format!("it is stopped: `kill -CONT {id}` wakes it"),
        format!("`kill -9 {id}`"),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    // a lease lapses after 60 s, and a silent training is given up after as many
    assert!(took < Duration::from_secs(55), "{took:?}: {said}");
}
