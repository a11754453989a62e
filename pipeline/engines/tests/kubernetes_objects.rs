//! The objects of a run, as they are rendered: the same bytes every time, and what schemas and rules let pass.

use std::path::Path;
use std::process::Command;

use engines::kubernetes::{Object, config_map, job, problems, render, train_job};
use engines::{Job, Profile, Run, Work};
use serde_json::Value;

const PROFILE: &str = "[kubernetes]
namespace = \"urban\"
image = \"example.org/urbancross:1\"
pull_secret = \"pull\"
queue = \"gpus\"
priority_class = \"low\"
env_secret = \"store\"
scratch = \"50Gi\"
runtime_class = \"nvidia\"
[kubernetes.node_selector]
pool = \"gpu\"
[kubernetes.tolerations]
\"nvidia.com/gpu\" = \"\"
[stage.captions]
workers = 3
gpus = 1
cpus = 8
memory = \"32G\"
[stage.pretrain]
gpus = 8
cpus = 64
memory = \"512G\"
";

fn run() -> Run {
    Run {
        id: "1a2b3c4d".into(),
        country: "finland".into(),
        spec: "country = \"finland\"\n\n[source]\nkind = \"skyscript\"\nurl = \"s3://images\"\n".into(),
        options: vec!["--until".into(), "pretrain".into()],
        ..Run::default()
    }
}

fn jobs() -> [Job; 3] {
    let map = Work::Map { plan: "9f8e7d6c5b4a".into(), workers: 3, lease_seconds: 60 };
    let train = Work::Train { attempt: 2, nodes: 2, ranks_per_node: 8 };
    [("captions", map), ("pretrain", train), ("all", Work::Drive)].map(|(step, work)| Job { step: step.into(), work })
}

fn objects(profile: &Profile) -> Vec<Object> {
    let of_jobs = jobs();
    std::iter::once(config_map(&run(), profile)).chain(of_jobs.iter().map(|of| job(&run(), of, profile))).collect()
}

/// Everything that a run can have.
fn everything() -> Vec<Value> {
    let profile = Profile::parse(PROFILE).unwrap();
    let mut all: Vec<Value> = objects(&profile).iter().map(Object::to_json).collect();
    all.extend(train_job(&run(), &jobs()[1], &profile));
    all
}

#[test]
fn rendered_objects_are_the_same_bytes_every_time() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/kubernetes.yaml");
    let text = render(&everything());
    assert_eq!(text, render(&everything()));
    if std::env::var_os("URBANCROSS_WRITE_GOLDENS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == wanted, "{} is out of date: run this test with URBANCROSS_WRITE_GOLDENS=1", path.display());
}

#[test]
fn whatever_a_profile_says_the_rules_hold_or_it_is_named() {
    for profile in [PROFILE, include_str!("../../../deploy/profile.toml"), "[kubernetes]\nimage = \"x\"\n"] {
        assert_eq!(problems(&objects(&Profile::parse(profile).unwrap())), [] as [String; 0], "{profile}");
    }
    for (profile, wanted) in [
        ("", "kubernetes.image"),
        ("[kubernetes]\nimage = \"x\"\nnamespace = \"Urban_Cross\"", "namespace"),
        ("[kubernetes]\nimage = \"x\"\nqueue = \"two words\"", "queue-name"),
    ] {
        let found = problems(&objects(&Profile::parse(profile).unwrap()));
        assert!(!found.is_empty() && found.iter().all(|problem| problem.contains(wanted)), "{profile}: {found:?}");
    }
}

#[test]
fn ranks_are_pods_that_share_a_machine() {
    let profile = Profile::parse(PROFILE).unwrap();
    let train = job(&run(), &jobs()[1], &profile).to_json();
    assert_eq!(train["spec"]["completions"], 16);
    let container = &train["spec"]["template"]["spec"]["containers"][0];
    let wanted = serde_json::json!({ "cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1" });
    assert_eq!((&container["resources"]["limits"], &container["resources"]["requests"]), (&wanted, &wanted));
    let variable =
        |name: &str| container["env"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
    assert_eq!(variable("WORLD_SIZE")["value"], "16");
    assert_eq!(variable("URBANCROSS_RENDEZVOUS")["value"], "1a2b3c4d-pretrain-2");
    let path = &variable("RANK")["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(path, "metadata.annotations['batch.kubernetes.io/job-completion-index']");
}

/// Other programs' opinions, as far as they are installed: `PYTHON` names an interpreter that has them.
#[test]
fn other_programs_read_the_objects_as_they_were_meant() {
    let folder = tempfile::tempdir().unwrap();
    let (yaml, json) = (folder.path().join("all.yaml"), folder.path().join("all.json"));
    let all = everything();
    std::fs::write(&yaml, render(&all)).unwrap();
    std::fs::write(&json, serde_json::to_string(&all).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validate.py");
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    match Command::new(python).arg(script).args([&yaml, &json]).output() {
        Ok(output) => {
            println!("{}", String::from_utf8_lossy(&output.stdout));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => println!("skipped: no python3: {error}"),
    }
}
