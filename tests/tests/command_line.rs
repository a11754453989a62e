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

/// A page of nothing looks like a result.
#[test]
fn what_is_not_built_has_no_report_and_no_figures() {
    let world = World::new(8);
    let (path, page) = (world.path("spec.toml"), world.path("page.html"));
    std::fs::write(&path, world.spec_text("work")).unwrap();
    let (spec, page) = (path.to_str().unwrap(), page.to_str().unwrap());
    let refused = |args: &[&str]| {
        let output = call(args);
        assert_eq!(output.status.code(), Some(65), "{args:?}: {}", said(&output));
        let told = said(&output);
        assert!(told.contains("finland") && told.contains("run its build first"), "{args:?}: {told}");
        assert!(output.stdout.is_empty() && !std::path::Path::new(page).exists(), "{args:?}");
    };
    let report = ["report", spec, "-o", page];
    let evaluate = ["evaluate", spec, "--report", page];
    let sweep = ["sweep", spec, "--over", "pretrain.epochs=1", "--report", page];
    let single_domain = ["single-domain", spec, "--report", page];
    for args in [&report[..], &evaluate, &sweep, &single_domain] {
        refused(args);
    }
    // a part of a build is worth a look, if the page says what it lacks
    let output = call(&["run", spec, "--until", "captions"]);
    assert!(output.status.success(), "{}", said(&output));
    refused(&evaluate);
    let output = call(&report);
    assert!(output.status.success(), "{}", said(&output));
    let shown = std::fs::read_to_string(page).unwrap();
    assert!(shown.contains("Not there yet: segments, bootstrap, ") && shown.contains("evaluate. Run the build"));
}
