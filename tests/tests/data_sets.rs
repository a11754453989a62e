//! Data sets in the layouts that their authors publish: every image with its captions, every split as it is given.

use std::collections::BTreeMap;
use std::path::Path;

use manifests::{Artifact, BuildSpec};
use pipeline::run_options::RunOptions;
use pipeline_tests::{column, run_with};
use pixels::Rgb;
use serde_json::{Value, json};

/// Writes a small picture that differs from all others; readers go by the bytes and not by the name.
fn picture(path: &Path, number: usize) {
    let data = (0..24 * 24 * 3).map(|p| ((p * (number + 2)) % 251) as u8).collect();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, pixels::encode_jpeg(&Rgb { width: 24, height: 24, data }, 90)).unwrap();
}

/// Twenty images, of which four are for tests and perhaps two for validation.
fn split_of(number: usize, with_validation: bool) -> &'static str {
    match number {
        0..4 => "test",
        4 | 5 if with_validation => "val",
        _ => "train",
    }
}

const IMAGES: usize = 20;

fn karpathy(ending: &str, with_validation: bool) -> Value {
    let image = |i| {
        let sentences: Vec<Value> =
            (0..5).map(|s| json!({"raw": format!("caption {s} of {i}"), "tokens": []})).collect();
        json!({"filename": format!("i{i}.{ending}"), "imgid": i, "split": split_of(i, with_validation),
               "sentences": sentences, "sentids": []})
    };
    json!({"images": (0..IMAGES).map(image).collect::<Vec<_>>(), "dataset": "x"})
}

fn nwpu() -> Value {
    let image = |i: usize| {
        json!({"filename": format!("i{i}.jpg"), "split": split_of(i, true), "imgid": i, "raw": format!("a {i}"),
               "raw_1": format!("b {i}"), "raw_2": "c", "raw_3": "d", "raw_4": "e"})
    };
    let class = |rest: usize| (0..IMAGES).filter(|i| i % 2 == rest).map(image).collect::<Vec<_>>();
    json!({"airplane": class(0), "bridge": class(1)})
}

async fn splits(spec: BuildSpec) -> BTreeMap<String, String> {
    let options = RunOptions { until: Some("splits".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, options).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    column(&build, Artifact::Splits, "split").await
}

fn count(splits: &BTreeMap<String, String>) -> [usize; 3] {
    ["train", "val", "test"].map(|name| splits.values().filter(|split| *split == name).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_specs_read_the_customary_data_sets() {
    for (name, folder, table, document) in [
        ("rsitmd", "images", "dataset_RSITMD.json", karpathy("tif", false)),
        ("rsicd", "RSICD_images", "dataset_rsicd.json", karpathy("jpg", true)),
        ("ucm", "imgs", "dataset.json", karpathy("tif", true)),
        ("sydney", "imgs", "dataset.json", karpathy("tif", true)),
        ("nwpu", "NWPU_images", "dataset_nwpu.json", nwpu()),
    ] {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(table), document.to_string()).unwrap();
        for i in 0..IMAGES {
            let file = match name {
                "nwpu" => format!("{}/i{i}.jpg", ["airplane", "bridge"][i % 2]),
                "rsicd" => format!("i{i}.jpg"),
                _ => format!("i{i}.tif"),
            };
            picture(&place.path().join(folder).join(file), i);
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../manifests/datasets/{name}.toml"));
        let set = |field: &str, path: &Path| format!("{field}={:?}", path.display().to_string());
        let set = [set("source.url", place.path()), set("work.url", &place.path().join("work"))];
        let found = splits(BuildSpec::read(&shipped, &set).unwrap()).await;
        match name {
            // a tenth of train, by hash: the same images every time
            "rsitmd" => {
                let [train, val, test] = count(&found);
                assert_eq!((train + val, test), (16, 4), "{name}");
                assert!(val > 0, "{name}: {found:?}");
            }
            _ => assert_eq!(count(&found), [14, 2, 4], "{name}"),
        }
        let id = if name == "nwpu" { "airplane/i0" } else { "i0" };
        assert_eq!(found[id], "test", "{name}");
    }
}

fn plain(place: &Path, image_folder: &str) -> BuildSpec {
    let text = format!(
        "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"{}\"\nimage_folder = \"{image_folder}\"\n[work]\n\
         url = \"{}\"\nshards = 2\n[caption]\ncaptioner = \"given\"\n[segment]\nsegmenter = \"none\"\n",
        place.display(),
        place.join("work").display()
    );
    BuildSpec::parse(&text, "test", &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn image_folders_and_coco_are_found_by_themselves() {
    let place = tempfile::tempdir().unwrap();
    let mut metadata: BTreeMap<&str, String> = BTreeMap::new();
    for i in 0..IMAGES {
        let folder = match split_of(i, true) {
            "val" => "validation",
            other => other,
        };
        picture(&place.path().join(folder).join(format!("i{i}.jpg")), i);
        let line = match folder {
            "train" => format!("i{i}.jpg,\"a, {i}\"\n"),
            _ => json!({"file_name": format!("i{i}.jpg"), "caption": [format!("a {i}"), "b"]}).to_string() + "\n",
        };
        *metadata.entry(folder).or_default() += &line;
    }
    for (folder, text) in metadata {
        let (name, text) = match folder {
            "train" => ("metadata.csv", format!("file_name,text\n{text}")),
            _ => ("metadata.jsonl", text),
        };
        std::fs::write(place.path().join(folder).join(name), text).unwrap();
    }
    let found = splits(plain(place.path(), "")).await;
    assert_eq!((count(&found), found["test/i0"].as_str()), ([14, 2, 4], "test"));

    let place = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        let of_part = (0..IMAGES).filter(|i| split_of(*i, false) == part);
        let images: Vec<Value> = of_part.clone().map(|i| json!({"id": i, "file_name": format!("i{i}.jpg")})).collect();
        let annotations: Vec<Value> = of_part
            .flat_map(|i| [json!({"image_id": i, "caption": format!("a {i}")}), json!({"image_id": i, "caption": "b"})])
            .collect();
        let document = json!({"info": {}, "images": images, "annotations": annotations});
        std::fs::write(place.path().join(format!("captions_{part}2017.json")), document.to_string()).unwrap();
    }
    (0..IMAGES).for_each(|i| picture(&place.path().join(format!("images/i{i}.jpg")), i));
    let [train, val, test] = count(&splits(plain(place.path(), "images")).await);
    assert_eq!((train + val, test), (16, 4));
}
