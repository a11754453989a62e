//! Tags from OpenStreetMap: a world's extract says what its archives say, edits come in as diffs, and only rows whose words
//! change are made again.

mod boxes;
mod desk;
mod foretold;
mod over_http;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use manifests::{Artifact, BuildSpec, paths, shard_of};
use pipeline::build::Build;
use pipeline::preview::preview;
use pipeline::run_options::RunOptions;
use pipeline::tags::{self, Wanted};
use pipeline_tests::{World, column, open, run, run_with, urbancross};
use workers::WorkerError;
use workers::publish::Summary;
use workers::tag_refreshes::{Refreshment, Until, moment_of};
use workers::upkeep::gc::{Retention, gc};
use workers::upkeep::verify;

const QUICK: [&str; 4] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4", "pretrain.retrain_above=1.0"];

async fn refresh(spec: &BuildSpec, wanted: Wanted, accept: Option<f64>) -> Result<Refreshment, WorkerError> {
    tags::refresh(spec, wanted, accept, Arc::new(AtomicBool::new(false)), &|_| ()).await
}

fn extract(path: &Path) -> Wanted {
    Wanted::Extract(path.to_owned(), None)
}

fn diffs(world: &World) -> Wanted {
    Wanted::Diffs(world.path("world/replication").display().to_string(), Until(None))
}

fn until(step: &str) -> RunOptions {
    RunOptions { until: Some(step.to_owned()), ..RunOptions::default() }
}

/// Rows that a stage computed in the last run that changed something of it, and those that left.
async fn computed(build: &Build, stage: &str) -> (u64, u64) {
    let summary: Summary = build.work.get_sealed(&paths::summary("finland", stage)).await.unwrap().unwrap();
    (summary.computed, summary.deleted)
}

/// Rows that stood under a new recipe in that run.
async fn carried(build: &Build, stage: &str) -> u64 {
    let summary: Summary = build.work.get_sealed(&paths::summary("finland", stage)).await.unwrap().unwrap();
    summary.carried
}

async fn stale(spec: &BuildSpec) -> BTreeMap<String, u64> {
    let mut build = open(spec.clone()).await.unwrap();
    preview(&mut build, false, false).await.unwrap().into_iter().map(|line| (line.step.to_owned(), line.rows)).collect()
}

/// What differs between two columns.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> BTreeSet<String> {
    let ids = before.keys().chain(after.keys());
    ids.filter(|id| before.get(*id) != after.get(*id)).cloned().collect()
}

fn tag_json(text: &str) -> Vec<BTreeMap<String, String>> {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extract_of_a_world_says_what_its_archives_say() {
    let world = World::new(60);
    let countries = [("finland", "FI"), ("germany", "DE"), ("spain", "ES")];
    for ((country, code), file) in countries.into_iter().zip(["extract.osm.pbf", "extract.osm", "extract.osm.pbf"]) {
        let set = [
            format!("country={country}"),
            format!("source.tokens=[\"{code}\"]"),
            format!("source.country_code={code}"),
            // every key counts
            "source.osm.ignored_keys=[]".to_owned(),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let spec = world.spec(country, &set);
        let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
        let done = refresh(&spec, extract(&world.path("world").join(file)), Some(0.0)).await.unwrap();
        assert_eq!((done.images, done.looked_at, done.changed, done.outside), (60, 60, 0, 0), "{country}");
        let archives = column(&build, Artifact::Geotags, "surrounding_tags").await;
        let mut build = open(spec.clone()).await.unwrap();
        let refreshed = column(&build, Artifact::TagRefreshes, "surrounding_tags").await;
        let origins = column(&build, Artifact::TagRefreshes, "origin").await;
        assert!(origins.len() == 60 && origins.values().all(|origin| origin == "extract"));
        // in the same order, too
        let around: usize = archives.values().map(|tags| tag_json(tags).len()).sum();
        assert!(around > 200, "{around}");
        assert_eq!(refreshed, archives, "{country}");
        // rows are looked at, and come out as they were
        for line in preview(&mut build, false, false).await.unwrap() {
            let rows = if line.step == "geotags" { 60 } else { 0 };
            if ["geotags", "images", "splits", "captions"].contains(&line.step) && line.exact {
                assert_eq!(line.rows, rows, "{country}, {}", line.step);
            }
        }
        let before = column(&build, Artifact::Captions, "recipe").await;
        let (build, _) = run_with(spec, until("captions")).await.unwrap();
        assert_eq!(column(&build, Artifact::Captions, "recipe").await, before, "{country}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn diffs_make_captions_again_and_nothing_of_the_pictures() {
    let world = World::new(60);
    let spec = world.spec("work", &QUICK);
    run(spec.clone()).await.unwrap();
    let first = refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    assert_eq!((first.changed, first.moment.as_str()), (0, "diff 100, 2026-01-01T00:00:00Z"));
    let (build, _) = run(spec.clone()).await.unwrap();
    let digests = column(&build, Artifact::Geotags, "tags_digest").await;
    let captions = column(&build, Artifact::Captions, "captions_digest").await;
    let vectors = column(&build, Artifact::ImageEmbeddings, "recipe").await;

    // three days of edits, in which some objects go
    let mut edited = BTreeSet::new();
    let mut deleted = BTreeSet::new();
    let mut newest = None;
    for day in 0..3 {
        let edits = sandbox::edit_map(&world.path("world"), 0.12, day).unwrap();
        edited.extend(edits.images.into_iter().filter(|id| id.contains("_FI_")));
        deleted.extend(edits.deleted.into_iter().filter(|id| id.contains("_FI_")));
        newest = Some(edits.extract);
    }
    assert!(edited.len() >= 8, "{edited:?}");
    let done = refresh(&spec, diffs(&world), Some(0.9)).await.unwrap();
    assert_eq!((done.diffs, done.moment.as_str()), (3, "diff 103, 2026-01-04T00:00:00Z"));
    assert_eq!((done.unclear, done.outside, done.gone), (0, 0, deleted.len()), "{done:?}");
    assert!(done.changed >= edited.len() - 1 && done.changed < edited.len() + 8, "{done:?} of {edited:?}");
    // once more changes nothing
    let again = refresh(&spec, diffs(&world), None).await.unwrap();
    assert_eq!((again.diffs, again.changed, again.written), (0, 0, false));
    let plan = stale(&spec).await;
    assert_eq!(plan["geotags"], done.changed as u64, "{plan:?}");

    let (build, _) = run(spec.clone()).await.unwrap();
    let now = column(&build, Artifact::Geotags, "tags_digest").await;
    let status = column(&build, Artifact::Geotags, "error").await;
    for id in &deleted {
        assert!(status[id].contains("no longer in OpenStreetMap: diff 10"), "{}", status[id]);
    }
    let retagged = changed(&digests, &now);
    assert_eq!(retagged.len(), done.changed);
    let written = column(&build, Artifact::Captions, "captions_digest").await;
    let reworded = changed(&captions, &written);
    assert!(!reworded.is_empty() && reworded.is_subset(&retagged));
    assert!(deleted.iter().all(|id| !written.contains_key(id)), "deleted objects leave the tables");
    // a caption is made again where it says something else, and stands where it does not
    let stayed = (retagged.len() - deleted.len()) as u64;
    let others = (reworded.len() - deleted.len()) as u64;
    assert_eq!(computed(&build, "captions").await, (others, deleted.len() as u64));
    assert_eq!(carried(&build, "captions").await, stayed - others);
    // of pictures, masks and their vectors rows only leave
    let after = column(&build, Artifact::ImageEmbeddings, "recipe").await;
    assert_eq!(changed(&vectors, &after), deleted);
    for stage in ["images", "segments", "image_embeddings"] {
        let (made, left) = computed(&build, stage).await;
        assert!(!deleted.is_empty() && (made, left) == (0, deleted.len() as u64), "{stage}: {made} made, {left} left");
    }
    // where the tags come from is told
    let (origin, sequence) = (column(&build, Artifact::TagRefreshes, "origin").await, &done.moment);
    let of_diffs = origin.values().filter(|origin| *origin == "diff").count();
    assert_eq!(of_diffs, done.changed, "{sequence}");

    // a fresh extract of the same moment says the same
    let fresh = refresh(&spec, extract(&newest.unwrap()), Some(0.0)).await.unwrap();
    assert_eq!((fresh.changed, fresh.images), (0, 60));
    assert!(stale(&spec).await.values().all(|rows| *rows == 0));

    // an older map takes nothing back, also where only the rows know how new they are
    for is_lost in [false, true] {
        if is_lost {
            std::fs::remove_dir_all(world.path("work/osm/finland")).unwrap();
        }
        let old = refresh(&spec, extract(&world.path("world/extract.osm")), Some(1.0)).await.unwrap_err().to_string();
        assert!(old.contains("take a newer extract") && old.contains("2026-01-04"), "{old}");
    }
}

/// The extract without the ways that some images were taken for.
fn without_ways(world: &World, numbers: &[String]) -> PathBuf {
    let text = std::fs::read_to_string(world.path("world/extract.osm")).unwrap();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("<way id=\"") {
        let end = start + rest[start..].find("</way>").unwrap() + "</way>".len();
        let number = rest[start + 9..].split('"').next().unwrap();
        kept.push_str(&rest[..start]);
        if !numbers.iter().any(|gone| gone == number) {
            kept.push_str(&rest[start..end]);
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    let path = world.path("less.osm");
    std::fs::write(&path, kept).unwrap();
    path
}

/// Damages a shard's parts of tables, and takes them out as `verify --repair` does.
async fn lose(world: &World, build: &Build, artifacts: &[Artifact], shard: u32) {
    for artifact in artifacts {
        let pinned = build.tables.pin(*artifact, "finland", None).await.unwrap();
        let table = world.path("work").join(paths::table(*artifact));
        std::fs::write(table.join(&pinned.part(shard).unwrap().path), b"PAR1").unwrap();
    }
    let faults = verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap();
    assert_eq!(faults.len(), artifacts.len(), "{faults:?}");
    verify::repair(&build.work, &build.tables, "finland", &faults).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_left_out_come_back_in_every_shard() {
    let world = World::new(40);
    let spec = world.spec("work", &["work.shards=4"]);
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let ways: Vec<&String> = kinds.iter().filter(|(_, kind)| *kind == "w" || *kind == "a").map(|(id, _)| id).collect();
    let number = |id: &&String| id[1..].split('_').next().unwrap().to_owned();
    let numbers: Vec<String> = ways.iter().map(number).collect();
    let less = refresh(&spec, extract(&without_ways(&world, &numbers)), Some(1.0)).await;
    // all ways that matter are gone, others are there: accepted, since it was asked for
    let gone = less.unwrap().gone;
    assert!(gone > 8, "{gone} of {}", ways.len());
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let left = column(&build, Artifact::Geotags, "status").await;
    let first = left.iter().find(|(_, status)| *status == "excluded").unwrap().0.clone();
    // the part that says so of some is lost: the same map says it again, and of no image anything else
    let shard = shard_of(&first, 4);
    lose(&world, &build, &[Artifact::TagRefreshes], shard).await;
    let again = refresh(&spec, extract(&world.path("less.osm")), Some(1.0)).await.unwrap();
    assert_eq!((again.images, again.changed, again.written), (40, 0, true), "{again:?}");
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    assert_eq!(column(&build, Artifact::Geotags, "status").await, left);
    // and with a map that has them all, those of the lost part come back like the others
    lose(&world, &build, &[Artifact::TagRefreshes], shard).await;
    let back = refresh(&spec, extract(&world.path("world/extract.osm")), Some(1.0)).await.unwrap();
    assert_eq!((back.images, back.back), (40, gone), "{back:?}");
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let status = column(&build, Artifact::Geotags, "status").await;
    assert!(status.len() == 40 && status.values().all(|status| status == "ok"), "{status:?}");

    // where the geo-tags are lost as well nothing says that an image was left out, and so none comes back
    lose(&world, &build, &[Artifact::TagRefreshes, Artifact::Geotags], shard).await;
    let map = world.path("world/extract.osm");
    let same = refresh(&spec, extract(&map), Some(0.0)).await.unwrap();
    assert!((same.changed, same.back) == (0, 0) && same.images < 40, "{same:?}");
    // the build makes their rows, and the map judges them
    run_with(spec.clone(), until("geotags")).await.unwrap();
    let all = refresh(&spec, extract(&map), Some(0.0)).await.unwrap();
    assert_eq!((all.images, all.changed, all.written), (40, 0, true), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extract_without_any_way_is_no_extract() {
    let world = World::new(12);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    let text = std::fs::read_to_string(world.path("world/extract.osm")).unwrap();
    let cut = format!("{}</osm>\n", &text[..text.find("<way ").unwrap()]);
    std::fs::write(world.path("cut.osm"), cut).unwrap();
    let why = refresh(&spec, extract(&world.path("cut.osm")), Some(1.0)).await.unwrap_err().to_string();
    assert!(why.contains("holds no way"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_asks_first_and_half_of_it_never_counts() {
    let world = World::new(40);
    let spec = world.spec("work", &["source.osm.accept_share=0.02"]);
    let none = refresh(&spec, extract(&world.path("world/extract.osm")), None).await.unwrap_err().to_string();
    assert!(none.contains("no work store"), "{none}");
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    sandbox::edit_map(&world.path("world"), 0.3, 1).unwrap();
    let early = refresh(&spec, diffs(&world), None).await.unwrap_err().to_string();
    assert!(early.contains("begin with an extract"), "{early}");
    refresh(&spec, extract(&world.path("world/extract.osm")), None).await.unwrap();

    // more than is accepted: nothing is written, and the next try may accept it
    let refused = refresh(&spec, diffs(&world), None).await.unwrap_err().to_string();
    assert!(refused.contains("accept_share = 0.02") && refused.contains("--accept-share 0."), "{refused}");
    let pinned = build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap();
    // only those up to a moment
    let moment = moment_of("2026-01-01T12:00:00Z");
    let folder = world.path("world/replication");
    let early = Wanted::Diffs(folder.display().to_string(), Until(moment));
    let early = refresh(&spec, early, None).await.unwrap();
    assert_eq!((early.diffs, early.written), (0, false));
    assert_eq!(build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap(), pinned);

    // one that is missing is named, and those after it do not count
    sandbox::edit_map(&world.path("world"), 0.01, 2).unwrap();
    let hidden = folder.join("000/000/101.osc.gz");
    let bytes = std::fs::read(&hidden).unwrap();
    std::fs::remove_file(&hidden).unwrap();
    let gap = refresh(&spec, diffs(&world), Some(1.0)).await.unwrap_err().to_string();
    assert!(gap.contains("000/000/101.osc.gz is not there"), "{gap}");
    std::fs::write(&hidden, &bytes[..bytes.len() / 2]).unwrap();
    let cut = refresh(&spec, diffs(&world), Some(1.0)).await.unwrap_err().to_string();
    assert!(cut.contains("101.osc.gz") && cut.contains("download it again"), "{cut}");
    std::fs::write(&hidden, &bytes).unwrap();
    assert_eq!(build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap(), pinned);

    // of two at the same time one wins, and the other says so
    let (one, other) = tokio::join!(refresh(&spec, diffs(&world), Some(1.0)), refresh(&spec, diffs(&world), Some(1.0)));
    let won = [&one, &other].into_iter().filter(|done| done.as_ref().is_ok_and(|done| done.written)).count();
    assert_eq!(won, 1, "{one:?} {other:?}");
    let lost = [one, other].into_iter().find_map(Result::err);
    assert!(lost.is_none_or(|error| error.exit_code() == 75));

    // a state that `gc` kept goes on; one whose rows another program changed does not
    gc(&build.work, &build.tables, "finland", Retention { keep: Duration::ZERO, delete: true }).await.unwrap();
    let states = std::fs::read_dir(world.path("work/osm/finland")).unwrap().count();
    assert_eq!(states, 2, "a record and a state");
    sandbox::edit_map(&world.path("world"), 0.02, 3).unwrap();
    assert_eq!(refresh(&spec, diffs(&world), Some(1.0)).await.unwrap().diffs, 1);
    let part = build.tables.pin(Artifact::TagRefreshes, "finland", None).await.unwrap().parts[0].path.clone();
    std::fs::remove_file(world.path("work/tables/tag_refreshes").join(part)).unwrap();
    let toml = world.path("spec.toml");
    std::fs::write(&toml, spec.to_toml()).unwrap();
    let command = |args: &[&str]| {
        let output = Command::new(urbancross()).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    };
    let spec_path = toml.to_str().unwrap();
    for lost in [["run", spec_path, "--until=geotags"], ["verify", spec_path, "--json"]] {
        let (code, text) = command(&lost);
        assert!(code == Some(65), "{code:?} {text}");
        assert!(text.contains("verify --repair") && text.contains("tags refresh SPEC --osm"), "{text}");
    }
    let (code, text) = command(&["verify", spec_path, "--repair"]);
    assert!(code == Some(0) && text.contains("do as the warnings say"), "{code:?} {text}");
    assert!(!text.contains("verify --repair") && !text.contains("run the build to recompute"), "{text}");
    let replication = folder.to_str().unwrap();
    sandbox::edit_map(&world.path("world"), 0.02, 4).unwrap();
    let (code, text) = command(&["tags", "refresh", spec_path, "--diffs", replication]);
    assert!(code == Some(65) && text.contains("read an extract"), "{code:?} {text}");
    let newest = world.path("world/extract-104.osm.pbf");
    let (code, text) =
        command(&["tags", "refresh", spec_path, "--osm", newest.to_str().unwrap(), "--accept-share", "1"]);
    assert!(code == Some(0) && text.contains("diff 104"), "{code:?} {text}");
    let (code, text) = command(&["tags", "refresh", spec_path, "--diffs", replication]);
    assert!(code == Some(0) && text.contains("nothing to write"), "{code:?} {text}");
}
