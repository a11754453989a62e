//! How much is said, and in which form.

use pipeline_tests::World;
use serde_json::Value;

use super::{call, ends, spec_file};

#[test]
fn a_run_can_tell_programs_what_happens_and_how_it_ended() {
    let world = World::new(40);
    let spec = spec_file(&world);
    let output = call(&["run", &spec, "--until", "captions", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages: Vec<&str> = events.iter().filter_map(|event| event["stage"].as_str()).collect();
    assert!(stages.contains(&"geotags") && stages.contains(&"captions"), "{lines}");
    let outcome = events.last().unwrap();
    assert_eq!((&outcome["event"], &outcome["quarantined"]), (&"outcome".into(), &Value::Array(Vec::new())));
    assert_eq!(outcome["report"], Value::Null, "there is none before the end");
    // an error is an object too
    let output = call(&["run", "no-such.toml", "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["level"], "error");
    assert!(error["message"].as_str().unwrap().contains("no-such.toml"));
}

#[test]
fn quiet_says_only_what_was_asked_for_and_what_is_wrong() {
    let world = World::new(40);
    let spec = spec_file(&world);
    let output = call(&["run", &spec, "--until", "captions", "-q"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 rows quarantined\n");
    assert!(ends(&call(&["run", "no-such.toml", "--quiet"]), 65).starts_with("error: "));
    ends(&call(&["run", &spec, "-q", "-v"]), 2);

    let plain = call(&["run", &spec, "--until", "captions"]);
    let verbose = call(&["run", &spec, "--until", "segments", "-vv"]);
    let [said, told] = [&plain, &verbose].map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(!said.contains("INFO") && !said.contains("DEBUG"), "{said}");
    assert!(told.contains("INFO workers::map: done") && told.contains("DEBUG workers::publish: committed"), "{told}");
    assert!(!told.contains("delta_kernel"), "what a library calls an error is none: {told}");
    for output in [&plain, &verbose] {
        assert!(!output.stderr.contains(&0x1b), "no colour goes into a file");
    }
}

#[test]
fn there_is_a_man_page_for_each_command() {
    let world = World::new(1);
    let folder = world.path("man/man1");
    ends(&call(&["man", "--out", folder.to_str().unwrap()]), 0);
    let help = ends(&call(&["--help"]), 0);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let page = folder.join(format!("urbancross-{command}.1"));
        // descriptions may go on in a second line of the help, which begins with a word that is no command
        let is_command = call(&[command, "--help"]).status.success();
        assert_eq!(page.exists(), is_command, "{command}");
    }
    let page = std::fs::read_to_string(folder.join("urbancross-search.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("finished builds"));
}
