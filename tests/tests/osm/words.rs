//! Captions are made again where they say something else, and stand where they do not.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, RecordBatch};
use manifests::commit::Replacement;
use manifests::{Artifact, shard_of};
use pipeline::build::Build;
use pipeline::plan::{Model, plan_stage};
use pipeline::preview::preview;
use pipeline_tests::{World, column, open, run_with};
use workers::accept::{By, accept, acceptances, accepted_by};
use workers::parts::{PartReader, PartWriter};
use workers::slices::InputStores;
use workers::tables::Change;

use super::{carried, changed, computed, diffs, extract, refresh, stale, until};

/// Publishes a diff in which some ways of the first extract have other tags.
pub(super) fn retag(world: &World, sequence: u64, numbers: &[String], tags: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(world.path("world/extract.osm")).unwrap();
    let mut diff = "<osmChange version=\"0.6\"><modify>".to_owned();
    for number in numbers {
        let start = text.find(&format!("<way id=\"{number}\"")).unwrap();
        let way = &text[start..start + text[start..].find("</way>").unwrap()];
        let at = way.find("<tag").unwrap_or(way.len());
        let nodes = way[..at].replace("version=\"1\"", &format!("version=\"{sequence}\""));
        diff.push_str(&format!("{nodes}{}</way>", tags(&way[at..])));
    }
    diff.push_str("</modify></osmChange>");
    let folder = world.path("world/replication/000/000");
    std::fs::create_dir_all(&folder).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, diff.as_bytes()).unwrap();
    std::fs::write(folder.join(format!("{sequence}.osc.gz")), packed.finish().unwrap()).unwrap();
    let state = format!("sequenceNumber={sequence}\ntimestamp=2026-01-{:02}T00\\:00\\:00Z\n", sequence - 99);
    std::fs::write(folder.join(format!("{sequence}.state.txt")), &state).unwrap();
    std::fs::write(world.path("world/replication/state.txt"), state).unwrap();
}

/// What a captioner never says makes no caption again: neither does a plan foretell one, nor does a run compute one, of
/// captions and structured captions alike. What it says makes exactly those again.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_captions_never_say_makes_none_again() {
    let world = World::new(40);
    let spec = world.spec("work", &["caption.structured=true", "caption.captioner=geotags"]);
    run_with(spec.clone(), until("structured_captions")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("structured_captions")).await.unwrap();
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let ways: Vec<&String> = kinds.iter().filter(|(_, kind)| *kind == "a").map(|(id, _)| id).take(4).collect();
    let numbers: Vec<String> = ways.iter().map(|id| id[1..].split('_').next().unwrap().to_owned()).collect();
    assert!(ways.len() == 4, "{kinds:?}");
    let told = column(&build, Artifact::Captions, "told").await;
    assert!(told.len() == 40 && told.values().all(|told| told.len() == 32), "{told:?}");
    let recipes = column(&build, Artifact::Captions, "recipe").await;
    let words = column(&build, Artifact::Captions, "captions_digest").await;

    retag(&world, 101, &numbers, |tags| format!("{tags}<tag k=\"start_date\" v=\"1987\"/>"));
    assert_eq!(refresh(&spec, diffs(&world), Some(1.0)).await.unwrap().changed, 4);
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let mut looked = open(spec.clone()).await.unwrap();
    let lines = preview(&mut looked, false, false).await.unwrap();
    for step in ["captions", "structured_captions"] {
        let line = lines.iter().find(|line| line.step == step).unwrap();
        assert_eq!((line.rows, line.exact, line.carried, line.kept), (0, true, 4, 36), "{step}");
    }
    let mut explained = open(spec.clone()).await.unwrap();
    let lines = pipeline::explain::explain(&mut explained, ways[0]).await.unwrap().join("\n");
    assert!(lines.contains("kept: same words") && lines.contains("start_date"), "{lines}");
    drop(build);
    let (build, _) = run_with(spec.clone(), until("structured_captions")).await.unwrap();
    for step in ["captions", "structured_captions"] {
        assert_eq!((computed(&build, step).await, carried(&build, step).await), ((0, 0), 4), "{step}");
    }
    let now = column(&build, Artifact::Captions, "recipe").await;
    let others: BTreeSet<String> = ways.iter().map(|id| (*id).clone()).collect();
    assert_eq!(changed(&recipes, &now), others, "they stand under a new recipe");
    assert_eq!(column(&build, Artifact::Captions, "captions_digest").await, words);
    let mut told_anew = BTreeSet::new();
    for part in build.pin(Artifact::Captions).await.unwrap().parts {
        let reader = workers::parts::PartReader::open(&build.work, Artifact::Captions, &part).await.unwrap();
        let batch = reader.read(&["image_id", "dropped_tags"]).await.unwrap();
        let columns = stages::table::Columns::new(Artifact::Captions, &batch);
        let ids = columns.text("image_id").unwrap().iter().flatten();
        let dropped = ids.zip(columns.texts("dropped_tags").unwrap());
        told_anew.extend(
            dropped.filter(|(_, tags)| tags.iter().any(|tag| tag == "start_date=1987")).map(|(id, _)| id.to_owned()),
        );
    }
    assert_eq!(told_anew, others, "what is left out is told anew");
    // nothing is left to do, and a build from nothing says the same
    assert!(stale(&spec).await.iter().filter(|(step, _)| step.contains("captions")).all(|(_, rows)| *rows == 0));

    // what captions say
    retag(&world, 102, &numbers[..2], |_| "<tag k=\"natural\" v=\"water\"/><tag k=\"ref\" v=\"7\"/>".to_owned());
    retag(&world, 103, &numbers[2..3], |tags| format!("{tags}<tag k=\"start_date\" v=\"1988\"/>"));
    assert_eq!(refresh(&spec, diffs(&world), Some(1.0)).await.unwrap().changed, 3);
    let (build, _) = run_with(spec.clone(), until("structured_captions")).await.unwrap();
    let reworded = changed(&words, &column(&build, Artifact::Captions, "captions_digest").await);
    assert_eq!(reworded, ways[..2].iter().map(|id| (*id).clone()).collect());
    assert_eq!((computed(&build, "captions").await, carried(&build, "captions").await), ((2, 0), 1));
}

/// What people accept stands as it is: nothing of it is stale any more, nothing below it is, and an edit that comes later is
/// judged by what it was accepted for.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_rows_stand_under_their_new_recipe() {
    let world = World::new(40);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("captions")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let ways: BTreeSet<String> =
        kinds.iter().filter(|(_, kind)| *kind == "a").map(|(id, _)| id.clone()).take(2).collect();
    let numbers: Vec<String> = ways.iter().map(|id| id[1..].split('_').next().unwrap().to_owned()).collect();
    let water = |_: &str| "<tag k=\"natural\" v=\"water\"/>".to_owned();
    retag(&world, 101, &numbers, water);
    refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();

    let mut early = open(spec.clone()).await.unwrap();
    let why = pipeline::accept::accept_step(&mut early, "captions", Some("Anne")).await.unwrap_err().to_string();
    assert!(why.contains("geotags") && why.contains("--until geotags"), "{why}");
    let unknown = pipeline::accept::accept_step(&mut early, "report", Some("Anne")).await.unwrap_err().to_string();
    assert!(unknown.contains("captions"), "{unknown}");
    let (build, _) = run_with(spec.clone(), until("geotags")).await.unwrap();
    let before = column(&build, Artifact::Captions, "captions_digest").await;
    let recipes = column(&build, Artifact::Captions, "recipe").await;

    let mut looked = open(spec.clone()).await.unwrap();
    let would = pipeline::accept::accept_step(&mut looked, "captions", None).await.unwrap();
    assert_eq!((would.rows.values().sum::<u64>(), would.others), (2, 0));
    assert_eq!(stale(&spec).await["captions"], 2, "only shown");
    let mut build = open(spec.clone()).await.unwrap();
    // a held-out image that shares its ground with another one may not stay where the assignment takes it out
    let splits = pipeline::accept::accept_step(&mut build, "splits", None).await.unwrap_err();
    assert!(splits.exit_code() == 65 && splits.to_string().contains("all images together"), "{splits}");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let done = pipeline::accept::accept_step(&mut build, "captions", Some("Anne")).await.unwrap();
    assert_eq!((done.rows, done.examples.into_iter().collect::<BTreeSet<_>>()), (would.rows, ways.clone()));
    assert_eq!(stale(&spec).await["captions"], 0);
    let build = open(spec.clone()).await.unwrap();
    assert_eq!(column(&build, Artifact::Captions, "captions_digest").await, before, "their words are what they were");
    assert_eq!(changed(&recipes, &column(&build, Artifact::Captions, "recipe").await), ways);
    // nothing was made again, for whatever cause
    let diff = pipeline::diff::diff(&build, &pipeline::diff::Since::Time(since), 1).await.unwrap();
    let captions = &diff.tables.iter().find(|table| table.step == "captions").unwrap().changes;
    assert_eq!((captions.accepted, captions.remade, captions.changed, captions.carried), (2, 0, 0, 0), "{captions:?}");
    assert!(captions.causes.is_empty() && !captions.is_nothing(), "{captions:?}");
    // who said so is known of the step, of its rows, and between then and now
    let mut build = open(spec.clone()).await.unwrap();
    for (what, is_said) in [
        ("captions", true),
        (ways.first().unwrap(), true),
        (recipes.keys().find(|id| !ways.contains(*id)).unwrap(), false),
    ] {
        let lines = pipeline::explain::explain(&mut build, what).await.unwrap();
        assert_eq!(
            lines.iter().any(|line| line.contains("accepted") && line.contains("by Anne, 20")),
            is_said,
            "{lines:?}"
        );
    }
    let since = pipeline::diff::Since::Time(0);
    let accepted = pipeline::diff::diff(&build, &since, 1).await.unwrap().in_words();
    assert!(
        accepted.iter().any(|line| line.contains("captions: 2 rows accepted unchanged by Anne, 20")),
        "{accepted:?}"
    );

    // an edit that says nothing to a captioner, who would be told of water by now
    retag(&world, 102, &numbers, |tags| water(tags) + "<tag k=\"start_date\" v=\"1987\"/>");
    refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    assert_eq!((computed(&build, "captions").await, carried(&build, "captions").await), ((0, 0), 2));
    assert_eq!(column(&build, Artifact::Captions, "captions_digest").await, before);
}

/// Where a run has made rows of one shard meanwhile, those of another one stand all the same, and it is known who said so.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_that_is_overtaken_in_one_shard_is_written_down_for_the_others() {
    let world = World::new(40);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("captions")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let ways: Vec<&String> = kinds.iter().filter(|(_, kind)| *kind == "a").map(|(id, _)| id).collect();
    let shard = |id: &str| shard_of(id, spec.work.shards);
    let ours = ways[0];
    let theirs = *ways.iter().find(|id| shard(id) != shard(ours)).expect("not all ways in one shard");
    let numbers = [ours, theirs].map(|id| id[1..].split('_').next().unwrap().to_owned());
    retag(&world, 101, &numbers, |_| "<tag k=\"natural\" v=\"water\"/>".to_owned());
    refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
    run_with(spec.clone(), until("geotags")).await.unwrap();
    let build = open(spec.clone()).await.unwrap();
    let before = column(&build, Artifact::Captions, "recipe").await;

    let stage = stages::map_stages(&spec).into_iter().find(|stage| stage.name == "captions").unwrap();
    let plan = plan_stage(&build, &stage, &Model::default(), false).await.unwrap();
    write_again(&build, Some(shard(theirs)), |_, column| column.clone()).await;
    let stores = InputStores { tables: &build.work, slices: build.virtual_inputs.slices.store() };
    let by = By { author: "Anne".into(), millis: 5 };
    let overtaken = accept(stores, &build.tables, &stage, &plan, Some(&by)).await.unwrap_err();
    assert_eq!(overtaken.exit_code(), 75, "{overtaken}");
    let build = open(spec.clone()).await.unwrap();
    let after = column(&build, Artifact::Captions, "recipe").await;
    let stand = changed(&before, &after);
    assert!(stand.contains(ours) && !stand.contains(theirs), "{stand:?}");
    let (work, of) = (&build.work, ("finland", "captions"));
    let written = acceptances(work, "finland", "captions").await.unwrap();
    assert_eq!(written.iter().map(|one| one.count()).collect::<Vec<_>>(), [stand.len() as u64]);
    assert_eq!(accepted_by(work, of, (ours, shard(ours)), &after[ours]).await.unwrap(), Some(by));
    // and of what somebody else makes of the other shard nobody says that it was accepted
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    let made = column(&build, Artifact::Captions, "recipe").await;
    assert!(made[theirs] != before[theirs] && made[ours] == after[ours]);
    assert_eq!(accepted_by(&build.work, of, (theirs, shard(theirs)), &made[theirs]).await.unwrap(), None);
}

/// Writes captions again as they are, but for what becomes of each column; of one shard, or of all.
async fn write_again(build: &Build, only: Option<u32>, of: impl Fn(&str, &ArrayRef) -> ArrayRef) {
    let pinned = build.tables.pin(Artifact::Captions, "finland", None).await.unwrap();
    let mut replacements = Vec::new();
    for part in pinned.parts.iter().filter(|part| only.is_none_or(|shard| part.shard == shard)) {
        let reader = PartReader::open(&build.work, Artifact::Captions, part).await.unwrap();
        let fields = Artifact::Captions.fields();
        let batch = reader.read(&fields.iter().map(|field| field.name).collect::<Vec<_>>()).await.unwrap();
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| of(field.name(), column));
        let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
        let mut writer = PartWriter::create(&build.work, Artifact::Captions, "finland", part.shard).unwrap();
        writer.write(&batch).await.unwrap();
        replacements.push(Replacement { base: Some(part.path.clone()), part: writer.finish().await.unwrap() });
    }
    let change = Change { artifact: Artifact::Captions, country: "finland".into(), replacements };
    assert!(build.tables.commit(change).await.unwrap().overtaken.is_empty());
}

/// Captions as programs wrote them before they told what a captioner was told.
async fn forget_what_was_told(build: &Build) {
    let forgotten = |name: &str, column: &ArrayRef| match name {
        "told" => arrow::array::new_null_array(column.data_type(), column.len()),
        _ => column.clone(),
    };
    write_again(build, None, forgotten).await;
}

/// A store of an earlier program: nothing is captioned again for the new column, and an edit makes a caption as it did then.
#[tokio::test(flavor = "multi_thread")]
async fn captions_of_earlier_programs_stand_until_their_tags_change() {
    let world = World::new(24);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("captions")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), Some(0.0)).await.unwrap();
    let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
    forget_what_was_told(&build).await;
    assert_eq!(stale(&spec).await["captions"], 0);
    let kinds = column(&build, Artifact::Geotags, "osm_kind").await;
    let way = kinds.iter().find(|(_, kind)| *kind == "a").map(|(id, _)| id.clone()).unwrap();
    let number = way[1..].split('_').next().unwrap().to_owned();
    for (diff, year, made) in [(101, 1987, (1, 0)), (102, 1988, (0, 1))] {
        retag(&world, diff, std::slice::from_ref(&number), |tags| {
            format!("{tags}<tag k=\"start_date\" v=\"{year}\"/>")
        });
        refresh(&spec, diffs(&world), Some(1.0)).await.unwrap();
        let (build, _) = run_with(spec.clone(), until("captions")).await.unwrap();
        assert_eq!((computed(&build, "captions").await.0, carried(&build, "captions").await), made, "{year}");
    }
    let told = column(&open(spec).await.unwrap(), Artifact::Captions, "told").await;
    assert_eq!(told.iter().filter(|(_, told)| !told.is_empty()).map(|(id, _)| id).collect::<Vec<_>>(), [&way]);
}
