//! The driver for Ray: Python that compiles, and that has what it was rendered from. What it does tests of whole runs say.

use std::process::Command;

use engines::{Profile, Run, VARIANT, ray};

fn run() -> Run {
    let spec = "country = \"finland\" # it's \\ \"@NEEDS@\" \u{7f}\u{e4}\u{1f600}\n".to_owned();
    let options = vec!["--until".to_owned(), "images".to_owned()];
    Run { id: "1a2b3c4d".into(), beside: vec![("000-0.toml".into(), spec)], options, ..Run::default() }
}

/// A profile whose training has two machines of four ranks.
fn profile() -> Profile {
    let text = "lease_seconds = 7\n[ray]\nprogram = \"/opt/urban \\\"cross\\\"\"\n[stage.default]\ncpus = 1\nmemory = \"64M\"\n\
                [stage.adapt]\nworkers = 2\ngpus = 4\ncpus = 8\nmemory = \"4G\"\n";
    Profile::parse(text).unwrap()
}

/// What a driver's variable holds, as Python reads it; `None`: there is no Python.
fn read(driver: &str, variable: &str) -> Option<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("driver.py"), driver).unwrap();
    let program = format!("import driver, json; print(json.dumps(driver.{variable}))");
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    let Ok(output) = Command::new(python).args(["-c", &program]).current_dir(folder.path()).output() else {
        println!("skipped: no python3");
        return None;
    };
    assert!(output.status.success(), "{}\n{driver}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_driver_has_what_it_was_rendered_from() {
    let steps = ["captions", VARIANT].map(str::to_owned);
    let (file, text) = ray::driver(&run(), &steps, &profile()).unwrap();
    assert_eq!(file, "uc-1a2b3c4d.py");
    let Some(files) = read(&text, "FILES") else { return };
    assert_eq!(files["000-0.toml"], run().beside[0].1);
    let told = ["--run", "1a2b3c4d", "--workers", "8", "--lease-seconds", "7", "--until", "images"];
    assert_eq!(read(&text, "OPTIONS").unwrap(), serde_json::json!(told));
    assert_eq!(read(&text, "PROGRAM").unwrap(), "/opt/urban \"cross\"");
    let needs = read(&text, "NEEDS").unwrap();
    // one run of an ablation has what an adaptation has, divided among the ranks of a machine
    assert_eq!(needs[VARIANT], serde_json::json!({ "num_cpus": 2, "num_gpus": 1, "memory": 1 << 30 }));
    assert_eq!(needs["captions"], serde_json::json!({ "num_cpus": 1, "num_gpus": 0, "memory": 64 << 20 }));
    assert_eq!(needs[""], needs["captions"]);
}

#[test]
fn memory_that_is_no_amount_is_named() {
    let mut profile = profile();
    let wrong = engines::profile::Resources { memory: "much".into(), ..Default::default() };
    profile.stage.insert("captions".into(), wrong);
    assert!(ray::driver(&run(), &["captions".to_owned()], &profile).unwrap_err().contains("\"much\""));
}
