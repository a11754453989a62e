//! Pairs that a training leaves out: which, and what a threshold computes again.

use std::collections::BTreeMap;

use manifests::{Artifact, BuildSpec, paths};
use pipeline::build::Build;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, noisy, run_with, version};
use stages::Training;
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
    let run = paths::training_run("x", "pretrain", &record.key);
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
