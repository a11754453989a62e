//! What `diff` says of an edit.

use std::time::Duration;

use pipeline_tests::{World, edit_a_finnish_image};
use serde_json::Value;

use super::{call, ends, spec_file};

#[test]
fn an_edit_shows_by_table_with_its_cause_and_its_captions() {
    let world = World::new(40);
    let spec = spec_file(&world);
    let run = || ends(&call(&["run", &spec, "--until", "segments"]), 0);
    run();
    // files say to the second when they were written, on some disks
    std::thread::sleep(Duration::from_millis(1100));
    let edited = edit_a_finnish_image(&world);
    run();
    let diff = |more: &[&str]| ends(&call(&[&["diff", &spec, "--since", "captions@1"], more].concat()), 0);
    let said: Value = serde_json::from_str(&diff(&["--json"])).unwrap();
    let changes = |step: &str| {
        let tables = said["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["step"] == step).unwrap();
        (table["changes"].clone(), table["before"].as_u64())
    };
    let (geotags, before) = changes("geotags");
    assert_eq!((before, geotags["changed"].as_u64()), (Some(1), Some(edited.len() as u64)), "{geotags}");
    let (captions, _) = changes("captions");
    let again = captions["changed"].as_u64().unwrap() + captions["remade"].as_u64().unwrap();
    assert_eq!(again, edited.len() as u64, "{captions}");
    assert_eq!(captions["causes"], serde_json::json!({"geotags.tags changed": edited.len()}));
    // nothing else was touched
    for step in ["images", "splits", "segments"] {
        let (untouched, _) = changes(step);
        let touched = ["added", "removed", "changed", "remade"].map(|kind| untouched[kind].as_u64().unwrap());
        assert_eq!(touched, [0; 4], "{step}: {untouched}");
        assert!(untouched["kept"].as_u64().unwrap() > 0);
    }
    let words = diff(&[]);
    assert!(words.contains("    was  {") && words.contains("    is   {") && words.contains(&edited[0]), "{words}");
    assert!(words.contains("mean recall of the test split: none → none"), "{words}");
    // nothing has happened since
    let now: Value = serde_json::from_str(&ends(&call(&["diff", &spec, "--since", "0m", "--json"]), 0)).unwrap();
    let quiet = |table: &Value| table["before"] == table["after"] && table["changes"]["changed"] == 0;
    assert!(now["tables"].as_array().unwrap().iter().all(quiet), "{now}");
    // what is gone cannot be compared
    ends(&call(&["gc", &spec, "--delete", "--keep-days", "0"]), 0);
    let gone = ends(&call(&["diff", &spec, "--since", "captions@1"]), 65);
    assert!(gone.contains("ask for a later moment") && !gone.contains("damaged"), "{gone}");
}

/// A terminal obeys what it is shown, and captions are anybody's words.
#[test]
fn no_caption_acts_on_the_terminal_that_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("images")).unwrap();
    for (name, grey) in [("tile", 90), ("other", 200)] {
        let picture = pixels::Rgb { width: 32, height: 32, data: vec![grey; 3 * 32 * 32] };
        std::fs::write(path(&format!("images/{name}.jpg")), pixels::encode_jpeg(&picture, 90)).unwrap();
    }
    let spec = path("spec.toml");
    let text = "country = 'x'\nsource = { kind = 'captioned', url = '.' }\nwork = { url = 'work', shards = 1 }\n";
    std::fs::write(&spec, text.to_owned() + "caption = { captioner = 'given' }\npretrain = { batch = 2 }").unwrap();
    let run = |shore: &str| {
        let caption = format!("a lake\u{1b}]52;c;eA==\u{7} with a {shore}");
        let line = |file| serde_json::json!({ "file": file, "split": "train", "captions": [caption] });
        std::fs::write(path("captions.jsonl"), format!("{}\n{}\n", line("tile.jpg"), line("other.jpg"))).unwrap();
        ends(&call(&["run", &spec, "--until", "captions"]), 0);
    };
    run("bridge");
    run("pier");
    let explained = ends(&call(&["explain", &spec, "tile"]), 0);
    let differs = ends(&call(&["diff", &spec, "--since", "captions@1"]), 0);
    for said in [explained, differs] {
        assert!(said.contains("a lake") && said.contains("with a pier"), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
    }
}

#[test]
fn explain_says_which_value_became_which() {
    let world = World::new(40);
    let spec = spec_file(&world);
    ends(&call(&["run", &spec, "--until", "captions"]), 0);
    let edited = edit_a_finnish_image(&world);
    ends(&call(&["run", &spec, "--until", "geotags"]), 0);
    let explain = || ends(&call(&["explain", &spec, &edited[0]]), 0);
    let line = |said: &str, word: &str| said.lines().find(|line| line.contains(word)).map(str::trim).map(str::to_owned);
    // the tags are new, the caption is still of the old ones
    let said = explain();
    let was = line(&said, "geotags.tags was {").unwrap_or_else(|| panic!("{said}"));
    let is = line(&said, "geotags.tags is  {").unwrap_or_else(|| panic!("{said}"));
    let [was, is] = [was, is].map(|line| line[line.find('{').unwrap()..].to_owned());
    assert_ne!(was, is);
    assert!(said.contains(&format!("before version 2: {was}")) && said.contains("a satellite image of"), "{said}");
    // once all is made, what was before is still told
    ends(&call(&["run", &spec, "--until", "captions"]), 0);
    let said = explain();
    assert!(said.contains(&format!("before version 2: {was}")) && !said.contains("geotags.tags was"), "{said}");
    // until it is cleared away
    ends(&call(&["gc", &spec, "--delete", "--keep-days", "0"]), 0);
    let said = explain();
    assert!(said.contains(&is) && !said.contains("before version"), "{said}");
}

#[test]
fn moments_that_never_were_are_refused() {
    let world = World::new(20);
    let spec = spec_file(&world);
    ends(&call(&["run", &spec, "--until", "geotags"]), 0);
    let said = ends(&call(&["diff", &spec, "--since", "lunch"]), 65);
    assert!(said.contains("2026-11-27T10:30") && said.contains("captions@12"), "{said}");
    let said = ends(&call(&["diff", &spec, "--since", "geotags@9"]), 65);
    assert!(said.contains("versions 0 to 1"), "{said}");
    let said = ends(&call(&["diff", &spec, "--since", "captions@1"]), 65);
    assert!(said.contains("no such table yet"), "{said}");
}
