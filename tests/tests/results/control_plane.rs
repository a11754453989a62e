//! A build on a real control plane of Kubernetes (`tests/kubernetes/cluster.sh`), whose kubelets a script stands in for.
//! `make kubernetes-test` asks for it, and fails where its programs are not there.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pipeline_tests::{World, open, recipes, run, tables, urbancross};

/// Longest that a build may take.
const PATIENCE: Duration = Duration::from_secs(400);

const QUICK: [&str; 5] =
    ["work.shards=12", "score.clip=none", "pretrain.epochs=2", "pretrain.batch=8", "ranks.timeout_seconds=30"];

const PROFILE: &str = "lease_seconds = 8\n[kubernetes]\nnamespace = \"urbancross\"\nimage = \"urbancross:test\"\n\
    env_secret = \"store\"\nscratch = \"1Gi\"\n[stage.default]\nworkers = 3\ncpus = 1\nmemory = \"500M\"\n\
    [stage.pretrain]\nworkers = 1\ngpus = 2\ncpus = 2\nmemory = \"1G\"\n[stage.drive]\ncpus = 1\nmemory = \"500M\"\n";

struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    /// Starts one whose pods may write below the folder of a world; `None`: nobody asked for it.
    fn up(world: &World) -> Option<Cluster> {
        // it takes minutes: `make kubernetes-test` asks for it
        if std::env::var_os("URBANCROSS_KUBERNETES").is_none() {
            pipeline_tests::skipped("run `make kubernetes-test`");
            return None;
        }
        let programs = [
            ("ETCD", "etcd"),
            ("KUBE_APISERVER", "kube-apiserver"),
            ("KUBE_CONTROLLER_MANAGER", "kube-controller-manager"),
            ("KUBE_SCHEDULER", "kube-scheduler"),
            ("KUBECTL", "kubectl"),
        ];
        for (variable, name) in programs {
            let program = std::env::var_os(variable).unwrap_or(name.into());
            let is_there = Command::new(program).arg("--help").output().is_ok();
            assert!(is_there, "no {name} (on the path, or where {variable} says); see tests/kubernetes/cluster.sh");
        }
        let cluster = Cluster { folder: world.path("cluster") };
        let path = format!("PATH={}:/usr/local/bin:/usr/bin:/bin", urbancross().parent().unwrap().display());
        // pods are nobody
        let share = world.path("");
        assert!(Command::new("chmod").args(["-R", "a+rwX"]).arg(&share).status().unwrap().success());
        let share = share.display().to_string();
        cluster.script(&["up", "3", "--share", &share, "--env", &path, "--env", "URBANCROSS_ADDRESS=127.0.0.1"]);
        Some(cluster)
    }

    /// Runs an action of the script.
    fn script(&self, words: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/cluster.sh");
        // what stays in the background must not hold this test's output open
        let log = self.folder.with_extension("log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(script);
        command.arg(words[0]).arg(&self.folder).args(&words[1..]).stdout(file.try_clone().unwrap()).stderr(file);
        let status = command.status().expect("the script starts");
        assert!(status.success(), "{words:?}: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// What kubectl says to somebody.
    fn ask(&self, who: &str, words: &[&str]) -> String {
        let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or("kubectl".into()));
        let output = command.env("KUBECONFIG", self.folder.join(who)).args(words).output().expect("kubectl starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends the process of a pod by SIGKILL.
    fn kill(&self, pod: &str) {
        let process = std::fs::read_to_string(self.folder.join("processes").join(pod)).unwrap();
        assert!(Command::new("kill").args(["-KILL", process.trim()]).status().unwrap().success(), "{pod}");
    }

    /// Names of the pods that have begun, by how they begin.
    fn begun(&self, name: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.join("processes")).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|pod| pod.contains(name)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script(&["down"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_makes_the_rows_of_one_run() {
    let world = World::new(60);
    let Some(cluster) = Cluster::up(&world) else { return };
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
    cluster.ask("admin", &["apply", "--kustomize", &deploy.display().to_string()]);
    cluster.ask("admin", &["create", "rolebinding", "alice", "--role", "urbancross-submitter", "--user", "alice"]);
    cluster.ask("admin", &["create", "secret", "generic", "store", "--from-literal=UNUSED=1"]);
    cluster.script(&["account", "alice", "alice"]);
    let config = cluster.folder.join("alice");
    assert!(Command::new("chmod").arg("a+r").arg(&config).status().unwrap().success());
    let (spec, profile) = (world.path("spec.toml"), world.path("profile.toml"));
    std::fs::write(&spec, world.spec("shared", &QUICK).to_toml()).unwrap();
    std::fs::write(&profile, PROFILE).unwrap();
    // whoever submits writes to the store beside the pods
    let call = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(urbancross()).args(words);
        let output = command.env("KUBECONFIG", &config).env("HOME", world.path("")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (spec, profile) = (spec.display().to_string(), profile.display().to_string());
    let (code, said) = call(&["submit", &spec, "--engine", "kubernetes", "--profile", &profile]);
    assert!(code == Some(0) && said.contains("submitted as"), "{said}");
    let began = Instant::now();
    let wait = |what: &str, is: &dyn Fn() -> bool| {
        while !is() {
            let state = || cluster.ask("admin", &["get", "jobs,pods", "--output=wide"]);
            let logs = || call(&["logs", &spec]).1;
            assert!(began.elapsed() < PATIENCE, "{what} does not come\n{}\n{}", state(), logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait("a worker", &|| !cluster.begun("-images-").is_empty());
    cluster.kill(&cluster.begun("-images-")[0]);
    wait("a rank", &|| cluster.begun("-pretrain-train1").len() >= 2);
    wait("its end", &|| call(&["status", &spec, "--runs"]).1.contains("by kubernetes: done"));
    let (code, said) = call(&["logs", &spec]);
    assert!(code == Some(0) && said.contains("2 ranks"), "{said}");

    let build = open(world.spec("shared", &QUICK)).await.unwrap();
    assert!(pipeline::evaluate::stored(&build).await.unwrap().is_some(), "figures");
    assert!(!tables(&build).is_empty());
    let (again, _) = run(world.spec("shared", &QUICK)).await.unwrap();
    assert_eq!(again.commits(), 0, "something was left to do");
    // what no training has touched is the same to the row; ranks add up in another order than one process
    run(world.spec("local", &QUICK)).await.unwrap();
    let (made, local) = (recipes(world.spec("shared", &QUICK)).await, recipes(world.spec("local", &QUICK)).await);
    for table in ["geotags", "images", "splits", "captions", "segments"] {
        assert!(!local[table].is_empty() && made[table] == local[table], "{table}");
    }
}
