//! Damage to what a store keeps beside its tables: said, and gone after the next run.

use pipeline_tests::World;

use crate::{call, ends, spec_file};

#[test]
fn what_cannot_be_read_is_said_until_the_next_run_replaces_it() {
    let world = World::new(24);
    let spec = &spec_file(&world);
    let run = || ends(&call(&["run", spec, "--until", "bootstrap"]), 0);
    run();
    let runs = std::fs::read_dir(world.path("work/checkpoints/finland/bootstrap")).unwrap();
    let folder = runs.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let (done, settings) = (folder.join("done.json"), world.path("work/settings/finland.json"));
    let begun = folder.with_file_name("another").join("begun.json");
    std::fs::create_dir(begun.parent().unwrap()).unwrap();
    for damaged in [&done, &settings, &begun] {
        std::fs::write(damaged, "{").unwrap();
    }
    let told = ends(&call(&["status", spec]), 0);
    for name in ["done.json", "begun.json", "settings/finland.json"] {
        assert!(told.contains(&format!("{name} cannot be read")), "{name}: {told}");
    }
    assert!(run().contains("goes on from its last checkpoint"), "the training was not lost");
    let told = ends(&call(&["status", spec]), 0);
    assert!(!told.contains("WARN"), "{told}");
}

#[test]
fn a_file_in_the_place_of_a_folder_is_named() {
    let world = World::new(4);
    let spec = &spec_file(&world);
    for name in ["leases", "layouts", "settings", "settled", "markers", "plans", "summaries", "tables"] {
        let _ = std::fs::remove_dir_all(world.path("work"));
        std::fs::create_dir(world.path("work")).unwrap();
        std::fs::write(world.path("work").join(name), "").unwrap();
        let output = call(&["run", spec, "--until", "geotags"]);
        // what a run only notes down for later is no reason to stop
        let told = ends(&output, if name == "settings" { 0 } else { 65 });
        assert!(told.contains(&format!("work/{name} is a file where a folder must be: remove it")), "{name}: {told}");
    }
    let _ = std::fs::remove_dir_all(world.path("work"));
    std::fs::create_dir_all(world.path("work/settled/finland.json")).unwrap();
    let told = ends(&call(&["run", spec, "--until", "geotags"]), 65);
    assert!(told.contains("settled/finland.json is a folder where a file must be: remove it"), "{told}");
}

#[test]
fn trainings_with_other_settings_have_a_line_of_their_own() {
    let world = World::new(24);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "bootstrap"]), 0);
    let told = ends(&call(&["status", spec]), 0);
    assert!(!told.contains("other settings"), "{told}");
    let other = ["--set", "score.bootstrap_epochs=2"];
    let told = ends(&call(&[&["status", spec][..], &other].concat()), 0);
    let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("bootstrap ")).collect();
    assert!(lines[0].ends_with("must run") && lines[1].ends_with("1 finished run with other settings"), "{told}");
}
