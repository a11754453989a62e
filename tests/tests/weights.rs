//! Weights that lie elsewhere: fetched once, pinned, verified; and what is said without a network.

use std::path::Path;
use std::sync::atomic::Ordering;

use pipeline::run_options::RunOptions;
use pipeline::search::SearchModel;
use pipeline_tests::http::{Manner, serve};
use pipeline_tests::{World, open, run, version};
use stages::Training;

const QUICK: [&str; 4] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4", "segment.segmenter=none"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// A single test, since it sets the environment of its program.
#[tokio::test(flavor = "multi_thread")]
async fn weights_are_fetched_once_pinned_and_verified() {
    let world = World::new(20);
    let (first, _) = run(world.spec("first", &QUICK)).await.unwrap();
    let trained = workers::train::records(&first.work, "finland", Training::Pretrain).await.unwrap().remove(0);
    let folder = world.path("first").join(format!("checkpoints/finland/pretrain/{}/result", trained.key));
    let served = world.path("hub/acme/clip/resolve/main");
    copy(&folder, &served);
    let (address, requests) = serve(world.path("hub"), Manner::AfterFaults(0));
    let cache = world.path("cache");
    unsafe {
        std::env::set_var("HF_ENDPOINT", &address);
        std::env::set_var("URBANCROSS_CACHE", &cache);
    }
    let init = ["model.init=acme/clip", "model.tokenizer=acme/clip", "weights.options={ allow_http = true }"];
    let spec = |work: &str| world.spec(work, &[&QUICK[..], &init[..]].concat());

    // planning fetches nothing, nor does a run that ends before the first network
    let pulled = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    pipeline_tests::run_with(spec("second"), pulled).await.unwrap();
    let planned = open(spec("second")).await.unwrap();
    assert_eq!((requests.load(Ordering::SeqCst), planned.weights.digest("model.init")), (0, ""));
    let (second, _) = run(spec("second")).await.unwrap();
    let lines = workers::weights::lines(&second.work, &second.spec).await.unwrap();
    assert!(lines.iter().all(|l| l.state == "cached" && l.locked && l.files.len() == 3), "{lines:?}");
    let (fetched, embedded) = (requests.load(Ordering::SeqCst), version(&second, manifests::Artifact::TextEmbeddings));
    let embedded = embedded.await;

    // nothing is fetched or trained again; a local copy of the same files is the same model
    let (again, _) = run(spec("second")).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), fetched);
    assert_eq!(version(&again, manifests::Artifact::TextEmbeddings).await, embedded);
    let local = [format!("model.init={}", served.display()), format!("model.tokenizer={}", served.display())];
    let local: Vec<&str> = QUICK.iter().copied().chain(local.iter().map(String::as_str)).collect();
    let (moved, _) = run(world.spec("second", &local)).await.unwrap();
    assert_eq!(version(&moved, manifests::Artifact::TextEmbeddings).await, embedded);

    // other bytes under the same name are refused on a machine that has to fetch them
    let text = std::fs::read_to_string(served.join("config.json")).unwrap();
    std::fs::write(served.join("config.json"), format!("{text} ")).unwrap();
    std::fs::remove_dir_all(&cache).unwrap();
    let error = run(spec("second")).await.err().unwrap();
    assert!(error.to_string().contains("is not what this build was started with: config.json had sha256"), "{error}");
    assert_eq!(error.exit_code(), 65);

    // without a network the message says what to put where; files put there are taken
    std::fs::rename(world.path("hub"), world.path("gone")).unwrap();
    let away = open(world.spec("second", &local)).await.unwrap();
    let lines = pipeline::status::status(&away).await.unwrap();
    let of_training = lines.iter().filter(|line| line.step == "pretrain");
    let states: Vec<&str> = of_training.map(|line| line.state.as_str()).collect();
    assert!(states.len() == 1 && states[0].starts_with("model.init is not on this machine"), "{states:?}");
    let error = SearchModel::of_build(&away).await.unwrap_err().to_string();
    assert!(error.contains("model.init is not on this machine") && !error.contains("other settings"), "{error}");
    std::fs::remove_dir_all(&cache).unwrap();
    let error = run(spec("third")).await.err().unwrap().to_string();
    assert!(error.contains("cannot be fetched") && error.contains("config.json"), "{error}");
    let place = error.split(" into ").nth(1).unwrap().split(", or set").next().unwrap();
    copy(&folder, Path::new(place));
    let (third, _) = run(spec("third")).await.unwrap();
    assert!(third.weights.path("model.init").is_some_and(|path| path.starts_with(&cache)));

    // a store that lists: the whole folder, or one file of it
    let folder = format!("model.init=file://{}", folder.display());
    let vocabulary =
        format!("model.tokenizer=file://{}/tokenizer.json", folder.trim_start_matches("model.init=file://"));
    let listed: Vec<&str> = QUICK.iter().copied().chain([folder.as_str(), vocabulary.as_str()]).collect();
    let (fourth, _) = run(world.spec("fourth", &listed)).await.unwrap();
    assert_eq!(fourth.weights.digest("model.init"), third.weights.digest("model.init"));
    assert!(fourth.weights.path("model.tokenizer").is_some_and(|path| path.ends_with("tokenizer.json")));
}
