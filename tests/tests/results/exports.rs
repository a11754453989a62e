//! Exports of a build, as other programs open them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::export::{self, DataExport};
use pipeline::run_options::RunOptions;
use pipeline::trainings::current_record;
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, open, python_with, run, run_with, urbancross};
use stages::Training;
use workers::export::{Format, Written};
use workers::upkeep::verify;

const FORMATS: [(&str, Format); 4] = [
    ("hf", Format::HuggingFace),
    ("webdataset", Format::WebDataset),
    ("geoparquet", Format::GeoParquet),
    ("npy", Format::Npy),
];

fn spec(world: &World) -> BuildSpec {
    world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4", "split.ratio=[2, 1, 1]"])
}

/// All rows, in files that are closed after each group of images.
fn wanted(format: Format, splits: &[&str]) -> DataExport {
    DataExport { format, splits: splits.iter().map(|s| s.to_string()).collect(), file_bytes: 1, unfinished: false }
}

/// Every file below a folder, by its path.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.extend(contents(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            all.insert(name, std::fs::read(path).unwrap());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn others_open_what_is_exported() {
    let world = World::new(24);
    run(spec(&world)).await.unwrap();
    let build = open(spec(&world)).await.unwrap();
    for (name, format) in FORMATS {
        let folder = world.path(&format!("out/{name}"));
        let written = export::data(&build, &wanted(format, &[]), &folder).await.unwrap();
        assert!(written.images.values().sum::<u64>() > 8 && written.images.contains_key("test"), "{written:?}");
        let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
        for words in ["© OpenStreetMap contributors", "ODbL", "arXiv 2312.12856", "license: other"] {
            assert!(card.contains(words), "{name}: {words}: {card}");
        }
        assert!(!card.contains(world.path("").to_str().unwrap()), "a path of this machine: {card}");

        // the same build gives the same bytes, and what is there is left alone
        let again = world.path(&format!("again/{name}"));
        export::data(&build, &wanted(format, &[]), &again).await.unwrap();
        assert!(contents(&folder) == contents(&again), "{name}");
        let refused = export::data(&build, &wanted(format, &[]), &again).await.unwrap_err();
        assert!(refused.to_string().contains("is not empty"), "{refused}");
    }
    export::model(&build, &world.path("out/model")).await.unwrap();
    let card = std::fs::read_to_string(world.path("out/model/README.md")).unwrap();
    for words in ["chance", "| images find captions |", "urbancross_clip.load", "| training | version "] {
        assert!(card.contains(words), "{words}: {card}");
    }
    assert!(world.path("out/model/rows.parquet").is_file(), "a build that starts from it looks for leaks");
    assert!(!card.contains("open_clip.get_tokenizer"), "nobody else has such a network: {card}");

    assert_eq!(export::curves(&build, &world.path("out/curves")).await.unwrap(), ["pretrain"]);

    let libraries = ["tensorboard", "datasets", "PIL", "webdataset", "geopandas", "duckdb", "numpy", "mlcroissant"];
    let Some(python) = python_with(&libraries) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/read_exports.py");
    let output = Command::new(python).arg(script).arg(world.path("out")).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_read_before_they_are_written() {
    let world = World::new(48);
    let set = ["work.shards=8", "score.clip=none", "pretrain.epochs=1", "pretrain.batch=4", "split.ratio=[2, 1, 1]"];
    let (mut build, _) = run(world.spec("work", &set)).await.unwrap();
    for (name, format) in FORMATS {
        export::data(&build, &wanted(format, &[]), &world.path(&format!("near/{name}"))).await.unwrap();
    }
    let reads = Reads::count_from_afar(&mut build, Duration::from_millis(20));
    for (name, format) in FORMATS {
        let [near, afar] = ["near", "afar"].map(|place| world.path(&format!("{place}/{name}")));
        export::data(&build, &wanted(format, &[]), &afar).await.unwrap();
        let most = reads.most_at_once();
        assert!(most > 4, "{name}: {most}");
        assert!(contents(&near) == contents(&afar), "{name} does not depend on who answers first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_alone_is_exported_and_a_failed_export_leaves_nothing() {
    let world = World::new(24);
    let unbuilt = spec(&world);
    workers::stores::WorkStore::open(&unbuilt.work.url, &unbuilt.work.options).unwrap().make().unwrap();
    let build = open(unbuilt).await.unwrap();
    for (name, format) in FORMATS {
        let refused = export::data(&build, &wanted(format, &[]), &world.path(name)).await.unwrap_err();
        assert!(refused.to_string().contains("run its build first"), "{refused}");
    }
    assert!(export::model(&build, &world.path("model")).await.unwrap_err().to_string().contains("no trained model"));

    run(spec(&world)).await.unwrap();
    let build = open(spec(&world)).await.unwrap();
    let all = export::data(&build, &wanted(Format::HuggingFace, &[]), &world.path("all")).await.unwrap();
    let test = export::data(&build, &wanted(Format::HuggingFace, &["test"]), &world.path("test")).await.unwrap();
    assert_eq!(test.images, BTreeMap::from([("test".to_owned(), all.images["test"])]));
    assert!(test.files.iter().all(|file| file.path.starts_with("data/test-")), "{:?}", test.files);
    let none = export::data(&build, &wanted(Format::Npy, &["no"]), &world.path("none")).await.unwrap_err();
    assert!(none.to_string().contains("nothing to export"), "{none}");
    build.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let stopped = export::data(&build, &wanted(Format::WebDataset, &[]), &world.path("stopped")).await.unwrap_err();
    assert_eq!(stopped.exit_code(), 143);
    for name in ["hf", "npy", "model", "none", "stopped", ".none.partial", ".stopped.partial"] {
        assert!(!world.path(name).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repair_took_out_is_not_left_out_in_silence() {
    let world = World::new(24);
    let images = |written: &Written| written.images.values().sum::<u64>();
    let (build, _) = run(spec(&world)).await.unwrap();
    let whole = export::data(&build, &wanted(Format::HuggingFace, &[]), &world.path("whole")).await.unwrap();
    for artifact in [Artifact::Geotags, Artifact::Splits, Artifact::Captions] {
        let name = artifact.name();
        let build = open(spec(&world)).await.unwrap();
        let part = build.pin(artifact).await.unwrap().parts.remove(0);
        std::fs::write(world.path(&format!("work/tables/{name}/{}", part.path)), b"PAR1").unwrap();
        let faults = verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap();
        verify::repair(&build.work, &build.tables, "finland", &faults).await.unwrap();

        let build = open(spec(&world)).await.unwrap();
        let lacks = format!("finland lacks the rows of 1 shard of {name} ({}): run its build to its end", part.shard);
        for (layout, format) in FORMATS {
            let out = world.path(&format!("{layout}-without-{name}"));
            let made = export::data(&build, &wanted(format, &[]), &out).await;
            if !format.tables().contains(&artifact) {
                made.unwrap();
                continue;
            }
            let refused = made.unwrap_err();
            assert!(refused.exit_code() == 65 && refused.to_string().contains(&lacks), "{layout}: {refused}");
        }
        let unfinished = DataExport { unfinished: true, ..wanted(Format::HuggingFace, &[]) };
        let rest = world.path(&format!("rest-of-{name}"));
        let written = export::data(&build, &unfinished, &rest).await.unwrap();
        assert!(images(&written) > 0 && images(&written) < images(&whole), "{written:?}");
        let card = std::fs::read_to_string(rest.join("README.md")).unwrap();
        assert!(card.contains(&format!("1 shard of {name} ({})", part.shard)), "{card}");

        let (build, _) = run(spec(&world)).await.unwrap();
        let again = world.path(&format!("again-with-{name}"));
        let again = export::data(&build, &wanted(Format::HuggingFace, &[]), &again).await.unwrap();
        assert_eq!((again.images, again.captions), (whole.images.clone(), whole.captions), "{name}");
    }
}

/// Between a training and the end of its build, vectors and figures are those of the model before.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_before_made_is_told_to_be_its() {
    let world = World::new(24);
    let file = world.path("spec.toml");
    std::fs::write(&file, spec(&world).to_toml()).unwrap();
    let model = async |build: &Build| {
        let record = current_record(build, Training::Pretrain).await.unwrap();
        record.expect("trained").trained.model_digest
    };
    let (build, _) = run(spec(&world)).await.unwrap();
    let before = model(&build).await;
    let anew = RunOptions { retrain: true, until: Some("pretrain".to_owned()), ..RunOptions::default() };
    let (build, _) = run_with(spec(&world), anew).await.unwrap();
    let now = model(&build).await;
    assert_ne!(before, now);

    let said = |arguments: &[&str]| {
        let mut command = Command::new(urbancross());
        command.arg(arguments[0]).arg(&file).args(&arguments[1..]).current_dir(world.folder.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    for (what, arguments) in [
        ("vectors", &["export", "--format", "npy", "-o", "vectors"][..]),
        ("own figures", &["evaluate"][..]),
        ("own figures", &["report", "-o", "report.html"][..]),
    ] {
        let warning =
            format!("warning: {what} of finland are by the model {before:.12}, and its model is {now:.12} by now");
        let said = said(arguments);
        assert_eq!(said.matches(&warning).count(), 1, "{said}");
    }
    let [card, page] = ["vectors/README.md", "report.html"].map(|f| std::fs::read_to_string(world.path(f)).unwrap());
    assert!(card.contains(&format!("(digest `{before}`)")), "{card}");
    assert!(page.contains("Own figures of finland are by the model"));

    run(spec(&world)).await.unwrap();
    let said = said(&["evaluate"]);
    assert!(!said.contains("by the model"), "{said}");
}
