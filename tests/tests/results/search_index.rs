//! Copies of vectors on this machine: the same answers as from the tables, whatever becomes of the copies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use manifests::Artifact;
use pipeline_tests::{World, run, urbancross};

/// What a search answers, with a cache of its own.
fn answer(spec: &Path, cache: &Path, rest: &[&str]) -> serde_json::Value {
    let output = Command::new(urbancross())
        .args(["search", spec.to_str().unwrap(), "--json"])
        .args(rest)
        .env("URBANCROSS_CACHE", cache)
        .output()
        .unwrap();
    assert!(output.status.success(), "{rest:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn copies(cache: &Path) -> BTreeSet<PathBuf> {
    let files = walk(&cache.join("search"));
    files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "arrow")).collect()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_vectors_change_no_answer() {
    let world = World::new(60);
    let (build, _) = run(world.spec("work", &["score.clip=none"])).await.unwrap();
    let (spec, cache) = (world.path("spec.toml"), world.path("cache"));
    std::fs::write(&spec, build.spec.to_toml()).unwrap();
    let all = answer(&spec, &cache, &["a road", "--index", "never"]);
    let some = all["found"][3]["image_id"].as_str().unwrap().to_owned();
    assert!(copies(&cache).is_empty());
    let questions: [&[&str]; 6] = [
        &["a road", "--top", "1000"],
        &["a road", "--top", "3"],
        &["--like", &some],
        &["a building", "--split", "test"],
        &["a building", "--tag", "building", "--split", "train"],
        &["a road", "--year", "1900"],
    ];
    for question in questions {
        let of = |index: &'static str, cache: &Path| answer(&spec, cache, &[question, &["--index", index]].concat());
        let from_tables = of("never", &cache);
        assert_eq!(of("always", &cache), from_tables, "{question:?}");
        // where nothing can be written, the tables are read
        assert_eq!(of("always", Path::new("/proc/no-cache")), from_tables, "{question:?}");
    }
    // few vectors are not copied unasked
    answer(&spec, &world.path("other-cache"), &["a road"]);
    assert!(copies(&world.path("other-cache")).is_empty());

    // damage, a cut and a loss are made good
    let before = copies(&cache);
    assert_eq!(before.len(), 3, "one for each shard");
    let files: Vec<&PathBuf> = before.iter().collect();
    let mut bytes = std::fs::read(files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(files[0], bytes).unwrap();
    std::fs::write(files[1], std::fs::read(files[1]).unwrap().split_at(100).0).unwrap();
    std::fs::remove_file(files[2]).unwrap();
    assert_eq!(answer(&spec, &cache, &["a road", "--index", "always"]), all);
    assert_eq!(copies(&cache), before);

    // a part that is written anew is copied anew, and no other
    let part = build.pin(Artifact::ImageEmbeddings).await.unwrap().parts[0].clone();
    std::fs::remove_file(world.path("work/tables/image_embeddings").join(&part.path)).unwrap();
    run(build.spec.clone()).await.unwrap();
    let again = answer(&spec, &cache, &["a road", "--index", "always"]);
    assert_eq!(again["found"], all["found"]);
    let after = copies(&cache);
    assert_eq!((after.len(), after.intersection(&before).count()), (3, 2), "{before:?} {after:?}");
}
