//! What Slurm is given, and the check of a GPU, run by a shell with stand-ins for Slurm's programs and for this one.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use manifests::paths;
use pipeline_tests::{World, python_with, urbancross};

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

/// Runs a command inside a job of Slurm, where `squeue` says what lies in the world's file `queue`, and `sbatch` does
/// as these words of a shell.
fn on_slurm(world: &World, command: &str, sbatch: &str) -> Output {
    let [programs, logs, profile, queue] = ["programs", "logs", "profile.toml", "queue"].map(|name| world.path(name));
    for folder in [&programs, &logs] {
        std::fs::create_dir_all(folder).unwrap();
    }
    stand_in(&programs, "scontrol", "echo 'MaxArraySize = 1001'");
    stand_in(&programs, "squeue", &format!("cat {} 2>/dev/null || true", queue.display()));
    stand_in(&programs, "sbatch", sbatch);
    std::fs::write(&profile, format!("[slurm]\nlogs = \"{}\"\n", logs.display())).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut process = Command::new(urbancross());
    process.arg(command).arg(spec_file(world)).args(["--engine", "slurm", "--profile"]).arg(&profile);
    process.env("PATH", path).env("SLURM_JOB_ID", "17").env("SLURMD_NODENAME", "node9").env("SLURM_MEM_PER_CPU", "100");
    process.output().expect("the program runs")
}

/// A driver comes back because it could not queue the next one, and finds its workers at work: their nodes live.
#[test]
fn a_driver_that_comes_back_to_its_workers_leaves_the_next_one_their_nodes() {
    let world = World::new(8);
    let [array, asked] = ["array", "asked"].map(|name| world.path(name));
    let fails = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1";
    let once = format!("if [ -e {0} ]; then {fails}; fi\ncat > {0}\necho 5", array.display());
    ends(&on_slurm(&world, "drive", &once), 75);
    let script = std::fs::read_to_string(&array).unwrap();
    let name = script.lines().find_map(|line| line.strip_prefix("#SBATCH --job-name=")).expect("an array");
    let run = name.split('-').nth(1).expect("a run");
    let at_work = format!("{name}|5|0|RUNNING|None|node1\n{name}|5|1|CONFIGURING|None|node2\n");
    let lost = format!("uc-{run}-images-9f8e7d6c|4|0|RUNNING|None|node3\n");
    std::fs::write(world.path("queue"), at_work + &lost).unwrap();
    ends(&on_slurm(&world, "drive", &format!("cat > /dev/null\necho \"$@\" > {}\necho 6", asked.display())), 0);
    let asked = std::fs::read_to_string(&asked).unwrap();
    assert_eq!(asked, "--parsable --dependency=afterany:5 --exclude=node3\n");
}

/// Whoever cancels lists the queue while a driver is placing, and sees nothing of what it places.
#[test]
fn what_is_placed_while_a_run_is_cancelled_is_cancelled_too() {
    let world = World::new(8);
    let [asked, taken, runs] = ["asked", "taken", "work"].map(|name| world.path(name));
    let runs = runs.join(paths::runs("finland"));
    std::fs::create_dir_all(world.path("programs")).unwrap();
    stand_in(&world.path("programs"), "scancel", &format!("echo \"$@\" >> {}", taken.display()));
    let cancels = [
        "run=$(sed -n 's/^#SBATCH --job-name=uc-\\([^-]*\\)-.*/\\1/p')",
        &format!("mkdir -p {0}/$run\n: > {0}/$run/cancelled", runs.display()),
        &format!("echo \"$@\" >> {0}\necho $((4 + $(wc -l < {0})))", asked.display()),
    ];
    ends(&on_slurm(&world, "drive", &cancels.join("\n")), 143);
    let asked = std::fs::read_to_string(&asked).unwrap();
    assert_eq!(asked, "--parsable\n--parsable --dependency=afterany:5\n", "workers, and the next driver");
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "--quiet 5\n--quiet 6\n");
}

/// A site may clean up after a driver for long: nobody else would go on with its run meanwhile.
#[test]
fn a_run_whose_driver_is_ending_is_begun_again() {
    let world = World::new(3);
    let [asked, queue] = ["asked", "queue"].map(|name| world.path(name));
    let sbatch = format!("cat > /dev/null\necho \"$@\" ${{!SLURM_MEM_*}} > {}\necho 5", asked.display());
    let submit = || ends(&on_slurm(&world, "submit", &sbatch), 0);
    let said = submit();
    let run = said.split_whitespace().nth(1).expect("a run");
    assert!(said.contains("submitted as job 5"), "{said}");
    // what this process has of memory is nothing that its jobs ask for
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "--parsable\n");
    let end = world.path("work").join(paths::run("finland", run)).join("ends/images/0.json");
    std::fs::create_dir_all(end.parent().unwrap()).unwrap();
    std::fs::write(&end, "{}").unwrap();
    let driver_is = |state: &str| {
        std::fs::write(&queue, format!("uc-{run}-images-drive|4|N/A|{state}|None|node1\n")).unwrap();
    };
    driver_is("RUNNING");
    let said = submit();
    assert!(said.contains("is under way already, with job 4") && end.exists(), "{said}");
    driver_is("COMPLETING");
    let said = submit();
    assert!(said.contains("submitted as job 5") && !end.exists(), "{said}");
}

/// What its steps write passes through other programs, which do not fail.
#[test]
fn a_step_of_the_gpu_check_that_fails_is_told() {
    if python_with(&["json"]).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    stand_in(folder.path(), "urbancross-sandbox", "exit 0");
    let [program, out] = ["urbancross", "out"].map(|name| folder.path().join(name));
    for (code, said_of_it) in [(65, "exit 65"), (0, "ok")] {
        stand_in(folder.path(), "urbancross", &format!("echo run; exit {code}"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu-check.sh");
        let mut check = Command::new("bash");
        check.arg(script).args(["--only", "build", "--out"]).arg(&out).env("PROGRAM", &program);
        let ended = check.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        let row = said.lines().find(|line| line.starts_with("build ")).expect("a row of the table");
        assert!(row.contains(said_of_it), "{row}");
        assert_eq!(ended.status.code(), Some(i32::from(code != 0)), "{said}");
        assert!(std::fs::read_to_string(out.join("results.json")).unwrap().contains(&format!("\"exit\": {code}")));
    }
}
