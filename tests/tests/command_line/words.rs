//! What is said, where it goes, and how a command ends where it cannot be said.

use std::fs::File;
use std::process::{Command, Stdio};

use manifests::spec::StoreOptions;
use pipeline_tests::{World, edit_a_finnish_image, urbancross};
use workers::stores::WorkStore;

use crate::{call, call_sandbox, ends, said, spec_file};

#[test]
fn output_that_cannot_be_written_is_told_from_work_that_failed() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits"]), 0);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for args in [&["status", spec][..], &["plan", spec, "--json"], &["run", spec, "--until", "splits"]] {
        let output = Command::new(urbancross()).args(args).stdout(full()).output().unwrap();
        assert!(ends(&output, 74).contains("standard output cannot be written"), "{args:?}");
    }
    // a page is no words
    ends(&call(&["report", spec, "-o", "/dev/full"]), 75);
    ends(&call(&["report", spec, "-o", "/no-such-folder/page.html"]), 65);
    assert_eq!(call(&["status"]).status.code(), Some(2));
}

/// Commands of several specs take folders of them; those of one say so.
#[test]
fn a_folder_stands_for_its_specs() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits"]), 0);
    let folder = world.path("specs");
    std::fs::create_dir(&folder).unwrap();
    let [folder_text, page] = [&folder, &world.path("page.html")].map(|path| path.display().to_string());
    for command in [&["report", &folder_text, "-o", &page][..], &["analyse", &folder_text], &["serve", &folder_text]] {
        assert!(ends(&call(command), 65).contains("there is no spec of a build in this folder"), "{command:?}");
    }
    std::fs::write(folder.join("finland.toml"), world.spec_text("work")).unwrap();
    std::fs::write(folder.join("pair.toml"), "source = \"finland.toml\"\ntarget = \"finland.toml\"\n").unwrap();
    std::fs::write(folder.join("slurm.toml"), "lease_seconds = 8\n").unwrap();
    let told = ends(&call(&["report", &folder_text, "-o", &page]), 0);
    assert!(told.contains("specs of pairs are left out: ") && told.contains("specs/pair.toml"), "{told}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("finland"));
    let told = ends(&call(&["search", &folder_text, "a pond"]), 65);
    assert!(told.contains("it is a folder; name one of the specs in it"), "{told}");
    // pairs alone are no builds to tell anything of
    std::fs::remove_file(folder.join("finland.toml")).unwrap();
    std::fs::remove_file(&page).unwrap();
    let report = ["report", &folder_text, "-o", &page];
    for command in [&report[..], &["evaluate", &folder_text], &["single-domain", &folder_text]] {
        let told = ends(&call(command), 65);
        assert!(told.contains("there are only specs of pairs") && told.contains("specs/pair.toml"), "{told}");
    }
    assert!(!std::path::Path::new(&page).exists());
}

#[test]
fn a_file_gets_no_colours() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits"]), 0);
    std::fs::create_dir_all(world.path("work/settings")).unwrap();
    std::fs::write(world.path("work/settings/finland.json"), "{").unwrap();
    let output = call(&["status", spec]);
    let told = ends(&output, 0);
    assert!(told.contains("WARN") && !told.contains('\u{1b}'), "{told:?}");
}

/// On a terminal as well, where nobody wants any.
#[test]
fn a_terminal_gets_no_colours_where_they_are_not_wanted() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits"]), 0);
    std::fs::create_dir_all(world.path("work/settings")).unwrap();
    std::fs::write(world.path("work/settings/finland.json"), "{").unwrap();
    let on_terminal = |no_color: &str| {
        let mut command = Command::new("script");
        let line = format!("'{}' status '{spec}'", urbancross().display());
        command.args(["-qec", &line, "/dev/null"]).env("NO_COLOR", no_color).stdin(Stdio::null());
        command.output().map(|output| ends(&output, 0))
    };
    let Ok(coloured) = on_terminal("") else {
        pipeline_tests::skipped("there is no `script`, which gives a program a terminal");
        return;
    };
    let is_coloured = |told: &str| told.contains("\u{1b}[") && told.contains('m');
    assert!(is_coloured(&coloured), "no terminal: {coloured:?}");
    let plain = on_terminal("1").unwrap();
    assert!(plain.contains("WARN") && !is_coloured(&plain), "{plain:?}");
    // whose module it is says nothing to who reads it there
    assert!(!plain.contains("::"), "{plain:?}");
}

#[test]
fn how_a_command_works_is_not_remembered_as_the_builds_own() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    let set = ["--set", "work.lease_seconds=5", "--set", "work.concurrency=3", "--set", "pretrain.epochs=1"];
    ends(&call(&[&["run", spec, "--until", "splits"][..], &set].concat()), 0);
    let told = ends(&call(&["status", spec]), 0);
    assert!(told.contains("--set pretrain.epochs=1;") && !told.contains("--set work"), "{told}");
}

#[test]
fn a_mistyped_work_store_is_not_made_without_a_word() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    ends(&call(&["weights", spec, "--fetch"]), 0);
    assert!(!world.path("work").exists(), "this build names none to keep");
    for command in ["verify", "gc", "status"] {
        let told = ends(&call(&[command, spec]), 65);
        assert!(told.contains("there is no work store at"), "{command}: {told}");
    }
    let source = format!("work.url={}", world.path("world").display());
    let told = ends(&call(&["run", spec, "--set", &source]), 65);
    assert!(told.contains("a source is only ever read"), "{told}");
    let days = ends(&call(&["gc", spec, "--keep-days", "1e20"]), 2);
    assert!(days.contains("it must be a number of days between 0.0 and"), "{days}");
}

#[test]
fn force_replaces_worlds_and_nothing_else() {
    let world = World::new(2);
    let folder = world.path("mine");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("thesis.tex"), "years").unwrap();
    let mine = folder.to_str().unwrap();
    let told = ends(&call_sandbox(&[mine, "--tiles", "2", "--force"]), 65);
    assert!(told.contains("no sandbox world"), "{told}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    ends(&call_sandbox(&[world.path("new").to_str().unwrap(), "--tiles", "2", "--force"]), 0);
}

#[test]
fn a_run_with_nothing_to_do_leaves_the_report_as_it_is() {
    let world = World::new(30);
    let spec = &spec_file(&world);
    let set = ["--set", "score.clip=none", "--set", "pretrain.epochs=1", "--set", "pretrain.batch=4"];
    let run = || ends(&call(&[&["run", spec][..], &set].concat()), 0);
    run();
    let page = world.path("work/reports/finland.html");
    let written = || (std::fs::read(&page).unwrap(), page.metadata().unwrap().modified().unwrap());
    let before = written();
    // the page shows minutes
    std::thread::sleep(std::time::Duration::from_secs(1));
    run();
    assert!(written() == before, "written again");
    // nor is it made again: another one under its key stays, until something that it shows has changed
    let store = WorkStore::open(world.path("work").to_str().unwrap(), &StoreOptions::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let record = manifests::paths::report_record("finland");
    let mut made: serde_json::Value = runtime.block_on(store.get_sealed(&record)).unwrap().unwrap();
    made["page_digest"] = manifests::digest::of_bytes(b"another").into();
    runtime.block_on(store.put_sealed(&record, &made)).unwrap();
    std::fs::write(&page, "another").unwrap();
    run();
    assert_eq!(written().0, b"another", "made again");
    std::fs::write(&page, "damaged").unwrap();
    run();
    assert!(written().0 == before.0, "a damaged page is made again");
    std::fs::write(&page, "another").unwrap();
    runtime.block_on(store.put_sealed(&record, &made)).unwrap();
    edit_a_finnish_image(&world);
    // as far as captions: figures are of before, and everybody says so
    let part_way = world.path("part-way.html");
    let behind = || {
        let told = said(&call(&[&["status", spec][..], &set].concat()));
        ends(&call(&[&["report", spec, "--output", part_way.to_str().unwrap()][..], &set].concat()), 0);
        let is_behind =
            std::fs::read_to_string(&part_way).unwrap().contains("What these are made from may have changed");
        assert_eq!(told.contains("a run has to look at it again"), is_behind, "{told}");
        is_behind
    };
    assert!(!behind());
    ends(&call(&[&["run", spec, "--until", "captions"][..], &set].concat()), 0);
    assert!(behind());
    run();
    assert!(written().0.len() > 10_000, "a page of before an edit");
    assert!(!behind());
    // what is none of ours has rows that nobody counted
    for part in std::fs::read_dir(world.path("work/tables/captions/country=finland")).unwrap() {
        std::fs::write(part.unwrap().path(), "PAR1").unwrap();
    }
    let faults = said(&call(&[&["verify", spec][..], &set].concat()));
    assert!(faults.contains(" rows): ") && !faults.contains("(0 rows)"), "{faults}");
}
