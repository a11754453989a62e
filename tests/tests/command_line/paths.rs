//! Where paths lead, and what is said where they lead nowhere.

use std::path::Path;
use std::process::Command;

use pipeline_tests::{World, urbancross};

use crate::{call, call_in, ends, said, spec_file};

/// A spec in a folder of its own, with paths that start there.
fn spec_beside(world: &World, work: &str) -> String {
    let text = world
        .spec_text("work")
        .replace(&world.path("world").display().to_string(), "../world")
        .replace(&world.path("work").display().to_string(), work);
    let path = world.path("specs/finland.toml");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const SHORT: [&str; 2] = ["--until", "splits"];

#[test]
fn paths_start_at_the_spec_and_those_of_the_command_line_at_the_current_folder() {
    let world = World::new(4);
    let spec = &spec_beside(&world, "../work");
    ends(&call_in(Path::new("/"), &[&["run", spec][..], &SHORT].concat()), 0);
    assert!(world.path("work/tables").is_dir());
    ends(&call_in(&world.path("specs"), &["status", "finland.toml"]), 0);
    let elsewhere = world.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    ends(&call_in(&elsewhere, &[&["run", spec, "--set", "work.url=mine"][..], &SHORT].concat()), 0);
    assert!(elsewhere.join("mine/tables").is_dir() && !world.path("specs/mine").exists());
    // the last run's values are known by what they meant there
    let set = ["--set", "work.url=mine", "--set", "source.url=../world"];
    ends(&call_in(&elsewhere, &[&["run", spec][..], &SHORT, &set].concat()), 0);
    let set = ["--set", "work.url=../elsewhere/mine"];
    let said = ends(&call_in(&world.path("specs"), &[&["status", spec][..], &set].concat()), 0);
    assert!(!said.contains("the last run"), "{said}");
}

#[test]
fn any_folder_can_be_a_work_store() {
    let world = World::new(3);
    let name = "50%25 off#1?[a] ü 100%";
    let spec = &spec_beside(&world, &format!("../{name}"));
    ends(&call(&[&["run", spec][..], &SHORT].concat()), 0);
    ends(&call(&[&["run", spec][..], &SHORT].concat()), 0);
    assert!(world.path(name).join("tables/splits/_delta_log").is_dir());
    let status: serde_json::Value = serde_json::from_slice(&call(&["status", spec, "--json"]).stdout).unwrap();
    let splits = status.as_array().unwrap().iter().find(|line| line["step"] == "splits").unwrap();
    assert_eq!((&splits["rows"], &splits["version"]), (&3.into(), &1.into()), "{splits}");
    // and a backslash, which an address would take for a slash
    let elsewhere = world.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    ends(&call_in(&elsewhere, &[&["run", spec, "--set", r"work.url='a\b'"][..], &SHORT].concat()), 0);
    assert!(elsewhere.join(r"a\b").join("tables").is_dir());
}

#[test]
fn home_is_known_and_nothing_makes_a_folder_of_a_strange_name() {
    let world = World::new(3);
    let home = world.path("home");
    std::fs::create_dir(&home).unwrap();
    let spec = spec_beside(&world, "~/work");
    let run = |set: &[&str]| {
        let mut command = Command::new(urbancross());
        command.env("HOME", &home).current_dir(world.path("specs")).arg("run").arg(&spec).args(SHORT).args(set);
        command.output().unwrap()
    };
    ends(&run(&[]), 0);
    assert!(home.join("work/tables").is_dir());
    for (address, words) in [
        ("$HOME/work", "variables are not replaced"),
        ("~nobody/work", "write the path out"),
        ("file://w3", "write file:///w3"),
        ("file:w3", "begins with file://"),
        ("s3:/bucket", "begins with s3://"),
        ("file:///tmp/a#b", "%23"),
        ("", "is empty"),
    ] {
        let said = ends(&run(&["--set", &format!("work.url='{address}'")]), 65);
        assert!(said.contains(words), "{said}");
    }
    let left: Vec<_> =
        std::fs::read_dir(world.path("specs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["finland.toml"]);
}

#[test]
fn what_only_looks_makes_no_work_store() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    let work = world.path("work");
    for args in [&["status", spec][..], &["explain", spec, "splits"], &["report", spec], &["evaluate", spec]] {
        let said = ends(&call(args), 65);
        let named = format!("there is no work store at {}", work.display());
        assert!(said.contains(&named) && said.contains("`urbancross run`"), "{said}");
    }
    for args in [&["plan", spec][..], &["weights", spec], &["doctor", spec]] {
        ends(&call(args), 0);
    }
    let left: Vec<_> =
        std::fs::read_dir(work.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!work.exists() && left.len() == 2, "{left:?}");
}

#[test]
fn a_source_that_is_not_there_is_named_by_its_whole_path() {
    let world = World::new(2);
    let spec = &spec_beside(&world, "../work");
    for command in ["plan", "run", "doctor"] {
        let output = call_in(&world.path("specs"), &[command, spec, "--set", "source.url=../wrold"]);
        let said = ends(&output, 65);
        assert!(said.contains(&format!("there is no folder {}", world.path("wrold").display())), "{said}");
    }
    assert!(!world.path("work").exists());
    let text = said(&call(&["plan", spec, "--set", "work.work=3"]));
    assert!(!text.contains("did you mean `work`"), "{text}");
}
