//! Pictures that are the same byte for byte, in two parts of one build and in two builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use manifests::{Artifact, BuildSpec, paths};
use pipeline::explain::explain;
use pipeline::pair::Pair;
use pipeline_tests::{column, open, run};
use pixels::Rgb;
use workers::publish::Summary;

/// Part and picture of each image; its name follows from its place in the list.
type Images = Vec<(&'static str, usize)>;

/// Forty images, of which the first twenty-four are trained on, each with a picture of its own from `first` on.
fn distinct(first: usize) -> Images {
    (0..40).map(|i| (["train", "train", "train", "val", "test"][i * 5 / 40], first + i)).collect()
}

fn write_folder(folder: &Path, images: &Images) {
    std::fs::create_dir_all(folder.join("images")).unwrap();
    let mut lines = String::new();
    for (i, (split, picture)) in images.iter().enumerate() {
        let data = (0..40 * 32 * 3).map(|byte| ((byte * 7 + picture * 41) % 251) as u8).collect();
        let file = format!("{i:02}.png");
        std::fs::write(folder.join("images").join(&file), pixels::encode_png(&Rgb { width: 40, height: 32, data }))
            .unwrap();
        let captions = [format!("field number {i} ."), format!("a plain of colour {}", i % 9)];
        lines += &serde_json::json!({ "file": file, "split": split, "captions": captions }).to_string();
        lines.push('\n');
    }
    std::fs::write(folder.join("captions.jsonl"), lines).unwrap();
}

/// Writes the spec of a folder of that name; `work` is its work store.
fn spec_file(below: &Path, name: &str, work: &str, shards: u32) -> PathBuf {
    let text = format!(
        "country = {name:?}\nsource = {{ kind = \"captioned\", url = {name:?} }}\nwork = {{ url = {work:?}, shards = \
         {shards} }}\ncaption = {{ captioner = \"given\" }}\nsegment = {{ segmenter = \"none\" }}\nmodel = {{ preset = \
         \"tiny\", image_size_px = 32, context_length = 16, vocabulary = 200 }}\npretrain = {{ epochs = 1, batch = 4 }}\n"
    );
    let path = below.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

fn spec(path: &Path) -> BuildSpec {
    BuildSpec::read(path, &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn training_gives_up_what_is_held_out_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = distinct(0);
    assert_eq!((images[0].0, images[24].0, images[32].0), ("train", "val", "test"));
    images[0].1 = images[32].1; // training and test
    images[1].1 = images[24].1; // training and validation
    images[25].1 = images[33].1; // validation and test
    images[2].1 = images[33].1; // all three
    images[3].1 = images[4].1; // twice in training
    images[34].1 = images[35].1; // twice in test
    write_folder(&folder.path().join("plain"), &images);
    let (build, _) = run(spec(&spec_file(folder.path(), "plain", "work", 2))).await.unwrap();
    let splits = column(&build, Artifact::Splits, "split").await;
    let reasons = column(&build, Artifact::Splits, "split_reason").await;
    let dropped = [
        ("00", "identical_to_test"),
        ("01", "identical_to_val"),
        ("02", "identical_to_test"),
        ("25", "identical_to_test"),
    ];
    for (i, (split, _)) in images.iter().enumerate() {
        let id = format!("{i:02}");
        let expected =
            dropped.iter().find(|(dropped, _)| *dropped == id).map_or((*split, ""), |(_, why)| ("dropped", why));
        assert_eq!((splits[&id].as_str(), reasons[&id].as_str()), expected, "{id}");
    }
    let evaluation = pipeline::evaluate::stored(&build).await.unwrap().unwrap();
    assert_eq!(evaluation.recall.image_gallery, 8, "test keeps all of its images");

    let words =
        ["the picture is a test image too, byte for byte", "the picture is a validation image too, byte for byte"];
    let summary: Summary = build.work.get_sealed(&paths::summary("plain", "splits")).await.unwrap().unwrap();
    let noted = words.map(|words| summary.notes.get(&format!("dropped ({words})")).map(String::as_str));
    assert_eq!(noted, [Some("3"), Some("1")], "{:?}", summary.notes);
    let page = pipeline::page::make(&[open(build.spec.clone()).await.unwrap()], &[], "today").await.unwrap();
    assert!(words.iter().all(|words| page.contains(&format!("dropped: {words}"))));
    let mut again = open(build.spec.clone()).await.unwrap();
    let why = explain(&mut again, "00").await.unwrap().join("\n");
    assert!(why.contains(&format!("dropped: {}", words[0])), "{why}");
    assert!(explain(&mut again, "32").await.unwrap().iter().any(|line| line.trim() == "test"));
    let plan = pipeline::preview::preview(&mut again, false, false).await.unwrap();
    assert!(plan.iter().all(|line| line.rows == 0), "{plan:?}");

    // in other shards, the same
    let (sharded, _) = run(spec(&spec_file(folder.path(), "plain", "sharded", 7))).await.unwrap();
    assert_eq!(column(&sharded, Artifact::Splits, "split").await, splits);

    // a test image that is replaced gives its picture back, and the plan knows before the run does
    images[32].1 = 77;
    write_folder(&folder.path().join("plain"), &images);
    let spec = spec(&spec_file(folder.path(), "plain", "work", 2));
    let mut edited = open(spec.clone()).await.unwrap();
    let plan = pipeline::preview::preview(&mut edited, false, false).await.unwrap();
    let splits = plan.iter().find(|line| line.step == "splits").unwrap();
    assert!(!splits.exact && splits.rows > 0, "{splits:?}");
    let (edited, _) = run(spec).await.unwrap();
    assert_eq!(column(&edited, Artifact::Splits, "split").await["00"], "train");
}

/// The target's test pictures must not be among those that the source learnt from. Both folders call their images alike,
/// which says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_saw_a_picture_of_the_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut target = distinct(100);
    write_folder(&folder.path().join("here"), &distinct(0));
    write_folder(&folder.path().join("there"), &target);
    let there = spec_file(folder.path(), "there", "work", 2);
    run(spec(&spec_file(folder.path(), "here", "work", 2))).await.unwrap();
    run(spec(&there)).await.unwrap();
    let path = folder.path().join("pair.toml");
    std::fs::write(&path, "source = \"here.toml\"\ntarget = \"there.toml\"\n[adapt]\nbatch = 4\n").unwrap();
    let pair = Pair::open(&path, &[], Arc::default()).await.unwrap();
    assert_eq!(pair.parts().map(|(_, rows)| rows), [24, 8, 8]);

    // what the source has trained on, under another name
    target[39].1 = 0;
    write_folder(&folder.path().join("there"), &target);
    run(spec(&there)).await.unwrap();
    let error = Pair::open(&path, &[], Arc::default()).await.err().expect("refused");
    let said = error.to_string();
    assert!(error.exit_code() == 65 && said.contains("1 image that is validation or test now, such as 39"), "{said}");
    assert!(said.contains("byte for byte"), "{said}");
}
