//! A build over a stand-in for a cluster: `kubectl` keeps objects in a folder, and their pods are processes of this machine.

#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;

use engines::{Profile, Run};
use pipeline::build::Build;
use pipeline::engine::{Engine, Kubectl, KubernetesEngine};
use pipeline::progress::Progress;
use pipeline::run::RunEnd;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, open, recipes, run, tables, urbancross};

/// The pod of index 1 of the first job is killed at once, as if its node had been; nobody comes for it.
const KUBECTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
start() { # name, index, words: what a pod runs
    name=$1 index=$2; shift 2
    if [ "$index" = 1 ] && mkdir killed 2>/dev/null; then echo 137 > "exit.$name.$index"; return; fi
    export JOB_COMPLETION_INDEX=$index
    if [ -n "$URBANCROSS_RENDEZVOUS" ]; then export RANK=$index; fi
    { "$@"; echo $? > "exit.$name.$index"; } > "log.$name.$index" 2>&1 < /dev/null &
}
case $1 in
create | replace)
    object=$(cat)
    kind=$(printf '%s\n' "$object" | sed -n 's/^kind: //p')
    name=$(printf '%s\n' "$object" | sed -n 's/^  name: //p')
    if [ "$1" = create ] && [ -f "$kind.$name" ]; then
        echo "Error from server (AlreadyExists): \"$name\" already exists" >&2
        exit 1
    fi
    printf '%s\n' "$object" > "$kind.$name"
    if [ "$kind" = ConfigMap ]; then
        sed '1,/^  spec.toml: |$/d; /^[a-z]/,$d; s/^    //' "$kind.$name" > spec.toml
        exit
    fi
    value() { printf '%s\n' "$object" | sed -n "/name: $1\$/{n;s/.*value: //p;}" | tr -d '"'; }
    WORLD_SIZE=$(value WORLD_SIZE) URBANCROSS_RENDEZVOUS=$(value URBANCROSS_RENDEZVOUS)
    if [ -n "$WORLD_SIZE" ]; then export WORLD_SIZE URBANCROSS_RENDEZVOUS; else unset WORLD_SIZE URBANCROSS_RENDEZVOUS; fi
    words=$(printf '%s\n' "$object" | sed '1,/- command:/d; /^ *env:/,$d; s/^ *- //' | tr -d '"')
    words=$(printf '%s\n' "$words" | sed "s#^urbancross\$#$URBANCROSS#; s#^/run/urbancross/#$PWD/#")
    index=0
    while [ "$index" -lt "$(printf '%s\n' "$object" | sed -n 's/^  completions: //p')" ]; do
        start "$name" "$index" $words
        index=$((index + 1))
    done ;;
get)
    comma=
    printf '{"items":['
    for job in Job.*; do
        if [ "$2" = pods ] || [ ! -f "$job" ]; then continue; fi
        name=${job#Job.}
        stage=$(sed -n 's#^    urbancross.dev/stage: ##p' "$job" | head -n 1)
        count=$(sed -n 's/^  completions: //p' "$job")
        done=$(cat "exit.$name".* 2>/dev/null | grep -cx 0)
        wanted=$count
        if grep -q successPolicy "$job"; then wanted=1; fi
        condition=
        if [ "$(cat "exit.$name".* 2>/dev/null | wc -l)" -ge "$count" ]; then condition=Failed; fi
        if [ "$done" -ge "$wanted" ]; then condition=SuccessCriteriaMet; fi
        printf '%s{"metadata":{"name":"%s","labels":{"urbancross.dev/stage":"%s"}},' "$comma" "$name" "$stage"
        printf '"status":{"conditions":[{"type":"%s","status":"True"}]}}' "$condition"
        comma=,
    done
    printf ']}' ;;
delete) rm -f "Job.$3" "exit.$3".* ;;
esac
"#;

const QUICK: [&str; 4] = ["work.shards=6", "score.clip=none", "pretrain.epochs=2", "pretrain.batch=8"];

async fn drive(build: &mut Build, folder: &std::path::Path) -> RunEnd {
    let program = folder.join("kubectl");
    let script = KUBECTL.replace("$URBANCROSS#", &format!("{}#", urbancross().display()));
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let profile = "[kubernetes]\nimage = \"x\"\n[stage.default]\nworkers = 2\n[stage.pretrain]\nworkers = 2\n";
    let run = Run {
        id: "1a2b3c4d".into(),
        country: build.spec.country.clone(),
        spec: build.spec.to_toml(),
        ..Run::default()
    };
    let kubectl = Kubectl::at(&program, "default");
    let engine = KubernetesEngine::with(kubectl, run, Profile { lease_seconds: 1, ..Profile::parse(profile).unwrap() });
    let engine = Engine::Kubernetes(Box::new(engine));
    match pipeline::run::drive(build, &RunOptions::default(), &engine, &Progress::new(true)).await {
        Ok(end) => end,
        Err(error) => {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                println!("== {}\n{}", entry.display(), std::fs::read_to_string(&entry).unwrap_or_default());
            }
            panic!("{error}");
        }
    }
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
