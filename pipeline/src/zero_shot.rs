//! Models from elsewhere on the data set of a build, side by side: nothing is trained, and tables stay as they are.

mod asked;
mod published;

use std::path::Path;

use choices::Protocol;
use manifests::plan::PinnedTable;
use manifests::weights::WeightsUse;
use manifests::words::count;
use manifests::{Artifact, BuildSpec, digest, paths};
use serde::{Deserialize, Serialize};
use stages::evaluate::{EvaluatedRow, recall_of};
use stages::train_rows::TrainRows;
use stages::zero_shot::{ForeignClip, ForeignFiles, is_described, seen_preset};
use training::recall::RecallReport;
use workers::WorkerError;
use workers::map::Observer;
use workers::train::{Members, TableRows};
use workers::weights::{MODEL_OPTION, TOKENIZER_OPTION, fetch_named};

use crate::build::Build;
use crate::evaluate;
use crate::progress::Progress;

pub use asked::{AskedModel, Family};
pub use published::PublishedFigure;

/// Raised when the same vectors would give other figures.
const VERSION: u32 = 2;

/// What is measured.
#[derive(Debug, Clone)]
pub struct ZeroShotQuestion<'a> {
    /// The models.
    pub models: &'a [AskedModel],
    /// The vocabulary of those that have none beside their weights.
    pub tokenizer: Option<&'a str>,
    /// The split whose images and captions search each other.
    pub split: &'a str,
    /// A file of published figures in place of the one that comes with the program.
    pub published: Option<&'a Path>,
}

/// One model on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotLine {
    /// What it is called.
    pub model: String,
    /// Where its weights came from.
    pub source: String,
    /// Digest of its files.
    pub weights_digest: String,
    /// What its captions went through.
    pub captions: String,
    /// Recall both ways, with what guessing would reach.
    pub recall: RecallReport,
}

/// The build's own model on the same data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OwnLine {
    /// Digest of the model.
    pub model_digest: String,
    /// Image embeddings were averaged over flips and turns.
    pub average_over_turns: bool,
    /// Recall both ways.
    pub recall: RecallReport,
}

/// Models on one data set, beside what others printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ZeroShotTable {
    /// The build's country, which names the data set.
    pub data_set: String,
    /// The split.
    pub split: String,
    /// What counted as found.
    pub protocol: Protocol,
    /// One for each model, in the order they were asked for.
    pub models: Vec<ZeroShotLine>,
    /// The build's own model, trained on the data set, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnLine>,
    /// Figures that others have printed; none is ours.
    pub published: Vec<PublishedFigure>,
}

/// What is kept of a measurement.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    recall: RecallReport,
}

/// Measures models on a split of a build whose images, captions and splits were made. What was measured once is read.
///
/// # Errors
/// [`WorkerError::Configuration`] for models that cannot be had or are none, and for a build without such rows;
/// [`WorkerError::Stopped`]; tables or a store that cannot be read.
pub async fn zero_shot(
    build: &Build,
    question: &ZeroShotQuestion<'_>,
    progress: &Progress,
) -> Result<ZeroShotTable, WorkerError> {
    let published = published::figures(question.published, &build.spec.country)?;
    let mut inputs = Vec::new();
    for artifact in [Artifact::Images, Artifact::Captions, Artifact::Splits] {
        inputs.push(build.pin(artifact).await?);
    }
    if let Some(table) = inputs.iter().find(|table| table.parts.is_empty()) {
        return Err(WorkerError::Configuration(format!(
            "{} has no rows in {} yet: run its build first (`urbancross run` with its spec; `--until captions` is enough)",
            build.spec.country,
            table.artifact.name()
        )));
    }
    // all of them before hours go into the first
    let mut examined = Vec::with_capacity(question.models.len());
    for asked in question.models {
        examined.push(examine(build, asked, question.tokenizer).await?);
    }
    let mut models = Vec::with_capacity(question.models.len());
    for (asked, (files, clip)) in question.models.iter().zip(examined) {
        let recall = measure(build, &inputs, question.split, asked, clip, progress).await?;
        models.push(ZeroShotLine {
            model: asked.name.clone(),
            source: asked.source.clone(),
            weights_digest: files.digest,
            captions: asked.treatment.to_string(),
            recall,
        });
    }
    let own = match question.split {
        evaluate::SPLIT => evaluate::stored(build).await?,
        _ => None,
    };
    Ok(ZeroShotTable {
        data_set: build.spec.country.clone(),
        split: question.split.to_owned(),
        protocol: build.spec.evaluate.protocol,
        models,
        own: own.map(|own| OwnLine {
            model_digest: own.model_digest,
            average_over_turns: own.average_over_turns,
            recall: own.recall,
        }),
        published,
    })
}

/// Brings a model here and looks at its files.
async fn examine(
    build: &Build,
    asked: &AskedModel,
    tokenizer: Option<&str>,
) -> Result<(ForeignFiles, ForeignClip), WorkerError> {
    let weights = fetched(build, MODEL_OPTION, &asked.source).await?;
    let tokenizer = match asked.tokenizer.as_deref().or(tokenizer) {
        Some(source) => Some(fetched(build, TOKENIZER_OPTION, source).await?),
        None => None,
    };
    let (path, digest) = weights;
    let activation = match is_described(&path) && !asked.names_activation() {
        true => None,
        false => asked.activation(seen_preset(&path)),
    };
    let files = ForeignFiles { path, digest, tokenizer, activation };
    let clip = ForeignClip::examine(files.clone())
        .map_err(|why| WorkerError::Configuration(format!("{MODEL_OPTION} {}: {why}", asked.source)))?;
    Ok((files, clip))
}

async fn fetched(
    build: &Build,
    option: &'static str,
    source: &str,
) -> Result<(std::path::PathBuf, String), WorkerError> {
    let used = WeightsUse { field: option, source: source.to_owned() };
    let local = fetch_named(&build.work, &build.spec, &used, &build.stop).await?;
    let path = local.path.ok_or_else(|| WorkerError::Broken(format!("{option} {source}: nothing was fetched")))?;
    Ok((path, local.digest))
}

async fn measure(
    build: &Build,
    inputs: &[PinnedTable],
    split: &str,
    asked: &AskedModel,
    clip: ForeignClip,
    progress: &Progress,
) -> Result<RecallReport, WorkerError> {
    let protocol = build.spec.evaluate.protocol;
    let tables: Vec<String> = inputs.iter().map(PinnedTable::digest).collect();
    let key = digest::of_value(&(VERSION, clip.identity(&build.spec, &asked.treatment), split, protocol, tables));
    let path = paths::zero_shot(&build.spec.country, &key);
    if let Some(Measured { recall }) = build.work.get_sealed(&path).await? {
        progress.note(&format!("{:21} up to date: {}", "evaluate", asked.name));
        return Ok(recall);
    }
    let mut rows = TableRows::open(&build.work, inputs, Members::Split(split)).await?;
    let total = rows.groups().iter().map(|rows| u64::from(*rows)).sum();
    if total == 0 {
        return Err(WorkerError::Configuration(format!(
            "{} has no images in its {split} split: name another one with --split, or raise its part in split.ratio",
            build.spec.country
        )));
    }
    progress.note(&format!("{:21} {} on {} of {}", "evaluate", asked.name, count(total as usize, "image"), split));
    let bar = progress.stage("evaluate", total);
    let embedded = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| scope.spawn(|| embed(build, &build.spec, asked, clip, &mut rows, &bar)).join())
    });
    bar.clear();
    let embedded =
        embedded.map_err(|_| WorkerError::Panicked("the evaluation failed; its message is above".into()))??;
    let recall = tokio::task::block_in_place(|| recall_of(&embedded, protocol))?.report;
    let measured = Measured { recall };
    build.work.put_sealed(&path, &measured).await?;
    Ok(measured.recall)
}

fn embed(
    build: &Build,
    spec: &BuildSpec,
    asked: &AskedModel,
    clip: ForeignClip,
    rows: &mut TableRows,
    observer: &dyn Observer,
) -> Result<Vec<EvaluatedRow>, WorkerError> {
    let mut model = clip.open(spec, asked.treatment.clone())?;
    let mut embedded = Vec::new();
    for group in 0..rows.groups().len() {
        if build.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        let of_group = rows.read(group)?;
        let images = of_group.len() as u64;
        embedded.extend(model.encode(of_group)?);
        observer.rows(images, 0, 0);
    }
    Ok(embedded)
}
