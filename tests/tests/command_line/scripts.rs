//! What Slurm is given, run by a shell with stand-ins for Slurm's programs and for this one.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pipeline_tests::World;

use crate::{call, ends, spec_file};

/// A program of a shell's words.
fn stand_in(folder: &Path, name: &str, words: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/bash\n{words}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The first driver's script, and the folder of stand-ins.
fn driver(world: &World) -> (PathBuf, PathBuf) {
    let spec = &spec_file(world);
    let programs = world.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let profile = world.path("profile.toml");
    let program = programs.join("urbancross");
    std::fs::write(&profile, format!("[slurm]\nlogs = \"/logs\"\nprogram = \"{}\"\n", program.display())).unwrap();
    let output = world.path("rendered");
    let [profile, output_words] = [&profile, &output].map(|path| path.display().to_string());
    ends(&call(&["render", spec, "--engine", "slurm", "--profile", &profile, "--output", &output_words]), 0);
    let scripts = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path());
    let is_driver = |path: &PathBuf| path.to_string_lossy().ends_with("-begin-drive.sh");
    (scripts.into_iter().find(is_driver).expect("the first driver"), programs)
}

fn shell(script: &Path, programs: &Path, restarts: u32) -> Command {
    let mut shell = Command::new("bash");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    shell.arg(script).env("PATH", path).env("SLURM_JOB_ID", "17").env("SLURM_RESTART_COUNT", restarts.to_string());
    shell
}

/// Nobody else would come back to the jobs that it has begun.
#[test]
fn a_driver_that_meets_a_passing_fault_is_queued_again() {
    let world = World::new(3);
    let (script, programs) = driver(&world);
    let calls = world.path("calls");
    stand_in(&programs, "scontrol", &format!("echo \"$@\" >> {}", calls.display()));
    for (code, state, restarts, is_queued) in [
        (75, "RUNNING", 0, true),
        (75, "RUNNING", 4, true),
        (75, "RUNNING", 5, false),
        (75, "COMPLETING", 0, false),
        (65, "RUNNING", 0, false),
        (0, "RUNNING", 0, false),
        (143, "RUNNING", 0, false),
    ] {
        stand_in(&programs, "urbancross", &format!("exit {code}"));
        stand_in(&programs, "squeue", &format!("echo {state}"));
        let ended = shell(&script, &programs, restarts).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        let asked = std::fs::read_to_string(&calls).unwrap_or_default();
        assert_eq!(asked == "requeue 17\n", is_queued, "{code} {state} {restarts}: {asked:?} {said}");
        _ = std::fs::remove_file(&calls);
    }
}

/// A stop reaches the program, which ends in its own time.
#[test]
fn a_driver_is_told_to_stop() {
    let world = World::new(3);
    let (script, programs) = driver(&world);
    let began = world.path("began");
    let words = format!("trap 'sleep 0.5; exit 143' TERM\ntouch {}\nwhile true; do sleep 0.05; done", began.display());
    stand_in(&programs, "urbancross", &words);
    let mut driver = shell(&script, &programs, 0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    while !began.exists() {
        assert!(since.elapsed() < Duration::from_secs(60) && driver.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-TERM", &driver.id().to_string()]).status().unwrap().success());
    assert_eq!(driver.wait().unwrap().code(), Some(143));
}
