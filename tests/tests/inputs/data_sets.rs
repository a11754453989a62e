//! Data sets in the layouts that their authors publish: every image with its captions, every split as it is given.

use std::collections::BTreeMap;
use std::path::Path;

use manifests::{Artifact, BuildSpec};
use pipeline::export::{self, DataExport};
use pipeline::run_options::RunOptions;
use pipeline_tests::{column, run_with};
use pixels::Rgb;
use serde_json::{Value, json};
use stages::table::Columns;
use workers::export::Format;
use workers::parts::PartReader;

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

/// An image with structured captions, in the grouped form.
fn structured(i: usize, variants: usize) -> String {
    let variants: Vec<Value> = (0..variants)
        .map(|v| json!({"one_sentence": format!("sentence {v} of {i}"), "feature": "a roof", "caption": format!("text {v}")}))
        .collect();
    json!({"image": format!("elsewhere/i{i}.jpg"), "variants": variants, "model": "m"}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_captions_of_others_are_read_and_written() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("dataset_x.json"), karpathy("jpg", true).to_string()).unwrap();
    (0..IMAGES).for_each(|i| picture(&place.path().join(format!("images/i{i}.jpg")), i));
    // seven variants of most, three of one image, and nothing of another
    let lines: Vec<String> = (1..IMAGES).map(|i| structured(i, if i == 5 { 3 } else { 7 })).collect();
    let file = place.path().join("rsrt.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let spec = |file: &Path| {
        let mut spec = plain(place.path(), "images");
        spec.caption.structured = true;
        spec.caption.structured_file = file.display().to_string();
        spec
    };
    let options = || RunOptions { until: Some("structured_captions".into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec(&file), options()).await.unwrap();
    assert_eq!(quarantined.iter().map(|q| q.rows).sum::<u64>(), 1, "{quarantined:?}");
    let read = |name: &'static str| column(&build, Artifact::StructuredCaptions, name);
    let (writer, flagged, error) = (read("captioner").await, read("flagged").await, read("error").await);
    assert_eq!((writer["i1"].as_str(), flagged["i1"].as_str()), ("given", ""));
    assert!(
        flagged["i5"].contains("3 of 5") && error["i0"].contains("caption.structured_file"),
        "{flagged:?} {error:?}"
    );

    // what is written is read again, and says the same
    let out = place.path().join("out");
    let wanted = DataExport { format: Format::Rsrt, splits: Vec::new(), file_bytes: 1, unfinished: false };
    let written = export::data(&build, &wanted, &out).await.unwrap();
    let images: Vec<(&str, u64)> = written.images.iter().map(|(split, images)| (split.as_str(), *images)).collect();
    assert_eq!(images, [("test", 3), ("train", 14), ("val", 2)]);
    assert_eq!(written.captions, 18 * 5 + 3);
    let test = std::fs::read_to_string(out.join("test.jsonl")).unwrap();
    let first: Value = serde_json::from_str(test.lines().next().unwrap()).unwrap();
    assert_eq!((first["image"].as_str(), first["model"].as_str()), (Some("i1.jpg"), Some("given")));
    assert!(test.lines().all(|line| !line.contains("i6.jpg")), "no image of train is among those of test");
    let all: Vec<String> = ["train", "validation", "test"]
        .iter()
        .map(|split| std::fs::read_to_string(out.join(format!("{split}.jsonl"))).unwrap())
        .collect();
    let again = place.path().join("again.jsonl");
    std::fs::write(&again, all.concat()).unwrap();
    let before = read("variants_digest").await;
    let (build, _) = run_with(spec(&again), options()).await.unwrap();
    assert_eq!(column(&build, Artifact::StructuredCaptions, "variants_digest").await, before);

    // a file that says something else ends the run before anything is made of it
    std::fs::write(&again, "{\"image\": \"i1.jpg\"}").unwrap();
    let why = run_with(spec(&again), options()).await.err().unwrap().to_string();
    assert!(why.contains("again.jsonl") && why.contains("line 1"), "{why}");
}

/// A GeoTIFF of a grey picture: a baseline TIFF with keys for a zone of UTM, or for another system.
fn geotiff(system: u16, easting: f64, shade: u8) -> Vec<u8> {
    const SIDE: u16 = 24;
    let pixels: Vec<u8> = (0..SIDE * SIDE).map(|i| shade.wrapping_add((i % 7) as u8)).collect();
    let doubles = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let shorts = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (scale, tie) = (doubles(&[10.0, 10.0, 0.0]), doubles(&[0.0, 0.0, 0.0, easting, 6_672_500.0, 0.0]));
    let keys = shorts(&[1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, system]);
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    let start = 8 + 2 + 12 * 12 + 4;
    let mut data = Vec::new();
    let mut tags: Vec<(u16, u16, u32, u32)> =
        vec![(256, 3, 1, SIDE.into()), (257, 3, 1, SIDE.into()), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)];
    let mut put = |tag: u16, kind: u16, size: usize, values: &[u8], tags: &mut Vec<(u16, u16, u32, u32)>| {
        tags.push((tag, kind, (values.len() / size) as u32, (start + data.len()) as u32));
        data.extend_from_slice(values);
    };
    let place = tags.len();
    put(273, 1, pixels.len(), &pixels, &mut tags);
    tags[place] = (273, 4, 1, tags[place].3);
    tags.push((277, 3, 1, 1));
    tags.push((278, 3, 1, SIDE.into()));
    tags.push((279, 4, 1, pixels.len() as u32));
    put(33_550, 12, 8, &scale, &mut tags);
    put(33_922, 12, 8, &tie, &mut tags);
    put(34_735, 3, 2, &keys, &mut tags);
    assert_eq!(tags.len(), 12);
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in tags {
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn boxes_of_geotiffs_are_read_and_given_splits_stay() {
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let mut lines = String::new();
    for i in 0..IMAGES {
        // the last is of a system that is not known
        let easting = 385_000.0 + 1000.0 * i as f64;
        let system = if i + 1 == IMAGES { 3067 } else { 32_635 };
        std::fs::write(images.join(format!("i{i}.tif")), geotiff(system, easting, 10 * i as u8)).unwrap();
        let split = if i % 2 == 0 { "test" } else { "train" };
        lines += &json!({"file": format!("i{i}.tif"), "split": split, "captions": [format!("a {i}")]}).to_string();
        lines.push('\n');
    }
    std::fs::write(place.path().join("captions.jsonl"), lines).unwrap();
    let mut spec = plain(place.path(), "images");
    let options = || RunOptions { until: Some("splits".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec.clone(), options()).await.unwrap();
    assert_eq!(column(&build, Artifact::Splits, "split").await.values().filter(|split| *split == "test").count(), 10);
    spec.source.georeferenced = true;
    let (build, quarantined) = run_with(spec, options()).await.unwrap();
    let errors = column(&build, Artifact::Geotags, "error").await;
    assert!(errors["i19"].contains("EPSG:3067") && errors["i18"].is_empty(), "{errors:?}");
    assert_eq!(quarantined.iter().filter(|q| q.stage == "geotags").map(|q| q.rows).sum::<u64>(), 1, "{quarantined:?}");
    let splits = column(&build, Artifact::Splits, "split").await;
    assert_eq!(splits.values().filter(|split| *split == "test").count(), 10, "customary splits stay as they are");
    let mut boxes = 0;
    for part in build.pin(Artifact::Geotags).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::Geotags, &part).await.unwrap();
        let batch = reader.read(&["image_id", "west", "north"]).await.unwrap();
        let columns = Columns::new(Artifact::Geotags, &batch);
        let (ids, west, north) =
            (columns.text("image_id").unwrap(), columns.float64("west").unwrap(), columns.float64("north").unwrap());
        for row in (0..batch.num_rows()).filter(|&row| ids.value(row) == "i0") {
            // by PROJ 9
            assert!((west.value(row) - 24.927175).abs() < 1e-4 && (north.value(row) - 60.173).abs() < 1e-3);
            boxes += 1;
        }
    }
    assert_eq!(boxes, 1);
}
