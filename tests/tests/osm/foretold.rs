//! What a refresh would do, before anything is written; and refreshes that go on by themselves.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use manifests::Artifact;
use pipeline::tags;
use pipeline_tests::{World, run, run_with, urbancross};

use super::{QUICK, carried, computed, diffs, extract, refresh, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_refresh_is_what_becomes_of_it() {
    let world = World::new(60);
    let spec = world.spec("work", &QUICK);
    run(spec.clone()).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run(spec.clone()).await.unwrap();
    sandbox::edit_map(&world.path("world"), 0.3, 5).unwrap();
    let pinned = build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap();

    let foretold = tags::foretell(&spec, diffs(&world), Arc::default(), &|_| ()).await.unwrap();
    let lines = tags::foretold::steps(&spec, &foretold);
    let line = |step: &str| lines.iter().find(|line| line.step == step).unwrap();
    assert_eq!(build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap(), pinned, "nothing is written");
    let toml = world.path("spec.toml");
    std::fs::write(&toml, spec.to_toml()).unwrap();
    let (toml, replication) = (toml.to_str().unwrap(), world.path("world/replication"));
    let command = |args: &[&str]| {
        let output = Command::new(urbancross()).args(["tags", "refresh", toml]).args(args).output().unwrap();
        let [out, aside] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), out, aside)
    };
    let replication = replication.to_str().unwrap();
    let (code, out, aside) = command(&["--diffs", replication, "--plan", "--price-per-gpu-hour", "2"]);
    for said in ["nothing is written", "CPU-hours", "requests", "to pay", "kept: same words"] {
        assert!(code == Some(0) && out.contains(said), "{said}: {code:?} {out} {aside}");
    }
    let (_, json, _) = command(&["--diffs", replication, "--plan", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["refresh"]["done"]["changed"], foretold.done.changed);
    let of_captions = json["steps"].as_array().unwrap().iter().find(|step| step["step"] == "captions").unwrap();
    assert_eq!(of_captions["rows"], line("captions").rows);
    assert!(of_captions["cluster"]["gpu_hours"].as_f64().is_some(), "{of_captions}");
    // who names nothing is told what there is
    let (code, _, aside) = command(&[]);
    assert!(
        code == Some(65) && aside.contains("--diffs") && aside.contains("--osm") && aside.contains("diff 100"),
        "{aside}"
    );

    let done = refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
    assert_eq!(
        (done.changed, done.gone, done.unclear),
        (foretold.done.changed, foretold.done.gone, foretold.done.unclear)
    );
    let (build, _) = run(spec.clone()).await.unwrap();
    assert!(foretold.retagged > 0 && line("captions").carried > 0, "{foretold:?}");
    assert_eq!(computed(&build, "geotags").await.0, line("geotags").rows);
    assert_eq!((computed(&build, "captions").await.0, line("captions").exact), (line("captions").rows, true));
    assert_eq!(carried(&build, "captions").await, line("captions").carried);
    assert!(computed(&build, "text_embeddings").await.0 <= line("text_embeddings").rows);
    for step in ["images", "segments", "image_embeddings"] {
        assert_eq!(line(step).rows, 0, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_takes_what_comes_and_outlives_faults_that_pass() {
    let world = World::new(20);
    let spec = world.spec("work", &["source.osm.accept_share=1.0"]);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), None).await.unwrap();
    sandbox::edit_map(&world.path("world"), 0.2, 0).unwrap();
    let folder = world.path("world/replication");
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Mutex::new(Vec::new());
    let tell = |round: &tags::watch::Round| {
        let mut rounds = rounds.lock().unwrap();
        rounds.push(round.in_words());
        let second = folder.join("000/000/102.osc.gz");
        match rounds.len() {
            // a diff that is half there
            1 => {
                sandbox::edit_map(&world.path("world"), 0.2, 1).unwrap();
                let bytes = std::fs::read(&second).unwrap();
                std::fs::write(&second, &bytes[..bytes.len() / 2]).unwrap();
                std::fs::write(folder.join("whole"), bytes).unwrap();
            }
            2 => std::fs::write(&second, std::fs::read(folder.join("whole")).unwrap()).unwrap(),
            4 => stop.store(true, Ordering::Relaxed),
            _ => {}
        }
    };
    let every = (Duration::from_millis(20), None);
    tags::watch::watch(&spec, folder.to_str().unwrap(), every, stop.clone(), &tell).await.unwrap();
    let said = rounds.into_inner().unwrap();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("1 diff: ") && said[0].contains("they show diff 101"), "{said:?}");
    assert!(said[1].contains("tried again") && said[1].contains("102.osc.gz"), "{said:?}");
    assert!(said[2].contains("they show diff 102") && said[3].contains("no new diff"), "{said:?}");
    assert!(said.iter().all(|line| !line.contains('\n')), "{said:?}");

    // a setting does not pass
    stop.store(false, Ordering::Relaxed);
    let nowhere = world.path("nowhere");
    let error = tags::watch::watch(&spec, nowhere.to_str().unwrap(), every, stop, &|_| panic!("no round")).await;
    assert_eq!(error.unwrap_err().exit_code(), 65);

    // the program ends well when it is told to stop
    let toml = world.path("spec.toml");
    std::fs::write(&toml, spec.to_toml()).unwrap();
    let mut watching = Command::new(urbancross())
        .args([
            "tags",
            "refresh",
            toml.to_str().unwrap(),
            "--every",
            "1d",
            "--json",
            "--diffs",
            folder.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let round: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&round["done"]["diffs"], &round["done"]["written"]), (&0.into(), &false.into()), "{line}");
    let began = Instant::now();
    assert!(Command::new("kill").arg(watching.id().to_string()).status().unwrap().success());
    let ended = watching.wait().unwrap();
    assert!(ended.success() && began.elapsed() < Duration::from_secs(5), "{ended:?}");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");

    // nor does it pass that the state is gone
    for file in std::fs::read_dir(world.path("work/osm/finland")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "state") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let watched = tags::watch::watch(&spec, folder.to_str().unwrap(), every, Arc::default(), &|_| panic!("no round"));
    let gone = watched.await.unwrap_err();
    assert!(gone.exit_code() == 65 && gone.to_string().contains("read an extract"), "{gone}");
}
