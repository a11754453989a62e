//! Tar archives of WebDataset as a source: what an export wrote, packed and plain; what others wrote; what breaks.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::export::{self, DataExport};
use pipeline::run::Quarantined;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, run_with};
use stages::table::Columns;
use workers::WorkerError;
use workers::export::Format;
use workers::parts::PartReader;

fn spec(folder: &Path, work: &Path, set: &[&str]) -> BuildSpec {
    let text = format!(
        "country = \"plain\"\n[source]\nkind = \"captioned\"\nurl = \"{}\"\n[work]\nurl = \"{}\"\nshards = 2\n\
         [caption]\ncaptioner = \"given\"\n[segment]\nsegmenter = \"none\"\n",
        folder.display(),
        work.display()
    );
    BuildSpec::parse(&text, "test", &set.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

async fn listed(spec: BuildSpec) -> Result<(Build, Vec<Quarantined>), WorkerError> {
    run_with(spec, RunOptions { until: Some("captions".into()), ..RunOptions::default() }).await
}

/// All captions of each image.
async fn captions(build: &Build) -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for part in build.pin(Artifact::Captions).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::Captions, &part).await.unwrap();
        let batch = reader.read(&["image_id", "captions"]).await.unwrap();
        let columns = Columns::new(Artifact::Captions, &batch);
        let ids = columns.text("image_id").unwrap();
        for (row, texts) in columns.texts("captions").unwrap().into_iter().enumerate() {
            rows.insert(ids.value(row).to_owned(), texts);
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_from_an_export_has_its_images_captions_and_splits() {
    let world = World::new(18);
    let settings = ["score.clip=none", "segment.segmenter=none", "split.ratio=[2, 1, 1]"];
    let until = RunOptions { until: Some("splits".into()), ..RunOptions::default() };
    let (build, _) = run_with(world.spec("work", &settings), until).await.unwrap();
    // with captions and splits of this build
    let (build, _) = match build.pin(Artifact::Captions).await {
        Ok(pinned) if !pinned.parts.is_empty() => (build, Vec::new()),
        _ => listed(world.spec("work", &settings)).await.unwrap(),
    };
    let out = world.path("out");
    let wanted = DataExport { format: Format::WebDataset, splits: Vec::new(), file_bytes: 10_000, unfinished: false };
    let written = export::data(&build, &wanted, &out).await.unwrap();
    let tars: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tar"))
        .collect();
    assert!(tars.len() > 3, "{tars:?}");
    let exported: usize = written.images.values().sum::<u64>() as usize;

    let (copy, quarantined) = listed(spec(&out, &world.path("copy"), &[])).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    let (bytes, texts) = (column(&build, Artifact::Images, "bytes_digest").await, captions(&build).await);
    let found = captions(&copy).await;
    assert_eq!(found.len(), exported);
    assert!(found.iter().all(|(id, captions)| texts[id] == *captions), "{found:?}");
    let pictures = column(&copy, Artifact::Images, "bytes_digest").await;
    assert!(pictures.len() == exported && pictures.iter().all(|(id, digest)| bytes[id] == *digest));
    // nothing is read again, and nothing is made again
    let first = copy.pin(Artifact::Images).await.unwrap().version;
    let (again, _) = listed(spec(&out, &world.path("copy"), &[])).await.unwrap();
    assert_eq!(again.pin(Artifact::Images).await.unwrap().version, first);

    // packed archives give the same rows
    let packed = world.path("packed");
    std::fs::create_dir(&packed).unwrap();
    for name in &tars {
        let file = std::fs::File::create(packed.join(format!("{name}.gz"))).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(&std::fs::read(out.join(name)).unwrap()).unwrap();
        encoder.finish().unwrap();
    }
    let (unpacked, quarantined) = listed(spec(&packed, &world.path("unpacked"), &[])).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    assert_eq!(captions(&unpacked).await, found);
    assert_eq!(column(&unpacked, Artifact::Images, "bytes_digest").await, pictures);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_costs_no_more_than_itself() {
    let world = World::new(2);
    let folder = world.path("tars");
    std::fs::create_dir(&folder).unwrap();
    let picture = |shade: u8| pixels::encode_jpeg(&pixels::Rgb { width: 40, height: 30, data: vec![shade; 3600] }, 90);
    let add = |tar: &mut Vec<u8>, name: &str, data: &[u8]| {
        let mut header = vec![0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend(header);
        tar.extend_from_slice(data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    let mut first = Vec::new();
    for i in 0..4 {
        add(&mut first, &format!("{i}.jpg"), &picture(i * 40));
        if i != 2 {
            add(&mut first, &format!("{i}.txt"), format!("field {i}").as_bytes());
        }
    }
    add(&mut first, "4.jpg", b"no picture");
    add(&mut first, "4.txt", b"a lake");
    first.extend([0; 1024]);
    std::fs::write(folder.join("a.tar"), &first).unwrap();
    let mut second = Vec::new();
    add(&mut second, "1.jpg", &picture(9));
    add(&mut second, "1.txt", b"another field 1");
    add(&mut second, "5.png", &picture(200));
    add(&mut second, "5.json", br#"{"captions": ["field 5", "a field"]}"#);
    second.extend([0; 1024]);
    std::fs::write(folder.join("b.tar"), &second).unwrap();

    let (build, quarantined) = listed(spec(&folder, &world.path("copy"), &[])).await.unwrap();
    let found = captions(&build).await;
    let good: Vec<&str> = found.iter().filter(|(_, texts)| !texts.is_empty()).map(|(id, _)| id.as_str()).collect();
    assert!(["0", "1", "3", "5"].iter().all(|id| good.contains(id)) && !good.contains(&"2"), "{found:?}");
    assert_eq!(found["1"], ["field 1"], "the first archive has the id");
    assert_eq!(found["5"], ["field 5", "a field"]);
    assert!(!quarantined.is_empty());
    let listing = build.work.get("quarantine/plain/geotags.jsonl").await.unwrap().unwrap();
    let listing = String::from_utf8(listing.to_vec()).unwrap();
    for part in ["no 2.txt or 2.json", "its id 1 is taken by an image of a.tar"] {
        assert!(listing.contains(part), "{part}: {listing}");
    }
    let status = column(&build, Artifact::Images, "status").await;
    assert_eq!((status["4"].as_str(), status["5"].as_str()), ("error", "ok"));
    // one of both, by name; a caption file beside them is a question
    let named = ["source.tables=[\"b.tar\"]"];
    let (build, _) = listed(spec(&folder, &world.path("one"), &named)).await.unwrap();
    assert_eq!(captions(&build).await["1"], ["another field 1"]);
    std::fs::write(folder.join("captions.jsonl"), "{\"file\": \"1.jpg\", \"captions\": [\"a\"]}\n").unwrap();
    let error = listed(spec(&folder, &world.path("two"), &[])).await.err().unwrap();
    assert!(error.to_string().contains("captions.jsonl") && error.exit_code() == 65, "{error}");
    std::fs::remove_file(folder.join("captions.jsonl")).unwrap();
    // an archive that is cut off ends the run, with its name and place
    std::fs::write(folder.join("b.tar"), &second[..1000]).unwrap();
    let error = listed(spec(&folder, &world.path("two"), &[])).await.err().unwrap();
    assert!(error.to_string().contains("b.tar") && error.to_string().contains("cut off"), "{error}");
}
