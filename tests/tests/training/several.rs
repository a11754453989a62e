//! Drivers of several tasks: pairs, folders, ablations and sweeps come to what single commands come to, whoever dies.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use manifests::BuildSpec;
use pipeline::ablate::{Ablation, ablate};
use pipeline::build::Build;
use pipeline::pair::{Pair, Tested};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::sweep::Curve;
use pipeline_tests::{World, edit_a_finnish_image, rows, run, run_with, urbancross, urbancross_sandbox};
use workers::adapt::records;
use workers::stores::WorkStore;

const COUNTRIES: [(&str, &str); 2] = [("finland", "FI"), ("spain", "ES")];
const PATIENCE: Duration = Duration::from_secs(240);

/// A folder with two builds into a work store of its name, and beside it their pair.
fn specs(world: &World, work: &str) -> (PathBuf, PathBuf) {
    let folder = world.path(&format!("{work}-specs"));
    std::fs::create_dir_all(&folder).unwrap();
    for (country, code) in COUNTRIES {
        let text = world
            .spec_text(work)
            .replace("country = \"finland\"", &format!("country = \"{country}\""))
            .replace("[\"FI\"]", &format!("[\"{code}\"]"))
            .replace("country_code = \"FI\"", &format!("country_code = \"{code}\""))
            .replace("clip = \"bootstrap\"", "clip = \"none\"")
            + "[segment]\nsegmenter = \"none\"\n";
        std::fs::write(folder.join(format!("{country}.toml")), &text).unwrap();
    }
    let pair = world.path(&format!("{work}-pair.toml"));
    let text = format!(
        "source = \"{work}-specs/finland.toml\"\ntarget = \"{work}-specs/spain.toml\"\nratio = [4, 2, 4]\n[adapt]\nepochs = 2\n\
         batch = 4\nlearning_rate = 1e-3\n[adapt.method]\ndiscriminator_hidden = 8\n[ablation]\nseeds = [0]\n"
    );
    std::fs::write(&pair, text).unwrap();
    (folder, pair)
}

fn build(folder: &Path, country: &str) -> BuildSpec {
    BuildSpec::read(&folder.join(format!("{country}.toml")), &[]).unwrap()
}

fn command(words: &[&str], of: &Path) -> Command {
    let mut command = Command::new(urbancross());
    command.arg(words[0]).arg(of).args(&words[1..]);
    command
}

/// Output and messages of a command that ends well.
fn done(words: &[&str], of: &Path) -> (String, String) {
    let output = command(words, of).output().unwrap();
    let [out, said] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{words:?} {}\n{out}\n{said}", of.display());
    (out, said)
}

fn driver(of: &Path) -> Child {
    let mut driver = command(&["drive", "--workers", "2", "--lease-seconds", "1"], of);
    driver.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills a driver once something is there.
fn kill_at(mut driver: Child, sign: &Path) {
    let began = Instant::now();
    while !sign.exists() {
        assert!(driver.try_wait().unwrap().is_none(), "it ended before {}", sign.display());
        assert!(began.elapsed() < PATIENCE, "{} does not come", sign.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    driver.kill().unwrap();
    driver.wait().unwrap();
}

async fn same_tables(folders: [&Path; 2]) {
    for (country, _) in COUNTRIES {
        let [(alone, _), (driven, _)] =
            [run(build(folders[0], country)).await.unwrap(), run(build(folders[1], country)).await.unwrap()];
        assert_eq!((alone.commits(), driven.commits()), (0, 0), "nothing was left to do of {country}");
        let (wanted, made) = (rows(&alone).await, rows(&driven).await);
        for (table, wanted) in wanted {
            assert!(made[&table] == wanted && !wanted.is_empty(), "{table} of {country} differs");
        }
    }
}

/// Both builds, the adaptation, its vectors and its report: by drivers that die in each part, and two at once in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_driven_pair_is_that_of_single_commands() {
    let world = World::new(40);
    let (folder, pair) = specs(&world, "alone");
    for (country, _) in COUNTRIES {
        done(&["run"], &folder.join(format!("{country}.toml")));
    }
    let figures = |text: &str| -> [Tested; 2] {
        let told: serde_json::Value = serde_json::from_str(text).unwrap();
        ["before", "after"].map(|when| serde_json::from_value(told[when].clone()).unwrap())
    };
    let wanted = figures(&done(&["adapt", "--json"], &pair).0);

    let (driven_folder, driven) = specs(&world, "driven");
    let (out, _) = done(&["plan"], &driven);
    assert!(out.contains("== finland\n") && out.contains("== finland_to_spain\n"), "{out}");
    let work = world.path("driven");
    kill_at(driver(&driven), &work.join("tables/images/_delta_log"));
    kill_at(driver(&driven), &work.join("checkpoints/finland/pretrain"));
    kill_at(driver(&driven), &work.join("checkpoints/spain/pretrain"));
    kill_at(driver(&driven), &work.join("checkpoints/finland_to_spain/adapt"));
    for mut driver in [driver(&driven), driver(&driven)] {
        assert!(driver.wait().unwrap().success());
    }
    same_tables([&folder, &driven_folder]).await;
    let opened = Pair::open(&driven, &[], Arc::default()).await.unwrap();
    let all = records(&opened.target.work, &opened.name).await.unwrap();
    assert_eq!(all.len(), 1, "adapted once");
    let record = opened.finished(&opened.spec).await.unwrap().expect("these settings");
    assert_eq!(record, all[0]);
    let made = [None, Some(&record)];
    for (made, wanted) in made.into_iter().zip(&wanted) {
        assert_eq!(&opened.test(&opened.model(made).await.unwrap()).await.unwrap(), wanted);
    }
    // a search with the adapted model finds its vectors there
    assert!(std::fs::read_dir(work.join("vectors/spain")).unwrap().count() == 1);
    let page = std::fs::read_to_string(work.join("reports/finland_to_spain.html")).unwrap();
    assert!(page.contains("finland to spain: before and after adaptation") && page.contains("moved up"));

    // nothing is left: it is told, and nothing is made
    let (out, said) = done(&["drive"], &driven);
    assert!(said.contains("3 of 3 tasks finished") && said.contains("up to date"), "{said}");
    assert!(out.contains("before ") && out.contains("after ") && out.contains("finland_to_spain.html"), "{out}");
    let report = work.join("reports/finland_to_spain.html");
    assert_eq!(std::fs::read_to_string(report).unwrap(), page, "the page stays");
    for command in ["plan", "status"] {
        let (out, _) = done(&[command], &driven);
        let last = out.lines().last().unwrap();
        assert!(last.starts_with("adapt ") && last.contains("up to date"), "{command}: {out}");
    }
    let (out, _) = done(&["status", "--json"], &driven);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!([&told[0]["task"], &told[2]["task"]], ["finland", "finland_to_spain"], "{told}");

    experiments(&world, &pair, &driven).await;

    // what its builds will bring is not decided before; meanwhile a comparison says of what it is
    let mut edit = Command::new(urbancross_sandbox());
    assert!(edit.arg(world.path("world")).args(["--edit-tags", "0.5"]).output().unwrap().status.success());
    let (out, _) = done(&["plan"], &driven);
    assert!(out.lines().last().unwrap().contains("waits for its builds"), "{out}");
    let (_, said) = done(&["analyse"], &driven);
    assert!(!said.contains("since this model was adapted"), "{said}");
    done(&["run"], &driven_folder.join("spain.toml"));
    let (_, said) = done(&["analyse"], &driven);
    assert!(said.contains("since this model was adapted"), "{said}");
}

/// What is compared beside the pair itself, one process a run.
async fn experiments(world: &World, alone: &Path, driven: &Path) {
    let ablated = async |pair: &Path| -> Ablation {
        let pair = Pair::open(pair, &[], Arc::default()).await.unwrap();
        ablate(&pair, &Progress::new(true)).await.unwrap()
    };
    let (out, said) = done(&["drive", "--ablate", "--workers", "3"], driven);
    // the full one is the pair's own
    let runs =
        said.lines().filter(|line| line.starts_with("finland_to_spain: ") && line.contains(": variant  ")).count();
    assert!(runs == 5 && said.contains("9 of 9 tasks finished"), "{said}");
    let wanted = ablated(alone).await;
    let work = world.path("driven");
    let store = WorkStore::open(&work.display().to_string(), &Default::default()).unwrap();
    let made = async || records(&store, "finland_to_spain").await.unwrap().len();
    assert_eq!(made().await, 6, "each variant that learns, and nothing else");
    assert_eq!((ablated(driven).await, made().await), (wanted.clone(), 6));
    for line in &wanted.lines {
        let words = format!("{:.2} ± 0.00", line.mean_recall().mean);
        let printed = out.lines().find(|printed| printed.starts_with(&format!("{:14} ", line.variant.words())));
        assert!(printed.is_some_and(|printed| printed.ends_with(&words)), "{words} of {:?}: {out}", line.variant);
    }
    assert!(out.contains(&wanted.verdict()) && out.contains("finland_to_spain.ablation.html"), "{out}");
    assert!(std::fs::read_to_string(work.join("reports/finland_to_spain.ablation.html")).unwrap().contains("w/o CL"));

    let over = ["--over", "pretrain.learning_rate=3e-3,1e-4"];
    let [one, other] = ["alone", "driven"].map(|name| world.path(&format!("{name}-specs/finland.toml")));
    let (_, said) = done(&[&["drive"][..], &over].concat(), &other);
    for value in ["3e-3", "1e-4"] {
        assert!(said.contains(&format!("finland: pretrain.learning_rate={value}: pretrain  ")), "{said}");
        assert!(said.contains(&format!("finland: sweep: with pretrain.learning_rate={value}\n")), "{said}");
    }
    assert!(said.contains("4 of 4 tasks"), "{said}");
    let curves = |of: &Path| -> Vec<Curve> {
        let mut curves: Vec<Curve> =
            serde_json::from_str(&done(&[&["sweep", "--json"][..], &over].concat(), of).0).unwrap();
        curves.iter_mut().flat_map(|curve| &mut curve.points).for_each(|point| point.seconds = 0.0);
        curves
    };
    assert_eq!(curves(&one), curves(&other));
    assert!(work.join("reports/finland.sweep.html").exists());
}

/// Processes that a driver has started, with what each of them does.
fn children(driver: u32) -> Vec<(i32, String)> {
    let listed = std::fs::read_to_string(format!("/proc/{driver}/task/{driver}/children")).unwrap_or_default();
    let child = |id: &str| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let command = line.split(|byte| *byte == 0).nth(1)?;
        Some((id.parse().ok()?, String::from_utf8_lossy(command).into_owned()))
    };
    listed.split_whitespace().filter_map(child).collect()
}

/// What one build leaves idle the other one has, and there are never more processes than were asked for.
#[tokio::test(flavor = "multi_thread")]
async fn builds_of_a_folder_share_the_workers() {
    let world = World::new(60);
    let (alone, _) = specs(&world, "alone");
    for (country, _) in COUNTRIES {
        done(&["run"], &alone.join(format!("{country}.toml")));
    }
    let (folder, _) = specs(&world, "driven");
    let words = world.path("words");
    let mut driver = command(&["drive", "--workers", "2", "--lease-seconds", "1"], &folder);
    let said = std::fs::File::create(&words).unwrap();
    let mut driver = driver.stdout(Stdio::null()).stderr(said).spawn().unwrap();
    let (work, began) = (world.path("driven"), Instant::now());
    let (mut most, mut seen, mut side_by_side, mut killed) = (0, Vec::new(), None, false);
    let code = loop {
        if let Some(status) = driver.try_wait().unwrap() {
            break status.code();
        }
        let now = children(driver.id());
        most = most.max(now.len());
        // a training that is killed goes on
        if let Some((id, _)) = now.iter().find(|(_, what)| what == "train" && !killed) {
            killed = Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap().success();
        }
        seen.extend(now.into_iter().map(|(_, what)| what));
        // the second build has rows: how far was the first one then?
        if side_by_side.is_none() && work.join("markers/spain").exists() {
            side_by_side = Some(!work.join("checkpoints/finland/pretrain").exists());
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    let words = std::fs::read_to_string(&words).unwrap();
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(most, 2, "two places");
    assert_eq!(side_by_side, Some(true), "no build waited for the other: {words}");
    for what in ["worker", "train"] {
        assert!(seen.iter().any(|seen| seen == what), "{what}");
    }
    assert!(killed && words.contains("was killed; it goes on from what it has saved"), "{words}");
    assert!(words.contains("spain: images  ") && words.contains("finland: pretrain  "), "{words}");
    same_tables([&alone, &folder]).await;
}

/// A folder is a run of all its builds; one that cannot be built holds up no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_builds_is_one_run() {
    let world = World::new(24);
    let (alone, _) = specs(&world, "alone");
    for (country, _) in COUNTRIES {
        done(&["run"], &alone.join(format!("{country}.toml")));
    }
    let (folder, _) = specs(&world, "driven");
    let broken = std::fs::read_to_string(folder.join("finland.toml")).unwrap();
    let broken = broken.replace("\"finland\"", "\"atlantis\"").replace("/world\"", "/no-such-world\"");
    std::fs::write(folder.join("atlantis.toml"), &broken).unwrap();
    let output = command(&["drive", "--workers", "2"], &folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("2 of 3 tasks finished") && said.contains("error: atlantis: "), "{said}");
    same_tables([&alone, &folder]).await;
    // nor does one that has no store hide the others' runs
    let nowhere = broken.replace("atlantis", "lemuria").replace("/driven\"", "/nowhere\"");
    assert!(nowhere.contains("/nowhere\""), "{nowhere}");
    std::fs::write(folder.join("lemuria.toml"), nowhere).unwrap();
    for command in [&["status", "--runs"][..], &["status"], &["logs"], &["cancel"]] {
        done(command, &folder);
    }
    std::fs::remove_file(folder.join("lemuria.toml")).unwrap();
    std::fs::remove_file(folder.join("atlantis.toml")).unwrap();
    done(&["drive"], &folder);
    let (out, _) = done(&["plan", "--json"], &folder);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    let steps = told.as_array().unwrap().iter().flat_map(|task| task["steps"].as_array().unwrap());
    assert!(steps.filter_map(|step| step["rows"].as_u64()).all(|rows| rows == 0), "{told}");
}

/// What a cluster would be given can be seen without one.
/// A build that was finished long before the others is looked at once more: what changed meanwhile is in its tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_build_whose_source_changes_is_gone_over_again() {
    let world = World::new(12);
    let (folder, _) = specs(&world, "driven");
    let spain = build(&folder, "spain");
    let work = WorkStore::open(&spain.work.url, &spain.work.options).unwrap();
    work.make().unwrap();
    // another run holds up the second build
    let stop = AtomicBool::new(false);
    let held = workers::lease::take(&work, "spain", "a test", 600, &stop, |_| {}).await.unwrap();
    let mut driver = command(&["drive", "--workers", "2", "--until", "captions"], &folder);
    let mut driver = driver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let finland = build(&folder, "finland");
    let is_done = async || {
        let status = Build::open_work(finland.clone(), Arc::default()).await;
        let Ok(opened) = status else { return false };
        let lines = pipeline::status::status(&opened).await.unwrap();
        lines.iter().any(|line| line.step == "captions" && line.rows > 0)
    };
    let began = Instant::now();
    while !is_done().await {
        assert!(driver.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "finland is not made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // most probably its last look is over by then; if it is not, that one finds the edit
    tokio::time::sleep(Duration::from_secs(3)).await;
    let edited = edit_a_finnish_image(&world);
    drop(held);
    let output = driver.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let looks = ["finland: its source or tables were changed since it was finished", "going over the build again"];
    assert!(looks.iter().any(|look| said.contains(look)), "{said}");
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (after, _) = run_with(finland, until).await.unwrap();
    assert_eq!(after.commits(), 0, "nothing was left to do of {edited:?}");
}

#[test]
fn jobs_of_all_tasks_are_rendered() {
    let world = World::new(1);
    let (_, pair) = specs(&world, "work");
    let profile = world.path("profile.toml");
    std::fs::write(
        &profile,
        format!("[kubernetes]\nimage = \"x\"\n[slurm]\nlogs = \"{}\"\n", world.path("l").display()),
    )
    .unwrap();
    let render = |engine: &str, rest: &[&str]| {
        let words = ["render", "--engine", engine, "--profile", &profile.display().to_string()];
        let output = command(&[&words[..], rest].concat(), &pair).output().unwrap();
        let [out, said] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        (output.status.code(), out + &said)
    };
    let (code, said) = render("slurm", &[]);
    assert_eq!(code, Some(0), "{said}");
    for job in ["-begin-drive.sh\n", "-0-pretrain-train1.sh\n", "-1-captions-plan.sh\n", "-2-adapt-train1.sh\n"] {
        assert_eq!(said.matches(job).count(), 1, "{job}: {said}");
    }
    let (code, said) = render("kubernetes", &["--ablate"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        said.matches("\nkind: ConfigMap\n").count(),
        1 + 2 + 6,
        "one for the drivers, one for each task: {said}"
    );
    assert!(said.contains("-7-variant-train1\n") && said.contains("--ablate"), "{said}");
    let (code, said) = render("ray", &["--ablate"]);
    assert!(code == Some(0) && said.contains("--ablate") && said.contains("000-1.toml"), "{said}");
    assert!(!world.path("work").exists() && !world.path("l").exists(), "nothing is made");
}

/// The driver for Ray, over a stand-in for Ray: a pair is built by its tasks, and two ranks adapt.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_driven_over_ray() {
    let world = World::new(40);
    let (folder, pair) = specs(&world, "work");
    let ranks = std::fs::read_to_string(folder.join("finland.toml")).unwrap() + "[ranks]\nprocesses = 2\n";
    std::fs::write(folder.join("finland.toml"), ranks).unwrap();
    let profile = world.path("profile.toml");
    std::fs::write(&profile, "lease_seconds = 1\n[stage.default]\nworkers = 3\n").unwrap();
    let files = world.path("files");
    let words = ["render", "--engine", "ray", "--profile"];
    done(&[&words[..], &[&profile.display().to_string(), "--output", &files.display().to_string()]].concat(), &pair);
    let file = std::fs::read_dir(&files).unwrap().next().unwrap().unwrap().path();
    let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/engines/tests/ray_stand_in");
    let mut python = Command::new(std::env::var("PYTHON").unwrap_or("python3".into()));
    let Ok(output) = python.arg(file).env("PYTHONPATH", stand_in).env("URBANCROSS", urbancross()).output() else {
        return pipeline_tests::skipped("no python3");
    };
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("3 of 3 tasks finished") && said.contains("after "), "{said}");
    assert!(said.contains("finland_to_spain: 2 ranks; tensors travel through"), "{said}");
    let store = WorkStore::open(&world.path("work").display().to_string(), &Default::default()).unwrap();
    assert_eq!(records(&store, "finland_to_spain").await.unwrap().len(), 1);
    assert!(world.path("work/reports/finland_to_spain.html").exists());
    // its processes were tasks of Ray: their claims name the node that Ray has named
    let claims = std::fs::read_dir(world.path("work/markers/finland/images")).unwrap();
    let claimed = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("0123456789ab"));
    assert!(claims.map(|entry| entry.unwrap().path()).any(claimed));
}

/// What cannot be is found before anything is made.
#[test]
fn what_cannot_be_driven_is_refused_at_once() {
    let world = World::new(1);
    let (folder, pair) = specs(&world, "work");
    let finland = folder.join("finland.toml");
    for (words, of, expected) in [
        (&["drive", "--ablate"][..], &finland, "name the spec of a pair"),
        (&["drive", "--over", "adapt.batch=4"], &finland, "name the spec of a pair"),
        (&["drive", "--over", "pretrain.batch=4"], &pair, "name the spec of a build"),
        (&["drive", "--until", "imags"], &pair, "the steps are"),
        (&["drive", "--run", "a-name-too-long"], &pair, "at most 12 characters"),
        (&["plan", "--cluster", "8xH100", "--rate", "segment=2"], &pair, "--rate segment: there is no such step"),
        (&["retry"], &pair, "say which"),
    ] {
        let output = command(words, of).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(65) && said.contains(expected), "{words:?}: {said}");
    }
    assert!(!world.path("work").exists(), "nothing is made");
}
