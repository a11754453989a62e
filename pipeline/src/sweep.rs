//! Trainings of one build under other settings: hyper-parameter curves (the paper's Figure 5), and what segments are
//! worth within a country (its Table 1).
//!
//! Every value is a training of its own, and a finished one is used again: a sweep that was stopped goes on where it was.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::{Artifact, BuildSpec};
use serde::{Deserialize, Serialize};
use stages::{Training, evaluate};
use training::communicator::Solo;
use training::recall::RecallReport;
use workers::WorkerError;
use workers::train::{Members, TableRows, TrainingRecord, fetch_result, training_inputs};

use crate::build::Build;
use crate::evaluate::embed;
use crate::pair::pin;
use crate::preflight;
use crate::progress::Progress;
use crate::run::current_or_trained;
use crate::trainings::training_state;

/// One setting and the values that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Such as `pretrain.learning_rate`.
    pub field: String,
    /// Values as the spec would have them, in the order given.
    pub values: Vec<String>,
}

impl Axis {
    /// Reads `section.field=value,value,...`.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] with what the text should look like.
    pub fn parse(text: &str) -> Result<Axis, WorkerError> {
        let fail = |why: &str| WorkerError::Configuration(format!("--over {text}: {why}; write --over field=1,2,3"));
        let (field, values) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if values.iter().any(|value| value.parse::<f64>().is_err()) {
            return Err(fail("every value must be a number"));
        }
        if !field.starts_with("pretrain.") {
            return Err(fail("only fields of pretrain can be swept: the tables stay as they are"));
        }
        Ok(Axis { field: field.trim().to_owned(), values })
    }
}

/// One point of a curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The setting's value.
    pub value: f64,
    /// Best mean recall on the validation split: what is chosen by.
    pub validation_mean_recall: f64,
    /// What guessing gives there; `None`: not known when the training was recorded.
    pub validation_chance: Option<f64>,
    /// The epoch whose weights were kept, from 0.
    pub best_epoch: usize,
    /// How long the training took.
    pub seconds: f64,
}

/// One setting, moved while the others stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Country of the build.
    pub country: String,
    /// The field that was moved, such as `pretrain.learning_rate`.
    pub field: String,
    /// One for each value.
    pub points: Vec<Point>,
}

/// Trains a finished build again with some settings changed, or uses the finished run.
async fn trained(
    spec: BuildSpec,
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<(Build, TrainingRecord), WorkerError> {
    let mut build = Build::open_work(spec, stop.clone()).await?;
    for artifact in training_inputs(&build.spec, Training::Pretrain) {
        pin(&build, artifact).await?;
    }
    build.weights = workers::weights::fetch(&build.work, &build.spec).await?;
    let state = training_state(&build, Training::Pretrain, false).await?;
    let record = current_or_trained(&build, Training::Pretrain, state, &mut Solo, progress).await?;
    let record = record.ok_or_else(|| WorkerError::Broken("a training of one rank left no record".into()))?;
    Ok((build, record))
}

fn read(path: &Path, set: &[String], more: &[String]) -> Result<BuildSpec, WorkerError> {
    let set: Vec<String> = set.iter().chain(more).cloned().collect();
    BuildSpec::read(path, &set).map_err(|e| WorkerError::Configuration(e.to_string()))
}

/// Moves one setting after the other.
///
/// # Errors
/// [`WorkerError::Configuration`] for a field or value that the spec refuses; otherwise what ends a training.
pub async fn sweep(
    path: &Path,
    set: &[String],
    axes: &[Axis],
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<Vec<Curve>, WorkerError> {
    // a value that makes no sense is found before the others are trained
    let base = read(path, set, &[])?;
    let mut specs = Vec::new();
    for axis in axes {
        for value in &axis.values {
            let change = format!("{}={value}", axis.field);
            specs.push((read(path, set, std::slice::from_ref(&change))?, change));
        }
    }
    let mut build = Build::open_work(base, stop.clone()).await?;
    build.assign_splits().await?;
    let rows = preflight::training_rows(&build.virtual_inputs);
    specs.iter().try_for_each(|(spec, _)| preflight::batch(spec, None, rows))?;
    let (mut specs, mut curves) = (specs.into_iter(), Vec::new());
    for axis in axes {
        let mut points = Vec::new();
        for (value, (spec, change)) in axis.values.iter().zip(specs.by_ref()) {
            progress.note(&format!("sweep: {change}"));
            let (_, record) = trained(spec, stop, progress).await?;
            points.push(Point {
                value: value.parse().unwrap_or(f64::NAN),
                validation_mean_recall: record.trained.best_validation_mean_recall,
                validation_chance: record.trained.validation_chance,
                best_epoch: record.trained.best_epoch,
                seconds: record.trained.seconds,
            });
        }
        points.sort_by(|a, b| a.value.total_cmp(&b.value));
        curves.push(Curve { country: build.spec.country.clone(), field: axis.field.clone(), points });
    }
    Ok(curves)
}

/// What a country's model finds in its own test split, with and without learning from segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SingleDomain {
    /// Country of the build.
    pub country: String,
    /// Whether segments entered the loss.
    pub with_segments: bool,
    /// Digest of the model that was tested.
    pub model_digest: String,
    /// Recall both ways on the test split.
    pub recall: RecallReport,
}

/// Trains each build with and without segments, and tests both.
///
/// # Errors
/// What ends a build, its trainings or its evaluation.
pub async fn single_domain(
    paths: &[std::path::PathBuf],
    set: &[String],
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<Vec<SingleDomain>, WorkerError> {
    let specs = paths.iter().map(|path| read(path, set, &[])).collect::<Result<Vec<_>, _>>()?;
    let mut lines = Vec::new();
    for spec in specs {
        for with_segments in [false, true] {
            let mut spec = spec.clone();
            if !with_segments {
                spec.pretrain.segments_per_image = 0;
            }
            if with_segments && !spec.uses_segments() {
                progress.note(&format!("{} has no segments: one line for it", spec.country));
                continue;
            }
            let words = if with_segments { "with segments" } else { "without segments" };
            progress.note(&format!("{} {words}", spec.country));
            let (build, record) = trained(spec, stop, progress).await?;
            let recall = test(&build, &record).await?;
            let model_digest = record.trained.model_digest;
            lines.push(SingleDomain { country: build.spec.country.clone(), with_segments, model_digest, recall });
        }
    }
    Ok(lines)
}

/// Figures of a training's model on the test split of its build.
async fn test(build: &Build, record: &TrainingRecord) -> Result<RecallReport, WorkerError> {
    let folder = fetch_result(&build.work, &build.spec, Training::Pretrain, &record.key, &build.scratch).await?;
    let mut inputs = Vec::new();
    for artifact in [Artifact::Images, Artifact::Captions, Artifact::Splits] {
        inputs.push(build.pin(artifact).await?);
    }
    let mut rows = TableRows::open(&build.work, &inputs, Members::Split("test")).await?;
    let rows = embed(&build.spec, &folder, &mut rows).await?;
    let protocol = build.spec.evaluate.protocol;
    Ok(tokio::task::block_in_place(|| evaluate::recall_of(&rows, protocol))?.report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_numbers_of_the_training() {
        let axis = Axis::parse("pretrain.batch=16, 32").unwrap();
        assert_eq!((axis.field.as_str(), axis.values.len()), ("pretrain.batch", 2));
        for (text, words) in [
            ("pretrain.batch", "no `=`"),
            ("pretrain.loss=hinge", "must be a number"),
            ("score.max_segments=1,2", "only fields of pretrain"),
        ] {
            let error = Axis::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
