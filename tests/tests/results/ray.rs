//! What commands say to the Jobs API of a Ray cluster, and what they make of its answers: over a stand-in for its head.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pipeline_tests::ray_head::RayHead;
use pipeline_tests::{World, urbancross};

pub(super) const PATIENCE: Duration = Duration::from_secs(400);
/// Variables by which this machine's own cluster would be meant.
pub(super) const OTHERS: [&str; 5] =
    ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"];

/// A country in a file, with its work store in this folder.
pub(super) fn spec(world: &World, work: &str) -> PathBuf {
    let path = world.path(&format!("{work}.toml"));
    let text = world.spec_text(work).replace("clip = \"bootstrap\"", "clip = \"none\"");
    std::fs::write(&path, text + "[segment]\nsegmenter = \"none\"\n").unwrap();
    path
}

/// A cluster, as a user has one: a profile with its address.
pub(super) struct Cluster {
    profile: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Cluster {
    pub(super) fn at(world: &World, address: &str, rest: &str) -> Self {
        let profile = world.path("profile.toml");
        let text = format!(
            "lease_seconds = 2\n[ray]\naddress = \"{address}\"\nprogram = \"{}\"\n{rest}[stage.default]\nworkers = 2\ncpus = 1\n\
             memory = \"64M\"\n",
            urbancross().display()
        );
        std::fs::write(&profile, text).unwrap();
        Self { profile, variables: Vec::new() }
    }

    /// Exit code and all words of a command.
    pub(super) fn call(&self, command: &str, of: &Path, words: &[&str]) -> (Option<i32>, String) {
        let mut program = Command::new(urbancross());
        program.arg(command).arg(of).args(words);
        OTHERS.iter().for_each(|name| _ = program.env_remove(name));
        program.envs(self.variables.iter().cloned());
        if ["submit", "doctor"].contains(&command) {
            program.args(["--engine", "ray", "--profile"]).arg(&self.profile);
        }
        let output = program.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.code(), said)
    }

    /// Waits until `status` says that the run is done.
    pub(super) fn wait_until_done(&self, of: &Path, log: &dyn Fn() -> String) {
        let began = Instant::now();
        loop {
            let (_, said) = self.call("status", of, &["--runs"]);
            if said.contains("by ray: done") {
                return;
            }
            assert!(began.elapsed() < PATIENCE && !said.contains("failed ("), "it does not end: {said}\n{}", log());
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// One job lives at a time; one that has ended is followed by the next try.
#[test]
fn a_run_is_submitted_once_while_it_lives() {
    let world = World::new(1);
    let (head, spec) = (RayHead::begin_still(world.folder.path()), spec(&world, "work"));
    let cluster = Cluster::at(&world, &head.address, "");
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("submitted as job uc-"), "{said}");
    let [(first, "RUNNING")] = &head.jobs()[..] else { panic!("{:?}", head.jobs()) };
    let run = first.strip_suffix("-try1").unwrap();
    assert!(said.contains(&format!("ray job logs --address {} {first}", head.address)), "{said}");
    assert!(said.contains("no other node sees"), "a folder is warned of: {said}");
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("is under way already") && said.contains(first), "{said}");
    assert_eq!(head.jobs().len(), 1);

    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(
        code == Some(0) && said.contains(&format!("by ray: not begun; of the whole run {first} running")),
        "{said}"
    );
    let mut tries = 1;
    for (status, exit, error_type, code, words) in [
        ("FAILED", Some(65), None, Some(65), "failed (its driver ended with 65"),
        ("FAILED", Some(75), None, Some(75), "failed (its driver ended with 75"),
        ("FAILED", None, Some("RUNTIME_ENV_SETUP_FAILURE"), Some(65), "failed (runtime_env setup failed: no package)"),
        ("FAILED", None, Some("JOB_SUPERVISOR_ACTOR_DIED"), Some(75), "failed ("),
        ("STOPPED", None, None, Some(0), "no jobs"),
        ("SUCCEEDED", Some(0), None, Some(0), "no jobs"),
    ] {
        head.end(&format!("{run}-try{tries}"), status, exit, error_type);
        let (found, said) = cluster.call("status", &spec, &["--runs"]);
        assert!(
            found == code && said.contains(words) && said.contains("`urbancross submit` goes on"),
            "{status}: {said}"
        );
        tries += 1;
        let (code, said) = cluster.call("submit", &spec, &[]);
        assert!(code == Some(0) && said.contains(&format!("submitted as job {run}-try{tries}")), "{said}");
    }
    // the store knows the last try: older ones, which the cluster may have forgotten, are not asked for
    let before = head.asked().len();
    cluster.call("submit", &spec, &[]);
    let asked: Vec<String> = head.asked().into_iter().skip(before).map(|asked| asked.what).collect();
    assert!(asked.contains(&format!("GET /api/jobs/{run}-try{tries}")), "{asked:?}");
    assert!(!asked.contains(&format!("GET /api/jobs/{run}-try1")), "{asked:?}");
}

/// Somebody else was faster, or the answer to our own request was lost.
#[test]
fn a_job_that_is_there_already_is_the_run() {
    let world = World::new(1);
    let (head, spec) = (RayHead::begin_still(world.folder.path()), spec(&world, "work"));
    let cluster = Cluster::at(&world, &head.address, "");
    let mut looks = 0;
    // the job is not there when it is looked for, and the answer to the request is lost
    head.says(move |asked| {
        looks += usize::from(asked.what.starts_with("GET /api/jobs/"));
        (looks == 1 && asked.what.starts_with("GET /api/jobs/")).then(|| (404, "Job x does not exist".to_owned()))
    });
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("submitted as"), "{said}");
    let mut looks = 0;
    head.says(move |asked| {
        let is_look = asked.what.starts_with("GET /api/jobs/");
        looks += usize::from(is_look);
        (is_look && looks == 1).then(|| (404, "Job x does not exist".to_owned()))
    });
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("is under way already"), "{said}");
    assert_eq!(head.jobs().len(), 1);
    assert_eq!(head.asked().iter().filter(|asked| asked.what == "POST /api/jobs/").count(), 2, "it was posted twice");
}

/// Whatever a cluster says, commands end with the exit code that says whether another try can help, and begin nothing.
#[test]
fn clusters_that_refuse_or_say_something_else() {
    let world = World::new(1);
    let (head, spec) = (RayHead::begin_still(world.folder.path()), spec(&world, "work"));
    let mut cluster = Cluster::at(&world, &head.address, "");
    let secret = "token-that-nobody-may-read";
    cluster.variables = vec![("RAY_AUTH_TOKEN", secret.to_owned())];
    for (status, reply, code, words) in [
        (401, "Unauthorized: Missing authentication token".to_owned(), 65, "RAY_AUTH_TOKEN"),
        (403, format!("Forbidden: {secret} is no token"), 65, "[hidden] is no token"),
        (404, "404: Not Found".to_owned(), 65, "ray.address"),
        (302, String::new(), 65, "sends elsewhere"),
        (200, "<html>a login page</html>".to_owned(), 65, "this is no Jobs API of Ray"),
        (200, "{}".to_owned(), 65, "this is no Jobs API of Ray"),
        (503, "busy".to_owned(), 75, "busy"),
    ] {
        head.says(move |_| Some((status, reply.clone())));
        let (found, said) = cluster.call("submit", &spec, &[]);
        assert!(found == Some(code) && said.contains(words), "{status}: {found:?} {said}");
        assert!(!said.contains(secret), "{said}");
        assert!(!world.path("work").exists(), "{status}: nothing is begun");
    }
    assert!(head.asked().iter().all(|asked| asked.authorization == Some(format!("Bearer {secret}"))));
    // twice busy, then not any more
    let mut faults = 0;
    head.says(move |_| {
        faults += 1;
        (faults <= 2).then(|| (503, "busy".to_owned()))
    });
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("submitted as"), "{said}");
    // what is neither there nor not there
    head.says(|asked| asked.what.starts_with("GET /api/jobs/").then(|| (200, "{\"status\": \"LOST\"}".to_owned())));
    for (command, code) in [("submit", Some(65)), ("cancel", Some(65))] {
        let (found, said) = cluster.call(command, &spec, &[]);
        assert!(found == code && said.contains("this is no Jobs API of Ray"), "{command}: {said}");
    }
    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(0) && said.contains("it does not answer here"), "{said}");

    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cluster = Cluster::at(&world, &format!("http://{gone}"), "");
    let (code, said) = cluster.call("submit", &spec, &[]);
    assert!(code == Some(75) && said.contains("does not answer") && said.contains(&gone.to_string()), "{said}");
    for (address, words) in [("ray://head:10001", "no address of HTTP"), ("http://me:pw@head", "RAY_JOB_HEADERS")] {
        let cluster = Cluster::at(&world, address, "");
        let (code, said) = cluster.call("submit", &spec, &[]);
        assert!(code == Some(65) && said.contains(words) && !said.contains("me:pw"), "{said}");
    }
    let (code, said) = Cluster::at(&world, "http://head", "pyhton = \"x\"\n").call("submit", &spec, &[]);
    assert!(code == Some(65) && said.contains("ray.pyhton") && said.contains("python"), "{said}");
}

/// What is posted can be read by everybody who sees the dashboard, and is what `render` shows.
#[test]
fn what_is_posted_is_what_is_rendered() {
    let world = World::new(1);
    let (head, spec) = (RayHead::begin_still(world.folder.path()), spec(&world, "work"));
    let mut cluster = Cluster::at(&world, "http://127.0.0.1:1", "");
    cluster.variables = vec![
        ("RAY_ADDRESS", head.address.clone()),
        ("RAY_JOB_HEADERS", "{\"Authorization\": \"Basic c2VjcmV0\"}".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "another-secret".to_owned()),
    ];
    let (code, said) = cluster.call("submit", &spec, &["--until", "images"]);
    assert_eq!(code, Some(0), "a variable says more than the profile: {said}");
    let asked = head.asked();
    assert!(asked.iter().all(|asked| asked.authorization.as_deref() == Some("Basic c2VjcmV0")));
    let package = asked.iter().find(|asked| asked.what.starts_with("PUT /api/packages/gcs/uc-")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(package.body.clone())).unwrap();
    let name = archive.file_names().next().unwrap().unwrap().into_owned();
    let driver = std::io::read_to_string(archive.by_name(&name).unwrap()).unwrap();
    let output = Command::new(urbancross())
        .args(["render", "--engine", "ray", "--until", "images", "--profile"])
        .args([&cluster.profile, &spec])
        .output()
        .unwrap();
    let rendered = String::from_utf8(output.stdout).unwrap();
    assert!(rendered.ends_with(&format!("# ---- {name}\n{driver}\n")), "{rendered}");
    let posted = asked.iter().find(|asked| asked.what == "POST /api/jobs/").unwrap();
    let posted = String::from_utf8(posted.body.clone()).unwrap();
    assert!(posted.contains(&format!("\"entrypoint\":\"python3 {name}\"")), "{posted}");
    for text in [&posted, &driver] {
        assert!(!text.contains("c2VjcmV0") && !text.contains("another-secret"), "{text}");
    }
    // where it went is written down: without the variable it is found again
    cluster.variables.clear();
    cluster.variables.push(("RAY_JOB_HEADERS", "{}".to_owned()));
    let (code, said) = cluster.call("status", &spec, &["--runs"]);
    assert!(code == Some(0) && said.contains(" running"), "{said}");
    let (code, said) = cluster.call("cancel", &spec, &[]);
    assert!(code == Some(0) && said.contains("is cancelled"), "{said}");
    assert_eq!(head.jobs()[0].1, "STOPPED");
}

#[test]
fn a_cluster_is_examined() {
    let world = World::new(1);
    let (head, spec) = (RayHead::begin_still(world.folder.path()), spec(&world, "work"));
    let (code, said) = Cluster::at(&world, &head.address, "").call("doctor", &spec, &[]);
    assert!(
        code == Some(0) && said.contains("2.60.0 at ") && said.contains("1 node, with 4 CPUs and 0 GPUs"),
        "{said}"
    );
    let greedy = Cluster::at(&world, &head.address, "[stage.captions]\ngpus = 1\ncpus = 1\nmemory = \"1G\"\n");
    let (code, said) = greedy.call("doctor", &spec, &[]);
    assert!(code == Some(65) && said.contains("captions: a process needs 1 CPUs, 1 GPUs and 1024 MiB"), "{said}");
    let (code, said) = greedy.call("submit", &spec, &[]);
    assert!(code == Some(0) && said.contains("warning: captions: a process needs"), "it may grow: {said}");
    // what computes elsewhere needs no GPU here, and no file
    let has = serde_json::json!({ "CPU": 4.0, "GPU": 1.0, "memory": 8e9 });
    let nodes = serde_json::json!({ "result": true, "data": { "result": { "result": [
        { "state": "ALIVE", "resources_total": has }
    ] } } });
    let nodes = nodes.to_string();
    head.says(move |asked| asked.what.starts_with("GET /api/v0/nodes").then(|| (200, nodes.clone())));
    let of_step = |step: &str| format!("[stage.{step}]\nworkers = 1\ngpus = 1\ncpus = 1\nmemory = \"64M\"\n");
    let sections = ["pretrain", "image_embeddings", "text_embeddings"].map(of_step).concat();
    let elsewhere = ["--set", "model.device=cuda:0", "--set", "model.init=/nowhere/model.safetensors"];
    let (code, said) = Cluster::at(&world, &head.address, &sections).call("doctor", &spec, &elsewhere);
    assert!(code == Some(0) && said.contains("unless their machines have other files"), "{said}");
    assert!(said.contains("ok   device") && said.contains("ok   profile"), "{said}");
    let (code, said) = Cluster::at(&world, &head.address, "").call("doctor", &spec, &elsewhere);
    assert!(code == Some(65) && said.contains("set stage.image_embeddings.gpus = 1"), "{said}");
    let greedy = Cluster::at(&world, &head.address, "[stage.captions]\ngpus = 1\ncpus = 1\nmemory = \"1G\"\n");
    head.says(|_| Some((503, String::new())));
    let (code, said) = greedy.call("doctor", &spec, &[]);
    assert!(code == Some(65) && said.contains("BAD  ray"), "{said}");
}
