//! `evaluate --model`: models from elsewhere on the data sets of builds.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use manifests::words::count;
use training::recall::RecallReport;

use super::report_commands::open_sound;
use crate::progress::Progress;
use crate::say;
use crate::zero_shot::{AskedModel, PublishedFigure, ZeroShotQuestion, ZeroShotTable, zero_shot};

/// Models from elsewhere.
#[derive(Debug, Args)]
pub(super) struct ZeroShotArgs {
    #[arg(
        long = "model",
        value_name = "MODEL[#WORDS]",
        help = "Measure this CLIP instead, as it is: a file, a folder, an address or a name on the hub; may be given \
                several times. Behind # what its files do not say: a family (openai, remoteclip, georsclip, skyclip, \
                lrsclip), activation=, captions=, template=, tokenizer=, name=, joined by commas"
    )]
    pub(super) models: Vec<AskedModel>,
    #[arg(long, value_name = "FILE", requires = "models", help = "Vocabulary of models that have none beside them")]
    pub(super) tokenizer: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        requires = "models",
        help = "Figures that others have printed, in place of those that come with the program"
    )]
    pub(super) published: Option<PathBuf>,
    #[arg(long, value_name = "SPLIT", default_value = "test", value_parser = ["test", "val", "train"], help = "With --model: the split that is searched")]
    pub(super) split: String,
}

/// Measures each model on each build.
pub(super) async fn evaluate(specs: &[PathBuf], set: &[String], args: &ZeroShotArgs, json: bool) -> Result<()> {
    let builds = open_sound(specs, set).await?;
    let progress = Progress::new(json);
    let question = ZeroShotQuestion {
        models: &args.models,
        tokenizer: args.tokenizer.as_deref(),
        split: &args.split,
        published: args.published.as_deref(),
    };
    let mut tables = Vec::with_capacity(builds.len());
    for build in &builds {
        tables.push(zero_shot(build, &question, &progress).await?);
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&tables)?);
        return Ok(());
    }
    for table in &tables {
        for line in in_words(table) {
            say!("{line}");
        }
    }
    Ok(())
}

/// A table for people.
fn in_words(table: &ZeroShotTable) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(first) = table.models.first() {
        lines.push(format!(
            "{}, {}: {} and {} search each other; ties are lost, each image is seen once",
            table.data_set,
            table.split,
            count(first.recall.image_gallery, "image"),
            count(first.recall.caption_gallery, "caption"),
        ));
    }
    let names = table.models.iter().map(|line| &line.model).chain(table.published.iter().map(|line| &line.model));
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).clamp(16, 60);
    lines.push(format!(
        "{:width$}  {:>6} {:>6} {:>6}   {:>20}  {:>20}  captions",
        "model", "mR", "chance", "groups", "image to text", "text to image"
    ));
    lines.extend(table.models.iter().map(|line| measured(&line.model, &line.recall, &line.captions, width)));
    if let Some(own) = &table.own {
        let how = if own.average_over_turns { "trained on it, averaged over turns" } else { "trained on it" };
        lines.push(measured("this build's own", &own.recall, how, width));
    }
    if !table.published.is_empty() {
        lines.push("printed by others, none measured here:".to_owned());
        lines.extend(table.published.iter().map(|figure| printed(figure, width)));
    }
    lines
}

fn measured(model: &str, recall: &RecallReport, how: &str, width: usize) -> String {
    let quoted = &recall.exact.pessimistic;
    let [i1, i5, i10, t1, t5, t10, mean] = quoted.figures();
    let [image, text] = [[i1, i5, i10], [t1, t5, t10]].map(|[a, b, c]| format!("{a:.2}/{b:.2}/{c:.2}"));
    format!(
        "{model:width$}  {mean:>6.2} {:>6.2} {:>6.2}   {image:>20}  {text:>20}  {how}",
        quoted.chance_mean_recall, recall.group.pessimistic.mean_recall
    )
}

fn printed(figure: &PublishedFigure, width: usize) -> String {
    let how = if figure.trained_on_it { "trained on it" } else { "zero-shot" };
    format!("{:width$}  {:>6.2}  {how}; {}", figure.model, figure.mean_recall, figure.source)
}
