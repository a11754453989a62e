//! The program as a person meets it: help, errors that teach, exit codes, output for scripts.

mod damage;
mod differences;
mod folders;
mod logs;
mod manner;
mod paths;
mod refusals;
mod scripts;
mod words;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pipeline_tests::{World, urbancross, urbancross_sandbox};

fn call(args: &[&str]) -> Output {
    call_in(Path::new("."), args)
}

fn call_in(folder: &Path, args: &[&str]) -> Output {
    Command::new(urbancross()).current_dir(folder).args(args).output().expect("the program runs")
}

fn call_sandbox(args: &[&str]) -> Output {
    Command::new(urbancross_sandbox()).args(args).output().expect("the program runs")
}

/// A world's spec in a file, with its work store in `work` and a batch for a handful of images.
fn spec_file(world: &World) -> String {
    let path = world.path("spec.toml");
    std::fs::write(&path, world.spec_text("work").replace("batch = 8", "batch = 2")).unwrap();
    path.display().to_string()
}

/// Expects an exit code, and gives all that was said.
fn ends(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn help_and_completions_are_there() {
    let help = said(&call(&["--help"]));
    for word in ["plan", "run", "explain", "doctor", "urbancross-sandbox", "Exit codes"] {
        assert!(help.contains(word), "{help}");
    }
    assert!(said(&call(&["completions", "bash"])).contains("urbancross"));
}

#[test]
fn a_spec_and_its_schema_are_printed_for_other_programs() {
    let sandbox = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/sandbox.toml");
    let spec = ends(&call(&["spec", &sandbox.display().to_string(), "--set", "pretrain.epochs=3"]), 0);
    assert!(spec.contains("epochs = 3\n") && spec.contains("max_segments = 6\n"), "{spec}");
    for (of, field) in
        [("build", "/properties/pretrain/properties/epochs"), ("pair", "/properties/adapt/properties/method")]
    {
        let schema: serde_json::Value = serde_json::from_str(&ends(&call(&["schema", of]), 0)).unwrap();
        assert!(schema.pointer(field).is_some_and(|field| field["description"].is_string()), "{of}");
    }
    ends(&call(&["schema", "country"]), 2);
}

#[test]
fn a_spec_is_written_from_flags_and_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portugal.toml").display().to_string();
    let flags = ["init", "--country", "portugal", "--code", "pt", "--output", &file];
    let said = ends(&call(&flags), 0);
    assert!(said.contains("urbancross doctor"), "{said}");
    assert!(ends(&call(&["spec", &file]), 0).contains("country_code = \"PT\"\n"));
    assert!(ends(&call(&flags), 65).contains("already"));
    // nobody is there to ask
    assert!(ends(&call(&["init", "--output", &file]), 65).contains("--country is missing"));
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
    let spec = &spec_file(&world);
    let until = ends(&call(&["run", spec, "--until", "geotags"]), 0);
    assert!(!until.contains("over the build again"), "nothing has changed: {until}");
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

/// The examples of `--help`, word for word; the world is made smaller, the run shorter.
#[test]
fn the_examples_of_the_help_work_as_printed() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/sandbox.toml");
    std::fs::create_dir(folder.path().join("manifests")).unwrap();
    std::fs::copy(shipped, folder.path().join("manifests/sandbox.toml")).unwrap();
    let help = said(&call(&["--help"]));
    let examples: Vec<Vec<&str>> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|line| line.starts_with("urbancross")))
        .map(|line| line.split("  ").next().unwrap().split(' ').collect())
        .collect();
    assert!(examples.len() >= 4, "{help}");
    for mut words in examples {
        let program = match words.remove(0) {
            "urbancross-sandbox" => urbancross_sandbox(),
            _ => urbancross(),
        };
        match words[0] {
            "world" => words.extend(["--tiles", "60"]),
            "run" => words.extend(["--until", "splits"]),
            _ => {}
        }
        let image;
        if let Some(at) = words.iter().position(|word| *word == "IMAGE") {
            let table = std::fs::read_to_string(folder.path().join("world/dataframe/SkyScript_sandbox.csv")).unwrap();
            let row = table.lines().find(|line| line.contains("_FI_")).unwrap();
            image = row.split('/').nth(1).unwrap().split('.').next().unwrap().to_owned();
            words[at] = &image;
        }
        ends(&Command::new(program).current_dir(folder.path()).args(words).output().unwrap(), 0);
    }
    assert!(folder.path().join("work-sandbox/tables").is_dir());
}

/// What writes into a pipe that nobody reads any more.
#[test]
fn a_reader_who_leaves_is_no_error() {
    let world = World::new(4);
    let spec = &spec_file(&world);
    let silent_of = |program: PathBuf, args: &[&str], stderr: bool| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(program);
        let (out, err) = if stderr {
            (Stdio::from(writer.try_clone().unwrap()), Stdio::from(writer))
        } else {
            (Stdio::from(writer), Stdio::piped())
        };
        let output = command.args(args).stdout(out).stderr(err).output().unwrap();
        let said = ends(&output, 0);
        assert!(!said.contains("panicked") && !said.contains("error"), "{args:?}: {said}");
    };
    let silent = |args: &[&str], stderr: bool| silent_of(urbancross(), args, stderr);
    silent(&["run", spec, "--until", "splits"], true);
    for args in [&["status", spec][..], &["status", spec, "--json"], &["plan", spec], &["explain", spec, "shard 0"]] {
        silent(args, false);
    }
    silent(&["plan", spec, "--set", "split.ratio=[1,1,0]"], true);
    silent(&["completions", "bash"], false);
    silent(&["--help"], false);
    silent_of(urbancross_sandbox(), &[world.path("other").to_str().unwrap(), "--tiles", "1"], true);
}

#[test]
fn a_sandbox_is_replaced_only_on_request() {
    let world = World::new(2);
    let out = world.path("world").display().to_string();
    let before = std::fs::read(world.path("world/images2.zip")).unwrap();
    let said = ends(&call_sandbox(&[&out, "--tiles", "3"]), 65);
    assert!(said.contains("is there already") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(world.path("world/images2.zip")).unwrap(), before);
    ends(&call_sandbox(&[&out, "--tiles", "3", "--force"]), 0);
    assert_ne!(std::fs::read(world.path("world/images2.zip")).unwrap(), before);
    let said = ends(&call_sandbox(&["/proc/no-such-folder"]), 65);
    assert_eq!(said.matches("os error").count(), 1, "a cause is said once: {said}");
    for wrong in
        [["--tiles", "0"], ["--tiles", "-1"], ["--seed", "1.5"], ["--edit-tags", "1.5"], ["--edit-tags", "nan"]]
    {
        ends(&call_sandbox(&[&[out.as_str()][..], &wrong].concat()), 2);
    }
}

#[test]
fn status_counts_excluded_rows_and_explain_speaks_plainly() {
    let world = World::new(8);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits", "--set", "source.tokens=[\"FI\", \"DE\"]"]), 0);
    let status = call(&["status", spec, "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status[0]["step"], &status[0]["excluded"]), (&"geotags".into(), &8.into()), "{status}");
    assert!(said(&call(&["status", spec])).contains("excluded"));
    let said = ends(&call(&["explain", spec, "shard 0"]), 0) + &ends(&call(&["explain", spec, "pretrain"]), 0);
    assert!(said.contains("version 0") || said.contains("version 1"), "{said}");
    assert!(said.contains("no table yet") && !said.contains("Some(") && !said.contains("None"), "{said}");
    for what in ["pretrian", "no-such-image", "shards", "structured_captions"] {
        let said = ends(&call(&["explain", spec, what]), 65);
        assert!(said.contains("is not an image of this build (such as ") && said.contains("pretrain, "), "{said}");
    }
    ends(&call(&["explain", spec, "shard 3"]), 65);
}

#[test]
fn what_set_said_in_the_last_run_is_remembered() {
    let world = World::new(4);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits", "--set", "pretrain.epochs=1"]), 0);
    for command in ["status", "plan"] {
        let said = ends(&call(&[command, spec]), 0);
        assert!(said.contains("the last run had --set pretrain.epochs=1; without it"), "{said}");
        let said = ends(&call(&[command, spec, "--set", "pretrain.epochs=1"]), 0);
        assert!(!said.contains("the last run"), "{said}");
    }
    assert!(ends(&call(&["run", spec, "--until", "splits"]), 0).contains("the last run had"));
    assert!(!ends(&call(&["status", spec]), 0).contains("the last run"), "now it had none");
    // advisory: nothing rests on it
    std::fs::write(world.path("work/settings/finland.json"), "{").unwrap();
    ends(&call(&["status", spec]), 0);
}

#[test]
fn a_training_that_goes_on_is_said_to() {
    let world = World::new(24);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "bootstrap"]), 0);
    let runs = world.path("work/checkpoints/finland/bootstrap");
    let mut runs = std::fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path());
    let run = runs.find(|path| path.is_dir()).unwrap();
    // as a kill would leave it just before the end
    std::fs::remove_file(run.join("done.json")).unwrap();
    for args in [&["plan", spec][..], &["explain", spec, "bootstrap"], &["run", spec, "--until", "bootstrap"]] {
        let said = ends(&call(args), 0);
        assert!(said.contains("goes on from its last checkpoint"), "{said}");
    }
    assert!(!said(&call(&["plan", spec])).contains("goes on"));
}

#[test]
fn what_to_do_is_said_once() {
    let world = World::new(2);
    let spec = &spec_file(&world);
    let away =
        ["--set", "source.url=http://127.0.0.1:9/", "--set", "source.options={ timeout_seconds = 1, retries = 0 }"];
    let said = ends(&call(&[&["plan", spec][..], &away].concat()), 75);
    assert_eq!(said.matches("what is done stays done: run the same command again").count(), 1, "{said}");
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
        let words = ["run its build first", "there is no work store"];
        assert!(words.iter().any(|w| told.contains(w)), "{args:?}: {told}");
        assert!(output.stdout.is_empty() && !std::path::Path::new(page).exists(), "{args:?}");
    };
    let report = ["report", spec, "-o", page];
    let evaluate = ["evaluate", spec, "--report", page];
    let sweep = ["sweep", spec, "--over", "pretrain.epochs=1", "--report", page];
    let single_domain = ["single-domain", spec, "--report", page];
    for args in [&report[..], &evaluate, &sweep, &single_domain] {
        refused(args);
    }
    // a page that could not be written is known before there is anything to write
    let nowhere = "/no-such-folder/page.html";
    for args in [
        &["report", spec, "-o", nowhere][..],
        &["evaluate", spec, "--report", nowhere],
        &["sweep", spec, "--over", "pretrain.epochs=1", "--report", nowhere],
        &["single-domain", spec, "--report", nowhere],
        &["ablate", spec, "--report", nowhere],
        &["analyse", spec, "--html", nowhere],
        &["search", spec, "a pond", "--html", nowhere],
        &["simulate", spec, "--cluster", "8xH100", "--chart", nowhere],
    ] {
        assert!(ends(&call(args), 65).contains("/no-such-folder/page.html: no such folder"), "{args:?}");
    }
    // a part of a build is worth a look, if the page says what it lacks
    let output = call(&["run", spec, "--until", "captions"]);
    assert!(output.status.success(), "{}", said(&output));
    refused(&evaluate);
    let output = call(&report);
    assert!(output.status.success(), "{}", said(&output));
    let shown = std::fs::read_to_string(page).unwrap();
    assert!(shown.contains("Missing so far: segments, bootstrap, ") && shown.contains("evaluate. Run the build"));
}
