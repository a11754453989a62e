//! What weights saw: a training never goes on from weights that saw what is held out now.

use std::sync::atomic::Ordering;

use manifests::Artifact;
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, edit_a_finnish_image, open, run};
use stages::Training;
use workers::train::{RunRows, TrainingRecord};

const QUICK: [&str; 3] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];

async fn records(build: &Build) -> Vec<TrainingRecord> {
    workers::train::records(&build.work, &build.spec.country, Training::Pretrain).await.unwrap()
}

/// After a change of splits, what was trained on is test: the weights that saw it neither stand nor go on.
#[tokio::test(flavor = "multi_thread")]
async fn weights_that_saw_what_is_test_now_are_left() {
    let world = World::new(40);
    let stands = ["pretrain.retrain_above=1.0"];
    let (first, _) = run(world.spec("work", &[&QUICK[..], &stands].concat())).await.unwrap();
    let changed = [&QUICK[..], &stands, &["split.ratio=[2,1,7]"]].concat();
    let (second, _) = run(world.spec("work", &changed)).await.unwrap();
    let (old, all) = (records(&first).await.remove(0), records(&second).await);
    let new = all.iter().find(|r| r.key != old.key).expect("trained again, though less than all rows changed");
    assert_eq!(new.warm_start, None);
    assert!(new.begins.contains("starts from scratch: the last weights were trained on"), "{}", new.begins);
    // in a fresh store: the same figures
    let fresh = [&QUICK[..], &["split.ratio=[2,1,7]"]].concat();
    let (fresh, _) = run(world.spec("fresh", &fresh)).await.unwrap();
    assert_eq!(records(&fresh).await[0].trained.model_digest, new.trained.model_digest);
}

/// Tags that change are no obstacle; the new run knows what its ancestor saw.
#[tokio::test(flavor = "multi_thread")]
async fn edited_tags_warm_start() {
    let world = World::new(30);
    let again = [&QUICK[..], &["pretrain.retrain_above=0.0"]].concat();
    let (first, _) = run(world.spec("work", &again)).await.unwrap();
    edit_a_finnish_image(&world);
    let (second, _) = run(world.spec("work", &again)).await.unwrap();
    let (old, new) = (records(&first).await.remove(0), records(&second).await.pop().unwrap());
    assert_eq!(new.warm_start.as_ref(), Some(&old.key), "{}", new.begins);
    let rows = |key: String| {
        let build = &second;
        async move {
            workers::train::rows_of_run(&build.work, "finland", Training::Pretrain, &key, &RunRows::default())
                .await
                .unwrap()
                .unwrap()
        }
    };
    assert!(rows(new.key).await.trained() >= rows(old.key).await.trained());
}

/// Weights of ours that are named as `model.init` say what they saw, wherever they lie.
#[tokio::test(flavor = "multi_thread")]
async fn weights_of_ours_carry_what_they_saw() {
    let world = World::new(40);
    let (first, _) = run(world.spec("work", &QUICK)).await.unwrap();
    let key = &records(&first).await[0].key;
    let from = world.path("elsewhere");
    let result = world.path(&format!("work/checkpoints/finland/pretrain/{key}/result"));
    copy(&result, &from);
    let (init, tokenizer) =
        (format!("model.init={}", from.display()), format!("model.tokenizer={}/tokenizer.json", from.display()));
    let named = [&QUICK[..], &[&init, &tokenizer]].concat();
    let (second, _) = run(world.spec("same", &named)).await.unwrap();
    assert!(records(&second).await[0].begins.contains("from weights of ours"));
    let changed = [&named[..], &["split.ratio=[2,1,7]"]].concat();
    let error = run(world.spec("other", &changed)).await.err().expect("refused");
    assert!(error.exit_code() == 65 && error.to_string().contains("these weights were trained on"), "{error}");
    // so does the file alone, as long as it lies where it was
    let file = format!("{init}/model.safetensors");
    let file = [&changed[..], &[&file]].concat();
    let error = run(world.spec("file", &file)).await.err().expect("refused");
    assert!(error.exit_code() == 65 && error.to_string().contains("these weights were trained on"), "{error}");
    // weights of others do not say, and are named
    std::fs::remove_file(from.join("rows.parquet")).unwrap();
    let (third, _) = run(world.spec("third", &changed)).await.unwrap();
    assert!(records(&third).await[0].begins.contains("external weights"));
}

/// A model on another country's images: those that it learnt from are neither asked nor found, and that is counted and said,
/// in words, in JSON and on the page.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_learnt_from_are_left_out_of_figures() {
    let world = World::new(40);
    let (finland, _) = run(world.spec("finland", &QUICK)).await.unwrap();
    let of = |more: &[&'static str]| [&QUICK[..], more].concat();
    let tested = of(&["country=suomi", "split.ratio=[2,1,7]"]);
    let elsewhere = of(&["country=spain", "source.tokens=[\"ES\"]", "source.country_code=ES"]);
    let (suomi, _) = run(world.spec("suomi", &tested)).await.unwrap();
    let (spain, _) = run(world.spec("spain", &elsewhere)).await.unwrap();
    let met = pipeline::evaluate::evaluate_across(&finland, &suomi).await.unwrap();
    let left_out = met.left_out.clone().expect("it was trained on most of them");
    let (learnt, tested) =
        (column(&finland, Artifact::Splits, "split").await, column(&suomi, Artifact::Splits, "split").await);
    let of = |splits: &std::collections::BTreeMap<String, String>, name: &str| {
        splits
            .iter()
            .filter(|(_, split)| *split == name)
            .map(|(id, _)| id.clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let (learnt, tested) = (of(&learnt, "train"), of(&tested, "test"));
    let both = tested.intersection(&learnt).count() as u64;
    // beside them others may show the same ground
    assert!(both > 4 && left_out.images >= both, "{left_out:?}, {both}");
    assert_eq!(met.recall.image_gallery as u64, tested.len() as u64 - left_out.images);
    assert!(met.recall.image_gallery > 0 && left_out.how.contains("the same image"), "{left_out:?}");
    let json = serde_json::to_value(&met).unwrap();
    assert_eq!(json["left_out"]["images"], left_out.images);
    let shown = json["panels"].to_string();
    assert!(learnt.iter().all(|id| !shown.contains(&format!("\"image\":\"{id}\""))), "{shown}");
    let new = pipeline::evaluate::evaluate_across(&finland, &spain).await.unwrap();
    assert_eq!((&new.seen, &new.left_out), (&None, &None));
    let page = pipeline::page::make(&[finland, suomi, spain], &[met, new], "now").await.unwrap();
    assert_eq!(page.matches("left out, since the model was trained on what they show").count(), 1);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            _ = std::fs::copy(entry.path(), target).unwrap()
        }
    }
}

/// A training that was stopped goes on with the tables that it pinned, though a tag was edited meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_training_outlives_an_edit() {
    let world = World::new(40);
    let long = ["score.clip=none", "pretrain.epochs=4", "pretrain.batch=4", "pretrain.checkpoint_every_steps=1"];
    let mut first = open(world.spec("work", &long)).await.unwrap();
    let (stop, runs) = (first.stop.clone(), world.path("work/checkpoints/finland/pretrain"));
    let watch = tokio::spawn(async move {
        let has_checkpoint = || {
            let folders = std::fs::read_dir(&runs).into_iter().flatten().flatten();
            folders.map(|f| f.path().join("last/position.json")).any(|p| p.exists())
        };
        while !has_checkpoint() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let error = pipeline::run::run(&mut first, &RunOptions::default(), &Progress::new(true)).await.unwrap_err();
    watch.await.unwrap();
    assert_eq!(error.exit_code(), 143, "{error}");
    let begun = workers::train::runs(&first.work, "finland", Training::Pretrain).await.unwrap().begun.remove(0);
    edit_a_finnish_image(&world);
    let (second, _) = run(world.spec("work", &long)).await.unwrap();
    let record = records(&second).await.remove(0);
    assert_eq!((&record.key, &record.inputs), (&begun.key, &begun.inputs), "{}", record.begins);
    assert!(record.begins.contains("goes on with the tables that it pinned; 1 of"), "{}", record.begins);
}
