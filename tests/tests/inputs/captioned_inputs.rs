//! Captioned folders as people have them: several caption files, names of other systems, folders of another name.

use std::path::Path;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline_tests::{column, open, run};
use pixels::Rgb;
use stages::table::{Columns, option_text};
use workers::WorkerError;

fn picture(seed: usize) -> Vec<u8> {
    let data = (0..40 * 32 * 3).map(|i| ((i * 7 + seed * 41) % 251) as u8).collect();
    pixels::encode_jpeg(&Rgb { width: 40, height: 32, data }, 90)
}

/// A folder with pictures in `images`, and these other files.
fn folder(images: &[&str], files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in images.iter().enumerate() {
        let path = folder.path().join("images").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, picture(i)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn spec(folder: &Path, set: &[&str]) -> BuildSpec {
    let text = format!(
        r#"
country = "plain"
source = {{ kind = "captioned", url = "{}" }}
work = {{ url = "{}", shards = 2 }}
caption = {{ captioner = "given" }}
segment = {{ segmenter = "none" }}
model = {{ preset = "tiny", image_size_px = 32, context_length = 16, vocabulary = 200 }}
pretrain = {{ epochs = 1, batch = 2 }}
"#,
        folder.display(),
        folder.join("work").display()
    );
    BuildSpec::parse(&text, "test", &set.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

async fn opened(folder: &tempfile::TempDir, set: &[&str]) -> Result<Build, WorkerError> {
    open(spec(folder.path(), set)).await
}

/// The error of a folder that is refused for good.
async fn refusal(folder: &tempfile::TempDir, set: &[&str]) -> String {
    let error = opened(folder, set).await.err().expect("a refusal");
    assert_eq!(error.exit_code(), 65, "{error}");
    error.to_string()
}

/// Splits that the source gives, by image.
async fn given(build: &Build) -> Vec<(String, String)> {
    let mut splits = Vec::new();
    for shard in 0..2 {
        let read = build.virtual_inputs.slices.read(Artifact::Listing, shard, &["image_id", "given_split"]);
        let Some(rows) = read.await.unwrap() else { continue };
        let columns = Columns::new(Artifact::Listing, &rows);
        let (ids, given) = (columns.text("image_id").unwrap(), columns.text("given_split").unwrap());
        let listed = (0..rows.num_rows()).map(|row| (ids.value(row), option_text(given, row).unwrap_or_default()));
        splits.extend(listed.map(|(id, split)| (id.to_owned(), split.to_owned())));
    }
    splits.sort();
    splits
}

const FIVE: &str = "one\ntwo\nthree\nfour\nfive\n";

#[tokio::test(flavor = "multi_thread")]
async fn all_pairs_of_the_line_format_are_read_and_named() {
    let pairs = [
        ("rs_train_caps.txt", FIVE),
        ("rs_train_filename.txt", "a.jpg\n"),
        ("rs_test_caps.txt", FIVE),
        ("rs_test_filename.txt", "b.jpg\n"),
        ("._rs_train_caps.txt", "\0\x05\x16\x07"),
        ("_SUCCESS", ""),
        ("notes.json", ""),
    ];
    let folder = folder(&["a.jpg", "b.jpg", "._a.jpg"], &pairs);
    let build = opened(&folder, &[]).await.unwrap();
    let of = |image: &str, split: &str| (image.to_owned(), split.to_owned());
    assert_eq!(given(&build).await, [of("a", "train"), of("b", "test")]);
    let notes = build.virtual_inputs.listing.notes.join("\n");
    assert!(notes.contains("rs_train_caps.txt") && notes.contains("rs_test_caps.txt"), "{notes}");
    // one of the pair is missing: nothing is passed over
    std::fs::remove_file(folder.path().join("rs_test_filename.txt")).unwrap();
    assert!(refusal(&folder, &[]).await.contains("rs_test_filename.txt"));
}

/// Which images are tested on is nobody's guess.
#[tokio::test(flavor = "multi_thread")]
async fn splits_that_only_some_images_name_are_said() {
    let line = |file: &str, split: &str| format!("{{\"file\": {file:?}, {split}\"captions\": [\"x\"]}}\n");
    let notes = async |lines: [String; 2]| {
        let folder = folder(&["a.jpg", "b.jpg"], &[("captions.jsonl", &lines.concat())]);
        opened(&folder, &[]).await.unwrap().virtual_inputs.listing.notes.join("\n")
    };
    let half = notes([line("a.jpg", "\"split\": \"train\", "), line("b.jpg", "")]).await;
    assert!(half.contains("1 of 2 captioned images without a split"), "{half}");
    assert!(!notes([line("a.jpg", ""), line("b.jpg", "")]).await.contains("without a split"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_two_splits_is_refused_across_files_too() {
    let pairs = [
        ("train_caps.txt", FIVE),
        ("train_filename.txt", "a.jpg\n"),
        ("test_caps.txt", FIVE),
        ("test_filename.txt", "a.jpg\n"),
    ];
    let error = refusal(&folder(&["a.jpg"], &pairs), &[]).await;
    assert!(error.contains("`a.jpg` is in train in train_caps.txt and in test in test_caps.txt"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_caption_files_are_named_and_none_is_taken() {
    let files = [
        ("a.csv", "image_name,description,split\na.jpg,x,test\n"),
        ("b.jsonl", "{\"file\": \"b.jpg\", \"split\": \"train\", \"captions\": [\"y\"]}\n"),
    ];
    let folder = folder(&["a.jpg", "b.jpg"], &files);
    let error = refusal(&folder, &[]).await;
    assert!(error.contains("a.csv, b.jsonl") && error.contains("source.tables"), "{error}");
    let build = opened(&folder, &["source.tables=['a.csv', 'b.jsonl']"]).await.unwrap();
    let of = |image: &str, split: &str| (image.to_owned(), split.to_owned());
    assert_eq!(given(&build).await, [of("a", "test"), of("b", "train")], "a CSV's split counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_and_long_fields_before_the_file_do_no_harm() {
    let karpathy = "\u{feff}{\"images\": [{\"filename\": \"a.jpg\", \"sentences\": [{\"raw\": \"x\"}]}]}";
    assert_eq!(
        opened(&folder(&["a.jpg"], &[("d.json", karpathy)]), &[]).await.unwrap().virtual_inputs.listing.rows(),
        1
    );
    let line = format!("{{\"note\": \"{}\", \"file\": \"a.jpg\", \"captions\": [\"x\"]}}", "n".repeat(900));
    assert_eq!(opened(&folder(&["a.jpg"], &[("d.jsonl", &line)]), &[]).await.unwrap().virtual_inputs.listing.rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giant_caption_file_is_refused_before_it_is_read() {
    let folder = folder(&["a.jpg"], &[("c_caps.txt", ""), ("c_filename.txt", "a.jpg\n")]);
    // sparse: it takes no room
    std::fs::File::options().write(true).open(folder.path().join("c_caps.txt")).unwrap().set_len(2 << 30).unwrap();
    assert!(refusal(&folder, &[]).await.contains("over the limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn accents_are_found_in_either_form() {
    let line = "{\"file\": \"stra\u{df}e_\u{fc}.jpg\", \"captions\": [\"x\"]}\n{\"file\": \"e\u{301}.jpg\", \"captions\": [\"y\"]}\n";
    let folder = folder(&["stra\u{df}e_u\u{308}.jpg", "\u{e9}.jpg"], &[("c.jsonl", line)]);
    let (build, quarantined) = run_until_images(&folder).await;
    assert!(quarantined == 0, "{quarantined}");
    let status = column(&build, Artifact::Images, "status").await;
    assert_eq!(status.keys().collect::<Vec<_>>(), ["stra\u{df}e_\u{fc}", "\u{e9}"]);
    assert!(status.values().all(|status| status == "ok"));
}

async fn run_until_images(folder: &tempfile::TempDir) -> (Build, u64) {
    let options = pipeline::run_options::RunOptions { until: Some("images".into()), ..Default::default() };
    let (build, quarantined) = pipeline_tests::run_with(spec(folder.path(), &[]), options).await.unwrap();
    (build, quarantined.iter().map(|q| q.rows).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_folder_of_another_name_or_prefix_is_explained() {
    let line = "{\"file\": \"images/a.jpg\", \"captions\": [\"x\"]}\n";
    let folder = folder(&["a.jpg"], &[("c.jsonl", line)]);
    let error = refusal(&folder, &[]).await;
    assert!(error.contains("looked for images/a.jpg") && error.contains("it holds a.jpg"), "{error}");
    let build = opened(&folder, &["source.image_folder="]).await.unwrap();
    assert_eq!(build.virtual_inputs.listing.rows(), 1, "the prefix is the folder");
    let error = refusal(&folder, &["source.image_folder=pictures"]).await;
    assert!(error.contains("images/"), "the folders that are there are named: {error}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn links_in_a_circle_and_foreign_names_are_listed_and_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let lines: String = (0..6).map(|i| format!("{{\"file\": \"{i}.jpg\", \"captions\": [\"x {i}\"]}}\n")).collect();
    let folder = folder(&["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"], &[("c.jsonl", &lines)]);
    let images = folder.path().join("images");
    std::os::unix::fs::symlink(&images, images.join("again")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    std::fs::write(images.join(std::ffi::OsStr::from_bytes(b"caf\xe9.jpg")), picture(1)).unwrap();
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.jsonl")), b"{").unwrap();
    let (build, quarantined) = run_until_images(&folder).await;
    assert_eq!(column(&build, Artifact::Images, "status").await.len(), 6);
    let problems = &build.virtual_inputs.listing.problems;
    assert_eq!((quarantined, problems.len()), (0, 2), "listed, and no rows: {problems:?}");
    let listed = build.work.get("quarantine/plain/geotags.jsonl").await.unwrap().unwrap();
    let listed = String::from_utf8(listed.to_vec()).unwrap();
    assert!(listed.contains("images/again") && listed.contains("loop") && listed.contains("UTF-8"), "{listed}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_costs_its_own_rows() {
    use std::os::unix::fs::PermissionsExt;
    let lines: String = ["0", "1", "2", "3", "sub/4"]
        .map(|i| format!("{{\"file\": \"{i}.jpg\", \"captions\": [\"x {i}\"]}}\n"))
        .concat();
    let folder = folder(&["0.jpg", "1.jpg", "2.jpg", "3.jpg", "sub/4.jpg"], &[("c.jsonl", &lines)]);
    let images = folder.path().join("images");
    let lock =
        |path: &str, mode| std::fs::set_permissions(images.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    lock("1.jpg", 0);
    lock("sub", 0);
    if std::fs::read(images.join("1.jpg")).is_ok() {
        pipeline_tests::skipped("this user may read everything");
        lock("sub", 0o700);
        return;
    }
    let (build, quarantined) = run_until_images(&folder).await;
    let status = column(&build, Artifact::Images, "status").await;
    assert_eq!(status.values().filter(|s| *s == "ok").count(), 3);
    assert_eq!(status["1"], "error");
    assert_eq!(quarantined, 2, "an image, and one in a folder, which is no row itself");
    lock("1.jpg", 0o600);
    lock("sub", 0o700);
    let (build, quarantined) = run_until_images(&folder).await;
    assert_eq!(
        (column(&build, Artifact::Images, "status").await.len(), quarantined),
        (5, 0),
        "mended without being asked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_rows_all_failed_names_the_cause() {
    let line = |(i, split): (usize, &&str)| {
        format!("{{\"file\": \"{i}.jpg\", \"split\": \"{split}\", \"captions\": [\"x\"]}}\n")
    };
    let lines: String = ["train", "train", "val", "test"].iter().enumerate().map(line).collect();
    let folder = folder(&["0.jpg", "1.jpg", "2.jpg", "3.jpg"], &[("c.jsonl", &lines)]);
    for i in 0..4 {
        std::fs::write(folder.path().join(format!("images/{i}.jpg")), b"no picture").unwrap();
    }
    let error = run(spec(folder.path(), &[])).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("images: no row is left to go on with: 4 rows failed")
            && text.contains("quarantine/plain/images.jsonl"),
        "{text}"
    );
    assert!(text.contains("neither JPEG, PNG, TIFF, BMP nor WebP") && error.exit_code() == 65, "{text}");
    // again, with nothing left to compute: the same answer
    assert_eq!(run(spec(folder.path(), &[])).await.err().unwrap().to_string(), text);
}
