//! What the data of builds are like: counts that add up, for programs and on a page.

use std::process::Command;

use manifests::Artifact;
use pipeline_tests::hub::Hub;
use pipeline_tests::{World, column, networks, open, rows, urbancross};
use serde_json::Value;

fn call(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(urbancross()).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_those_of_the_tables_and_texts_find_tags() {
    let world = World::new(60);
    let path = world.path("spec.toml");
    let spec = world.spec("work", &["score.clip=none", "model.context_length=77"]);
    std::fs::write(&path, spec.to_toml()).unwrap();
    let path = path.to_str().unwrap();
    let (code, _, told) = call(&["analyse", path]);
    assert!(code == Some(65) && told.contains("there is no work store"), "{told}");

    assert_eq!(call(&["run", path]).0, Some(0));
    let build = open(spec).await.unwrap();
    let page = world.path("analysis.html");
    let (code, json, told) = call(&["analyse", path, "--json", "--related", "water", "--html", page.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{told}");
    let all: Value = serde_json::from_str(&json).unwrap();
    let (one, tags) = (&all[0], &all[0]["tags"]);
    let center = column(&build, Artifact::Geotags, "center_tags").await;
    assert_eq!(tags["images"].as_u64().unwrap() as usize, center.len());
    for groups in ["by_source", "by_year", "by_resolution"] {
        let sum = |what: &str| {
            tags[groups].as_array().unwrap().iter().map(|group| group[what].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((sum("images"), sum("tags")), (tags["images"].as_u64().unwrap(), tags["tags"].as_u64().unwrap()));
    }
    let by_tags: u64 = tags["images_by_tags"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(by_tags, tags["images"].as_u64().unwrap());
    let placed = one["plane"]["tags"].as_array().unwrap();
    assert!(placed.len() > 10 && placed.iter().any(|tag| tag["cluster"] == 1), "{}", one["plane"]);
    // with and without a model the same tags are named; a text brings them in the order of their cosines
    let related = one["related"][0]["tags"].as_array().unwrap();
    let cosines: Vec<f64> = related.iter().map(|tag| tag[1].as_f64().unwrap()).collect();
    assert!(cosines.len() > 5 && cosines.is_sorted_by(|a, b| a >= b), "{cosines:?}");
    assert!(cosines.iter().all(|cosine| cosine.abs() <= 1.0 + 1e-6));

    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Tags that are close to") && html.contains("first component"), "{html}");
    let report = std::fs::read_to_string(world.path("work/reports/finland.html")).unwrap();
    assert!(report.contains("Geo-tags") && report.contains("first component"));
    // two epochs teach little: the report shows what fails, with whose caption was found instead
    assert!(report.contains("Where it fails") && report.contains("put a wrong answer first"));
    assert!(report.contains("each below the image that it was written for"));
    let (code, words, _) = call(&["analyse", path]);
    assert!(code == Some(0) && words.contains("go together:") && words.starts_with("finland: "), "{words}");
    // two builds of a country are told by their specs
    let again = world.path("again.toml");
    std::fs::copy(path, &again).unwrap();
    let again = again.to_str().unwrap();
    let (_, words, _) = call(&["analyse", path, again, "--html", page.to_str().unwrap()]);
    let (_, json, _) = call(&["analyse", path, again, "--json"]);
    let all: Value = serde_json::from_str(&json).unwrap();
    assert!(one["spec"].is_null() && all[0]["spec"] == path && all[1]["spec"] == again, "{json}");
    let html = std::fs::read_to_string(&page).unwrap();
    for of in [path, again] {
        assert!(words.contains(&format!("finland ({of}): ")) && html.contains(&format!("Finland ({of})")), "{words}");
    }
}

/// Settings of a captioner that reads its prompt, and of a judge.
fn with_networks(world: &World) -> Vec<String> {
    let (blip, clip) = (world.path("blip"), world.path("clip"));
    Hub::write("Salesforce/instructblip-vicuna-7b", &blip);
    networks::clip(&clip, 3);
    let set = [
        format!("caption.instructblip.weights={}", blip.display()),
        "caption.instructblip.max_new_tokens=16".into(),
        format!("caption.score.clip={}", clip.display()),
        "score.min_similarity=0.0".into(),
    ];
    set.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect()
}

fn analysed(args: &[&str], set: &[String]) -> Value {
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let (code, json, told) = call(&[&["analyse", "--json"], args, &set].concat());
    assert_eq!(code, Some(0), "{told}");
    serde_json::from_str(&json).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_captioners_are_compared_on_the_same_images_and_no_table_changes() {
    let world = World::new(30);
    let path = world.path("spec.toml");
    let spec = world.spec("work", &["score.clip=none", "segment.segmenter=felzenszwalb"]);
    std::fs::write(&path, spec.to_toml()).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(call(&["run", path, "--until", "segments"]).0, Some(0));
    let before = rows(&open(spec.clone()).await.unwrap()).await;
    let mut set = with_networks(&world);

    let (code, _, told) = call(&["analyse", path, "--prompts"]);
    assert!(code == Some(65) && told.contains("geotags has none"), "{told}");
    let page = world.path("page.html");
    let html = ["--html", page.to_str().unwrap()];
    let both = analysed(
        &[
            &[path, "--captioner", "geotags", "--captioner", "instructblip", "--segmenter", "felzenszwalb"],
            &html[..],
            &["--segmenter", "none", "--sample", "6", "--price-per-hour", "3.6"],
        ]
        .concat(),
        &set,
    );
    let compared = &both[0]["compared"];
    assert_eq!((compared["images"].as_u64(), compared["rows"].as_array().unwrap().len()), (Some(6), 6));
    let lines = compared["captioners"].as_array().unwrap();
    let of = |captioner: &str, segmenter: &str| {
        lines.iter().find(|line| line["captioner"] == captioner && line["segmenter"] == segmenter).unwrap()
    };
    assert_eq!(lines.len(), 4);
    for captioner in ["geotags", "instructblip"] {
        let (cut, uncut) = (of(captioner, "felzenszwalb"), of(captioner, "none"));
        assert_eq!((cut["images"].as_u64(), cut["failed"].as_u64()), (Some(6), Some(0)), "{cut}");
        let (seconds, price) =
            (cut["seconds_a_caption"].as_f64().unwrap(), cut["price_of_a_thousand"].as_f64().unwrap());
        assert!((price - seconds).abs() < 1e-9, "3.6 an hour is a second's price of a thousand: {seconds} {price}");
        assert!(cut["figures"]["perception_score"].is_number() && uncut["figures"]["perception_score"].is_null());
        assert_eq!(cut["figures"]["clip_score"], uncut["figures"]["clip_score"], "segments do not change CLIPScore");
    }
    let figures = &of("geotags", "none")["figures"];
    assert_eq!(figures["hallucination"].as_f64(), Some(0.0), "captions of tags name nothing else: {figures}");
    assert!(figures["coverage"].as_f64().unwrap() > 0.7, "{figures}");
    let of_segments = |name: &str| {
        let lines = compared["segmenters"].as_array().unwrap();
        lines.iter().find(|line| line["segmenter"] == name).unwrap()["segments_an_image"].as_f64().unwrap()
    };
    assert!(of_segments("felzenszwalb") > 1.0 && of_segments("none") == 0.0);
    let html_text = std::fs::read_to_string(&page).unwrap();
    assert!(html_text.contains("Finland: side by side") && html_text.contains("data:image/jpeg"));

    // pictures are those of the build that was captioned, though one before it is left out
    let early = world.path("early.toml");
    std::fs::write(&early, world.spec("early", &["score.clip=none"]).to_toml()).unwrap();
    let early = early.to_str().unwrap();
    assert_eq!(call(&["run", early, "--until", "geotags"]).0, Some(0));
    let with_set: Vec<&str> = set.iter().map(String::as_str).collect();
    let args = ["analyse", early, path, "--captioner", "geotags", "--sample", "4"];
    let (code, _, told) = call(&[&args[..], &html[..], &with_set[..]].concat());
    assert!(code == Some(65) && told.contains("early.toml is left out"), "{code:?} {told}");
    let html_text = std::fs::read_to_string(&page).unwrap();
    assert!(html_text.contains("Finland: side by side") && html_text.contains("data:image/jpeg"));

    set.extend(["--set".into(), "caption.captioner=instructblip".into()]);
    let few = analysed(&[path, "--prompts", "--sample", "4"], &set);
    let prompts = &few[0]["prompts"];
    let names: Vec<&str> =
        prompts["captioners"].as_array().unwrap().iter().map(|line| line["captioner"].as_str().unwrap()).collect();
    assert_eq!(names, ["without tags", "with visual features", "with tags"]);
    let differ = |one: usize, other: usize| {
        let rows = prompts["rows"].as_array().unwrap();
        rows.iter().any(|row| row["written"][one]["captions"] != row["written"][other]["captions"])
    };
    assert!(differ(0, 2) && differ(0, 1), "the captioner reads its prompt: {prompts}");
    // a smaller sample lies in a larger one, another seed draws others, and the same is said again
    let ids = |of: &Value| -> Vec<String> {
        of["rows"].as_array().unwrap().iter().map(|row| row["image_id"].as_str().unwrap().to_owned()).collect()
    };
    assert!(ids(prompts).iter().all(|id| ids(compared).contains(id)));
    let other = analysed(&[path, "--prompts", "--sample", "4", "--seed", "1"], &set);
    assert_ne!(ids(&other[0]["prompts"]), ids(prompts));
    let again = analysed(&[path, "--prompts", "--sample", "4"], &set);
    assert_eq!(again[0]["prompts"]["rows"], prompts["rows"]);

    assert_eq!(rows(&open(spec).await.unwrap()).await, before, "nothing was written into the build");
}
