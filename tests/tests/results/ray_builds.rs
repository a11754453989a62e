//! Builds as jobs of a Ray cluster: over a stand-in for its head and for Ray, and on Ray itself where it is installed.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use manifests::BuildSpec;
use pipeline_tests::ray_head::RayHead;
use pipeline_tests::{World, recipes, run};

use super::ray::{Cluster, OTHERS, PATIENCE, spec};

fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        pipeline_tests::skipped("no python3");
    }
    there
}

/// Tables of the build of a spec that no training has touched, beside those of a local run.
async fn same_as_local(world: &World, of: &Path) {
    let alone = spec(world, "alone");
    let read = |path: &Path| BuildSpec::read(path, &[]).unwrap();
    run(read(&alone)).await.unwrap();
    let (cluster, alone) = (recipes(read(of)).await, recipes(read(&alone)).await);
    for table in ["geotags", "images", "splits", "captions"] {
        assert!(cluster[table] == alone[table] && !alone[table].is_empty(), "{table}");
    }
}

/// A build is given to the cluster, taken from it in the middle, and given again at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_submitted_cancelled_and_submitted_again() {
    if !has_python() {
        return;
    }
    let world = World::new(40);
    let (head, spec) = (RayHead::begin(world.folder.path()), spec(&world, "work"));
    let cluster = Cluster::at(&world, &head.address, "");
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert_eq!(code, Some(0), "{said}");
    let first = head.jobs()[0].0.clone();
    let began = Instant::now();
    while !world.path("work/markers/finland/images").exists() {
        assert!(began.elapsed() < PATIENCE, "it does not begin: {}", head.log(&first));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (code, said) = cluster.call("cancel", &spec, &[]);
    assert!(code == Some(0) && said.contains("is cancelled"), "{said}");
    let (code, said) = cluster.call("submit", &spec, &[]);
    let second = first.replace("-try1", "-try2");
    assert!(code == Some(0) && said.contains(&format!("submitted as job {second}")), "{said}\n{}", head.log(&first));
    assert_eq!(head.jobs()[0].1, "STOPPED", "the second one has waited for it");
    cluster.wait_until_done(&spec, &|| head.log(&second));
    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(0) && !said.contains("ended with"), "{said}");
    assert!(said.contains(" (try 1)"), "what was placed is written down: {said}");
    // the driver's words are the cluster's, those of its workers the store's
    let (_, said) = cluster.call("logs", &spec, &[]);
    assert!(said.contains(&format!("== {second} of run")) && said.contains("1 of 1 task finished"), "{said}");
    assert!(said.contains("== pretrain-0 of run") && !said.contains("== drive-last"), "{said}");
    let (_, said) = cluster.call("logs", &spec, &["--step", "pretrain"]);
    assert!(!said.contains(&second), "{said}");
    drop(head);
    let (code, said) = cluster.call("logs", &spec, &["--step", "drive"]);
    assert!(code == Some(0) && said.contains("== drive-last"), "without the cluster the store has them: {said}");
    same_as_local(&world, &spec).await;
}

/// A worker that can never work ends the run, and `retry` has nothing to do with it.
#[test]
fn a_build_that_cannot_be_made_says_why() {
    if !has_python() {
        return;
    }
    let world = World::new(1);
    let (head, spec) = (RayHead::begin(world.folder.path()), spec(&world, "work"));
    let text = std::fs::read_to_string(&spec).unwrap();
    std::fs::write(&spec, text.replace("dataframe/SkyScript_sandbox.csv", "dataframe/none.csv")).unwrap();
    let cluster = Cluster::at(&world, &head.address, "");
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert_eq!(code, Some(0), "{said}");
    let began = Instant::now();
    while head.jobs()[0].1 == "RUNNING" {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(65) && said.contains("ended with 65") && said.contains("none.csv"), "{said}");
}

/// A cluster of this machine, of its own ports.
struct Ray {
    head: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Ray {
    /// `None`: it is not installed.
    fn begin() -> Option<Self> {
        let python = std::env::var("PYTHON").unwrap_or("python3".into());
        let found = Command::new(&python).args(["-c", "import ray, aiohttp, aiohttp_cors"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            pipeline_tests::skipped(format!("no ray in {python} (pip install 'ray[default]')"));
            return None;
        }
        // its sockets lie in it, and their names must be short
        let folder = tempfile::Builder::new().prefix("ucray").tempdir_in("/tmp").unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.9:0").unwrap().local_addr().unwrap().port().to_string();
        let (port, dashboard) = (free(), free());
        let mut head = Command::new(python);
        head.args(["-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.9"]);
        // by 127.0.0.1 Ray means an address that others see
        head.args([
            "--dashboard-host=127.0.0.9",
            "--num-cpus=4",
            "--object-store-memory=80000000",
            "--memory=4000000000",
        ]);
        head.args(["--port", &port, "--dashboard-port", &dashboard, "--ray-client-server-port", &free()]);
        head.arg("--temp-dir").arg(folder.path()).env("RAY_USAGE_STATS_ENABLED", "0");
        head.env("RAY_raylet_start_wait_time_s", "240").stdout(Stdio::null()).stderr(Stdio::null());
        OTHERS.iter().for_each(|name| _ = head.env_remove(name));
        let head = head.spawn().unwrap();
        Some(Self { head, address: format!("http://127.0.0.9:{dashboard}"), _folder: folder })
    }
}

impl Drop for Ray {
    /// Told to end it ends its own processes, and no other cluster's.
    fn drop(&mut self) {
        _ = Command::new("kill").arg(self.head.id().to_string()).status();
        _ = self.head.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_on_ray_is_the_build_of_one_machine() {
    let Some(ray) = Ray::begin() else { return };
    let world = World::new(40);
    let of = spec(&world, "work");
    let ranks = std::fs::read_to_string(&of).unwrap() + "[ranks]\nprocesses = 2\n";
    std::fs::write(&of, ranks).unwrap();
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    let cluster = Cluster::at(&world, &ray.address, &format!("python = \"{python}\"\n"));
    let began = Instant::now();
    loop {
        // its agent comes up after its dashboard
        let (code, said) = cluster.call("submit", &of, &[]);
        if code == Some(0) {
            break;
        }
        assert!(code == Some(75) && began.elapsed() < PATIENCE, "{said}");
    }
    let log = || cluster.call("logs", &of, &[]).1;
    cluster.wait_until_done(&of, &log);
    let said = log();
    assert!(said.contains("2 ranks; tensors travel through"), "{said}");
    same_as_local(&world, &of).await;
}
