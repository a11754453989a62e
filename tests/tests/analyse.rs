//! What the data of builds are like: counts that add up, for programs and on a page.

use std::process::Command;

use manifests::Artifact;
use pipeline_tests::{World, column, open, urbancross};
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
    let (code, words, _) = call(&["analyse", path]);
    assert!(code == Some(0) && words.contains("go together:"), "{words}");
}
