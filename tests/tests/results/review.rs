//! People review captions: what a decision makes again, what survives an edit, and who wins where two decide at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use manifests::attempts::Object;
use manifests::review::{Waits, Wish};
use manifests::{Artifact, Reason, paths, shard_of};
use pipeline::build::Build;
use pipeline::export::{self, DataExport};
use pipeline::plan::{Model, plan_stage};
use pipeline::preview::preview;
use pipeline::progress::Progress;
use pipeline::review::{self, Ask};
use pipeline::run_options::RunOptions;
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, column, edit_a_finnish_image, networks, open, run, run_with, tables, urbancross};
use stages::table::Columns;
use workers::claims::Claimant;
use workers::export::Format;
use workers::parts::PartReader;
use workers::publish::Summary;
use workers::pull::{Share, collect};
use workers::reviews::{Decided, Reviews};
use workers::upkeep::{gc, verify};

const QUICK: [&str; 4] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4", "pretrain.retrain_above=0.5"];

fn ask(image_id: &str, wish: Wish, author: &str) -> Ask {
    Ask { image_id: image_id.to_owned(), wish, author: author.to_owned(), seen: None }
}

fn words(text: &str) -> Wish {
    Wish::Edit(vec![text.to_owned()])
}

async fn decide(reviews: &Reviews, ask: Ask) -> Decided {
    review::decide(reviews, ask).await.unwrap()
}

/// The captions of every image.
async fn captions(build: &Build) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for part in build.pin(Artifact::Captions).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::Captions, &part).await.unwrap();
        let batch = reader.read(&["image_id", "captions"]).await.unwrap();
        let columns = Columns::new(Artifact::Captions, &batch);
        let texts = columns.texts("captions").unwrap();
        let ids = columns.text("image_id").unwrap().iter().flatten().map(str::to_owned);
        all.extend(ids.zip(texts).map(|(id, texts)| (id, texts.join(" | "))));
    }
    all
}

/// Rows that a stage computed in the last run that changed something of it, and why.
async fn computed(build: &Build, stage: &str) -> (u64, BTreeMap<String, u64>) {
    let summary: Summary = build.work.get_sealed(&paths::summary("finland", stage)).await.unwrap().unwrap();
    (summary.computed, summary.reasons)
}

async fn versions(build: &Build) -> BTreeMap<Artifact, Option<u64>> {
    let mut versions = BTreeMap::new();
    for artifact in tables(build) {
        versions.insert(artifact, build.pin(artifact).await.unwrap().version);
    }
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_makes_one_caption_again_and_outlives_an_edit_of_its_tags() {
    let world = World::new(40);
    // the same world twice: which image the edit will meet
    let edited = edit_a_finnish_image(&World::new(40)).remove(0);
    let spec = || world.spec("work", &QUICK);
    let (build, _) = run(spec()).await.unwrap();
    let before = versions(&build).await;
    let written = captions(&build).await;
    assert!(!world.path("work/tables/caption_reviews").exists(), "nobody has reviewed anything");
    let inputs = column(&build, Artifact::Captions, "inputs").await;
    assert!(inputs.values().all(|inputs| !inputs.contains("caption_reviews")), "{inputs:?}");
    let others: Vec<&String> = written.keys().filter(|id| **id != edited).collect();
    let (accepted, rejected) = (others[0].clone(), others[1].clone());

    // a person edits one caption: it is made again, with what depends on its words
    let reviews = review::open(&spec()).await.unwrap();
    let text = "a  quiet harbour with two piers";
    assert_eq!(decide(&reviews, ask(&edited, words(text), "Anne")).await, Decided::Done);
    let tally = reviews.tally().await.unwrap();
    assert_eq!((tally.decided, tally.pending), (1, 1));
    let mut planned = open(spec()).await.unwrap();
    let lines = preview(&mut planned, false, false).await.unwrap();
    let line = lines.iter().find(|line| line.step == "captions").unwrap();
    assert_eq!((line.rows, line.reasons.get(&Reason::Reviewed)), (1, Some(&1)));
    let (build, _) = run(spec()).await.unwrap();
    assert_eq!(computed(&build, "captions").await, (1, [("reviewed".to_owned(), 1)].into()));
    assert_eq!(computed(&build, "text_embeddings").await.0, 1);
    let after = versions(&build).await;
    for (artifact, version) in &after {
        let moved = matches!(artifact, Artifact::Captions | Artifact::TextEmbeddings);
        assert_eq!(*version, before[artifact].map(|v| v + u64::from(moved)), "{}", artifact.name());
    }
    let mut expected = written.clone();
    expected.insert(edited.clone(), "a quiet harbour with two piers".into());
    assert_eq!(captions(&build).await, expected);
    assert_eq!(column(&build, Artifact::Captions, "captioner").await[&edited], "person");
    // whoever takes the data along is told
    let (wanted, out) = (
        DataExport { format: Format::WebDataset, splits: Vec::new(), file_bytes: 1, unfinished: false },
        world.path("out"),
    );
    export::data(&build, &wanted, &out).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    let tars = || files.iter().filter(|path| path.extension().is_some_and(|e| e == "tar")).map(std::fs::read);
    let of = |words: &str| -> usize {
        tars().map(|tar| String::from_utf8_lossy(&tar.unwrap()).matches(words).count()).sum()
    };
    assert_eq!(of(r#""captioner":"person""#), 1);
    assert_eq!(of(r#""captioner":"geotags""#), written.len() - 1);
    let mut explained = open(spec()).await.unwrap();
    let said = pipeline::explain::explain(&mut explained, &edited).await.unwrap().join("\n");
    assert!(said.contains("edited by Anne on 20") && said.contains("a quiet harbour"), "{said}");
    assert_eq!(reviews.tally().await.unwrap().pending, 0);

    // accepted words stay what they are; a rejected image leaves what follows
    assert_eq!(decide(&reviews, ask(&accepted, Wish::Accept, "Bo")).await, Decided::Done);
    assert_eq!(decide(&reviews, ask(&rejected, Wish::Reject, "Bo")).await, Decided::Done);
    let (build, quarantined) = run(spec()).await.unwrap();
    assert!(quarantined.is_empty(), "a decision is no fault: {quarantined:?}");
    assert_eq!(computed(&build, "captions").await.0, 2);
    expected.insert(rejected.clone(), String::new());
    assert_eq!(captions(&build).await, expected);
    assert_eq!(column(&build, Artifact::Captions, "status").await[&rejected], "excluded");
    assert!(column(&build, Artifact::Captions, "error").await[&rejected].starts_with("rejected by Bo on 20"));
    let embedded = column(&build, Artifact::TextEmbeddings, "status").await;
    assert!(!embedded.contains_key(&rejected) && embedded.len() == 39);
    let texts = after[&Artifact::TextEmbeddings].unwrap();
    assert_eq!(build.pin(Artifact::TextEmbeddings).await.unwrap().version, Some(texts + 1), "one row left");
    assert_eq!(computed(&build, "text_embeddings").await.0, 0, "accepted words are no other words");
    let diff = pipeline::diff::diff(&build, &pipeline::diff::Since::Version(Artifact::Captions, 1), 9).await.unwrap();
    let said = diff.in_words().join("\n");
    assert!(
        said.contains("caption_reviews")
            && said.contains("rejected by Bo")
            && said.contains("3 caption_reviews.review changed"),
        "{said}"
    );
    let lines = pipeline::status::status(&build).await.unwrap();
    assert!(lines.iter().any(|line| line.step == "caption_reviews" && line.rows == 3), "{lines:?}");

    // the tags of the edited image change: its words stay, and it is listed
    assert_eq!(edit_a_finnish_image(&world), std::slice::from_ref(&edited));
    let (build, _) = run(spec()).await.unwrap();
    assert_eq!(computed(&build, "captions").await, (1, [("input changed".to_owned(), 1)].into()));
    assert_eq!(captions(&build).await, expected);
    let flagged = column(&build, Artifact::Captions, "flagged").await;
    assert!(flagged[&edited].starts_with("review again: its tags changed after it was edited by Anne"), "{flagged:?}");
    let queue = reviews.queue(None, None, 10).await.unwrap();
    let waiting: Vec<_> = queue.images.iter().map(|image| (image.image_id.clone(), image.waits)).collect();
    assert_eq!(waiting, [(edited.clone(), Some(Waits::ReviewAgain))]);
    let mut explained = open(spec()).await.unwrap();
    let said = pipeline::explain::explain(&mut explained, &edited).await.unwrap().join("\n");
    assert!(said.contains("review again: its tags changed"), "{said}");

    // somebody looks at it again: nothing waits, and the words are still Anne's
    let seen = Some(queue.images[0].token.clone());
    assert_eq!(decide(&reviews, Ask { seen, ..ask(&edited, Wish::Accept, "Bo") }).await, Decided::Done);
    assert!(reviews.queue(None, None, 10).await.unwrap().images.is_empty());
    let (build, _) = run(spec()).await.unwrap();
    assert_eq!(captions(&build).await, expected);
    assert_eq!(column(&build, Artifact::Captions, "flagged").await[&edited], "");
    assert_eq!(column(&build, Artifact::Captions, "captioner").await[&edited], "person");

    // taken back: the captioner has its way again, and nothing else moves
    for id in [&edited, &rejected] {
        assert_eq!(decide(&reviews, ask(id, Wish::Withdraw, "Bo")).await, Decided::Done);
    }
    let (build, _) = run(spec()).await.unwrap();
    assert_eq!(computed(&build, "captions").await, (2, [("reviewed".to_owned(), 2)].into()));
    assert_eq!(captions(&build).await[&rejected], written[&rejected]);
    let (fresh, _) = run(world.spec("fresh", &QUICK)).await.unwrap();
    let recipes = |build| async move { column(build, Artifact::Captions, "recipe").await };
    let (mut now, mut new) = (recipes(&build).await, recipes(&fresh).await);
    assert_ne!(now.remove(&accepted), new.remove(&accepted));
    assert_eq!(now, new, "rows that nobody reviews are what they would be without any review");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_counted_many_at_once_and_again_only_where_something_is_new() {
    let world = World::new(40);
    let spec = || world.spec("work", &[&QUICK[..], &["work.shards=20"]].concat());
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (mut build, _) = run_with(spec(), until).await.unwrap();
    let some = captions(&build).await.into_keys().next().unwrap();
    let reads = Reads::count_from_afar(&mut build, Duration::from_millis(20));
    let reviews = Reviews::of(&build.work, &build.tables, &build.spec);
    let tally = reviews.tally().await.unwrap();
    let most = reads.most_at_once();
    assert!(most > 8 && tally.decided == 0, "{most} at once");
    let before = reads.of(".parquet");
    assert!(reviews.queue(None, None, 10).await.unwrap().images.is_empty());
    assert_eq!(reviews.tally().await.unwrap(), tally);
    assert_eq!(reads.of(".parquet"), before, "no part is new");
    let elsewhere = review::open(&spec()).await.unwrap();
    assert_eq!(decide(&elsewhere, ask(&some, Wish::Accept, "Anne")).await, Decided::Done);
    assert_eq!(reviews.tally().await.unwrap().decided, 1);
    let again = reads.of(".parquet").into_iter().filter(|(path, reads)| before.get(path) != Some(reads));
    let shards: BTreeSet<u32> = again.map(|(path, _)| paths::shard_of_part(&path).unwrap()).collect();
    assert_eq!(shards, BTreeSet::from([shard_of(&some, 20)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_and_flagged_captions_wait_in_pages() {
    let world = World::new(14);
    networks::clip(&world.path("clip"), 1);
    // nothing is known of these images that could be put into words
    let until = |stage: &str| RunOptions { until: Some(stage.into()), ..RunOptions::default() };
    let table = std::fs::read_to_string(world.path("world/dataframe/SkyScript_sandbox.csv")).unwrap();
    let paths = table.lines().skip(1).filter_map(|line| line.split(',').next());
    let blank: String = paths.map(|path| format!("{path},\n")).collect();
    std::fs::write(world.path("world/dataframe/blank.csv"), format!("filepath,title\n{blank}")).unwrap();
    let without = ["source.meta=false", "source.tables=[\"dataframe/blank.csv\"]", "source.country_code="];
    let given = || world.spec("given", &[&QUICK[..], &without].concat());
    let error = run_with(given(), until("captions")).await.err().unwrap().to_string();
    assert!(error.contains("no row is left"), "{error}");
    let reviews = review::open(&given()).await.unwrap();
    let tally = reviews.tally().await.unwrap();
    assert_eq!(tally.waiting, [(Waits::Failed, 14), (Waits::Flagged, 0), (Waits::ReviewAgain, 0)].into());
    // in pages, each image once
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = reviews.queue(None, after.as_deref(), 4).await.unwrap();
        assert!(page.images.len() <= 4);
        all.extend(page.images);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let ids: std::collections::BTreeSet<&String> = all.iter().map(|image| &image.image_id).collect();
    assert_eq!((all.len(), ids.len()), (14, 14));
    assert!(all.iter().all(|image| image.why.contains("that can be seen")));
    let refused = review::decide(&reviews, ask(&all[0].image_id, Wish::Accept, "Anne")).await.unwrap_err();
    assert!(refused.to_string().contains("write one"), "{refused}");
    let refused = review::decide(&reviews, ask(&all[0].image_id, words("a\u{202e}b"), "Anne")).await.unwrap_err();
    assert!(refused.to_string().contains("U+202E"), "{refused}");
    let refused = review::decide(&reviews, ask("nothing", words("a lake"), "Anne")).await.unwrap_err();
    assert_eq!(refused.exit_code(), 65);
    assert_eq!(decide(&reviews, ask(&all[0].image_id, words("a lake"), "Anne")).await, Decided::Done);
    run_with(given(), until("captions")).await.unwrap();
    assert_eq!(reviews.tally().await.unwrap().waiting[&Waits::Failed], 13);

    // below the threshold of a judge
    let named = format!("caption.score.clip={}", world.path("clip").display());
    let scored = || world.spec("scored", &[&QUICK[..], &[&named, "caption.score.min_clip_score=2.5"]].concat());
    run_with(scored(), until("caption_scores")).await.unwrap();
    let reviews = review::open(&scored()).await.unwrap();
    let first = reviews.queue(Some(Waits::Flagged), None, 1).await.unwrap().images.remove(0);
    assert!(first.why.contains("CLIPScore"), "{first:?}");
    assert!(reviews.queue(Some(Waits::Failed), None, 1).await.unwrap().images.is_empty());
    assert_eq!(decide(&reviews, ask(&first.image_id, Wish::Accept, "Anne")).await, Decided::Done);
    assert_eq!(reviews.tally().await.unwrap().waiting[&Waits::Flagged], 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_decide_at_once_nobody_overwrites_what_he_has_not_seen() {
    let world = World::new(24);
    let spec = || world.spec("work", &QUICK);
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(), until.clone()).await.unwrap();
    let ids: Vec<String> = column(&build, Artifact::Captions, "status").await.into_keys().collect();
    // each with a process' own view of the store
    let (anne, bo) = (review::open(&spec()).await.unwrap(), review::open(&spec()).await.unwrap());
    let (mine, yours) = ids.split_at(12);
    let all = |reviews: Reviews, ids: Vec<String>, author: &'static str| async move {
        for id in ids {
            assert_eq!(decide(&reviews, ask(&id, words(&format!("a lake near {id}")), author)).await, Decided::Done);
        }
    };
    tokio::join!(all(anne.clone(), mine.to_vec(), "Anne"), all(bo.clone(), yours.to_vec(), "Bo"));
    assert_eq!(anne.tally().await.unwrap().decided, 24, "two writers of three shards lose nothing");

    // both saw the same, and both decide
    for id in &ids[..6] {
        let seen = Some(anne.look(id).await.unwrap().unwrap().token);
        let one = Ask { seen: seen.clone(), ..ask(id, words("a lake with a pier"), "Anne") };
        let other = Ask { seen, ..ask(id, Wish::Reject, "Bo") };
        let (one, other) = tokio::join!(decide(&anne, one), decide(&bo, other));
        let now = anne.look(id).await.unwrap().unwrap().review.unwrap();
        match (one, other) {
            (Decided::Done, Decided::Changed(theirs)) | (Decided::Changed(theirs), Decided::Done) => {
                assert_eq!(theirs.review, Some(now), "who lost is shown what stands");
            }
            both => panic!("{both:?}"),
        }
    }
    // without a word of what was seen, what somebody else decided stands
    let id = &ids[20];
    assert!(matches!(decide(&anne, ask(id, Wish::Reject, "Anne")).await, Decided::Changed(_)));
    assert_eq!(decide(&bo, ask(id, words(&format!("a lake near {id}")), "Bo")).await, Decided::Already);

    // a build that planned before a decision looks again
    let mut late = open(spec()).await.unwrap();
    assert_eq!(decide(&bo, ask(id, words("late words"), "Bo")).await, Decided::Done);
    pipeline::run::run(&mut late, &until, &pipeline::progress::Progress::new(true)).await.unwrap();
    assert_eq!(captions(&late).await[id], "late words");
    assert_eq!(bo.tally().await.unwrap().pending, 0);
}

/// A stage may take longer than anything is kept: what its workers read stays, whatever takes its place in the tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_during_a_long_stage_takes_nothing_from_its_workers() {
    let world = World::new(24);
    let spec = || world.spec("work", &QUICK);
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(), until).await.unwrap();
    let reviews = review::open(&spec()).await.unwrap();
    // one of each shard
    let ids: BTreeMap<u32, String> =
        column(&build, Artifact::Captions, "status").await.into_keys().map(|id| (shard_of(&id, 3), id)).collect();
    for id in ids.values() {
        assert_eq!(decide(&reviews, ask(id, words("some words"), "Kim")).await, Decided::Done);
    }
    let build = open(spec()).await.unwrap();
    let stage = stages::map_stages(&build.spec).into_iter().find(|stage| stage.name == "captions").unwrap();
    let plan = plan_stage(&build, &stage, &Model::default(), false).await.unwrap();
    build.virtual_inputs.slices.publish_plan(&build.work, &plan, 8).await.unwrap();
    let all = plan.counts.stale.len();
    assert!(all > 1, "{:?}", plan.counts);
    let [claimed, other] = [0, 1].map(|at: usize| plan.counts.stale[at].shard);
    let object = |key: &str, object: Object| format!("{}/{}", paths::markers("finland", "captions"), object.name(key));
    build.work.put(&object(&plan.shard_key(claimed), Object::Claim(1)), "{}".into()).await.unwrap();
    assert_eq!(decide(&reviews, ask(&ids[&other], words("other words"), "Kim")).await, Decided::Done);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let retention = gc::Retention { keep: Duration::ZERO, delete: true };
    gc::gc(&build.work, &build.tables, "finland", retention).await.unwrap();

    let lease = Duration::from_secs(1);
    let claimant = Claimant { worker: "0".into(), node: "node0".into(), engine_job: None };
    let share = Share { index: 0, count: 1, lease, claimant, leaves: false };
    let (key, quiet) = (plan.key(), Progress::new(true));
    let work = || pipeline::worker::work(spec(), "captions", &key, &share, Arc::new(AtomicBool::new(false)), &quiet);
    work().await.unwrap();
    let collected = collect(&build.work, &build.tables, &plan, lease, 8).await.unwrap();
    assert_eq!((collected.finished.len(), collected.failed.len()), (all, 0));
    // where it is gone all the same no shard fails for it: the plan is withdrawn
    let pinned = plan.input(Artifact::CaptionReviews).unwrap().part(other).unwrap();
    build.work.delete(&format!("{}/{}", paths::table(Artifact::CaptionReviews), pinned.path)).await.unwrap();
    build.work.delete(&object(&plan.shard_key(other), Object::Marker)).await.unwrap();
    work().await.unwrap();
    assert!(build.work.head(&object(&key, Object::Withdrawn)).await.unwrap().is_some());
    assert_eq!(collect(&build.work, &build.tables, &plan, lease, 8).await.unwrap().failed.len(), 0);
}

/// A process that is killed while it decides leaves its decision whole, or nothing of it, and never touches another.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_harms_nothing() {
    let world = World::new(24);
    let file = world.path("spec.toml");
    std::fs::write(&file, world.spec_text("work")).unwrap();
    let spec = || world.spec("work", &[]);
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(), until).await.unwrap();
    let ids: Vec<String> = column(&build, Artifact::Captions, "status").await.into_keys().collect();
    let reviews = review::open(&spec()).await.unwrap();
    let (victim, others) = ids.split_first().unwrap();
    let others: Vec<&String> = others.iter().filter(|id| shard_of(id, 3) == shard_of(victim, 3)).collect();
    let (mut whole, mut none, mut wait) = (0, 0, 20u64);
    for (turn, other) in others.iter().cycle().take(16).enumerate() {
        let text = format!("words of turn {turn}");
        let mut child = std::process::Command::new(urbancross())
            .args(["review", &file.display().to_string(), "--edit", victim, "--author", "Kim", "--text", &text])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let kills = async {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        };
        let beside = decide(&reviews, ask(other, words(&format!("beside turn {turn}")), "Anne"));
        let ((), beside) = tokio::join!(kills, beside);
        assert_eq!(beside, Decided::Done);
        let theirs = reviews.look(victim).await.unwrap().unwrap().review;
        let came_through = theirs.as_ref().is_some_and(|review| review.captions == [text.clone()]);
        assert!(came_through || theirs.is_none_or(|review| review.captions[0].starts_with("words of turn ")));
        // towards the moment of the commit
        (whole, none, wait) =
            if came_through { (whole + 1, none, wait * 4 / 5) } else { (whole, none + 1, wait + wait / 4 + 5) };
        let mine = reviews.look(other).await.unwrap().unwrap().review.unwrap();
        assert_eq!(mine.captions, [format!("beside turn {turn}")]);
    }
    println!("{whole} came through, {none} were killed before");
    assert!(none > 0, "no process was killed in time");
    // what was left lying about is cleared away, and what stands is whole
    let retention = gc::Retention { keep: Duration::ZERO, delete: true };
    tokio::time::sleep(Duration::from_millis(20)).await;
    gc::gc(&build.work, &build.tables, "finland", retention).await.unwrap();
    assert!(verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap().is_empty());
    let folder = world.path("work/tables/caption_reviews/country=finland");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // a killed process may leave a draft, which has another name
    let parts: Vec<String> = names.filter(|name| name.ends_with(".parquet")).collect();
    assert_eq!(parts.len(), 1, "one live part of the one shard: {parts:?}");

    // a damaged file: back to what was decided before, and no further
    let decided = reviews.look(others[0]).await.unwrap().unwrap().review.unwrap();
    assert_eq!(decide(&reviews, ask(others[0], words("the last words"), "Anne")).await, Decided::Done);
    let newest = build.tables.pin(Artifact::CaptionReviews, "finland", None).await.unwrap().parts[0].path.clone();
    let file = world.path("work/tables/caption_reviews").join(newest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let faults = verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap();
    assert_eq!(faults.len(), 1, "{faults:?}");
    let refused = reviews.look(others[0]).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be made again") && !refused.contains("recomputes"), "{refused}");
    // what another program has done to it would take all decisions along
    let (file, why) = ("tables/caption_reviews/x.parquet".into(), "has a deletion vector".into());
    let foreign = verify::Fault { table: "caption_reviews", file, shard: None, rows: 0, why };
    let with_foreign = [faults.clone(), vec![foreign]].concat();
    let refused = verify::repair(&build.work, &build.tables, "finland", &with_foreign).await.unwrap_err();
    assert!(refused.exit_code() == 65 && refused.to_string().contains("Nothing was removed"), "{refused}");
    assert_eq!(verify::faults(&build.work, &build.tables, "finland", |_| ()).await.unwrap(), faults);
    let lost = verify::repair(&build.work, &build.tables, "finland", &faults).await.unwrap();
    assert!(lost[0].contains("back to the"), "{lost:?}");
    assert_eq!(reviews.look(others[0]).await.unwrap().unwrap().review, Some(decided));
    assert_eq!(reviews.tally().await.unwrap().decided as usize, others.len().min(16) + usize::from(whole > 0));
}
