//! Builds on Slurm: a real controller and three nodes on loopback (`tests/slurm/cluster.sh`). `make slurm-test` asks for
//! them, and fails where Slurm is not installed.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use manifests::attempts::{End, Object};
use manifests::paths;
use pipeline::run_record::RunRecord;
use pipeline_tests::{World, open, rows, run, urbancross};
use stages::Training;
use stages::fit::{CURVE_FILE, read_curve};

/// One cluster at a time: they share this machine's cores.
static TURN: Mutex<()> = Mutex::new(());

/// Longest that a build may take.
const PATIENCE: Duration = Duration::from_secs(240);

const QUICK: [&str; 5] =
    ["work.shards=24", "score.clip=none", "pretrain.epochs=2", "pretrain.batch=4", "ranks.timeout_seconds=30"];

/// A profile of workers of which no two fit on a node of four cores, and nothing else.
const WORKERS: &str =
    "[stage.default]\nworkers = 3\ncpus = 3\nmemory = \"200M\"\n[stage.drive]\ncpus = 1\nmemory = \"100M\"\n";

struct Cluster {
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts one in a folder of a world; `None`: nobody asked for it.
    fn up(world: &World, settings: &[&str]) -> Option<Cluster> {
        // they take minutes: `make slurm-test` asks for them
        if std::env::var_os("URBANCROSS_SLURM").is_none() {
            pipeline_tests::skipped("run `make slurm-test`");
            return None;
        }
        let has =
            |program: &str| ["/usr/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
        assert!(
            ["slurmctld", "slurmd", "sbatch", "munged"].into_iter().all(has),
            "no Slurm (apt-get install --no-install-recommends slurmctld slurmd slurm-client munge)"
        );
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster { folder: world.path("slurm"), _turn: turn };
        let started = cluster.script("up", settings);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Some(cluster)
    }

    fn script(&self, action: &str, rest: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("slurm/cluster.sh");
        // what stays in the background must not hold this test's output open
        let log = std::fs::File::create(self.folder.with_extension("log")).unwrap();
        let mut command = Command::new(script);
        command.arg(action).arg(&self.folder).args(rest).stdout(log.try_clone().unwrap()).stderr(log);
        let status = command.status().expect("the script starts");
        let said = std::fs::read(self.folder.with_extension("log")).unwrap_or_default();
        Output { status, stdout: Vec::new(), stderr: said }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.folder.join("etc/slurm.conf"));
        command
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().expect("Slurm's program starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("down", &[]);
    }
}

/// A build to be given to a cluster.
struct Given<'w> {
    world: &'w World,
    work: &'static str,
    spec: PathBuf,
    profile: PathBuf,
}

impl<'w> Given<'w> {
    fn new(world: &'w World, work: &'static str, set: &[&str], profile: &str) -> Self {
        let (spec, logs) = (world.path(&format!("{work}.toml")), world.path("logs"));
        std::fs::write(&spec, world.spec(work, set).to_toml()).unwrap();
        std::fs::create_dir_all(&logs).unwrap();
        let slurm = format!("[slurm]\nlogs = \"{}\"\nprogram = \"{}\"\n", logs.display(), urbancross().display());
        let path = world.path("profile.toml");
        // what a test says of Slurm itself stands first
        let (of_slurm, stages) = profile.split_once('[').unwrap_or(("", profile));
        std::fs::write(&path, format!("lease_seconds = 8\n{slurm}{of_slurm}[{stages}")).unwrap();
        Given { world, work, spec, profile: path }
    }

    fn call(&self, cluster: &Cluster, command: &str, rest: &[&str]) -> (Option<i32>, String) {
        let mut process = cluster.command(urbancross());
        process.arg(command).arg(&self.spec).args(rest);
        if command == "submit" {
            process.args(["--engine", "slurm", "--profile"]).arg(&self.profile);
        }
        let output = process.output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    }

    fn submit(&self, cluster: &Cluster, rest: &[&str]) {
        let (code, said) = self.call(cluster, "submit", rest);
        assert_eq!(code, Some(0), "{said}");
    }

    /// Everything that drivers and workers said.
    fn logs(&self) -> String {
        let mut files: Vec<_> =
            std::fs::read_dir(self.world.path("logs")).unwrap().flatten().map(|f| f.path()).collect();
        files.sort_by_key(|file| file.metadata().and_then(|m| m.modified()).ok());
        let text =
            |file: &PathBuf| format!("== {}\n{}", file.display(), std::fs::read_to_string(file).unwrap_or_default());
        files.iter().filter(|file| file.is_file()).map(text).collect()
    }

    /// Waits until no job is in the queue.
    fn wait(&self, cluster: &Cluster) {
        let began = Instant::now();
        while !cluster.ask("squeue", &["--noheader"]).trim().is_empty() {
            let queue = || cluster.ask("squeue", &[]);
            assert!(began.elapsed() < PATIENCE, "it does not end: {}\n{}", queue(), self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What workers have left of a stage's shards.
    fn objects(&self, stage: &str) -> Vec<Object> {
        let folder = self.world.path(self.work).join(paths::markers("finland", stage));
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let object = |file: std::fs::DirEntry| Some(Object::of_name(&file.file_name().to_string_lossy())?.1);
        names.filter_map(object).collect()
    }

    /// Markers of a stage.
    fn markers(&self, stage: &str) -> usize {
        self.objects(stage).iter().filter(|object| matches!(object, Object::Marker)).count()
    }

    /// When the last file below a folder of the work store was written whose name begins so; beats do not count.
    fn written(&self, folder: &str, name: &str) -> SystemTime {
        let files = Command::new("find").arg(self.world.path(self.work).join(folder)).args(["-type", "f"]).output();
        let files = String::from_utf8_lossy(&files.unwrap().stdout).into_owned();
        let named = |path: &&str| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.starts_with(name) && !file.contains(".beat.")
        };
        let times = files.lines().filter(named).filter_map(|path| std::fs::metadata(path).ok()?.modified().ok());
        times.max().expect("a file")
    }

    /// Waits until a stage has so many markers.
    fn wait_for_markers(&self, stage: &str, wanted: usize) {
        let began = Instant::now();
        while self.markers(stage) < wanted {
            assert!(began.elapsed() < PATIENCE, "{stage} does not begin\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Nothing is left to do, and the rows are those of a build that ran by itself.
    async fn equals(&self, set: &[&str]) {
        self.equals_but(set, &[]).await;
    }

    /// The same without some tables.
    async fn equals_but(&self, set: &[&str], other: &[&str]) {
        let spec = self.world.path("alone.toml");
        std::fs::write(&spec, self.world.spec("alone", set).to_toml()).unwrap();
        let ran = Command::new(urbancross()).arg("run").arg(&spec).output().expect("the program starts");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let alone = open(self.world.spec("alone", set)).await.unwrap();
        let (build, _) = run(self.world.spec(self.work, set)).await.unwrap();
        assert_eq!(build.commits(), 0, "something was left to do\n{}", self.logs());
        let (wanted, made) = (rows(&alone).await, rows(&build).await);
        for (table, wanted) in wanted.into_iter().filter(|(table, _)| !other.contains(&table.as_str())) {
            assert!(made[&table] == wanted, "{table} differs");
        }
    }

    /// Losses of the training's steps in a work store.
    async fn losses(&self, work: &str, set: &[&str]) -> Vec<f64> {
        let build = open(self.world.spec(work, set)).await.unwrap();
        let record = pipeline::trainings::current_record(&build, Training::Pretrain).await.unwrap().expect("trained");
        let run = self.world.path(work).join("checkpoints/finland/pretrain").join(record.key);
        let curve = read_curve(&std::fs::read_to_string(run.join(CURVE_FILE)).unwrap());
        curve.iter().filter_map(|point| point.loss).collect()
    }
}

/// A world whose segments take a while.
fn slow_world(tiles: usize) -> World {
    let folder = tempfile::tempdir().unwrap();
    let settings = sandbox::Settings { tiles_per_country: tiles, side_px: 320, seed: 7 };
    sandbox::generate(&folder.path().join("world"), &settings, &mut |_, _| {}).unwrap();
    World { folder }
}

/// All stages and both trainings, the second by two ranks on one node, against a run with two ranks of its own.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_make_the_rows_of_one_run() {
    let world = World::new(60);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let set =
        ["work.shards=24", "pretrain.epochs=2", "pretrain.batch=8", "ranks.processes=2", "ranks.timeout_seconds=30"];
    let profile = format!(
        "{WORKERS}[stage.pretrain]\nworkers = 1\ngpus = 2\ncpus = 1\nmemory = \"300M\"\n[stage.bootstrap]\nworkers = 1\ngpus = 2\ncpus = 1\nmemory = \"300M\"\n"
    );
    let given = Given::new(&world, "shared", &set, &profile);
    given.submit(&cluster, &[]);
    let (code, said) = given.call(&cluster, "submit", &[]);
    assert!(code == Some(0) && said.contains("is under way already"), "{said}");
    given.wait(&cluster);
    assert!(given.logs().contains("on finland"), "no figures\n{}", given.logs());
    given.equals(&set).await;
}

/// The power of a node fails in the middle of a stage. Slurm needs 100 s to see that; the build does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_holds_nothing_up() {
    let world = slow_world(48);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let given = Given::new(&world, "shared", &QUICK, WORKERS);
    given.submit(&cluster, &[]);
    given.wait_for_markers("segments", 2);
    let killed = cluster.script("kill", &["node2"]);
    let said = String::from_utf8_lossy(&killed.stderr).into_owned();
    let processes = said.trim().strip_prefix("node2: ").and_then(|said| said.split(' ').next()?.parse::<u32>().ok());
    assert!(killed.status.success() && processes.is_some_and(|killed| killed >= 4), "no worker was lost: {said}");
    let began = Instant::now();
    // Slurm still believes that the lost node's jobs run
    let done = world.path("shared").join("reports/finland.html");
    while !done.exists() {
        assert!(began.elapsed() < PATIENCE, "it does not end\n{}", given.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    let waited = given.written("runs", "segment_scores.").duration_since(given.written("markers/finland/segments", ""));
    let waited = waited.unwrap_or_default();
    println!("the next stage began {:.1} s after the last shard", waited.as_secs_f64());
    assert!(waited < Duration::from_secs(50), "the next stage waited for the lost node: {waited:?}");
    given.equals(&QUICK).await;
}

/// Preempted workers give their shards back and are queued again; the controller restarts meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_preempted_worker_comes_back() {
    let world = slow_world(48);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let given = Given::new(&world, "shared", &QUICK, WORKERS);
    given.submit(&cluster, &[]);
    given.wait_for_markers("segments", 1);
    let urgent = ["--partition=urgent", "--exclusive", "--nodes=1", "--output=/dev/null", "--wrap=sleep 1"];
    cluster.ask("sbatch", &urgent);
    assert!(cluster.script("restart", &[]).status.success());
    given.wait(&cluster);
    given.equals(&QUICK).await;
}

/// What is cancelled stays cancelled, and what is done stays done.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_ends_and_goes_on_when_it_is_submitted_again() {
    let world = slow_world(24);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let given = Given::new(&world, "shared", &QUICK, WORKERS);
    given.submit(&cluster, &[]);
    given.wait_for_markers("segments", 1);
    // another run of the country is said to be there
    let (code, said) = given.call(&cluster, "submit", &["--until", "geotags"]);
    assert!(code == Some(0) && said.contains("is under way with another spec or other options"), "{said}");
    let (code, said) = given.call(&cluster, "cancel", &[]);
    assert!(code == Some(0) && said.matches("is cancelled").count() == 2, "{said}");
    given.wait(&cluster);
    std::thread::sleep(Duration::from_secs(2));
    assert!(cluster.ask("squeue", &["--noheader"]).trim().is_empty(), "something came back");
    assert!(given.markers("segments") < 24, "it was cancelled too late to tell");
    // nobody has to wait for a lease: a signal that comes twice is one
    let left = given.objects("segments");
    let given_back = left.iter().filter(|object| matches!(object, Object::End(_, End::Released))).count();
    let claims = left.iter().filter(|object| matches!(object, Object::Claim(_))).count();
    assert_eq!(claims, given.markers("segments") + given_back, "{left:?}");
    given.submit(&cluster, &[]);
    given.wait(&cluster);
    given.equals(&QUICK).await;
}

/// A shard that cannot be made ends the run with its name; once the cause is mended the run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_shard_ends_the_run_and_can_be_opened_again() {
    // pictures so large that the middle of a part is one
    let world = slow_world(24);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let set = [&QUICK[..], &["work.shards=4"]].concat();
    let given = Given::new(&world, "shared", &set, WORKERS);
    given.submit(&cluster, &["--until", "captions"]);
    given.wait(&cluster);
    let build = open(world.spec("shared", &set)).await.unwrap();
    let part = build.pin(manifests::Artifact::Images).await.unwrap().parts[1].clone();
    let path = world.path("shared").join(paths::table(manifests::Artifact::Images)).join(&part.path);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // among the pictures, which a planner does not read
    let middle = damaged.len() / 2;
    damaged[middle..middle + 16].fill(0xff);
    std::fs::write(&path, damaged).unwrap();
    given.submit(&cluster, &["--until", "segments"]);
    given.wait(&cluster);
    let logs = given.logs();
    assert!(logs.contains(&format!("segments: 1 shard failed: shard {}", part.shard)), "{logs}");
    let (code, said) = given.call(&cluster, "status", &["--runs"]);
    assert!(code == Some(65) && said.contains("the last driver") && said.contains("1 shard failed"), "{code:?} {said}");
    std::fs::write(&path, whole).unwrap();
    let (code, said) = given.call(&cluster, "retry", &["--errors"]);
    assert!(code == Some(0) && said.contains("is open again"), "{said}");
    given.submit(&cluster, &[]);
    given.wait(&cluster);
    let (_, said) = given.call(&cluster, "status", &["--runs"]);
    assert!(said.contains("by slurm: done"), "{said}");
    given.equals(&set).await;
}

/// More workers than an array may have indices.
#[tokio::test(flavor = "multi_thread")]
async fn many_workers_are_several_arrays() {
    let world = World::new(100);
    let Some(cluster) = Cluster::up(&world, &["MaxArraySize=11"]) else { return };
    let profile = WORKERS.replace("workers = 3", "workers = 25").replace("cpus = 3", "cpus = 1").replace("200M", "50M");
    let set = [&QUICK[..], &["work.shards=50"]].concat();
    let given = Given::new(&world, "shared", &set, &profile);
    given.submit(&cluster, &["--until", "geotags"]);
    given.wait(&cluster);
    // every worker, in three arrays, of which none has an index twice
    assert!(given.markers("geotags") >= 40, "{}\n{}", given.markers("geotags"), given.logs());
    let build = open(world.spec("shared", &set)).await.unwrap();
    let runs = RunRecord::all(&build.work, "finland").await.unwrap();
    let placed = RunRecord::new(&build.work, "finland", &runs[0]).placements().await.unwrap();
    assert_eq!((placed[0].processes, placed[0].jobs.len()), (25, 3), "{placed:?}");
}

/// A rank that is killed takes the others with it; the training goes on from its last checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_goes_on_after_a_rank_is_lost() {
    let world = World::new(60);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let set = [&QUICK[..], &["pretrain.epochs=12", "ranks.processes=2"]].concat();
    let profile = format!("{WORKERS}[stage.pretrain]\nworkers = 2\ngpus = 1\ncpus = 1\nmemory = \"300M\"\n");
    let given = Given::new(&world, "shared", &set, &profile);
    given.submit(&cluster, &[]);
    let runs = world.path("shared").join("checkpoints/finland/pretrain");
    let began = Instant::now();
    while !std::fs::read_dir(&runs).is_ok_and(|runs| runs.flatten().any(|run| run.path().join("last").exists())) {
        assert!(began.elapsed() < PATIENCE, "no checkpoint\n{}", given.logs());
        std::thread::sleep(Duration::from_millis(10));
    }
    let ranks =
        Command::new("pgrep").args(["-f", "urbancross train .*shared|urbancross train .*spec.toml pretrain"]).output();
    let rank = String::from_utf8_lossy(&ranks.unwrap().stdout).lines().last().unwrap_or_default().to_owned();
    assert!(!rank.is_empty(), "no rank runs\n{}", given.logs());
    assert!(Command::new("kill").args(["-KILL", &rank]).status().unwrap().success());
    given.wait(&cluster);
    assert!(given.logs().contains("pretrain-train2"), "it ended before the kill\n{}", given.logs());
    assert!(given.logs().contains("goes on from its last checkpoint"), "{}", given.logs());
    // where fewer ranks go on, sums round otherwise
    given.equals_but(&set, &["image_embeddings", "text_embeddings"]).await;
    let (made, alone) = (given.losses("shared", &set).await, given.losses("alone", &set).await);
    assert_eq!(made.len(), alone.len(), "a step was lost or doubled");
    for (step, (made, alone)) in made.iter().zip(&alone).enumerate() {
        assert!((made - alone).abs() < 1e-3 * alone.abs(), "step {step}: {made} and {alone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slurm_refuses_is_said_before_anything_is_done() {
    let world = World::new(24);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let given = Given::new(&world, "shared", &QUICK, &format!("partition = \"nowhere\"\n{WORKERS}"));
    let (code, said) = given.call(&cluster, "submit", &[]);
    assert!(code == Some(65) && said.contains("partition"), "{code:?} {said}");
    std::fs::write(&given.profile, "[slurm]\nlog = \"/tmp\"\n").unwrap();
    let (code, said) = given.call(&cluster, "submit", &[]);
    assert!(code == Some(65) && said.contains("slurm.log") && said.contains("logs"), "{code:?} {said}");
    // a controller that is away may come back
    let given = Given::new(&world, "shared", &QUICK, WORKERS);
    cluster.script("down", &[]);
    let (code, said) = given.call(&cluster, "submit", &[]);
    assert_eq!(code, Some(75), "{said}");
}

/// Both builds at once, and the adaptation by two ranks on one node after them; what single commands make of the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_one_run_of_three_tasks() {
    let world = World::new(40);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let spec = |work: &str| {
        for (country, code) in [("finland", "FI"), ("spain", "ES")] {
            let tokens = format!("source.tokens=[\"{code}\"]");
            let [country_set, code] = [format!("country={country}"), format!("source.country_code={code}")];
            let set = [&QUICK[..], &["segment.segmenter=none", &tokens, &country_set, &code]].concat();
            std::fs::write(world.path(&format!("{work}-{country}.toml")), world.spec(work, &set).to_toml()).unwrap();
        }
        let text = format!(
            "source = \"{work}-finland.toml\"\ntarget = \"{work}-spain.toml\"\nratio = [4, 2, 4]\n[adapt]\nepochs = 2\nbatch = 4\n\
             learning_rate = 1e-3\n[adapt.method]\ndiscriminator_hidden = 8\n"
        );
        let pair = world.path(&format!("{work}-pair.toml"));
        std::fs::write(&pair, text).unwrap();
        pair
    };
    let profile = format!("{WORKERS}[stage.adapt]\nworkers = 1\ngpus = 2\ncpus = 1\nmemory = \"300M\"\n");
    let given = Given { spec: spec("shared"), ..Given::new(&world, "shared", &QUICK, &profile) };
    given.submit(&cluster, &[]);
    let (code, said) = given.call(&cluster, "submit", &[]);
    assert!(code == Some(0) && said.contains("is under way already"), "{said}");
    let names = || cluster.ask("squeue", &["--noheader", "--format=%j"]);
    let (began, mut at_once) = (Instant::now(), false);
    while !names().trim().is_empty() {
        let jobs = names();
        let has = |task: &str| jobs.lines().any(|name| name.contains(task));
        at_once |= has("-0-") && has("-1-");
        assert!(began.elapsed() < PATIENCE, "it does not end: {jobs}\n{}", given.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(at_once, "the builds were not in the queue at once\n{}", given.logs());
    let logs = given.logs();
    assert!(logs.contains("3 of 3 tasks finished") && logs.contains("2 ranks; tensors travel through"), "{logs}");
    let (code, said) = given.call(&cluster, "status", &["--runs"]);
    assert!(code == Some(0) && said.matches("by slurm: done").count() == 3, "{code:?} {said}\n{logs}");
    let (_, said) = given.call(&cluster, "logs", &["--step", "adapt"]);
    assert!(said.contains("== adapt-0 of run") && said.contains("making vectors of 40 images"), "{said}");

    let alone = spec("alone");
    for country in ["finland", "spain"] {
        let spec = world.path(&format!("alone-{country}.toml"));
        let ran = Command::new(urbancross()).arg("run").arg(&spec).output().expect("the program starts");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let read = |work: &str| {
            manifests::BuildSpec::read(&world.path(&format!("{work}-{country}.toml")), &[]).expect("a good spec")
        };
        let (alone, (shared, _)) = (open(read("alone")).await.unwrap(), run(read("shared")).await.unwrap());
        assert_eq!(shared.commits(), 0, "something was left to do of {country}");
        let (wanted, made) = (rows(&alone).await, rows(&shared).await);
        for (table, wanted) in wanted {
            assert!(made[&table] == wanted, "{table} of {country} differs");
        }
    }
    // two ranks round otherwise than one
    let adapted = |pair: &Path| {
        let told = Command::new(urbancross()).args(["adapt", "--json"]).arg(pair).output().expect("the program starts");
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("figures");
        ["before", "after"].map(|when| told[when]["recall"]["exact"]["pessimistic"]["mean_recall"].as_f64().unwrap())
    };
    let (wanted, made) = (adapted(&alone), adapted(&given.spec));
    assert_eq!(wanted[0], made[0]);
    assert!((wanted[1] - made[1]).abs() < 5.0, "{wanted:?} {made:?}");
    assert!(world.path("shared/reports/finland_to_spain.html").exists());
}

/// Workers make a value's segments beside the tables, and a job trains on them; another one measures the model otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn each_value_of_a_sweep_is_jobs_of_its_own() {
    let world = World::new(24);
    let Some(cluster) = Cluster::up(&world, &[]) else { return };
    let over = "--over score.max_segments=1 --over evaluate.average_over_turns=true";
    let over: Vec<&str> = over.split_whitespace().collect();
    let given = Given::new(&world, "shared", &QUICK, WORKERS);
    given.submit(&cluster, &over);
    let (began, mut seen) = (Instant::now(), std::collections::BTreeSet::new());
    loop {
        let names = cluster.ask("squeue", &["--noheader", "--format=%j"]);
        if names.trim().is_empty() {
            break;
        }
        seen.extend(names.lines().map(str::to_owned));
        assert!(began.elapsed() < PATIENCE, "it does not end: {names}\n{}", given.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    let logs = given.logs();
    assert!(logs.contains("4 of 4 tasks finished"), "{logs}");
    for job in ["-1-segment-scores-", "-1-swept-segments-train1", "-2-swept-measure-train1"] {
        assert!(seen.iter().any(|name| name.contains(job)), "{job}: {seen:?}\n{logs}");
    }
    let swept = |of: &Path| {
        let output = Command::new(urbancross()).arg("sweep").arg(of).args(&over).arg("--json").output();
        let output = output.expect("the program starts");
        let mut curves: serde_json::Value = serde_json::from_slice(&output.stdout).expect("curves");
        for curve in curves.as_array_mut().expect("one a field") {
            curve["points"]
                .as_array_mut()
                .expect("one a value")
                .iter_mut()
                .for_each(|point| point["seconds"] = 0.into());
        }
        (curves, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let alone = Given::new(&world, "alone", &QUICK, WORKERS);
    run(world.spec("alone", &QUICK)).await.unwrap();
    let ((wanted, _), (made, said)) = (swept(&alone.spec), swept(&given.spec));
    assert_eq!(made, wanted);
    assert!(!said.contains("epoch 1/"), "everything was there: {said}");
}
