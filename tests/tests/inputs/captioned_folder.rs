//! Captioned image folders: formats, splits, several captions, bad images.

use std::sync::Arc;
use std::time::Duration;

use manifests::{Artifact, BuildSpec};
use pipeline::plan::{Model, plan_stage};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::worker::work;
use pipeline_tests::{column, run, run_with};
use pixels::Rgb;
use workers::claims::{ClaimBoard, Claimant};
use workers::pull::Share;

#[allow(dead_code, reason = "its `main`")]
#[path = "../../../pipeline/examples/small_build.rs"]
mod small_build;

/// A folder of `images` small pictures with two captions each; every fifth is a test image.
fn folder(images: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    let mut lines = String::new();
    for i in 0..images {
        let colour = [(i * 37 % 256) as u8, (i * 91 % 256) as u8, (i * 53 % 256) as u8];
        let picture = Rgb {
            width: 40,
            height: 32,
            data: (0..40 * 32).flat_map(|p| colour.map(|c| c.wrapping_add((p % 7) as u8))).collect(),
        };
        std::fs::write(folder.path().join(format!("images/tile_{i}.jpg")), pixels::encode_jpeg(&picture, 90)).unwrap();
        let split = if i % 5 == 0 { "test" } else { "train" };
        let captions = [format!("field number {i} seen from above ."), format!("a plain of colour {}", i % 9)];
        lines.push_str(
            &serde_json::json!({ "file": format!("tile_{i}.jpg"), "split": split, "captions": captions }).to_string(),
        );
        lines.push('\n');
    }
    std::fs::write(folder.path().join("captions.jsonl"), lines).unwrap();
    folder
}

fn spec(folder: &std::path::Path, set: &[&str]) -> BuildSpec {
    let text = format!(
        r#"
country = "plain"
[source]
kind = "captioned"
url = "{}"
[work]
url = "{}"
shards = 2
[caption]
captioner = "given"
[segment]
segmenter = "none"
[model]
preset = "tiny"
image_size_px = 32
context_length = 16
vocabulary = 200
[pretrain]
epochs = 1
batch = 8
"#,
        folder.display(),
        folder.join("work").display()
    );
    BuildSpec::parse(&text, "test", &set.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_and_splits_come_with_the_images() {
    let folder = folder(60);
    let (build, quarantined) = run(spec(folder.path(), &[])).await.unwrap();
    assert!(quarantined.is_empty());
    let splits = column(&build, Artifact::Splits, "split").await;
    assert_eq!(splits.values().filter(|s| *s == "test").count(), 12, "the given split stands");
    assert!(splits.values().any(|s| s == "val"), "a validation split is taken from train");
    let evaluation = pipeline::evaluate::stored(&build).await.unwrap().unwrap();
    assert_eq!((evaluation.recall.image_gallery, evaluation.recall.caption_gallery), (12, 24));
    let segments = column(&build, Artifact::Segments, "status").await;
    assert_eq!(segments.len(), 60, "an image without segments has an empty list, not a missing row");
}

/// A picture that is another one by the time that it is read is no picture of the row that was listed: the run lists again.
#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_read_as_they_were_listed_or_listed_again() {
    let folder = folder(20);
    let images = folder.path().join("images");
    let until = |step: &str| RunOptions { until: Some(step.into()), ..RunOptions::default() };
    let (mut build, _) = run_with(spec(folder.path(), &[]), until("geotags")).await.unwrap();
    std::fs::copy(images.join("tile_1.jpg"), images.join("tile_2.jpg")).unwrap();
    std::fs::remove_file(images.join("tile_3.jpg")).unwrap();
    let plan = plan_stage(&build, &stages::images::stage(), &Model::default(), false).await.unwrap();
    build.virtual_inputs.slices.publish_plan(&build.work, &plan, 8).await.unwrap();
    // a worker elsewhere reads places from slices
    let lease = Duration::from_secs(1);
    let claimant = Claimant { worker: "w".into(), node: "n".into(), engine_job: None };
    let share = Share { index: 0, count: 1, lease, claimant, leaves: false };
    let quiet = Progress::new(true);
    work(build.spec.clone(), "images", &plan.key(), &share, Arc::default(), &quiet).await.unwrap();
    let withdrawn = ClaimBoard::new(&build.work, &plan, lease).look().await.unwrap().withdrawn.expect("it says so");
    assert!(["it changed after", "is gone"].iter().any(|why| withdrawn.why.contains(why)), "{withdrawn:?}");
    pipeline::run::run(&mut build, &until("images"), &quiet).await.unwrap();
    let status = column(&build, Artifact::Images, "status").await;
    assert!(status.len() == 19 && status.values().all(|status| status == "ok"), "{status:?}");
    let digests = column(&build, Artifact::Images, "bytes_digest").await;
    assert_eq!(digests["tile_1"], digests["tile_2"]);
}

/// Somebody copies pictures into the folder for some seconds: a run does not give up before they are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_written_for_a_while_is_waited_for() {
    let folder = folder(20);
    let images = folder.path().join("images");
    let written = tokio::spawn(async move {
        for round in 0..60 {
            let (from, to) = (format!("tile_{}.jpg", 1 + round % 19), images.join("tile_0.jpg"));
            let beside = images.with_file_name("coming.jpg");
            std::fs::copy(images.join(from), &beside).and_then(|_| std::fs::rename(beside, to)).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    run_with(spec(folder.path(), &[]), until.clone()).await.unwrap();
    written.await.unwrap();
    let (build, _) = run_with(spec(folder.path(), &[]), until).await.unwrap();
    let digests = column(&build, Artifact::Images, "bytes_digest").await;
    // the last one was a copy of this
    assert_eq!(digests["tile_0"], digests["tile_3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_builds_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    small_build::make_pictures(&folder.path().join("pictures")).unwrap();
    let captions = small_build::captions_of(folder.path()).await.unwrap();
    assert_eq!(captions.len(), 12);
    assert_eq!(captions["3"], ["a field with crop number 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_images_become_row_statuses() {
    let folder = folder(60);
    let images = folder.path().join("images");
    std::fs::write(images.join("tile_1.jpg"), b"").unwrap();
    let whole = std::fs::read(images.join("tile_2.jpg")).unwrap();
    std::fs::write(images.join("tile_2.jpg"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(images.join("tile_3.jpg"), b"GIF89a no jpeg at all").unwrap();
    // a header that claims 65,500 x 65,500 pixels
    let mut giant = whole.clone();
    let at = giant.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    giant[at + 5..at + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    std::fs::write(images.join("tile_4.jpg"), giant).unwrap();
    std::fs::remove_file(images.join("tile_6.jpg")).unwrap();
    let (build, quarantined) = run(spec(folder.path(), &[])).await.unwrap();
    let status = column(&build, Artifact::Images, "status").await;
    let why = column(&build, Artifact::Images, "error").await;
    for id in ["tile_1", "tile_2", "tile_3", "tile_4"] {
        assert_eq!(status[id], "error", "{id}");
        assert!(!why[id].is_empty());
    }
    assert!(why["tile_4"].contains("pixel"), "{}", why["tile_4"]);
    assert_eq!(status.values().filter(|s| *s == "ok").count(), 55);
    // embeddings exist for the good ones only
    assert_eq!(column(&build, Artifact::ImageEmbeddings, "status").await.len(), 55);
    let rows: u64 = quarantined.iter().map(|q| q.rows).sum();
    assert_eq!(rows, 5, "four broken and one missing: {quarantined:?}");
    let listing =
        String::from_utf8(build.work.get("quarantine/plain/images.jsonl").await.unwrap().unwrap().to_vec()).unwrap();
    assert!(listing.contains("tile_2") && listing.lines().count() == 4, "{listing}");

    // mended, and asked to try again
    std::fs::write(images.join("tile_2.jpg"), &whole).unwrap();
    let (build, _) = run(spec(folder.path(), &[])).await.unwrap();
    assert_eq!(
        column(&build, Artifact::Images, "status").await["tile_2"],
        "ok",
        "a changed file is tried again by itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_captions_and_a_wrong_checkpoint_say_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let error = run(spec(empty.path(), &[])).await.err().unwrap().to_string();
    assert!(error.contains("no caption file") && error.contains("source.tables"), "{error}");
    let folder = folder(40);
    run(spec(folder.path(), &[])).await.unwrap();
    let runs = std::fs::read_dir(folder.path().join("work/checkpoints/plain/pretrain")).unwrap();
    let results = runs.map(|run| run.unwrap().path().join("result/model.safetensors"));
    // alone: the configuration beside it would say what network it is of
    let alone = folder.path().join("alone.safetensors");
    std::fs::copy(results.into_iter().find(|weights| weights.exists()).unwrap(), &alone).unwrap();
    let init = format!("model.init={:?}", alone.display().to_string());
    let other = format!("work.url={:?}", folder.path().join("other").display().to_string());
    let set = [init.as_str(), "model.preset=small", "model.activation=quick_gelu", other.as_str()];
    let error = run(spec(folder.path(), &set)).await.err().unwrap().to_string();
    assert!(error.contains("alone.safetensors") && error.contains("set model.preset = \"tiny\""), "{error}");
}
