//! One country's model adapted to another, and what each part of the method is worth.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use manifests::{Artifact, PartFile};
use pipeline::ablate::{Variant, ablate};
use pipeline::pair::Pair;
use pipeline::progress::Progress;
use pipeline_tests::{World, open, run, urbancross};
use stages::fit::{CURVE_FILE, read_curve};
use training::communicator::Solo;
use workers::adapt::AdaptationRecord;
use workers::upkeep::gc::{Retention, gc};

const COUNTRIES: [(&str, &str); 2] = [("finland", "FI"), ("spain", "ES")];

fn spec_of(world: &World, country: &str) -> manifests::BuildSpec {
    let text = std::fs::read_to_string(world.path(&format!("{country}.toml"))).unwrap();
    manifests::BuildSpec::parse(&text, country, &[]).unwrap()
}

/// Two finished builds and the spec of their pair.
async fn pair_of(world: &World) -> std::path::PathBuf {
    pair_with(world, "[segment]\nsegmenter = \"none\"\n").await
}

async fn pair_with(world: &World, segments: &str) -> std::path::PathBuf {
    for (country, code) in COUNTRIES {
        let text = world
            .spec_text("work")
            .replace("country = \"finland\"", &format!("country = \"{country}\""))
            .replace("[\"FI\"]", &format!("[\"{code}\"]"))
            .replace("country_code = \"FI\"", &format!("country_code = \"{code}\""))
            .replace("clip = \"bootstrap\"", "clip = \"none\"")
            + segments;
        std::fs::write(world.path(&format!("{country}.toml")), &text).unwrap();
        run(spec_of(world, country)).await.unwrap();
    }
    let pair = world.path("finland_to_spain.toml");
    let text = "source = \"finland.toml\"\ntarget = \"spain.toml\"\nratio = [4, 2, 4]\n[adapt]\nepochs = 2\nbatch = 4\n\
                learning_rate = 1e-3\n[adapt.method]\ndiscriminator_hidden = 8\n[ablation]\nseeds = [0, 1]\n";
    std::fs::write(&pair, text).unwrap();
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_adapted_tested_and_taken_apart() {
    let world = World::new(40);
    let path = pair_of(&world).await;
    let open = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let path = path.clone();
        async move { Pair::open(&path, &set, Arc::default()).await }
    };
    for (set, words) in [
        ("adapt.batch=4096", "adapt.batch = 4096 is more than"),
        ("adapt.batch=1", "adapt.batch = 1: "),
        ("adapt.method.margin=3.0", "adapt.method.margin is 3"),
    ] {
        let error = open(&[set]).await.err().expect("a refusal");
        assert!(error.to_string().contains(words) && error.exit_code() == 65, "{error}");
    }
    let pair = open(&[]).await.unwrap();
    let progress = Progress::new(true);
    let record = pair.adapt(&pair.spec, &mut Solo, &progress).await.unwrap().unwrap();
    assert_eq!(record.trained.epochs, 2);
    let before = pair.test(&pair.model(None).await.unwrap()).await.unwrap();
    let after = pair.test(&pair.model(Some(&record)).await.unwrap()).await.unwrap();
    assert_ne!(before.model_digest, after.model_digest);
    let [train, val, test] = pair.parts().map(|(_, rows)| rows);
    assert!(train > 0 && val > 0, "{:?}", pair.parts());
    assert_eq!((before.recall.image_gallery, after.recall.image_gallery), (test, test));

    // a finished adaptation stands; other settings are another one
    let again = pair.adapt(&pair.spec, &mut Solo, &progress).await.unwrap().unwrap();
    assert_eq!(record, again);
    let stronger = open(&["adapt.method.beta=2.0"]).await.unwrap();
    let other = stronger.adapt(&stronger.spec, &mut Solo, &progress).await.unwrap().unwrap();
    assert_ne!((&record.key, &record.trained.model_digest), (&other.key, &other.trained.model_digest));

    // what it changes, query by query, without adapting anything
    let html = world.path("adapted.html");
    let analyse = |more: &[&str]| {
        let told = Command::new(urbancross()).arg("analyse").arg(&path).args(more).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        told
    };
    let embeds = |more: &[&str]| String::from_utf8_lossy(&analyse(more).stderr).contains("by two models");
    assert!(embeds(&["--html", html.to_str().unwrap()]));
    assert!(!embeds(&[]), "what was compared once is embedded again");
    let told = analyse(&["--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told[0]["after"], serde_json::json!(after), "the figures of the adaptation with these settings");
    for (moves, queries) in [("text_moves", after.recall.caption_queries), ("image_moves", after.recall.image_queries)]
    {
        let moves = &told[0]["changes"][moves];
        let all: u64 = ["rose", "fell", "stayed"].iter().map(|kind| moves[kind].as_u64().unwrap()).sum();
        assert_eq!(all, queries as u64, "{moves}");
    }
    // the sampler's bands, from the most similar sources on
    let sampled = told[0]["sampled"].as_array().unwrap();
    assert_eq!(sampled.len(), 2, "one for each epoch");
    for (epoch, of) in sampled.iter().enumerate() {
        assert_eq!(
            (of["targets"].as_u64(), of["sources"].as_u64(), of["epoch"].as_u64()),
            (Some(4), Some(20), Some(epoch as u64))
        );
        let ranks: Vec<u64> = of["chosen"].as_array().unwrap().iter().map(|one| one[0].as_u64().unwrap()).collect();
        let first = 4 * epoch as u64;
        assert_eq!(ranks, (first..first + 4).collect::<Vec<_>>());
        let weights: f64 = of["chosen"].as_array().unwrap().iter().map(|one| one[1].as_f64().unwrap()).sum();
        assert!((weights - 4.0).abs() < 1e-9, "Eq. 10 scales them to the batch: {of}");
        let bands: Vec<Vec<f64>> = serde_json::from_value(of["bands"].clone()).unwrap();
        let mean = |band: usize| bands.iter().map(|target| target[band]).sum::<f64>();
        assert!((1..5).all(|band| mean(band - 1) >= mean(band)), "{bands:?}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("Weights of the sources that the first batch of an epoch"));
    assert!(page.contains("finland to spain: before and after adaptation") && page.contains("moved up"));
    let unknown =
        Command::new(urbancross()).arg("analyse").arg(&path).args(["--set", "adapt.method.beta=9.0"]).output();
    let unknown = unknown.unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(65) && said.contains("other settings than this spec"), "{said}");

    // settings moved one at a time; what was adapted stands
    let over =
        ["sweep", "--over", "adapt.method.beta=2.0,1.0", "--over", "adapt.method.curriculum=bands,easiest", "--json"];
    let swept = Command::new(urbancross()).args(over).arg(&path).output().unwrap();
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    let curves: Vec<pipeline::sweep::Curve> = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(
        (curves[0].country.as_str(), curves[0].points[0].value, curves[0].points[1].value),
        ("finland_to_spain", 1.0, 2.0)
    );
    assert_eq!(curves[0].points[0].seconds, record.trained.seconds, "the adaptation that was made above");
    assert_eq!(curves[0].points[1].seconds, other.trained.seconds);
    assert_eq!((curves[1].points[0].name().as_str(), curves[1].points[1].name().as_str()), ("bands", "easiest"));
    for (over, words) in [
        ("adapt.batch=4,4096", "adapt.batch = 4096 is more than"),
        ("adapt.method.margin=0.1,3.0", "adapt.method.margin is 3"),
        ("pretrain.batch=4", "name the spec of a build"),
    ] {
        let refused = Command::new(urbancross()).args(["sweep", "--over", over]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        let first = format!("with {}", over.split(',').next().unwrap());
        assert!(refused.status.code() == Some(65) && said.contains(words) && !said.contains(&first), "{said}");
    }

    // as processes side by side, and then here, where all of them stand
    let told = Command::new(urbancross()).arg("ablate").arg(&path).args(["--jobs", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success() && said.contains("12 of 12: finland_to_spain: "), "{said}");
    let ablation = ablate(&pair, &progress).await.unwrap();
    let full = ablation.lines.last().unwrap();
    let reached = full.mean_recall();
    let printed = String::from_utf8_lossy(&told.stdout).into_owned();
    for words in [
        format!("{:.2} ± {:.2}", reached.mean, reached.standard_deviation),
        format!("mR (chance {:.2})", ablation.chance().unwrap()),
        full.over_fine_tuning.unwrap().to_string(),
        full.over_joint_training.unwrap().to_string(),
        ablation.verdict(),
    ] {
        assert!(printed.contains(&words), "{words}: {printed}");
    }
    assert!(!printed.contains(" %"), "no percentage of a model that may only guess: {printed}");
    let runs: Vec<(Variant, usize)> = ablation.lines.iter().map(|line| (line.variant, line.runs.len())).collect();
    assert_eq!(runs, Variant::ALL.map(|variant| (variant, if variant == Variant::NoAdaptation { 1 } else { 2 })));
    assert_eq!(full.runs[0].model_digest, after.model_digest, "seed 0 of the full adaptation is the one made above");
    // the first band is the easiest, with and without a curriculum: a best epoch in it is the same model
    let others = ablation.lines.iter().filter(|line| line.variant != Variant::WithoutCurriculum);
    let digests: std::collections::BTreeSet<&String> =
        others.flat_map(|line| line.runs.iter().map(|run| &run.model_digest)).collect();
    assert_eq!(digests.len(), 11, "every other variant and seed is a model of its own");
    let page = pipeline::page::ablation::make(&[pair], &[ablation], "today").await.unwrap();
    for words in ["w/o SS", "w/o CL", "w/o AT", "joint training", "mR (chance ", "before", "after", "moved down"] {
        assert!(page.contains(words), "{words}");
    }
    let error = open(&["adapt.method.bta=1.0"]).await.err().unwrap().to_string();
    assert!(error.contains("there is no field `adapt.method.bta`") && error.contains("did you mean `beta`"), "{error}");
}

/// Segments of both countries are learnt from where the pair says so, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn an_adaptation_learns_from_segments() {
    let world = World::new(40);
    let path = pair_with(&world, "").await;
    let adapted = async |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let pair = Pair::open(&path, &set, Arc::default()).await.unwrap();
        (pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap(), pair)
    };
    let (plain, _) = adapted(&[]).await;
    let (with, pair) = adapted(&["adapt.segments_per_image=2"]).await;
    assert_ne!(plain.trained.model_digest, with.trained.model_digest);
    let tables = |record: &AdaptationRecord| -> Vec<Artifact> {
        record.source_inputs.iter().chain(&record.target_inputs).map(|table| table.artifact).collect()
    };
    assert_eq!(tables(&with).iter().filter(|table| **table == Artifact::SegmentScores).count(), 2);
    assert!(!tables(&plain).contains(&Artifact::SegmentScores));
    let figures = pair.test(&pair.model(Some(&with)).await.unwrap()).await.unwrap();
    assert_eq!(figures.model_digest, with.trained.model_digest);
    // where no source is learnt from, its rows need not fill a step
    let (of_targets, _) = adapted(&["adapt.method.source_pairs=false", "adapt.method.sources_per_target=1000"]).await;
    assert_eq!(of_targets.trained.epochs, 2);
    // a country without segments is named before anything is opened
    let spain = world.path("spain.toml");
    let text = std::fs::read_to_string(&spain).unwrap() + "[segment]\nsegmenter = \"none\"\n";
    std::fs::write(&spain, text).unwrap();
    let error = Pair::open(&path, &["adapt.segments_per_image=2".to_owned()], Arc::default()).await.err().unwrap();
    assert!(error.to_string().contains("the build of spain scores no segments") && error.exit_code() == 65, "{error}");
}

/// Two processes, as a launcher starts them, and one: the same adaptation.
#[tokio::test(flavor = "multi_thread")]
async fn two_ranks_adapt_together() {
    let world = World::new(40);
    let path = pair_of(&world).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ranks: Vec<_> = ["0", "1"]
        .map(|rank| {
            let mut command = Command::new(urbancross());
            command.args(["adapt", "--json"]).arg(&path).env("RANK", rank).env("WORLD_SIZE", "2");
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    for rank in &ranks {
        assert!(rank.status.success(), "{}", String::from_utf8_lossy(&rank.stderr));
    }
    assert!(ranks[1].stdout.is_empty(), "only rank 0 speaks");
    let told: serde_json::Value = serde_json::from_slice(&ranks[0].stdout).unwrap();
    assert!(told["after"]["recall"].is_object());
    // one rank finds it done
    let pair = Pair::open(&path, &[], Arc::default()).await.unwrap();
    let stop = pair.target.stop.clone();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let record = pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap();
    assert_eq!(told["after"]["model_digest"], record.trained.model_digest);
    // and makes the same of it from the beginning
    let runs = world.path("work").join("checkpoints").join(&pair.name).join("adapt");
    let losses = |record: &AdaptationRecord| -> Vec<f64> {
        let curve = std::fs::read_to_string(runs.join(&record.key).join(CURVE_FILE)).unwrap();
        read_curve(&curve).iter().filter_map(|point| point.loss).collect()
    };
    let together = losses(&record);
    std::fs::remove_dir_all(&runs).unwrap();
    stop.store(false, std::sync::atomic::Ordering::Relaxed);
    let record = pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap();
    let alone = losses(&record);
    assert!(alone.len() >= 4 && alone.len() == together.len(), "{alone:?} {together:?}");
    for (a, b) in alone.iter().zip(&together) {
        assert!((a - b).abs() < 1e-3, "{alone:?} {together:?}");
    }
    // one that was killed before its record was written knows what guessing reaches, though it validates no more
    std::fs::remove_file(runs.join(&record.key).join("done.json")).unwrap();
    let again = pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap();
    assert_eq!((again.key, again.trained.model_digest), (record.key, record.trained.model_digest));
    assert!(again.trained.validation_chance.is_some());
    assert_eq!(again.trained.validation_chance, record.trained.validation_chance);
}

/// Sources are chosen by the vectors in the tables, targets by the model: of another model they mean nothing.
#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_model_are_refused() {
    let world = World::new(40);
    let path = pair_of(&world).await;
    let pair = Pair::open(&path, &[], Arc::default()).await.unwrap();
    // parts that were cleared away between the first look and the word that they are needed
    let build = open(spec_of(&world, "spain")).await.unwrap();
    let part = build.pin(Artifact::Captions).await.unwrap().parts.remove(0);
    let file = world.path("work/tables/captions").join(&part.path);
    std::fs::rename(&file, world.path("aside")).unwrap();
    let error = pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap_err();
    assert!(error.exit_code() == 75 && error.to_string().contains("cleared away"), "{error}");
    std::fs::rename(world.path("aside"), &file).unwrap();
    let spec = world.path("finland.toml");
    let text = std::fs::read_to_string(&spec).unwrap().replace("[pretrain]\n", "[pretrain]\nlearning_rate = 7e-4\n");
    std::fs::write(&spec, text).unwrap();
    let told = Command::new(urbancross()).args(["run", "--until", "pretrain"]).arg(&spec).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let error = Pair::open(&path, &[], Arc::default()).await.err().unwrap().to_string();
    assert!(error.contains("rows of finland's image_embeddings") && error.contains("run its build first"), "{error}");
}

/// A running adaptation needs the tables and the model as they were when it began, whatever becomes of them; its end frees
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn gc_leaves_what_a_running_adaptation_reads() {
    let world = World::new(40);
    let path = pair_of(&world).await;
    let build = open(spec_of(&world, "finland")).await.unwrap();
    let before = build.tables.pin(Artifact::Captions, "finland", None).await.unwrap().parts;
    let is_there = |part: &PartFile| world.path("work/tables/captions").join(&part.path).exists();
    let mut adapting = Command::new(urbancross()).arg("adapt").arg(&path).stderr(Stdio::null()).spawn().unwrap();
    let runs = world.path("work/checkpoints/finland_to_spain/adapt");
    let has_begun = || {
        let runs = std::fs::read_dir(&runs).into_iter().flatten().flatten();
        runs.map(|run| run.path().join("begun.json")).any(|file| file.exists())
    };
    while !has_begun() {
        assert!(adapting.try_wait().unwrap().is_none(), "it ended without a word of what it reads");
        std::thread::sleep(Duration::from_millis(5));
    }
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &adapting.id().to_string()]).status().unwrap().success());
    };
    signal("-STOP");
    sandbox::edit_tags(&world.path("world"), 0.3, 1).unwrap();
    run(spec_of(&world, "finland")).await.unwrap();
    let live = build.tables.pin(Artifact::Captions, "finland", None).await.unwrap().parts;
    let gone: Vec<&PartFile> = before.iter().filter(|part| !live.contains(part)).collect();
    assert!(!gone.is_empty());
    std::thread::sleep(Duration::from_millis(1100));
    let now = Retention { keep: Duration::ZERO, delete: true };
    // twice: the first must not forget what it spared
    for country in ["finland", "spain", "finland"] {
        gc(&build.work, &build.tables, country, now).await.unwrap();
    }
    assert!(has_begun() && before.iter().all(is_there), "what it reads was deleted");
    signal("-CONT");
    assert!(adapting.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(1100));
    gc(&build.work, &build.tables, "finland", now).await.unwrap();
    assert!(!gone.iter().any(|part| is_there(part)), "nobody needs them any more");
    // its result stands
    let record = workers::adapt::records(&build.work, "finland_to_spain").await.unwrap().remove(0);
    workers::adapt::fetch_result(&build.work, &build.scratch, "finland_to_spain", &record.key).await.unwrap();
}
