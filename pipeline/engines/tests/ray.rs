//! The driver for Ray: Python that compiles, and that does what it should where Ray, or a stand-in for it, is there.

use std::path::Path;
use std::process::{Command, Output};

use engines::{Job, Profile, Run, Work, ray};

/// A program that stands in for `urbancross`: worker 1 has to be started twice, and each says what it was given.
const PROGRAM: &str = r#"#!/bin/sh
LOG=$(dirname "$0")
cat "$2" > "$LOG/spec.$URBANCROSS_INDEX"
echo "$@" | sed "s#$2#SPEC#" > "$LOG/arguments.$URBANCROSS_INDEX"
[ "$URBANCROSS_LAUNCHED" = 1 ] && [ -n "$NODE_NAME" ] || exit 65
if [ "$URBANCROSS_INDEX" = 1 ] && mkdir "$LOG/tried" 2>/dev/null; then exit 75; fi
[ "$URBANCROSS_INDEX" = 2 ] && exit 65
exit 0
"#;

fn run() -> Run {
    let spec = "country = \"finland\" # it's \\ \"@NEEDS@\" \u{7f}\u{e4}\u{1f600}\n".to_owned();
    Run { id: "1a2b3c4d".into(), country: "finland".into(), spec, ..Run::default() }
}

fn map() -> Job {
    Job { step: "captions".into(), work: Work::Map { plan: "9f8e7d6c".into(), workers: 3, lease_seconds: 60 } }
}

fn train() -> Job {
    Job { step: "pretrain".into(), work: Work::Train { attempt: 1, nodes: 3, ranks_per_node: 1 } }
}

fn profile() -> Profile {
    Profile::parse("[stage.default]\ncpus = 1\nmemory = \"64M\"\n").unwrap()
}

/// Writes a driver to a folder and runs it there; `None`: no Python.
fn drive(folder: &Path, job: &Job, modules: Option<&Path>) -> Option<Output> {
    let (file, text) = ray::driver(&run(), job, &profile()).unwrap();
    std::fs::write(folder.join(&file), text).unwrap();
    let program = folder.join("urbancross");
    std::fs::write(&program, PROGRAM).unwrap();
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    let mut command = Command::new("sh");
    command.arg("-c").arg("chmod +x urbancross && exec \"$0\" \"$1\"").arg(python).arg(file).current_dir(folder);
    command.env("URBANCROSS", &program).env("URBANCROSS_RAY_PAUSE", "0");
    modules.iter().for_each(|modules| _ = command.env("PYTHONPATH", modules));
    match command.output() {
        Ok(output) if output.status.code() == Some(127) => {
            println!("skipped: no python3");
            None
        }
        output => Some(output.unwrap()),
    }
}

/// What the processes of a driver were given, and how it ended.
fn check(modules: Option<&Path>) {
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = drive(folder.path(), &map(), modules) else { return };
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "one worker that found the plan closed is enough: {said}");
    assert_eq!(read("spec.1"), run().spec);
    assert!(read("arguments.0").starts_with("worker SPEC --stage captions --plan 9f8e7d6c --count 3"), "{said}");
    assert!(folder.path().join("tried").exists(), "worker 1 was started again");
    let folder = tempfile::tempdir().unwrap();
    let output = drive(folder.path(), &train(), modules).unwrap();
    assert_eq!(output.status.code(), Some(65), "a training lacks each of its ranks");
}

#[test]
fn the_driver_is_python_that_compiles() {
    let folder = tempfile::tempdir().unwrap();
    for job in [map(), train(), Job { step: "all".into(), work: Work::Drive }] {
        let (file, text) = ray::driver(&run(), &job, &profile()).unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, &text).unwrap();
        let compiled = Command::new("python3").args(["-m", "py_compile"]).arg(&path).output();
        let Ok(output) = compiled else { return println!("skipped: no python3") };
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
    let task = Run { beside: vec![("000-0.toml".into(), run().spec)], spec: String::new(), ..run() };
    let (file, text) = ray::whole(&task, &["captions".into(), "pretrain".into()], &profile()).unwrap();
    assert!(text.contains("[\"--workers\",\"4\",\"--lease-seconds\",\"60\"]"), "{text}");
    let path = folder.path().join(file);
    std::fs::write(&path, &text).unwrap();
    let Ok(output) = Command::new("python3").args(["-m", "py_compile"]).arg(&path).output() else { return };
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let mut profile = profile();
    profile.stage.insert(map().step, engines::profile::Resources { memory: "much".into(), ..Default::default() });
    assert!(ray::driver(&run(), &map(), &profile).unwrap_err().contains("\"much\""));
}

#[test]
fn tasks_are_tried_again_where_that_helps() {
    check(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ray_stand_in")));
}

#[test]
fn the_driver_runs_on_ray() {
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    let found = Command::new(python).args(["-c", "import ray"]).output();
    if !found.is_ok_and(|output| output.status.success()) || std::env::var_os("RAY_ADDRESS").is_none() {
        return println!(
            "skipped: no ray in python3, or no cluster in RAY_ADDRESS (pip install ray; ray start --head)"
        );
    }
    check(None);
}
