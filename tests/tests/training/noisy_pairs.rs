//! Pairs that a training leaves out: which, and what a threshold computes again.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::review::Wish;
use manifests::{Artifact, BuildSpec, paths};
use pipeline::build::Build;
use pipeline::pair::Pair;
use pipeline::progress::Progress;
use pipeline::review::{self, Ask};
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, noisy, run_with, version};
use stages::Training;
use stages::segment_features::from_half_bytes;
use stages::table::Columns;
use training::communicator::Solo;
use workers::parts::PartReader;
use workers::train::LEFT_OUT_FILE;

fn spec(world: &World, more: &[&str]) -> BuildSpec {
    let text = format!(
        "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"{}\"\n[work]\nurl = \"{}\"\nshards = 3\n[caption]\n\
         captioner = \"given\"\n[segment]\nsegmenter = \"none\"\n[score]\nclip = \"bootstrap\"\nbootstrap_epochs = 1\n\
         [model]\npreset = \"tiny\"\nimage_size_px = 32\ncontext_length = 24\nvocabulary = 300\n[pretrain]\nepochs = 1\n\
         batch = 8\nsegments_per_image = 0\n",
        world.path("captioned").display(),
        world.path("pairs").display()
    );
    let set: Vec<String> = more.iter().map(|set| (*set).to_owned()).collect();
    BuildSpec::parse(&text, "pairs", &set).unwrap()
}

async fn trained(spec: BuildSpec) -> (Build, BTreeMap<String, String>, u64) {
    let until = RunOptions { until: Some("pretrain".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec, until).await.unwrap();
    let record = pipeline::trainings::current_record(&build, Training::Pretrain).await.unwrap().unwrap();
    let run = paths::training_run(&build.spec.country, "pretrain", &record.key);
    let left_out = build.work.get_json(&format!("{run}/{LEFT_OUT_FILE}")).await.unwrap().unwrap_or_default();
    (build, left_out, record.trained.train_rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_trains_again_and_computes_no_vector() {
    let world = World::new(60);
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(world.spec("work", &[]), until).await.unwrap();
    noisy::write_swapped(&build, &world.path("captioned"), 0.2).await;
    let (build, left_out, all) = trained(spec(&world, &[])).await;
    assert!(left_out.is_empty() && build.pin(Artifact::PairQuality).await.unwrap().version.is_none(), "off by default");
    let (build, left_out, rows) = trained(spec(&world, &["pretrain.pairs.drop_least_similar=0.25"])).await;
    assert_eq!((left_out.len() as u64, rows), (all / 4, all - all / 4));
    let splits = column(&build, Artifact::Splits, "split").await;
    assert!(left_out.keys().all(|id| splits[id] == "train"), "only what is learnt from");
    let made = version(&build, Artifact::PairQuality).await;
    let more = ["pretrain.pairs.drop_least_similar=0.5", "pretrain.pairs.drop_near_duplicates=true"];
    let (build, more_left_out, rows) = trained(spec(&world, &more)).await;
    assert!(left_out.keys().all(|id| more_left_out.contains_key(id)) && more_left_out.len() as u64 >= all / 2);
    assert_eq!(rows, all - more_left_out.len() as u64);
    assert_eq!(version(&build, Artifact::PairQuality).await, made, "a threshold computes no vector");
    // the same again trains nothing, and off again finds the first training
    let (_, again, _) = trained(spec(&world, &more)).await;
    assert_eq!(again, more_left_out);
    let (_, none, rows) = trained(spec(&world, &[])).await;
    assert!(none.is_empty() && rows == all);
}

/// Images of the train split with their vectors, those that their captions fit best first.
async fn vectors(build: &Build, splits: &BTreeMap<String, String>) -> Vec<(String, Vec<f32>)> {
    let mut rows = Vec::new();
    for part in build.pin(Artifact::PairQuality).await.unwrap().parts {
        let reader = PartReader::open(&build.work, Artifact::PairQuality, &part).await.unwrap();
        let batch = reader.read(&["image_id", "vector", "similarities"]).await.unwrap();
        let columns = Columns::new(Artifact::PairQuality, &batch);
        let (ids, bytes) = (columns.text("image_id").unwrap(), columns.binary("vector").unwrap());
        for (row, fits) in columns.vectors("similarities").unwrap().into_iter().enumerate() {
            if splits[ids.value(row)] == "train" {
                let best = fits.into_iter().fold(f32::MIN, f32::max);
                rows.push((best, ids.value(row).to_owned(), from_half_bytes(bytes.value(row))));
            }
        }
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let unit = |vector: Vec<f32>| {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    };
    rows.into_iter().map(|(_, id, vector)| (id, unit(vector))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tagged_and_what_looks_alike_to_a_clip_is_left_out_of_trainings_and_adaptations() {
    let world = World::new(40);
    let base =
        world.spec_text("work").replace("epochs = 2\nbatch = 8\nsegments_per_image = 1", "epochs = 1\nbatch = 4");
    let base = base + "[segment]\nsegmenter = \"none\"\n";
    let spec = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        BuildSpec::parse(&base, "finland", &set).unwrap()
    };
    let (build, _, all) = trained(spec(&[])).await;
    let splits = column(&build, Artifact::Splits, "split").await;
    let named = splits.iter().find(|(_, split)| *split == "train").unwrap().0.clone();
    let reviews = review::open(&spec(&[])).await.unwrap();
    let wish = Wish::Edit(vec!["a lighthouse and a golf course beside a windmill".to_owned()]);
    let ask = Ask { image_id: named.clone(), wish, author: "Anne".into(), seen: None };
    review::decide(&reviews, ask).await.unwrap();

    let (build, untagged, rows) = trained(spec(&["pretrain.pairs.max_untagged_share=0.6"])).await;
    let why = "its caption names what is not tagged: lighthouse, golf course, windmill; 1.00 of the things";
    assert!(untagged[&named].starts_with(why), "{untagged:?}");
    assert_eq!((untagged.len(), rows), (1, all - 1), "captions of tags name nothing else");
    let made = version(&build, Artifact::PairQuality).await;

    // vectors of all images are there: any threshold compares them without making one
    let vectors = vectors(&build, &splits).await;
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let pairs = (0..vectors.len()).flat_map(|at| (0..at).map(move |other| (at, other)));
    let mut cosines: Vec<f64> = pairs.map(|(at, other)| cosine(&vectors[at].1, &vectors[other].1)).collect();
    cosines.sort_by(|a, b| b.total_cmp(a));
    // where rounding decides nothing
    let gap = (1..8).max_by(|a, b| (cosines[a - 1] - cosines[*a]).total_cmp(&(cosines[b - 1] - cosines[*b]))).unwrap();
    let least = (cosines[gap - 1] + cosines[gap]) / 2.0;
    let threshold = format!("near_duplicate_cosine = {least}");
    let (mut build, left_out, rows) = trained(spec(&[&format!("pretrain.pairs.{threshold}")])).await;
    let (mut kept, mut expected) = (Vec::<&[f32]>::new(), Vec::new());
    for (image_id, vector) in &vectors {
        match kept.iter().any(|other| cosine(vector, other) >= least) {
            true => expected.push(image_id),
            false => kept.push(vector),
        }
    }
    expected.sort_unstable();
    assert_eq!(left_out.keys().collect::<Vec<_>>(), expected, "as all comparisons find");
    assert_eq!(version(&build, Artifact::PairQuality).await, made, "a threshold computes no vector");
    assert_eq!(rows, all - left_out.len() as u64);
    let (image_id, why) = left_out.first_key_value().unwrap();
    assert!(why.starts_with("an image with a like vector stays: ") && why.contains(", at a cosine of "), "{why}");
    let lines = pipeline::explain::explain(&mut build, image_id).await.unwrap();
    let said = format!("{:21} left this pair out: {why}", "pretrain");
    assert!(lines.contains(&said), "{lines:?}");
    let stays = splits.keys().find(|id| !left_out.contains_key(*id)).unwrap();
    let lines = pipeline::explain::explain(&mut build, stays).await.unwrap();
    assert!(!lines.iter().any(|line| line.contains("left this pair out")), "{lines:?}");

    // an adaptation leaves out what the model that it adapts has not learnt from
    let finland = format!("{base}[pretrain.pairs]\n{threshold}\n");
    let spain =
        base.replace("\"finland\"", "\"spain\"").replace("\"FI\"", "\"ES\"").replace("\"bootstrap\"", "\"none\"");
    for (country, text) in [("finland", finland), ("spain", spain)] {
        std::fs::write(world.path(&format!("{country}.toml")), &text).unwrap();
        run_with(BuildSpec::parse(&text, country, &[]).unwrap(), RunOptions::default()).await.unwrap();
    }
    let path = world.path("pair.toml");
    let text = "source = \"finland.toml\"\ntarget = \"spain.toml\"\nratio = [4, 2, 4]\n[adapt]\nepochs = 1\nbatch = 2\n\
                [adapt.method]\ndiscriminator_hidden = 8\n";
    std::fs::write(&path, text).unwrap();
    let pair = Pair::open(&path, &[], Arc::default()).await.unwrap();
    let record = pair.adapt(&pair.spec, &mut Solo, &Progress::new(true)).await.unwrap().unwrap();
    let written = workers::train::pairs::written(&pair.target.work, (&pair.name, "adapt"), &record.key).await.unwrap();
    assert_eq!(written, left_out, "the same pairs");
    assert!(record.source_inputs.iter().any(|table| table.artifact == Artifact::PairQuality));
}
