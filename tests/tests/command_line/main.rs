//! The program as a person meets it: help, errors that teach, exit codes, output for scripts.

use std::process::{Command, Output};

use pipeline_tests::{World, urbancross};

fn call(args: &[&str]) -> Output {
    Command::new(urbancross()).args(args).output().expect("the program runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn help_and_completions_are_there() {
    let help = said(&call(&["--help"]));
    for word in ["plan", "run", "explain", "doctor", "sandbox", "Exit codes"] {
        assert!(help.contains(word), "{help}");
    }
    assert!(said(&call(&["completions", "bash"])).contains("urbancross"));
}

#[test]
fn a_wrong_spec_is_a_permanent_error_that_names_the_field() {
    let world = World::new(4);
    let spec = world.path("spec.toml");
    std::fs::write(&spec, world.spec_text("work").replace("vocabulary", "vocabulry")).unwrap();
    let output = call(&["plan", spec.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65));
    assert!(said(&output).contains("did you mean `vocabulary`?"), "{}", said(&output));
    let output = call(&["plan", "no-such.toml"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(said(&output).contains("no-such.toml"));
}

#[test]
fn scripts_can_read_plans_status_and_findings() {
    let world = World::new(8);
    let path = world.path("spec.toml");
    std::fs::write(&path, world.spec_text("work")).unwrap();
    let spec = path.to_str().unwrap();
    for args in [["plan", spec, "--json"], ["status", spec, "--json"], ["doctor", spec, "--json"]] {
        let output = call(&args);
        assert!(output.status.success(), "{}", said(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!value.as_array().unwrap().is_empty(), "{args:?}");
    }
    let output = call(&["run", spec, "--until", "captions"]);
    assert!(output.status.success(), "{}", said(&output));
    let plan: serde_json::Value = serde_json::from_slice(&call(&["plan", spec, "--json"]).stdout).unwrap();
    let rows = |step: &str| plan.as_array().unwrap().iter().find(|l| l["step"] == step).unwrap()["rows"].clone();
    assert_eq!((rows("captions"), rows("segments")), (0.into(), 8.into()));
    let output = call(&["run", spec, "--until", "caption"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(said(&output).contains("the steps are geotags"), "{}", said(&output));
}
