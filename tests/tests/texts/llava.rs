//! LLaVA as a build's captioner: a small network with random weights, from a hub and from a folder.

use std::collections::BTreeMap;
use std::process::Command;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline_tests::hub::Hub;
use pipeline_tests::{World, column, networks, open, run_with, urbancross, version};
use stages::table::Columns;
use workers::parts::PartReader;

const FEW_WORDS: [&str; 3] = ["caption.captioner=llava", "caption.llava.max_new_tokens=8", "score.clip=none"];

async fn until(spec: BuildSpec, step: &str) -> Build {
    let until = RunOptions { until: Some(step.into()), ..RunOptions::default() };
    let (build, quarantined) = run_with(spec, until).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
    build
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_come_from_the_hubs_llava_and_from_a_folder_alike() {
    let world = World::new(6);
    let hub = Hub::start(&world.path("hub"));
    std::fs::write(world.path("spec.toml"), world.spec_text("work")).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(urbancross());
        command.args(arguments).env("HF_ENDPOINT", &hub.address).env("URBANCROSS_CACHE", world.path("cache"));
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE").env("HF_HOME", world.path("home"));
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(output.status.success(), "{said}");
        said
    };
    let path = world.path("spec.toml");
    let set: Vec<&str> = FEW_WORDS.iter().flat_map(|set| ["--set", set]).collect();
    let arguments = |first: &str, more: &[&str]| -> Vec<String> {
        [&[first, path.to_str().unwrap()][..], &set, more].concat().iter().map(|word| (*word).to_owned()).collect()
    };
    let run = |first: &str, more: &[&str]| {
        let arguments = arguments(first, more);
        command(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run("run", &["--until", "captions"]);
    let build = open(world.spec("work", &FEW_WORDS)).await.unwrap();
    let captions = column(&build, Artifact::Captions, "captions_digest").await;
    assert_eq!(captions.len(), 6);
    let writers = column(&build, Artifact::Captions, "captioner").await;
    assert!(writers.values().all(|writer| writer == "llava"), "{writers:?}");
    let requests = hub.requests();
    assert!(requests > 0);

    // what lies in a folder writes the same, in any batch and within any memory
    let named = format!("caption.llava.weights={}", networks::llava(&world.path("llava")).display());
    let folder = |work: &str, more: &[&str]| world.spec(work, &[&FEW_WORDS[..], &[named.as_str()], more].concat());
    let bounds = ["caption.llava.images_per_batch=1", "caption.llava.cache_mib=1", "model.device=cpu,cpu"];
    let other = until(folder("other", &bounds), "captions").await;
    assert_eq!(column(&other, Artifact::Captions, "captions_digest").await, captions);
    let first = version(&other, Artifact::Captions).await;
    assert_eq!(version(&until(folder("other", &[]), "captions").await, Artifact::Captions).await, first);
    // another prompt is another recipe
    let asked = until(folder("other", &["caption.llava.prompt=What is {tags}?"]), "captions").await;
    assert_eq!(version(&asked, Artifact::Captions).await, first + 1);
    let page = pipeline::page::make(std::slice::from_ref(&asked), &[], "now").await.unwrap();
    assert!(page.contains("LLaVA prompted by the geo-tags, 1 beam"), "the report names the method");

    // a folder that is no LLaVA is known before anything is read
    std::fs::write(world.path("llava/config.json"), "{\"model_type\": \"llava_next\"}").unwrap();
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let error = run_with(folder("third", &[]), until).await.err().unwrap();
    assert!(error.to_string().contains("llava_next") && error.exit_code() == 65, "{error}");
}

/// Variants of each image, answers that were asked for, and what is wrong.
async fn structured(build: &Build) -> BTreeMap<String, (usize, i32, String)> {
    let flagged = column(build, Artifact::StructuredCaptions, "flagged").await;
    let mut rows = BTreeMap::new();
    for part in build.pin(Artifact::StructuredCaptions).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::StructuredCaptions, &part).await.unwrap();
        let batch = reader.read(&["image_id", "variants", "attempts"]).await.unwrap();
        let columns = Columns::new(Artifact::StructuredCaptions, &batch);
        for row in 0..batch.num_rows() {
            let id = columns.text("image_id").unwrap().value(row).to_owned();
            let variants = columns.structs("variants", row).unwrap().num_rows();
            let attempts = columns.int32("attempts").unwrap().value(row);
            rows.insert(id.clone(), (variants, attempts, flagged[&id].clone()));
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn five_structured_captions_come_in_one_answer_and_queries_know_no_tags() {
    let world = World::new(6);
    let folder = networks::llava(&world.path("llava"));
    let variant = |i: u32, number: u32| {
        serde_json::json!({
            "one_sentence": format!("Lake {i} of {number}."), "feature": format!("pier {number}"), "caption": "Water.",
        })
    };
    // every other word is an answer, with five variants or with two
    networks::llava_tokenizer(&folder, |i| match i % 4 {
        0 => serde_json::json!({ "variants": (0..5).map(|n| variant(i, n)).collect::<Vec<_>>() }).to_string(),
        2 => serde_json::json!({ "variants": [variant(i, 0), variant(i, 1)] }).to_string(),
        _ => format!("word{i}"),
    });
    let weights = format!("caption.llava.weights={}", folder.display());
    let spec = |more: &[&str]| {
        let base = [
            "caption.structured=true",
            "caption.structured_captioner=llava",
            weights.as_str(),
            "caption.llava.max_new_tokens=1",
            "caption.llava.structured.max_new_tokens=1",
            "caption.llava.structured.temperature=8.0",
            "caption.llava.structured.top_p=1.0",
            "score.clip=none",
        ];
        world.spec("work", &[&base[..], more].concat())
    };
    let build = until(spec(&["caption.llava.structured.attempts=60"]), "structured_captions").await;
    let rows = structured(&build).await;
    assert_eq!(rows.len(), 6);
    assert!(rows.values().all(|(variants, _, flagged)| *variants == 5 && flagged.is_empty()), "{rows:?}");
    assert!(rows.values().any(|(_, attempts, _)| *attempts < 5), "one answer may hold all five: {rows:?}");
    // captions are still of the tags
    let writers = column(&build, Artifact::Captions, "captioner").await;
    assert!(writers.values().all(|writer| writer == "geotags"), "{writers:?}");

    // what never says five is kept, and says why
    networks::llava_tokenizer(&folder, |i| format!("word{i}"));
    let rows = structured(&until(spec(&["caption.llava.structured.attempts=2"]), "structured_captions").await).await;
    let bad = |(variants, attempts, flagged): &(usize, i32, String)| {
        *variants == 0 && *attempts == 2 && flagged.contains("has 0 of 5 variants after 2 answers")
    };
    assert!(rows.values().all(bad), "{rows:?}");
}
