//! How well swapped captions are found, and what leaving them out is worth, on a sandbox world:
//! `cargo run --release --example noisy_pairs -- [TILES] [EPOCHS] [BOOTSTRAP_EPOCHS]`.

use std::collections::{BTreeMap, BTreeSet};

use manifests::{Artifact, BuildSpec, paths};
use pipeline::run_options::RunOptions;
use pipeline_tests::{noisy, run, run_with, spec_below};
use workers::train::LEFT_OUT_FILE;

const SWAPPED: f64 = 0.2;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |at: usize, default: usize| std::env::args().nth(at).map_or(Ok(default), |text| text.parse());
    let (tiles, epochs, bootstrap) = (number(1, 1000)?, number(2, 12)?, number(3, 4)?);
    let folder = tempfile::tempdir()?;
    let settings = sandbox::Settings { tiles_per_country: tiles, side_px: 80, seed: 7 };
    sandbox::generate(&folder.path().join("world"), &settings, &mut |_, _| {})?;
    let until = RunOptions { until: Some("captions".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec_below(folder.path(), "clean", &[]), until).await?;
    println!("pairs to leave out of training, of {tiles} images with a fifth of the captions swapped, {epochs} epochs");
    for share in [0.0, SWAPPED] {
        let captioned = folder.path().join(format!("captioned-{share}"));
        let swapped = noisy::write_swapped(&build, &captioned, share).await;
        for drop in [0.0, SWAPPED] {
            let text = format!(
                "country = \"x\"\n[source]\nkind = \"captioned\"\nurl = \"{}\"\n[work]\nurl = \"{}\"\n[caption]\ncaptioner = \
                 \"given\"\n[segment]\nsegmenter = \"none\"\n[score]\nclip = \"bootstrap\"\nbootstrap_epochs = {bootstrap}\n\
                 [model]\npreset = \"tiny\"\nvocabulary = 1000\n[pretrain]\nepochs = {epochs}\nbatch = 32\n\
                 segments_per_image = 0\npairs.drop_least_similar = {drop}\n",
                captioned.display(),
                folder.path().join(format!("work-{share}-{drop}")).display()
            );
            let (build, _) = run(BuildSpec::parse(&text, "noisy", &[])?).await?;
            let recall = pipeline::evaluate::finished(&build).await?;
            let record =
                pipeline::trainings::current_record(&build, stages::Training::Pretrain).await?.ok_or("a run")?;
            let run = paths::training_run("x", "pretrain", &record.key);
            let found: BTreeSet<String> = match build.work.get(&format!("{run}/{LEFT_OUT_FILE}")).await? {
                Some(bytes) => serde_json::from_slice::<BTreeMap<String, String>>(&bytes)?.into_keys().collect(),
                None => BTreeSet::new(),
            };
            let learnt = pipeline_tests::column(&build, Artifact::Splits, "split").await;
            let noisy: BTreeSet<&String> =
                swapped.iter().filter(|id| learnt.get(*id).is_some_and(|s| s == "train")).collect();
            let right = found.iter().filter(|id| noisy.contains(id)).count();
            println!(
                "swapped {:.0} %, left out {:.0} %: {} of {} swapped ones found, precision {:.3}, recall {:.3}; test {}",
                100.0 * share,
                100.0 * drop,
                right,
                noisy.len(),
                right as f64 / found.len().max(1) as f64,
                right as f64 / noisy.len().max(1) as f64,
                recall.quoted().in_words()
            );
        }
    }
    Ok(())
}
