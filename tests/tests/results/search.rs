//! Searches of finished builds: exact, by any model, with filters, and refusals that teach.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas::Atlas;
use manifests::{Artifact, BuildSpec, PairSpec};
use pipeline::build::Build;
use pipeline::pair::Pair;
use pipeline::plan::{Model, plan_stage};
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::search::{Adapted, Answer, MOST_FOUND, Query, Question, SearchModel, Searcher};
use pipeline::serve::{Served, Specs};
use pipeline_tests::distant::Reads;
use pipeline_tests::{World, column, open, run, run_with, urbancross, urbancross_sandbox};
use stages::evaluate::{EvaluatedRow, recall_of};
use stages::stage::StageContext;
use stages::table::Columns;
use tokio::runtime::Handle;
use training::communicator::Solo;
use workers::WorkerError;
use workers::fetch::FetchSettings;
use workers::map::{MapContext, Observer};
use workers::parts::PartReader;
use workers::search::{Filter, Near, Tag, kept_vectors, kilometres};
use workers::train::{Members, TableRows};
use workers::upkeep::gc::{Retention, gc};

/// A search refuses captions that the model does not read to their end.
const LONG: &str = "model.context_length=77";

fn question(query: Query, filter: Filter) -> Question {
    Question { query, filter, countries: Vec::new(), most: MOST_FOUND }
}

fn by_text(text: &str) -> Question {
    question(Query::Text(text.into()), Filter::default())
}

async fn searcher<'b>(model: &SearchModel, builds: &'b [Build]) -> Searcher<&'b Build> {
    Searcher::open(model.clone(), builds, &Progress::new(true)).await.unwrap()
}

async fn reopened(spec: &BuildSpec) -> Build {
    Build::open_work(spec.clone(), Arc::default()).await.unwrap()
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.found.iter().map(|found| found.image_id.as_str()).collect()
}

/// Rows of a split by the model in its folder, as evaluation across countries embeds them.
async fn embedded(model: &SearchModel, build: &Build, split: &str) -> Vec<EvaluatedRow> {
    let mut inputs = Vec::new();
    for artifact in [Artifact::Images, Artifact::Captions, Artifact::Splits] {
        inputs.push(build.pin(artifact).await.unwrap());
    }
    let mut rows = TableRows::open(&build.work, &inputs, Members::Split(split)).await.unwrap();
    pipeline::evaluate::embed(&model.spec, &model.folder, &mut rows).await.unwrap()
}

/// Every caption of the test split, searched among the test images, against the code that counts recall.
async fn ranks_agree(searcher: &Searcher<&Build>, rows: &[EvaluatedRow], build: &Build) {
    let outcome = recall_of(rows, build.spec.evaluate.protocol).unwrap();
    let captions: Vec<(&str, &str)> = rows
        .iter()
        .flat_map(|row| row.captions.iter().map(|(text, _)| (row.image_id.as_str(), text.as_str())))
        .collect();
    assert_eq!(outcome.ranks.captions.len(), captions.len());
    let of_test = Filter { split: Some("test".into()), ..Filter::default() };
    let mut later = 0;
    for (caption, rank) in &outcome.ranks.captions {
        let (own, text) = captions[*caption as usize];
        let answer = searcher.search(&question(Query::Text(text.into()), of_test.clone())).await.unwrap();
        assert_eq!(answer.compared as usize, rows.len());
        let at = ids(&answer).iter().position(|id| *id == own).unwrap() as u32;
        assert!((rank.optimistic()..=rank.pessimistic()).contains(&at), "{own}: {text}: {at}, {rank:?}");
        later += usize::from(at > 0);
    }
    assert!(later > 2, "a model that is always right shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_find_their_images_at_the_rank_that_recall_counts() {
    let world = World::new(60);
    let (build, _) = run(world.spec("work", &[LONG])).await.unwrap();
    let model = SearchModel::of_build(&build).await.unwrap();
    let rows = embedded(&model, &build, "test").await;
    assert!(rows.len() > 5, "{}", rows.len());
    let builds = [reopened(&build.spec).await];
    let searcher = searcher(&model, &builds).await;
    ranks_agree(&searcher, &rows, &build).await;
    assert!(!world.path("work/vectors").exists(), "the own model's vectors are a table");

    // how many shards are read side by side changes nothing
    let one_by_one = world.spec("work", &[LONG, "work.concurrency=1"]);
    let one_by_one = [reopened(&one_by_one).await];
    let other = Searcher::open(model.clone(), &one_by_one, &Progress::new(true)).await.unwrap();
    let asked = by_text("a satellite image of a soccer pitch");
    let answer = searcher.search(&asked).await.unwrap();
    assert_eq!(answer, other.search(&asked).await.unwrap());
    assert_eq!((answer.found.len() as u64, answer.outdated), (answer.compared, 0));
    assert!(answer.found.array_windows().all(|[a, b]| (b.score, &a.image_id) <= (a.score, &b.image_id)));
    assert_eq!(
        answer.found.iter().map(|found| found.rank).collect::<Vec<_>>(),
        (1..=answer.found.len()).collect::<Vec<_>>()
    );
    let fewer = searcher.search(&Question { most: 3, ..asked.clone() }).await.unwrap();
    assert_eq!(fewer.found, answer.found[..3]);
    // an image that two stores of a country hold is found once
    let twice = [reopened(&build.spec).await, reopened(&build.spec).await];
    let both = Searcher::open(model.clone(), &twice, &Progress::new(true)).await.unwrap();
    for (asked, once) in [(&asked, &answer.found), (&Question { most: 3, ..asked.clone() }, &fewer.found)] {
        assert_eq!(both.search(asked).await.unwrap().found, *once);
    }

    by_pictures(&searcher, &build, &answer).await;
    with_filters(&searcher, &build, &answer).await;
    with_an_older_version(&world, &build, &model, &answer).await;
}

/// A picture finds itself; an image that others are compared with is not among them.
async fn by_pictures(searcher: &Searcher<&Build>, build: &Build, all: &Answer) {
    let own = &all.found[4].image_id;
    let like = searcher.search(&question(Query::Like(own.clone()), Filter::default())).await.unwrap();
    assert!(!ids(&like).contains(&own.as_str()) && like.found.len() == all.found.len() - 1);
    let bytes = picture_bytes(build, own).await;
    let name = "somewhere/else.jpg".to_owned();
    let found = searcher.search(&question(Query::Picture { name, bytes }, Filter::default())).await.unwrap();
    assert!(found.found[0].image_id == *own && (found.found[0].score - 1.0).abs() < 1e-5, "{:?}", found.found[0]);
    let others = ids(&found).into_iter().filter(|id| *id != own);
    let moved = others.zip(ids(&like)).filter(|(a, b)| a != b).count();
    assert!(moved <= 2, "the vector of the same bytes may differ in its last bit: {moved}");

    let text = Query::Picture { name: "notes.txt".into(), bytes: b"no picture".to_vec() };
    let error = searcher.search(&question(text, Filter::default())).await.unwrap_err();
    assert!(error.exit_code() == 65 && error.to_string().contains("notes.txt"), "{error}");
    for absent in ["no-such-image", ""] {
        let error = searcher.search(&question(Query::Like(absent.into()), Filter::default())).await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("for one"), "{error}");
    }
}

async fn picture_bytes(build: &Build, image_id: &str) -> Vec<u8> {
    let shard = manifests::shard_of(image_id, build.spec.work.shards);
    let images = build.pin(Artifact::Images).await.unwrap();
    let reader = PartReader::open(&build.work, Artifact::Images, images.part(shard).unwrap()).await.unwrap();
    let batch = reader.read(&["image_id", "bytes"]).await.unwrap();
    let columns = Columns::new(Artifact::Images, &batch);
    let row = columns.text("image_id").unwrap().iter().position(|id| id == Some(image_id)).unwrap();
    columns.binary("bytes").unwrap().value(row).to_vec()
}

/// A filter leaves of all answers those that it wants, in their order and with their scores.
async fn with_filters(searcher: &Searcher<&Build>, build: &Build, all: &Answer) {
    let splits = column(build, Artifact::Splits, "split").await;
    let middle = &all.found[all.found.len() / 2];
    let (latitude, longitude) = (middle.latitude.unwrap(), middle.longitude.unwrap());
    let far = |found: &workers::search::Found| {
        kilometres((found.latitude.unwrap(), found.longitude.unwrap()), (latitude, longitude))
    };
    let mut distances: Vec<f64> = all.found.iter().map(far).collect();
    distances.sort_by(f64::total_cmp);
    let radius = distances[distances.len() / 2];
    let year = middle.year.unwrap();
    let (key, value) = middle.tags.first_key_value().unwrap();
    let tag = Tag { key: key.clone(), value: Some(value.clone()) };
    let gsd = middle.gsd_meters.unwrap();
    let none = Filter::default();
    type Wanted<'a> = Box<dyn Fn(&workers::search::Found) -> bool + 'a>;
    let cases: Vec<(Filter, Wanted<'_>)> = vec![
        (
            Filter { split: Some("val".into()), ..none.clone() },
            Box::new(|found| splits[&found.image_id] == "val" && found.split.as_deref() == Some("val")),
        ),
        (
            Filter { near: Some(Near { latitude, longitude, kilometres: radius }), ..none.clone() },
            Box::new(|found| far(found) <= radius),
        ),
        (Filter { years: Some(year..=year), ..none.clone() }, Box::new(|found| found.year == Some(year))),
        (Filter { gsd_meters: Some(0.0..=gsd), ..none.clone() }, Box::new(|found| found.gsd_meters.unwrap() <= gsd)),
    ];
    for (filter, wanted) in cases {
        let answer = searcher
            .search(&Question { filter: filter.clone(), ..question(all.query.clone(), none.clone()) })
            .await
            .unwrap();
        let expected: Vec<(&str, f64)> = all
            .found
            .iter()
            .filter(|found| wanted(found))
            .map(|found| (found.image_id.as_str(), found.score))
            .collect();
        let found: Vec<(&str, f64)> = answer.found.iter().map(|found| (found.image_id.as_str(), found.score)).collect();
        assert!(!found.is_empty() && found == expected, "{filter:?}");
        assert_eq!(answer.compared as usize, found.len());
    }
    // tags of what is around count too
    let tagged = Filter { tags: vec![tag.clone()], ..none.clone() };
    let answer = searcher.search(&question(all.query.clone(), tagged.clone())).await.unwrap();
    let centered = all.found.iter().filter(|found| found.tags.get(&tag.key) == tag.value.as_ref());
    let answered: BTreeSet<&str> = ids(&answer).into_iter().collect();
    assert!(centered.map(|found| found.image_id.as_str()).all(|id| answered.contains(id)));
    assert!(answered.contains(middle.image_id.as_str()) && answered.len() < all.found.len());
    let both = Filter { split: Some("test".into()), ..tagged };
    let answer = searcher.search(&question(all.query.clone(), both)).await.unwrap();
    assert!(answer.found.iter().all(|found| splits[&found.image_id] == "test" && answered.contains(&*found.image_id)));
    let nowhere = Filter { split: Some("no such split".into()), ..none };
    assert_eq!(searcher.search(&question(all.query.clone(), nowhere)).await.unwrap().compared, 0);
}

/// The vectors of an earlier version are searched with the model that made them.
async fn with_an_older_version(world: &World, build: &Build, model: &SearchModel, before: &Answer) {
    let version = build.pin(Artifact::ImageEmbeddings).await.unwrap().version.unwrap();
    let (newer, _) = run(world.spec("work", &[LONG, "pretrain.epochs=3"])).await.unwrap();
    let retrained = SearchModel::of_build(&newer).await.unwrap();
    assert_ne!(retrained.digest, model.digest);
    let builds = [reopened(&newer.spec).await];
    let now = searcher(&retrained, &builds).await;
    let text = question(before.query.clone(), Filter::default());
    assert_ne!(now.search(&text).await.unwrap().found, before.found);
    let then = Searcher::open_at(&builds[0], version).await.unwrap();
    assert_eq!(then.search(&text).await.unwrap().found, before.found);
    let error = Searcher::open_at(&builds[0], 99).await.err().unwrap();
    assert!(error.exit_code() == 65 && error.to_string().contains("version 99"), "{error}");

    // with the spec as it was, no row is by its model any more
    let as_it_was = [reopened(&build.spec).await];
    let outdated = searcher(model, &as_it_was).await;
    let error = outdated.search(&text).await.unwrap_err().to_string();
    assert!(error.contains("run its build to its end"), "{error}");
    let like = question(Query::Like(before.found[0].image_id.clone()), Filter::default());
    let error = outdated.search(&like).await.unwrap_err().to_string();
    assert!(error.contains("has no vector: none by this model") && error.contains("run its build"), "{error}");
    gc(&newer.work, &newer.tables, "finland", Retention { keep: std::time::Duration::ZERO, delete: true })
        .await
        .unwrap();
    let error = Searcher::open_at(&builds[0], version).await.err().unwrap();
    assert!(error.exit_code() == 65 && error.to_string().contains("gc"), "{error}");
}

/// A spec of a country of the world.
fn spec_of(world: &World, country: &str, code: &str) -> BuildSpec {
    let text = world
        .spec_text("work")
        .replace("country = \"finland\"", &format!("country = \"{country}\""))
        .replace("[\"FI\"]", &format!("[\"{code}\"]"))
        .replace("country_code = \"FI\"", &format!("country_code = \"{code}\""))
        .replace("clip = \"bootstrap\"", "clip = \"none\"")
        .replace("context_length = 24", "context_length = 77")
        + "[segment]\nsegmenter = \"none\"\n";
    std::fs::write(world.path(&format!("{country}.toml")), &text).unwrap();
    BuildSpec::parse(&text, country, &[]).unwrap()
}

/// A finished build of a country.
async fn build_of(world: &World, country: &str, code: &str) -> Build {
    run(spec_of(world, country, code)).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn other_models_search_with_vectors_that_are_kept() {
    let world = World::new(40);
    let finland = build_of(&world, "finland", "FI").await;
    let spain = build_of(&world, "spain", "ES").await;
    let model = SearchModel::of_build(&finland).await.unwrap();
    let files = || -> Vec<PathBuf> {
        let keys = std::fs::read_dir(world.path("work/vectors/spain")).into_iter().flatten();
        keys.flat_map(|key| std::fs::read_dir(key.unwrap().path()).unwrap().map(|file| file.unwrap().path())).collect()
    };
    assert!(files().is_empty());
    // a server that is told to end before it listens makes none
    let (specs, _) = Specs::read(&[world.path("finland.toml"), world.path("spain.toml")], &[]).unwrap();
    let (every, stop) = (Duration::from_secs(1), Arc::new(AtomicBool::new(true)));
    let stopped = Served::open(specs, every, Handle::current(), stop, &Progress::new(true)).await;
    assert!(matches!(stopped.err(), Some(WorkerError::Stopped)));
    let both = [reopened(&finland.spec).await, reopened(&spain.spec).await];
    let first = searcher(&model, &both).await;
    let made = files();
    assert_eq!(made.len(), spain.pin(Artifact::Images).await.unwrap().parts.len());
    let asked = by_text("a satellite image of a soccer pitch");
    let answer = first.search(&asked).await.unwrap();
    let countries: BTreeSet<&str> = answer.found.iter().map(|found| found.country.as_str()).collect();
    assert_eq!(countries, BTreeSet::from(["finland", "spain"]));
    let spanish = first.search(&Question { countries: vec!["spain".into()], ..asked.clone() }).await.unwrap();
    assert!(spanish.found.iter().all(|found| found.country == "spain") && spanish.compared < answer.compared);
    let error = first.search(&Question { countries: vec!["peru".into()], ..asked.clone() }).await.unwrap_err();
    assert!(error.to_string().contains("finland, spain"), "{error}");

    // the vectors are those of an evaluation across countries, and are made once
    let rows = embedded(&model, &spain, "test").await;
    let alone = searcher(&model, &both[1..]).await;
    ranks_agree(&alone, &rows, &spain).await;
    assert_eq!(searcher(&model, &both).await.search(&asked).await.unwrap(), answer);
    assert_eq!(files(), made);
    kept_files_are_opened_side_by_side(&model, &spain).await;
    copies_stand_for_the_files_that_they_are_of(&world, &made);
    assert_eq!(files(), made);

    what_did_not_change_is_taken_over(&world, &model, &spain).await;
    damage_is_made_good(&model, &spain, &files(), &spanish).await;
    an_id_of_another_country_is_another_image(&world, &model, &finland).await;
}

/// Two countries of one source have the same ids: only the image that others are compared with is left out.
async fn an_id_of_another_country_is_another_image(world: &World, model: &SearchModel, finland: &Build) {
    let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
    let (lapland, _) = run_with(spec_of(world, "lapland", "FI"), until).await.unwrap();
    let both = [reopened(&finland.spec).await, reopened(&lapland.spec).await];
    let searcher = searcher(model, &both).await;
    let all = searcher.search(&by_text("a satellite image of a soccer pitch")).await.unwrap();
    let own = &all.found.iter().find(|found| found.country == "finland").unwrap().image_id;
    let like = searcher.search(&question(Query::Like(own.clone()), Filter::default())).await.unwrap();
    assert_eq!(like.compared, all.compared - 1);
    let same: Vec<&str> = like.found.iter().filter(|f| f.image_id == *own).map(|f| f.country.as_str()).collect();
    assert_eq!(same, ["lapland"]);
}

/// One after the other they would keep a search of a large country waiting for minutes.
async fn kept_files_are_opened_side_by_side(model: &SearchModel, spain: &Build) {
    let mut afar = reopened(&spain.spec).await;
    let reads = Reads::count_from_afar(&mut afar, Duration::from_millis(20));
    let spanish = Searcher::open(model.clone(), [&afar], &Progress::new(true)).await.unwrap();
    let opened: usize = reads.of("vectors/spain").into_values().sum();
    let most = reads.most_at_once();
    let files = spain.pin(Artifact::Images).await.unwrap().parts.len();
    assert!(opened == files && most > 1, "{opened} files, {most} at once");
    // what is said of images that were found lies in three tables of each shard
    let answer = spanish.search(&by_text("a satellite image of a soccer pitch")).await.unwrap();
    let most = reads.most_at_once();
    assert!(most > files && !answer.found[0].captions.is_empty(), "{most} at once");
}

/// A file that was copied to this machine was whole: it is not opened again.
fn copies_stand_for_the_files_that_they_are_of(world: &World, files: &[PathBuf]) {
    let search = || -> Vec<u8> {
        let mut search = Command::new(urbancross());
        search.arg("search").arg(world.path("finland.toml")).arg("--also").arg(world.path("spain.toml"));
        search.args(["a soccer pitch", "--index", "always", "--json"]).env("URBANCROSS_CACHE", world.path("cache"));
        let output = search.output().unwrap();
        ends(&output, 0);
        output.stdout
    };
    let found = search();
    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    for (file, bytes) in files.iter().zip(&whole) {
        std::fs::write(file, vec![0; bytes.len()]).unwrap();
    }
    assert!(search() == found);
    for (file, bytes) in files.iter().zip(whole) {
        std::fs::write(file, bytes).unwrap();
    }
}

#[derive(Default)]
struct Counts {
    computed: AtomicU64,
    kept: AtomicU64,
}

impl Observer for Counts {
    fn rows(&self, computed: u64, kept: u64, _: u64) {
        self.computed.fetch_add(computed, Ordering::Relaxed);
        self.kept.fetch_add(kept, Ordering::Relaxed);
    }

    fn note(&self, _: &str) {}
}

/// Vectors of a build as a search makes them: images announced, computed and kept.
async fn counted(model: &SearchModel, build: &Build) -> (u64, u64, u64) {
    let stage = stages::image_embeddings::stage();
    let of_model = Model { digest: model.digest.clone(), ..Model::default() };
    let plan = plan_stage(build, &stage, &of_model, false).await.unwrap();
    let (counts, stop) = (Counts::default(), AtomicBool::new(false));
    let context = MapContext {
        work: &build.work,
        slices: build.virtual_inputs.slices.store(),
        tables: &build.tables,
        source: &build.source,
        fetch: FetchSettings { concurrency: 2, request_bytes: 1 << 20 },
        stop: &stop,
        observer: &counts,
    };
    let devices = stages::device::devices(stage.name, &model.spec).unwrap();
    let stage_context = StageContext {
        spec: &model.spec,
        device: devices[0],
        model_folder: Some(model.folder.clone()),
        weights: &build.weights,
        server: None,
        stop: Arc::default(),
    };
    let mut announced = 0;
    kept_vectors(&context, &stage, &plan, stage_context, &devices, |rows| announced = rows).await.unwrap();
    (announced, counts.computed.into_inner(), counts.kept.into_inner())
}

/// A part of the images is lost and made again: another part, the same pictures.
async fn what_did_not_change_is_taken_over(world: &World, model: &SearchModel, spain: &Build) {
    assert_eq!(counted(model, spain).await, (0, 0, 0));
    let part = spain.pin(Artifact::Images).await.unwrap().parts[0].clone();
    std::fs::remove_file(world.path("work/tables/images").join(&part.path)).unwrap();
    let (spain, _) = run(spain.spec.clone()).await.unwrap();
    assert_ne!(spain.pin(Artifact::Images).await.unwrap().parts[0].path, part.path);
    let (announced, computed, kept) = counted(model, &spain).await;
    assert_eq!((announced, computed), (part.rows, 0), "{kept} kept");
    assert!(kept > 0 && kept <= part.rows);
    // what the part that is gone left behind goes with it, and nothing else
    let retention = Retention { keep: std::time::Duration::ZERO, delete: true };
    let cleared = gc(&spain.work, &spain.tables, "spain", retention).await.unwrap();
    assert_eq!(cleared["vectors"].objects, 1);
    assert_eq!(counted(model, &spain).await, (0, 0, 0));
}

async fn damage_is_made_good(model: &SearchModel, spain: &Build, files: &[PathBuf], before: &Answer) {
    std::fs::write(&files[0], b"PAR1 no more").unwrap();
    let builds = [reopened(&spain.spec).await];
    let again = searcher(model, &builds).await;
    let answer = again.search(&question(before.query.clone(), Filter::default())).await.unwrap();
    let scores = |answer: &Answer| -> BTreeMap<String, f64> {
        answer.found.iter().map(|found| (found.image_id.clone(), found.score)).collect()
    };
    let (then, now) = (scores(before), scores(&answer));
    assert_eq!(then.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
    assert!(then.iter().all(|(id, score)| (score - now[id]).abs() < 1e-5), "{then:?} {now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_searched_before_and_after_its_adaptation() {
    let world = World::new(40);
    build_of(&world, "finland", "FI").await;
    build_of(&world, "spain", "ES").await;
    let path = world.path("finland_to_spain.toml");
    let text = "source = \"finland.toml\"\ntarget = \"spain.toml\"\nratio = [4, 2, 4]\n[adapt]\nepochs = 2\nbatch = 4\n\
                learning_rate = 1e-3\n[adapt.method]\ndiscriminator_hidden = 8\n";
    std::fs::write(&path, text).unwrap();
    let text = "a satellite image of a soccer pitch";
    let pair = path.to_str().unwrap();
    assert!(ends(&call(&["search", pair, text]), 65).contains("nothing was adapted yet"));
    let opened = Pair::open(&path, &[], Arc::default()).await.unwrap();
    let record = opened.adapt(&opened.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap();
    let other = ends(&call(&["search", pair, text, "--set", "adapt.epochs=3"]), 65);
    assert!(other.contains("other settings"), "{other}");

    let (spec, source, target) = PairSpec::read(&path, &[]).unwrap();
    let (source, target) = (open(source).await.unwrap(), open(target).await.unwrap());
    let after = SearchModel::of_pair(&spec, &source, &target, Adapted::After).await.unwrap();
    assert_eq!(after.digest, record.trained.model_digest);
    let json = |args: &[&str]| -> serde_json::Value {
        let output = call(&[&["search", pair, text, "--json", "--top", "3"], args].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (before, after) = (json(&["--model", "before"]), json(&[]));
    assert_eq!(after["model_digest"], record.trained.model_digest);
    assert_ne!(before["found"], after["found"]);
    for answer in [&before, &after] {
        let found = answer["found"].as_array().unwrap();
        assert!(found.len() == 3 && found.iter().all(|found| found["country"] == "spain"), "{answer}");
        assert_eq!(answer["changed_since"], serde_json::json!([]));
    }

    // tables that the adaptation has not seen
    let sandbox = Command::new(urbancross_sandbox()).arg(world.path("world")).args(["--edit-tags", "0.5"]).output();
    assert!(sandbox.unwrap().status.success());
    ends(&call(&["run", world.path("spain.toml").to_str().unwrap(), "--until", "captions"]), 0);
    let changed = json(&[])["changed_since"].to_string();
    assert!(changed.contains("captions of spain") && !changed.contains("finland"), "{changed}");
    let told = ends(&call(&["search", pair, text]), 0);
    assert!(told.contains("was adapted before these tables changed") && told.contains("captions of spain"), "{told}");
    assert_eq!(json(&["--model", "before"])["changed_since"], serde_json::json!([]));
    a_server_says_what_changed_since(&world, &path, text).await;
}

/// Also of the source, whose tables no page reads.
async fn a_server_says_what_changed_since(world: &World, pair: &Path, text: &str) {
    let (specs, _) = Specs::read(&[pair.to_owned()], &[]).unwrap();
    let (every, progress) = (Duration::from_millis(200), Progress::new(true));
    let served = Served::open(specs, every, Handle::current(), Arc::default(), &progress).await.unwrap();
    let asked = atlas::Question {
        query: atlas::Query::Text(text.into()),
        model: Some("finland_to_spain".into()),
        narrowed: atlas::Narrowed::default(),
        most: 1,
    };
    let note = async || served.search(asked.clone()).await.unwrap().note.unwrap_or_default();
    let before = note().await;
    assert!(before.contains("captions of spain") && !before.contains("captions of finland"), "{before}");
    ends(&call(&["run", world.path("finland.toml").to_str().unwrap(), "--until", "captions"]), 0);
    let until = Instant::now() + Duration::from_secs(60);
    while !note().await.contains("captions of finland") {
        assert!(Instant::now() < until, "the change was not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn call(args: &[&str]) -> Output {
    Command::new(urbancross()).args(args).output().expect("the program runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ends(output: &Output, code: i32) -> String {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_searched_is_refused_with_what_can() {
    let world = World::new(40);
    let path = world.path("spec.toml");
    std::fs::write(&path, world.spec_text("work")).unwrap();
    let spec = path.to_str().unwrap();
    let search = |args: &[&str]| call(&[&["search", spec], args].concat());
    assert!(ends(&search(&["a pond"]), 65).contains("there is no work store"));
    ends(&call(&["run", spec, "--until", "captions"]), 0);
    assert!(ends(&search(&["a pond"]), 65).contains("no trained model yet"));
    ends(&call(&["run", spec, "--until", "pretrain"]), 0);
    assert!(ends(&search(&["a pond"]), 65).contains("run its build to its end"));
    assert!(ends(&search(&["a pond", "--set", "pretrain.epochs=9"]), 65).contains("other settings"));
    ends(&call(&["run", spec]), 0);

    for wrong in [&[][..], &["a pond", "--like", "x"], &["a pond", "--within", "3"], &["a pond", "--top", "0"]] {
        ends(&search(wrong), 2);
    }
    let long = vec!["pond"; 60].join(" ");
    for (args, words) in [
        (&[long.as_str()][..], "tokens, and this model reads 22, up to"),
        (&["  "], "the text is empty"),
        (&["--like", "nobody"], "there is no image \"nobody\" in finland (there is "),
        (&["--image", "no-such.jpg"], "no-such.jpg"),
        (&["--image", spec], "spec.toml"),
        (&["a pond", "--model", "before"], "--model chooses between those of a pair spec"),
        (&["a pond", "--at", "77"], "version 77"),
        (&["a pond", "--country", "peru"], "\"peru\" is not among what is searched (finland)"),
        (&["a pond", "--html", "/no/such/folder/x.html"], "no such folder"),
    ] {
        let told = ends(&search(args), 65);
        assert!(told.contains(words), "{words}: {told}");
    }
    ends(&call(&["search", "no-such.toml", "a pond"]), 65);

    let told = ends(&search(&["a pond", "--top", "2"]), 0);
    assert!(told.contains("  1  0.") && told.contains("  2  0.") && !told.contains("  3  0."), "{told}");
    assert!(told.contains("compared by the model of finland; --html FILE shows the pictures"), "{told}");
    assert!(!told.contains('\x1b'), "no escape goes into a pipe");
    assert!(ends(&search(&["a pond", "--year", "1900"]), 0).contains("no image passes the filters"));
    page_of(&world, spec);
}

/// The page carries its pictures, also that of the query.
fn page_of(world: &World, spec: &str) {
    let page = world.path("found.html");
    let html = |args: &[&str]| {
        let all = [&["search", spec, "--top", "4", "--html", page.to_str().unwrap()], args].concat();
        ends(&call(&all), 0);
        std::fs::read_to_string(&page).unwrap()
    };
    let shown = html(&["a pond <b>&"]);
    assert_eq!(shown.matches("src=\"data:image/jpeg;base64,").count(), 4);
    assert!(shown.contains("a pond &lt;b&gt;&amp;") && !shown.contains("<b>&"), "{shown}");
    let answer = call(&["search", spec, "a pond", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let id = answer["found"][0]["image_id"].as_str().unwrap();
    let shown = html(&["--like", id]);
    assert_eq!(shown.matches("src=\"data:image/jpeg;base64,").count(), 5);
    assert!(shown.contains(&format!("like {id}")));

    // a report may begin with searches
    let report =
        ["report", spec, "--output", page.to_str().unwrap(), "--search", "a pond", "--search", "a <b>house</b>"];
    ends(&call(&report), 0);
    let shown = std::fs::read_to_string(&page).unwrap();
    let (searches, rest) = shown.split_once("id=\"recall\"").unwrap();
    assert_eq!(searches.matches("src=\"data:image/jpeg;base64,").count(), 10);
    assert!(
        searches.contains("urbancross search SPEC")
            && searches.contains("a &lt;b&gt;house&lt;/b&gt;")
            && !rest.is_empty()
    );
    ends(&call(&["evaluate", spec, "--search", "a pond"]), 2);
}
