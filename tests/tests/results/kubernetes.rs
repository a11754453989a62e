//! A build over a stand-in for a cluster: `kubectl` keeps objects in a folder, and their pods are processes of this machine.

#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use engines::{Profile, Run};
use pipeline::build::Build;
use pipeline::engine::{Engine, Kubectl, KubernetesEngine};
use pipeline::progress::Progress;
use pipeline::run::RunEnd;
use pipeline::run_options::RunOptions;
use pipeline::run_record::RunRecord;
use pipeline_tests::{World, column, open, recipes, run, tables, urbancross};
use workers::WorkerError;
use workers::stores::WorkStore;

const KUBECTL: &str = include_str!("kubectl.sh");

const RUN: &str = "1a2b3c4d";

const QUICK: [&str; 4] = ["work.shards=6", "score.clip=none", "pretrain.epochs=2", "pretrain.batch=8"];

/// The stand-in, in a folder of its own.
fn kubectl(folder: &Path) -> PathBuf {
    let program = folder.join("kubectl");
    std::fs::write(&program, KUBECTL.replace("@URBANCROSS@", &urbancross().display().to_string())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

async fn drive(build: &mut Build, folder: &Path) -> RunEnd {
    match try_to_drive(build, folder).await {
        Ok(end) => end,
        Err(error) => {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                println!("== {}\n{}", entry.display(), std::fs::read_to_string(&entry).unwrap_or_default());
            }
            panic!("{error}");
        }
    }
}

async fn try_to_drive(build: &mut Build, folder: &Path) -> Result<RunEnd, WorkerError> {
    let program = kubectl(folder);
    let profile = "[kubernetes]\nimage = \"x\"\n[stage.default]\nworkers = 2\n[stage.pretrain]\nworkers = 2\n";
    let run = Run { id: RUN.into(), country: build.spec.country.clone(), spec: build.spec.to_toml(), ..Run::default() };
    let kubectl = Kubectl::at(&program, "default");
    let engine = KubernetesEngine::with(kubectl, run, Profile { lease_seconds: 1, ..Profile::parse(profile).unwrap() });
    let engine = Engine::Kubernetes(Box::new(engine));
    pipeline::run::drive(build, &RunOptions::default(), &engine, &Progress::new(true)).await
}

/// Jobs that a driver places after its run was cancelled would be taken away by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_whose_run_is_cancelled_places_nothing_more() {
    let world = World::new(12);
    let folder = tempfile::tempdir().unwrap();
    let mut build = open(world.spec("cluster", &QUICK)).await.unwrap();
    RunRecord::new(&build.work, "finland", RUN).set_cancelled(true).await.unwrap();
    let ended = try_to_drive(&mut build, folder.path()).await;
    assert!(matches!(ended, Err(WorkerError::Stopped)), "{ended:?}");
    let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["kubectl"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_on_a_cluster_is_the_build_of_one_machine() {
    let world = World::new(60);
    let folder = tempfile::tempdir().unwrap();
    let mut build = open(world.spec("cluster", &QUICK)).await.unwrap();
    assert_eq!(drive(&mut build, folder.path()).await, RunEnd::Done(Vec::new()));
    for artifact in tables(&build) {
        let rows = column(&build, artifact, "status").await;
        assert!(rows.len() == 60 && rows.values().all(|status| status == "ok"), "{}", artifact.name());
    }
    assert!(pipeline::evaluate::stored(&build).await.unwrap().is_some(), "figures");
    let train = std::fs::read_to_string(folder.path().join("log.uc-1a2b3c4d-pretrain-train1.0")).unwrap();
    assert!(train.contains("2 ranks"), "{train}");
    assert!(folder.path().join("killed").exists(), "a worker was killed");

    // what no training has touched is the same to the row; ranks add up in another order than one process
    run(world.spec("local", &QUICK)).await.unwrap();
    let (cluster, local) = (recipes(world.spec("cluster", &QUICK)).await, recipes(world.spec("local", &QUICK)).await);
    for table in ["geotags", "images", "splits", "captions", "segments"] {
        assert_eq!(cluster[table], local[table], "{table}");
    }
    // and another driver finds nothing to do
    let mut again = open(world.spec("cluster", &QUICK)).await.unwrap();
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(drive(&mut again, folder.path()).await, RunEnd::Done(Vec::new()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before);
}

const PATIENCE: Duration = Duration::from_secs(400);

/// A cluster to which commands speak by the stand-in.
struct Cluster {
    folder: tempfile::TempDir,
    profile: PathBuf,
}

impl Cluster {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        kubectl(folder.path());
        let profile = folder.path().join("profile.toml");
        let text = "lease_seconds = 1\n[kubernetes]\nimage = \"x\"\n[stage.default]\nworkers = 2\n[stage.adapt]\nworkers = 2\n\
                    [stage.pretrain]\nworkers = 1\n";
        std::fs::write(&profile, text).unwrap();
        Self { folder, profile }
    }

    /// Exit code and all words of a command.
    fn call(&self, command: &str, of: &Path, words: &[&str]) -> (Option<i32>, String) {
        let mut program = Command::new(urbancross());
        program.arg(command).arg(of).args(words).env("KUBECTL", self.folder.path().join("kubectl"));
        if ["drive", "submit"].contains(&command) {
            program.args(["--engine", "kubernetes", "--profile"]).arg(&self.profile);
        }
        let output = program.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), said)
    }

    /// Names of what the stand-in was given or has kept, by how they begin.
    fn files(&self, begin: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_prefix(begin).map(str::to_owned)).collect()
    }

    /// What all pods have said.
    fn said(&self) -> String {
        let logs = self.files("log.").into_iter();
        logs.map(|name| {
            let text = std::fs::read_to_string(self.folder.path().join(format!("log.{name}"))).unwrap_or_default();
            format!("== {name}\n{text}")
        })
        .collect()
    }
}

/// Two builds in a folder, and beside it their pair, all in a work store of this name.
fn specs(world: &World, work: &str) -> (PathBuf, PathBuf) {
    let folder = world.path(&format!("{work}-specs"));
    std::fs::create_dir_all(&folder).unwrap();
    for (country, code) in [("finland", "FI"), ("spain", "ES")] {
        let text = world
            .spec_text(work)
            .replace("country = \"finland\"", &format!("country = \"{country}\""))
            .replace("[\"FI\"]", &format!("[\"{code}\"]"))
            .replace("country_code = \"FI\"", &format!("country_code = \"{code}\""))
            .replace("clip = \"bootstrap\"", "clip = \"none\"")
            + "[segment]\nsegmenter = \"none\"\n";
        std::fs::write(folder.join(format!("{country}.toml")), text).unwrap();
    }
    let pair = world.path(&format!("{work}-pair.toml"));
    let text = format!(
        "source = \"{work}-specs/finland.toml\"\ntarget = \"{work}-specs/spain.toml\"\nratio = [4, 2, 4]\n[adapt]\n\
         epochs = 2\nbatch = 4\n[adapt.method]\ndiscriminator_hidden = 8\n"
    );
    std::fs::write(&pair, text).unwrap();
    (folder, pair)
}

/// Both builds are the cluster's at once, and the adaptation by two ranks follows them.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_driven_on_a_cluster() {
    let world = World::new(40);
    let (folder, pair) = specs(&world, "cluster");
    let cluster = Cluster::begin();
    // how far the first build was when the second one had workers
    let has_job = |number: usize, step: &str| {
        let sign = format!("-{number}-{step}-");
        cluster.files("Job.").iter().any(|job| job.contains(&sign))
    };
    let mut side_by_side = None;
    let (code, said) = std::thread::scope(|scope| {
        let driver = scope.spawn(|| cluster.call("drive", &pair, &[]));
        while !driver.is_finished() {
            if side_by_side.is_none() && has_job(1, "images") {
                side_by_side = Some(!has_job(0, "pretrain"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        driver.join().unwrap()
    });
    assert_eq!(code, Some(0), "{said}\n{}", cluster.said());
    assert_eq!(side_by_side, Some(true), "no build waited for the other: {said}");
    assert!(said.contains("3 of 3 tasks finished") && said.contains("after "), "{said}");
    let jobs = cluster.files("Job.");
    let of_task = |number: usize, end: &str| {
        jobs.iter().filter(|job| job.contains(&format!("-{number}-")) && job.contains(end)).count()
    };
    assert_eq!((of_task(0, "-images-"), of_task(1, "-images-")), (1, 1), "{jobs:?}");
    assert_eq!(of_task(2, "-adapt-train1"), 1, "{jobs:?}");
    let ranks = cluster.said();
    assert!(ranks.contains("-2-adapt-train1.1\n"), "two ranks: {ranks}");
    // each task has a ConfigMap of its own, with all specs that its pods read
    let files = cluster.files("files.");
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(world.path("cluster/reports/finland_to_spain.html").exists());

    // what was placed is written down of both builds
    let store = WorkStore::open(&world.path("cluster").display().to_string(), &Default::default()).unwrap();
    let run = files.iter().find_map(|name| name.strip_prefix("uc-")?.strip_suffix("-0")).unwrap();
    for (number, country) in ["finland", "spain"].into_iter().enumerate() {
        let placed = RunRecord::new(&store, country, &format!("{run}-{number}")).placements().await.unwrap();
        let steps: Vec<&str> = placed.iter().map(|placed| placed.step.as_str()).collect();
        assert!(steps.contains(&"images") && steps.contains(&"captions"), "{country}: {steps:?}");
    }
    // alone they come to the same tables
    let (alone, _) = specs(&world, "alone");
    for country in ["finland", "spain"] {
        let spec = |folder: &Path| manifests::BuildSpec::read(&folder.join(format!("{country}.toml")), &[]).unwrap();
        pipeline_tests::run(spec(&alone)).await.unwrap();
        let (driven, alone) = (recipes(spec(&folder)).await, recipes(spec(&alone)).await);
        for table in ["geotags", "images", "splits", "captions"] {
            assert_eq!(driven[table], alone[table], "{table} of {country}");
        }
    }
    let (code, said) = cluster.call("drive", &pair, &[]);
    assert!(code == Some(0) && said.contains("3 of 3 tasks finished"), "{said}");
    assert_eq!(cluster.files("Job.").len(), jobs.len(), "nothing was left to do");
}

/// A folder is given to the cluster, taken from it, and given again at once: the driver is a pod, too.
#[test]
fn a_folder_is_submitted_cancelled_and_submitted_again() {
    let world = World::new(24);
    let (folder, _) = specs(&world, "cluster");
    let cluster = Cluster::begin();
    let (code, said) = cluster.call("submit", &folder, &[]);
    assert!(code == Some(0) && said.contains("submitted as"), "{said}");
    let began = Instant::now();
    let wait = |is: &dyn Fn() -> bool| {
        while !is() {
            assert!(began.elapsed() < PATIENCE, "it does not come\n{}", cluster.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait(&|| cluster.files("Job.").iter().any(|job| job.contains("-images-")));
    let (code, said) = cluster.call("cancel", &folder, &[]);
    assert!(code == Some(0) && said.contains("is cancelled"), "{said}");
    let (code, said) = cluster.call("submit", &folder, &[]);
    assert!(code == Some(0) && said.contains("was cancelled; waiting until its last jobs have ended"), "{said}");
    assert!(said.contains("submitted as"), "{said}");
    assert!(cluster.files("deleted.").is_empty(), "nothing of the cancelled run is left");
    let done = || {
        let (_, said) = cluster.call("status", &folder, &["--runs"]);
        said.matches("by kubernetes: done").count() == 2
    };
    wait(&done);
    for country in ["finland", "spain"] {
        assert!(world.path(&format!("cluster/reports/{country}.html")).exists(), "{country}");
    }
    let (code, said) = cluster.call("status", &folder, &["--runs"]);
    assert!(code == Some(0) && !said.contains("ended with"), "{said}");
}

/// A server that takes each kind of object once, and says of jobs and pods what lies beside it.
const TOLD: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
case $1 in
create)
    kind=$(sed -n 's/^kind: //p')
    if [ -f "$kind" ]; then echo "Error from server (AlreadyExists): \"$kind\" already exists" >&2; exit 1; fi
    touch "$kind" ;;
replace) cat > /dev/null ;;
get) cat "$2" 2>/dev/null || echo '{"items":[]}' ;;
esac
"#;

/// The driver is killed for its memory before it can say anything, and before that somebody submits the run once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_lives_is_left_alone_and_one_that_died_without_a_word_is_told_of() {
    let world = World::new(6);
    let spec = specs(&world, "cluster").0.join("finland.toml");
    let cluster = Cluster::begin();
    let tell = |name: &str, text: &str| std::fs::write(cluster.folder.path().join(name), text).unwrap();
    tell("kubectl", TOLD);
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("submitted as"), "{said}");
    let driver = said.split("submitted as job ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let run = driver.strip_prefix("uc-").and_then(|name| name.strip_suffix("-begin-drive")).unwrap();
    let is = |job: &str, pod: &str| {
        let labels = r#""labels":{"urbancross.dev/stage":"begin"}"#;
        let metadata = format!(r#"{{"name":"{driver}","uid":"u",{labels}}}"#);
        tell("jobs", &format!(r#"{{"items":[{{"metadata":{metadata},"status":{job}}}]}}"#));
        let owner = format!(r#"{{"apiVersion":"batch/v1","kind":"Job","name":"{driver}","uid":"u"}}"#);
        tell("pods", &format!(r#"{{"items":[{{"metadata":{{"ownerReferences":[{owner}]}},"status":{pod}}}]}}"#));
    };
    is("{}", r#"{"phase":"Running"}"#);
    let profile = std::fs::read_to_string(&cluster.profile).unwrap();
    std::fs::write(&cluster.profile, profile.replace("lease_seconds = 1", "lease_seconds = 2")).unwrap();
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("is under way already") && !said.contains("submitted as"), "{said}");
    let store = WorkStore::open(&world.path("cluster").display().to_string(), &Default::default()).unwrap();
    let submission = RunRecord::new(&store, "finland", run).submission().await.unwrap().unwrap();
    assert!(submission.profile.contains("lease_seconds = 1\n"), "{}", submission.profile);

    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(0) && said.contains("1 of 1 pod running"), "{said}");
    let killed = r#"{"exitCode":137,"reason":"OOMKilled"}"#;
    let container = r#""name":"worker","image":"x","imageID":"","ready":false,"restartCount":0"#;
    is(
        r#"{"conditions":[{"type":"Failed","status":"True","reason":"BackoffLimitExceeded"}]}"#,
        &format!(r#"{{"phase":"Failed","containerStatuses":[{{{container},"state":{{"terminated":{killed}}}}}]}}"#),
    );
    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(75) && said.contains("OOMKilled") && said.contains(driver), "{said}");
}
