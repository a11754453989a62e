//! What cannot end well is refused before any work.

use pipeline_tests::{World, urbancross};

use crate::{call, ends, said, spec_file};

#[test]
fn a_country_without_rows_is_refused() {
    let world = World::new(30);
    let spec = &spec_file(&world);
    let cases = [
        ("source.country_code=XX", "no country has it"),
        ("source.country_code=fi", "write it as \"FI\""),
        ("source.country_code=DE", "FI (30 rows)"),
    ];
    for (set, words) in cases {
        for command in ["plan", "run"] {
            let said = ends(&call(&[command, spec, "--set", set]), 65);
            assert!(said.contains(words), "{said}");
        }
        assert!(!world.path("work").exists(), "nothing was written");
    }
    // sources of all the world: only the boxes tell
    let wide = ["--set", "source.tokens=[\"US\"]", "--set", "source.max_gsd_meters=2.0"];
    let said = ends(&call(&[&["run", spec][..], &wide].concat()), 65);
    assert!(said.contains("no image is left"), "{said}");
    assert!(!world.path("work/tables/images").exists());
    // nor does a run end well that ends before the splits, and it ends like that again
    for _ in 0..2 {
        let until = [&["run", spec, "--until", "geotags"][..], &wide].concat();
        let said = ends(&call(&until), 65);
        assert!(said.contains("geotags: no image is left") && said.contains("left out; the first: "), "{said}");
    }
}

#[test]
fn a_build_without_a_part_is_refused_before_its_training() {
    let world = World::new(30);
    let spec = &spec_file(&world);
    let set = ["--set", "segment.segmenter=none", "--set", "score.clip=none", "--set", "split.ratio=[3,1,0]"];
    let run = |more: &[&str]| call(&[&["run", spec][..], &set, more].concat());
    let warned = ends(&run(&["--until", "images"]), 0);
    assert!(warned.contains("the test split is empty"), "{warned}");
    let refused = ends(&run(&[]), 65);
    assert!(refused.contains("the test split is empty") && refused.contains("split.ratio"), "{refused}");
    let planned = ends(&call(&[&["plan", spec][..], &set].concat()), 0);
    assert!(planned.contains("warning: the test split is empty"), "{planned}");
    assert!(!world.path("work/checkpoints").exists());
}

#[test]
fn a_device_that_the_program_has_not_got_is_refused() {
    if stages::device::HAS_CUDA {
        return;
    }
    let world = World::new(3);
    let spec = &spec_file(&world);
    for device in ["cuda:0", "cuda:all", "cpu,cuda:1"] {
        let set = format!("model.device={device}");
        for command in ["doctor", "plan", "run"] {
            let said = ends(&call(&[command, spec, "--set", &set]), 65);
            assert!(said.contains("this binary is for the CPU") && said.contains("--features cuda"), "{said}");
        }
        assert!(said(&call(&["doctor", spec, "--set", &set])).contains("BAD  device"));
    }
    assert!(!world.path("work").exists());
    // whoever only asks for a cluster, or gives a build to one, needs no GPU; nor does a driver of ranks that are elsewhere
    let more = ["--set", "ranks.processes=512", "--set", "pretrain.batch=512"];
    let gpu = ["--set", "model.device=cuda:all"];
    ends(&call(&[&["plan", spec, "--cluster", "64xH100,8/node"][..], &gpu].concat()), 0);
    let profile = &world.path("profile.toml");
    let (slurm, gpus) = ("[slurm]\nlogs = \"/nowhere\"\n", "[stage.default]\ngpus = 1\n[stage.drive]\ngpus = 1\n");
    // whose jobs would have none
    std::fs::write(profile, slurm).unwrap();
    let profile_words = ["--engine", "slurm", "--profile", profile.to_str().unwrap()];
    for command in ["submit", "render"] {
        let said = ends(&call(&[&[command, spec][..], &profile_words, &gpu].concat()), 65);
        assert!(said.contains("stage.default.gpus = 0 in the profile: set stage.image_embeddings.gpus = 1"), "{said}");
    }
    let judged = ends(&call(&[&["doctor", spec][..], &profile_words, &gpu].concat()), 65);
    assert!(judged.contains("ok   device") && judged.contains("BAD  profile"), "{judged}");
    // what is said of a step that there is not is said to nobody
    std::fs::write(profile, slurm.to_owned() + "[stage.pretrainn]\nworkers = 7\n").unwrap();
    for command in ["submit", "render", "doctor"] {
        let said = ends(&call(&[&[command, spec][..], &profile_words].concat()), 65);
        assert!(said.contains("stage.pretrainn of the profile is no step"), "{command}: {said}");
    }
    assert!(!world.path("work").exists());
    std::fs::write(profile, slurm.to_owned() + gpus).unwrap();
    let profile = profile.to_str().unwrap();
    for (command, engine) in [("submit", "slurm"), ("drive", "slurm")] {
        let words = [&[command, spec, "--engine", engine, "--profile", profile][..], &gpu, &more].concat();
        let mut command = std::process::Command::new(urbancross());
        // no Slurm is found
        let output = command.args(&words).env("PATH", "/nowhere").output().unwrap();
        assert!(said(&output).contains("on this machine: run this where Slurm's commands are"), "{}", said(&output));
    }
    // a node that only pulls images asks no network
    ends(&call(&["run", spec, "--set", "model.device=cuda:0", "--until", "splits"]), 0);
}

#[test]
fn weights_that_cannot_be_read_are_found_before_any_stage() {
    let world = World::new(3);
    let spec = &spec_file(&world);
    let folder = world.path("weights");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), 500u64.to_le_bytes()).unwrap();
    std::fs::write(folder.join("page.pth"), "<html>not found</html>").unwrap();
    let at = |field: &str, name: &str| format!("{field}={}", folder.join(name).display());
    let sam = "segment.segmenter=sam";
    for (sets, words) in [
        (vec![at("model.init", "")], "cut off in its header"),
        (vec![at("model.init", "absent.safetensors")], "no such file"),
        (vec![at("model.tokenizer", "")], "no tokenizer.json"),
        (vec![at("score.clip", "model.safetensors")], "cut off in its header"),
        (vec![sam.to_owned(), at("segment.sam.weights", "page.pth")], "is no zip"),
    ] {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        for command in ["doctor", "plan", "run"] {
            let said = ends(&call(&[&[command, spec.as_str()][..], &sets].concat()), 65);
            assert!(said.contains(words), "{said}");
        }
    }
    assert!(!world.path("work").exists());
}

#[test]
fn values_that_mean_nothing_leave_no_work_folder() {
    let world = World::new(6);
    let spec = &spec_file(&world);
    for (sets, words) in [
        (&["model.preset=huge"][..], "expected one of `tiny`, `small`"),
        (&["pretrain.epochs=0"], "pretrain.epochs = 0: it must be between 1 and"),
        (&["pretrain.dropout=1.0"], "pretrain.dropout = 1.0: it must be at least 0.0 and below 1.0"),
        (&["pretrain.batch=1000", "ranks.processes=1000"], "ranks.processes = 1000: this machine has"),
        (&["ranks.backend=nccl"], "ranks.backend = \"nccl\""),
        (&["source.url=s3://"], "source.url = \"s3://\": it names no bucket"),
        (&["work.url=gs://"], "work.url = \"gs://\": it names no bucket"),
    ] {
        let set = sets.iter().flat_map(|set| ["--set", set]);
        let said = ends(&call(&["run", spec].into_iter().chain(set).collect::<Vec<_>>()), 65);
        assert!(said.contains(words), "{said}");
        assert!(!world.path("work").exists(), "{sets:?}");
    }
    let crowd = ["--set", "pretrain.batch=1000", "--set", "ranks.processes=1000"];
    let said = ends(&call(&[&["doctor", spec][..], &crowd].concat()), 65);
    assert!(said.contains("BAD  ranks") && said.contains("ranks.processes = 1000"), "{said}");
}

#[test]
fn a_source_that_offers_nothing_wanted_leaves_no_work_folder() {
    let world = World::new(6);
    let spec = &spec_file(&world);
    for (set, words) in [
        ("source.tokens=['XX']", "no image is wanted for finland (rows by source token: DE 6, ES 6, FI 6"),
        ("source.tables=['nope.csv']", "nope.csv is not there"),
        ("source.tables=['../x.csv']", "does not lie below source.url"),
        ("source.tables=[]", "source.tables is empty"),
    ] {
        for command in ["plan", "run"] {
            let said = ends(&call(&[command, spec, "--set", set]), 65);
            assert!(said.contains(words), "{said}");
            assert!(!world.path("work").exists(), "{command} {set}");
        }
    }
    let said = ends(&call(&["plan", spec, "--set", "source.tokens=['FI', 'XX']"]), 0);
    assert!(said.contains("no row of its tables has the token XX; they have DE 6"), "{said}");
}

/// All that a work store holds, by its path.
fn held(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut held = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            held.extend(self::held(&path))
        } else {
            held.push((path.clone(), std::fs::read(path).unwrap()))
        }
    }
    held.sort();
    held
}

/// The splits stand, and only the batch is another: that is enough to know.
#[test]
fn a_batch_that_was_enlarged_is_refused_before_anything_is_written() {
    let world = World::new(12);
    let spec = &spec_file(&world);
    ends(&call(&["run", spec, "--until", "splits"]), 0);
    let before = held(&world.path("work"));
    // captions would be made before the training
    for command in ["plan", "run"] {
        let said = ends(&call(&[command, spec, "--set", "pretrain.batch=12"]), 65);
        assert!(
            said.contains("pretrain.batch = 12 is more than the") && said.contains("rows of the train split"),
            "{said}"
        );
        assert!(held(&world.path("work")) == before, "{command} wrote something");
    }
    // images that come in may fill it
    let more = ["--set", "pretrain.batch=14", "--set", "source.tokens=['FI', 'DE']", "--set", "source.country_code="];
    let planned = ends(&call(&[&["plan", spec][..], &more].concat()), 0);
    assert!(planned.contains("no finished run has these settings"), "{planned}");
}

#[test]
fn a_batch_that_cannot_be_filled_is_refused_as_soon_as_rows_are_known() {
    let world = World::new(6);
    let spec = &spec_file(&world);
    let ended = |command: &str, set: &str, more: &[&str], code| {
        ends(&call(&[&[command, spec, "--set", set][..], more].concat()), code)
    };
    for command in ["plan", "run"] {
        let said = ended(command, "pretrain.batch=7", &[], 65);
        assert!(said.contains("pretrain.batch = 7 is more than the 6 rows of the source: use at most 6"), "{said}");
    }
    assert!(!world.path("work").exists(), "nothing was written");
    // how many of them train is known once they are placed
    let said = ended("run", "pretrain.batch=6", &[], 65);
    assert!(said.contains("rows of the train split"), "{said}");
    assert!(!world.path("work/tables/images").exists(), "{said}");
    ended("run", "pretrain.batch=6", &["--until", "splits"], 0);
    let said = ended("plan", "pretrain.batch=6", &[], 65);
    assert!(said.contains("rows of the train split"), "{said}");
    ended("plan", "pretrain.batch=2", &[], 0);
}
