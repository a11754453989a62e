//! Exports of a build, as other programs open them.

use std::collections::BTreeMap;
use std::path::Path;

use manifests::BuildSpec;
use pipeline::export::{self, DataExport};
use pipeline_tests::{World, open, python_with, run};
use workers::export::Format;

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
    DataExport { format, splits: splits.iter().map(|s| s.to_string()).collect(), file_bytes: 1 }
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
    let output = std::process::Command::new(python).arg(script).arg(world.path("out")).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
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
