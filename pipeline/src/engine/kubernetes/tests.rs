//! The engine over a stand-in for `kubectl` that keeps objects in a folder, and misbehaves when told to.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Mutex as StdMutex;

use manifests::paths;
use serde_json::{Value, json};

use super::*;

/// Beside it lie its objects, the `status` that it tells of each job, which of them are being `deleted`, its `pods`, how it is
/// to `misbehave`, and the folder of a run that somebody `cancels` whenever a job is created.
const KUBECTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$*" >> calls
if [ -f misbehave ]; then cat misbehave >&2; exit 1; fi
case $1 in
create | replace)
    input=$(cat)
    object=$(printf '%s\n' "$input" | sed -n 's/^kind: //p').$(printf '%s\n' "$input" | sed -n 's/^  name: //p')
    if [ "$1" = create ] && [ -f "$object" ]; then
        echo "Error from server (AlreadyExists): error when creating \"STDIN\": \"$object\" already exists" >&2
        exit 1
    fi
    printf '%s\n' "$input" > "$object"
    case $object in
    Job.*) if [ -f cancels ]; then mkdir -p "$(cat cancels)" && : > "$(cat cancels)/cancelled"; fi ;;
    esac ;;
get)
    if [ "$2" = pods ]; then cat pods 2>/dev/null || echo '{"items":[]}'; exit; fi
    comma=
    printf '{"items":['
    for job in Job.*; do
        [ -f "$job" ] || continue
        name=${job#Job.}
        stage=$(sed -n 's#^    urbancross.dev/stage: ##p' "$job" | head -n 1)
        case $4 in *stage=*) [ "${4##*stage=}" = "$stage" ] || continue ;; esac
        deleted=
        if [ -f "deleted.$name" ]; then deleted='"deletionTimestamp":"2026-11-28T00:00:00Z",'; fi
        printf '%s{"metadata":{"name":"%s","uid":"%s",%s' "$comma" "$name" "$name" "$deleted"
        printf '"labels":{"urbancross.dev/stage":"%s"}},' "$stage"
        printf '"spec":{"completions":1,"template":{}},"status":%s}' "$(cat "status.$name" 2>/dev/null || echo '{}')"
        comma=,
    done
    printf ']}' ;;
delete)
    case $2 in job) rm -f "Job.$3" "status.$3" ;; jobs) rm -f Job.* ;; esac ;;
logs) printf '[pod/a/worker] one\n[pod/b/worker] two\n' ;;
esac
"#;

struct Cluster {
    folder: tempfile::TempDir,
    notes: StdMutex<Vec<String>>,
}

impl Cluster {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("kubectl");
        std::fs::write(&program, KUBECTL).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, notes: StdMutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tell(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// What the server says of a job.
    fn status(&self, job: &str, kind: &str, reason: &str) {
        let condition = json!({ "type": kind, "status": "True", "reason": reason });
        self.tell(&format!("status.{job}"), &json!({ "conditions": [condition] }).to_string());
    }

    /// Names of what is there, such as `Job.x`.
    fn objects(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("Job.") || name.starts_with("ConfigMap."));
        names.sort();
        names
    }

    fn calls(&self, what: &str) -> usize {
        std::fs::read_to_string(self.path("calls")).unwrap_or_default().lines().filter(|c| c.starts_with(what)).count()
    }

    fn engine(&self) -> KubernetesEngine {
        let run =
            Run { id: "1a2b3c4d".into(), country: "x".into(), spec: "country = \"x\"\n".into(), ..Run::default() };
        let profile = Profile::parse("[kubernetes]\nimage = \"urbancross:1\"\n").unwrap();
        let kubectl = Kubectl::at(&self.path("kubectl"), "urban");
        let (look_every, node_patience) = (Duration::ZERO, Duration::ZERO);
        let mut server = Server::new(kubectl.clone());
        server.refusal_patience = Duration::ZERO;
        KubernetesEngine { server, look_every, node_patience, ..KubernetesEngine::with(kubectl, run, profile) }
    }

    /// The work store of its run.
    fn store(&self) -> WorkStore {
        WorkStore::open(&self.path("store").display().to_string(), &Default::default()).unwrap()
    }

    async fn place(&self, engine: &KubernetesEngine) -> Result<(), WorkerError> {
        self.place_plan(engine, "9f8e7d6c5b4a").await
    }

    async fn place_plan(&self, engine: &KubernetesEngine, plan: &str) -> Result<(), WorkerError> {
        let job = MapJob { stage: "images", plan, open_shards: 2, free_shards: 2 };
        let store = self.store();
        let note = |text: &str| self.notes.lock().unwrap().push(text.to_owned());
        let placed = engine.place(&job, &engine.record(&store), &note).await?;
        assert_eq!(placed, Placed::Waits);
        Ok(())
    }

    /// Places the plan again and again, before which something happens each time, until the engine gives up.
    async fn gives_up(&self, engine: &KubernetesEngine, happens: impl Fn()) {
        for _ in 0..20 {
            happens();
            if let Err(error) = self.place(engine).await {
                assert!(error.exit_code() == 75 && error.to_string().contains("5 times"), "{error}");
                return;
            }
        }
        panic!("it goes on for ever");
    }

    async fn train(&self, engine: &KubernetesEngine) -> Result<Placed, WorkerError> {
        let note = |text: &str| self.notes.lock().unwrap().push(text.to_owned());
        let store = self.store();
        engine.train("pretrain", (&engine.record(&store), &AtomicBool::new(false)), &note).await
    }

    /// Waits until it was asked so often.
    async fn asked(&self, times: usize) {
        while self.calls("get") < times {
            tokio::task::yield_now().await;
        }
    }
}

/// A list of pods of a job, each with its index and status.
fn pods(job: &str, of: &[Value]) -> String {
    let pod = |(index, status): (usize, &Value)| {
        json!({ "metadata": {
            "annotations": { "batch.kubernetes.io/job-completion-index": index.to_string() },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": job }],
        }, "spec": { "containers": [] }, "status": status })
    };
    json!({ "items": of.iter().enumerate().map(pod).collect::<Vec<_>>() }).to_string()
}

const IMAGES: &str = "uc-1a2b3c4d-images-9f8e7d6c";
const UNREACHABLE: &str =
    "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n";
const FORBIDDEN: &str =
    "Error from server (Forbidden): jobs.batch is forbidden: User \"u\" cannot create resource \"jobs\"\n";

#[tokio::test]
async fn any_number_of_drivers_place_a_plan_once() {
    let cluster = Cluster::new();
    for _ in 0..2 {
        let engine = cluster.engine();
        cluster.place(&engine).await.unwrap();
        cluster.place(&engine).await.unwrap();
    }
    assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d".to_owned(), format!("Job.{IMAGES}")]);
    let job = std::fs::read_to_string(cluster.path(&format!("Job.{IMAGES}"))).unwrap();
    assert!(job.contains("completions: 2\n"), "as many workers as there are open shards: {job}");
    assert_eq!(cluster.calls("create"), 4, "a driver creates once");
}

#[tokio::test]
async fn a_server_that_is_away_stops_nobody_who_works() {
    let cluster = Cluster::new();
    cluster.tell("misbehave", UNREACHABLE);
    let error = cluster.place(&cluster.engine()).await.unwrap_err();
    assert!(error.exit_code() == 75 && error.to_string().contains("urban"), "{error}");
    std::fs::remove_file(cluster.path("misbehave")).unwrap();
    let engine = cluster.engine();
    cluster.place(&engine).await.unwrap();
    cluster.tell("misbehave", UNREACHABLE);
    cluster.place(&engine).await.unwrap();
    cluster.place(&engine).await.unwrap();
    let notes = cluster.notes.lock().unwrap().clone();
    assert_eq!(notes.iter().filter(|note| note.contains("was refused")).count(), 1, "said once: {notes:?}");
    // nor one who comes to the next plan, or to a training, meanwhile
    cluster.place_plan(&engine, "0a1b2c3d4e5f").await.unwrap();
    cluster.status("uc-1a2b3c4d-pretrain-train1", "Complete", "");
    let comes_back = async {
        while !cluster.notes.lock().unwrap().iter().any(|note| note.starts_with("pretrain: ")) {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(cluster.path("misbehave")).unwrap();
    };
    let (trained, ()) = tokio::join!(cluster.train(&engine), comes_back);
    assert_eq!(trained.unwrap(), Placed::Waits);
    cluster.place_plan(&engine, "0a1b2c3d4e5f").await.unwrap();
    assert!(cluster.objects().contains(&"Job.uc-1a2b3c4d-images-0a1b2c3d".to_owned()));
}

#[tokio::test]
async fn a_refusal_is_believed_when_it_lasts() {
    let cluster = Cluster::new();
    let refused = |error: WorkerError| {
        assert!(error.exit_code() == 65 && error.to_string().contains("deploy/kubernetes"), "{error}");
    };
    // a server that starts refuses until it has read who may do what
    let mut engine = cluster.engine();
    engine.server.refusal_patience = Duration::MAX;
    cluster.place(&engine).await.unwrap();
    cluster.tell("misbehave", FORBIDDEN);
    cluster.place(&engine).await.unwrap();
    engine.server.refusal_patience = Duration::ZERO;
    refused(cluster.place(&engine).await.unwrap_err());
    // from the first word on it is none that starts
    let mut engine = cluster.engine();
    engine.server.refusal_patience = Duration::MAX;
    refused(cluster.place(&engine).await.unwrap_err());
    refused(cluster.train(&engine).await.unwrap_err());
}

#[tokio::test]
async fn a_job_that_ended_before_its_plan_is_made_again() {
    let cluster = Cluster::new();
    let engine = cluster.engine();
    cluster.place(&engine).await.unwrap();
    // somebody has deleted it
    std::fs::remove_file(cluster.path(&format!("Job.{IMAGES}"))).unwrap();
    cluster.place(&engine).await.unwrap();
    cluster.place(&engine).await.unwrap();
    assert_eq!((cluster.objects().len(), cluster.calls("delete")), (2, 0));
    // its last shard may have been closed between two looks, so one look is none
    cluster.status(IMAGES, "Complete", "");
    cluster.place(&engine).await.unwrap();
    assert_eq!(cluster.calls("delete"), 0);
    cluster.place(&engine).await.unwrap();
    assert_eq!((cluster.objects().len(), cluster.calls("delete")), (2, 1));
    cluster.status(IMAGES, "Failed", "PodFailurePolicy");
    cluster.place(&engine).await.unwrap();
    let error = cluster.place(&engine).await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains("PodFailurePolicy"), "{error}");
    // a later driver may find what was wrong mended
    let engine = cluster.engine();
    for _ in 0..3 {
        cluster.place(&engine).await.unwrap();
    }
    assert_eq!(cluster.calls("delete"), 2);
    // and one that ends again and again before its plan is an end, though the server answers
    cluster.gives_up(&engine, || cluster.status(IMAGES, "Failed", "BackoffLimitExceeded")).await;
}

/// The server keeps the pods of a lost node, and gives none for them, until somebody takes the node away.
#[tokio::test]
async fn a_job_whose_pods_are_all_on_a_lost_node_is_made_again() {
    let cluster = Cluster::new();
    let engine = cluster.engine();
    cluster.place(&engine).await.unwrap();
    let (lost, runs) = (json!({ "phase": "Running", "reason": "NodeLost" }), json!({ "phase": "Running" }));
    // the others take its shards
    cluster.tell("pods", &pods(IMAGES, &[lost.clone(), runs]));
    cluster.place(&engine).await.unwrap();
    cluster.place(&engine).await.unwrap();
    assert_eq!((cluster.calls("create"), cluster.calls("delete")), (2, 0));
    cluster.tell("pods", &pods(IMAGES, &[lost.clone(), lost]));
    let patient = KubernetesEngine { node_patience: NODE_PATIENCE, ..cluster.engine() };
    for _ in 0..3 {
        cluster.place(&patient).await.unwrap();
    }
    assert_eq!(cluster.calls("delete"), 0, "its node may only be slow");
    let created = cluster.calls("create");
    cluster.place(&engine).await.unwrap();
    assert_eq!((cluster.calls("create"), cluster.calls("delete")), (created + 1, 1));
    assert!(cluster.objects().contains(&format!("Job.{IMAGES}")));
    let store = cluster.store();
    assert_eq!(engine.record(&store).placements().await.unwrap().len(), 1, "it is written down");
    // and nodes that are lost again and again are an end
    cluster.gives_up(&engine, || ()).await;
}

#[tokio::test]
async fn a_training_that_somebody_ends_is_not_begun_again_beside_it() {
    let cluster = Cluster::new();
    let (store, stop) = (cluster.store(), AtomicBool::new(false));
    let engine = KubernetesEngine { look_every: Duration::from_millis(10), ..cluster.engine() };
    let record = engine.record(&store);
    let train1 = "uc-1a2b3c4d-pretrain-train1";
    cluster.tell(&format!("deleted.{train1}"), "");
    let stops = async {
        cluster.asked(12).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (trained, ()) = tokio::join!(engine.train("pretrain", (&record, &stop), &|_| ()), stops);
    assert!(matches!(trained, Err(WorkerError::Stopped)), "{trained:?}");
    assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d".to_owned(), format!("Job.{train1}")]);
    std::fs::remove_file(cluster.path(&format!("deleted.{train1}"))).unwrap();
    // one that is gone has its number
    let goes = async {
        cluster.asked(cluster.calls("get") + 6).await;
        std::fs::remove_file(cluster.path(&format!("Job.{train1}"))).unwrap();
    };
    cluster.status("uc-1a2b3c4d-pretrain-train2", "Complete", "");
    let (trained, ()) = tokio::join!(cluster.train(&engine), goes);
    assert_eq!(trained.unwrap(), Placed::Waits);
    let attempts: Vec<u32> = record.placements().await.unwrap().iter().map(|placed| placed.attempt).collect();
    assert_eq!(attempts, [1, 2], "each is written down");
    // a run that is cancelled begins none
    cluster.tell("status.uc-1a2b3c4d-pretrain-train2", "{}");
    let cancels = async {
        cluster.asked(cluster.calls("get") + 6).await;
        record.set_cancelled(true).await.unwrap();
        std::fs::remove_file(cluster.path("Job.uc-1a2b3c4d-pretrain-train2")).unwrap();
    };
    let (trained, ()) = tokio::join!(cluster.train(&engine), cancels);
    assert!(matches!(trained, Err(WorkerError::Stopped)), "{trained:?}");
    assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d"]);
    let placed = cluster.place(&engine).await;
    assert!(matches!(placed, Err(WorkerError::Stopped)), "{placed:?}");
}

/// Whoever cancels ends the jobs that are there, and these come a moment later.
#[tokio::test]
async fn what_is_created_while_a_run_is_cancelled_is_taken_away() {
    let cluster = Cluster::new();
    let engine = cluster.engine();
    engine.configure().await.unwrap();
    let run = cluster.path("store").join(paths::run("x", "1a2b3c4d"));
    let store = cluster.store();
    cluster.tell("cancels", run.to_str().unwrap());
    for is_plan in [true, false] {
        engine.record(&store).set_cancelled(false).await.unwrap();
        let placed = if is_plan { cluster.place(&engine).await } else { cluster.train(&engine).await.map(drop) };
        assert!(matches!(placed, Err(WorkerError::Stopped)), "{placed:?}");
        assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d"]);
    }
    assert_eq!(cluster.calls("delete"), 2);
}

#[tokio::test]
async fn a_training_goes_on_in_another_attempt_until_one_ends_well() {
    let cluster = Cluster::new();
    let attempt = |number: u32| format!("uc-1a2b3c4d-pretrain-train{number}");
    cluster.status(&attempt(1), "Failed", "BackoffLimitExceeded");
    cluster.status(&attempt(3), "Complete", "");
    // the node with a rank of the second attempt is gone
    cluster.tell("pods", &pods(&attempt(2), &[json!({ "phase": "Running", "reason": "NodeLost" })]));
    assert_eq!(cluster.train(&cluster.engine()).await.unwrap(), Placed::Waits);
    let left = [1, 3].map(|number| format!("Job.{}", attempt(number)));
    assert_eq!(cluster.objects(), [&["ConfigMap.uc-1a2b3c4d".to_owned()], &left[..]].concat());
    // another driver whose store wants more begins a new attempt, and ends with what no other cures
    cluster.status(&attempt(4), "Failed", "PodFailurePolicy");
    let error = cluster.train(&cluster.engine()).await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains(&attempt(4)), "{error}");
    (5..=20).for_each(|number| cluster.status(&attempt(number), "Failed", "BackoffLimitExceeded"));
    let error = cluster.train(&cluster.engine()).await.unwrap_err();
    assert!(error.exit_code() == 75 && error.to_string().contains("5 times"), "{error}");
}

#[tokio::test]
async fn a_driver_that_is_stopped_leaves_the_training_to_the_next() {
    let cluster = Cluster::new();
    let engine = KubernetesEngine { look_every: LOOK_EVERY, ..cluster.engine() };
    let store = cluster.store();
    let stopped = engine.train("pretrain", (&engine.record(&store), &AtomicBool::new(true)), &|_| ()).await;
    assert!(matches!(stopped, Err(WorkerError::Stopped)));
    assert_eq!((cluster.objects().len(), cluster.calls("delete")), (2, 0));
    cluster.status("uc-1a2b3c4d-pretrain-train1", "Complete", "");
    // it has ended meanwhile, and the store says that it was not enough
    cluster.status("uc-1a2b3c4d-pretrain-train2", "Complete", "");
    assert_eq!(cluster.train(&cluster.engine()).await.unwrap(), Placed::Waits);
    assert_eq!(cluster.objects().len(), 3);
}

#[tokio::test]
async fn a_run_is_submitted_seen_read_and_cancelled() {
    let cluster = Cluster::new();
    let engine = cluster.engine();
    assert!(engine.submit("all").await.unwrap());
    assert!(!engine.submit("all").await.unwrap());
    assert_eq!(cluster.calls("delete"), 0, "a driver that lives is left alone");
    assert_eq!(cluster.calls("replace"), 0, "and so is what it reads");
    cluster.status("uc-1a2b3c4d-all-drive", "Failed", "BackoffLimitExceeded");
    assert!(engine.submit("all").await.unwrap());
    assert_eq!(cluster.calls("delete"), 1, "one that has ended is started again");
    cluster.place(&engine).await.unwrap();
    let seen = engine.state().await.unwrap();
    assert_eq!(seen.iter().map(|job| job.step.as_str()).collect::<Vec<_>>(), ["all", "images"]);
    let lines = RefCell::new(Vec::new());
    engine.logs(Some("images"), false, |line| lines.borrow_mut().push(line.to_owned())).await.unwrap();
    assert_eq!(lines.into_inner(), ["[pod/a/worker] one", "[pod/b/worker] two"]);
    engine.cancel(true).await.unwrap();
    assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d"]);
    // with a time-out of its own kubectl forgets the account of its pod, and a driver there reaches no server
    assert_eq!(std::fs::read_to_string(cluster.path("calls")).unwrap().matches("timeout").count(), 0);
    cluster.tell("misbehave", "Error from server (NotFound): namespaces \"urban\" not found\n");
    assert_eq!(engine.state().await.unwrap_err().exit_code(), 65);
}

/// Pods of one task that start later read what its others do.
#[tokio::test]
async fn what_a_task_reads_stays_as_it_is_while_the_driver_of_all_lives() {
    let cluster = Cluster::new();
    let whole = cluster.engine();
    let run = Run { id: whole.run.task_id(0), whole: Some(whole.run.id.clone()), ..whole.run.clone() };
    let mut task = KubernetesEngine { run, ..cluster.engine() };
    task.configure().await.unwrap();
    assert!(whole.submit("begin").await.unwrap());
    let read = || std::fs::read_to_string(cluster.path("ConfigMap.uc-1a2b3c4d-0")).unwrap();
    let before = read();
    task.profile.kubernetes.image = "urbancross:2".into();
    task.configure().await.unwrap();
    assert_eq!(read(), before);
    cluster.status("uc-1a2b3c4d-begin-drive", "Failed", "BackoffLimitExceeded");
    task.configure().await.unwrap();
    assert!(read().contains("urbancross:2"), "a driver that has ended is started again, with what is submitted now");
}

#[tokio::test]
async fn what_no_server_takes_is_said_before_one_is_asked() {
    let cluster = Cluster::new();
    let mut engine = cluster.engine();
    engine.profile.kubernetes.image = String::new();
    let error = cluster.place(&engine).await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains("kubernetes.image"), "{error}");
    assert_eq!(cluster.objects(), ["ConfigMap.uc-1a2b3c4d"]);
    let absent = Server::new(Kubectl::at(&cluster.path("absent"), "urban"));
    let engine = KubernetesEngine { server: absent, ..cluster.engine() };
    let error = engine.state().await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains("KUBECTL"), "{error}");
}
