//! Folders of specs some of which have faults: what only looks goes on with the others, what begins work begins none.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pipeline_tests::{World, urbancross};

use crate::{call, ends};

/// A folder with a sound build that was begun, two specs with faults, a pair that needs one of these, and a second spec of the
/// build.
fn folder(world: &World) -> PathBuf {
    let folder = world.path("specs");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let text = world.spec_text("work").replace("batch = 8", "batch = 2");
    write("finland.toml", &text);
    ends(&call(&["run", &folder.join("finland.toml").display().to_string(), "--until", "splits"]), 0);
    write("again.toml", &text.replace("vocabulary = 300", "vocabulary = 301"));
    write("misspelt.toml", &text.replace("finland", "lappland").replace("epochs = 2", "epocs = 2"));
    write("torn.toml", "country = \"x");
    write("pair.toml", "source = \"finland.toml\"\ntarget = \"misspelt.toml\"\n");
    write("profile.toml", "lease_seconds = 8\n");
    folder
}

const FAULTY: [&str; 4] = ["misspelt.toml", "torn.toml", "pair.toml", "finland.toml"];

/// Each file with a fault is named, with the reason.
fn names_all(said: &str) {
    let reasons = ["did you mean `epochs`", "torn.toml", "misspelt.toml cannot be used", "two specs of finland"];
    for (file, reason) in FAULTY.into_iter().zip(reasons) {
        assert!(said.contains(&format!("specs/{file}")) && said.contains(reason), "{file}: {said}");
    }
}

#[test]
fn what_begins_work_names_all_faults_of_a_folder_and_begins_none() {
    let world = World::new(3);
    let folder = folder(&world);
    let (of, profile) = (folder.display().to_string(), folder.join("profile.toml").display().to_string());
    let commits = || std::fs::read_dir(world.path("work/tables/splits/_delta_log")).unwrap().count();
    let before = commits();
    let cluster = ["--engine", "slurm", "--profile", &profile];
    let [submit, render] = ["submit", "render"].map(|command| [&[command, &of][..], &cluster].concat());
    for command in [&["drive", &of][..], &submit, &render, &["evaluate", &of]] {
        let output = call(command);
        let said = ends(&output, 65);
        assert!(output.stdout.is_empty(), "{command:?}: {said}");
        // the builds alone are no pairs
        if command[0] != "evaluate" {
            names_all(&said);
            assert!(said.contains("4 of 5 specs cannot be used, and nothing was begun"), "{said}");
        }
    }
    assert_eq!(commits(), before);
    assert!(!world.path("work/runs").exists());
    // what cannot be known from the files alone is told of all builds, too
    for name in FAULTY {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    let text = std::fs::read_to_string(folder.join("again.toml")).unwrap();
    for (country, code) in [("spain", "ES"), ("nowhere", "QQ"), ("neverland", "QZ")] {
        let text = text.replace("\"finland\"", &format!("\"{country}\"")).replace("\"FI\"", &format!("\"{code}\""));
        std::fs::write(folder.join(format!("{country}.toml")), text).unwrap();
    }
    for command in [&["drive", &of][..], &submit] {
        let said = ends(&call(command), 65);
        assert!(said.contains("2 of 4 builds") && said.contains("nowhere: ") && said.contains("neverland: "), "{said}");
    }
}

#[test]
fn what_only_looks_goes_on_with_the_sound_specs_and_says_so() {
    let world = World::new(3);
    let folder = folder(&world);
    let of = folder.display().to_string();
    for command in [&["status"][..], &["status", "--runs"], &["plan"], &["logs"], &["cancel"], &["retry", "--errors"]] {
        let output = call(&[&command[..1], &[&of], &command[1..]].concat());
        names_all(&ends(&output, 65));
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(out.contains("== finland\n"), ["status", "plan"].contains(&command[command.len() - 1]), "{out}");
    }
    for (command, key) in
        [(&["status", "--json"][..], "task"), (&["plan", "--json"], "task"), (&["status", "--runs", "--json"], "run")]
    {
        let output = call(&[&command[..1], &[&of], &command[1..]].concat());
        ends(&output, 65);
        let told: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let (left_out, tasks): (Vec<_>, Vec<_>) = told.iter().partition(|one| one["left_out"].is_string());
        assert!(left_out.len() == 4 && left_out.iter().all(|one| one["error"].is_string()), "{told:?}");
        assert!(tasks.len() == usize::from(key == "task") && tasks.iter().all(|one| one[key] == "finland"), "{told:?}");
    }
    let page = world.path("page.html");
    std::fs::remove_file(folder.join("finland.toml")).unwrap();
    // a sound one of which nothing is built
    let text = std::fs::read_to_string(folder.join("again.toml")).unwrap();
    let text = text.replace("\"finland\"", "\"atlantis\"").replace("/work\"", "/no-such-work\"");
    std::fs::write(folder.join("unbuilt.toml"), text).unwrap();
    for command in [&["report", &of, "-o", page.to_str().unwrap()][..], &["analyse", &of]] {
        let said = ends(&call(command), 65);
        assert!(
            ["misspelt.toml is left out: ", "torn.toml is left out: ", "unbuilt.toml is left out: "]
                .iter()
                .all(|words| said.contains(words)),
            "{said}"
        );
    }
    std::fs::remove_file(folder.join("unbuilt.toml")).unwrap();
    assert!(std::fs::read_to_string(&page).unwrap().contains("finland"));

    let mut server = Command::new(urbancross());
    server.args(["serve", &of, "--unfinished", "--listen", "127.0.0.1:0"]);
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    let said = String::from_utf8_lossy(&server.wait_with_output().unwrap().stderr).into_owned();
    assert!(line.starts_with("open http://") && said.contains("misspelt.toml is left out: "), "{line}{said}");

    // nothing is left to look at
    std::fs::remove_file(folder.join("again.toml")).unwrap();
    let said = ends(&call(&["status", &of]), 65);
    assert!(said.contains("3 of 3 specs cannot be used"), "{said}");
    assert!(ends(&call(&["status", &of, "--set", "pretrain.epochs"]), 65).contains("there is no `=`"));
}

/// A stage that one of the builds does without is no reason to leave the others' shards closed.
#[test]
fn a_stage_of_any_build_of_a_folder_can_be_named() {
    let world = World::new(3);
    let folder = world.path("specs");
    std::fs::create_dir(&folder).unwrap();
    let text = world.spec_text("work");
    std::fs::write(folder.join("with.toml"), &text).unwrap();
    let without =
        text.replace("\"finland\"", "\"atlantis\"").replace("segments_per_image = 1", "segments_per_image = 0");
    std::fs::write(folder.join("without.toml"), without).unwrap();
    let of = folder.to_str().unwrap();
    let retry = ["retry", of, "--errors", "--stage", "segment_scores"];
    ends(&call(&retry), 0);
    let said = ends(&call(&[&retry[..], &["--set", "segment.segmenter=none"]].concat()), 65);
    assert!(said.contains("--stage segment_scores: the stages with shards are geotags, images, splits"), "{said}");
}

/// A build that cannot be looked at, such as one whose source is away, hides no other.
#[test]
fn a_plan_goes_on_with_the_builds_that_can_be_listed() {
    let world = World::new(3);
    let folder = world.path("specs");
    std::fs::create_dir(&folder).unwrap();
    let text = world.spec_text("work").replace("batch = 8", "batch = 2");
    std::fs::write(folder.join("finland.toml"), &text).unwrap();
    let away = text.replace("\"finland\"", "\"atlantis\"").replace("/world\"", "/no-such-world\"");
    std::fs::write(folder.join("atlantis.toml"), away).unwrap();
    // with what a cluster makes of each
    let plan = ["plan", folder.to_str().unwrap(), "--cluster", "4xCPU,1/node", "--rate", "images=2"];
    let output = call(&[&plan[..], &["--json"]].concat());
    let said = ends(&output, 65);
    assert!(said.contains("atlantis is left out: ") && said.contains("no-such-world"), "{said}");
    let told: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!([&told[0]["task"], &told[1]["left_out"]], ["finland", "atlantis"], "{told:?}");
    let images = told[0]["steps"].as_array().unwrap().iter().find(|step| step["step"] == "images").unwrap();
    assert_eq!(images["cluster"]["rate"]["rows_per_second"], 2.0, "{images}");
    let printed = String::from_utf8_lossy(&call(&plan).stdout).into_owned();
    assert!(printed.contains("== finland\n") && printed.contains("on 4 x CPU, 1 per node"), "{printed}");
}
