//! Builds and pairs under other settings: hyper-parameter curves (the paper's Figure 5), and what segments are worth within
//! a country (its Table 1).
//!
//! Every value is a training or an adaptation of its own, and a finished one is used again: a sweep that was stopped goes on
//! where it was. No table changes.

mod axis;
pub(crate) mod beside;
mod one;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::weights::Weights;
use manifests::{BuildSpec, PairSpec};
use serde::{Deserialize, Serialize};
use stages::Training;
use stages::fit::Trained;
use training::communicator::Solo;
use training::recall::RecallReport;
use workers::WorkerError;
use workers::train::TrainingRecord;

use crate::build::Build;
use crate::given::{Given, GivenPair};
use crate::preflight;
use crate::progress::Progress;
pub use axis::{Axis, Moves};
use one::Measured;
pub(crate) use one::{Opened, Swept};

/// One point of a curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The setting's value; of a word its place among the values.
    pub value: f64,
    /// The value where it is a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<String>,
    /// Best mean recall on the validation split: what is chosen by.
    pub validation_mean_recall: f64,
    /// What guessing gives there; `None`: not known when the training was recorded.
    pub validation_chance: Option<f64>,
    /// The epoch whose weights were kept, from 0.
    pub best_epoch: usize,
    /// How long the training took.
    pub seconds: f64,
    /// Whether it went on from weights of earlier tables: it has learnt for longer than the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_earlier_weights: bool,
    /// Whether it was trained and validated before the last changes of the tables, which were too few to train again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_earlier_tables: bool,
}

impl Point {
    fn of((value, word): (f64, Option<String>), trained: &Trained) -> Point {
        Point {
            value,
            word,
            validation_mean_recall: trained.best_validation_mean_recall,
            validation_chance: trained.validation_chance,
            best_epoch: trained.best_epoch,
            seconds: trained.seconds,
            from_earlier_weights: false,
            of_earlier_tables: false,
        }
    }

    /// The value as the spec has it.
    pub fn name(&self) -> String {
        self.word.clone().unwrap_or_else(|| self.value.to_string())
    }
}

/// One setting, moved while the others stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Country of the build, or `SOURCE_to_TARGET` of a pair.
    pub country: String,
    /// The field that was moved, such as `pretrain.learning_rate`.
    pub field: String,
    /// One for each value.
    pub points: Vec<Point>,
}

/// A run of a sweep, done in this process.
async fn trained(
    spec: BuildSpec,
    moves: Moves,
    allow_failed: usize,
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<(Swept, TrainingRecord), WorkerError> {
    let swept = Swept::here(spec, moves, allow_failed, stop, progress).await?;
    match swept.finish(&mut Solo, progress).await? {
        Some(record) => Ok((swept, record)),
        None => Err(WorkerError::Broken("a training of one rank left no record".into())),
    }
}

/// Moves one setting after the other. Of other segments so many shards may be closed as failed by workers that have tried them.
///
/// # Errors
/// [`WorkerError::Configuration`] for a field or value that the spec refuses; otherwise what ends a training.
pub async fn sweep(
    of: &Given,
    axes: &[Axis],
    allow_failed: usize,
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<Vec<Curve>, WorkerError> {
    let base = match of {
        Given::Build(base) => base,
        Given::Pair(pair) => return adaptations(pair, axes, stop, progress).await,
    };
    // a value that makes no sense is found before the others are trained
    let mut specs = Vec::new();
    for axis in axes {
        check(axis, base)?;
        let of_axis = of_axis(base, axis)?;
        check_values(axis, &of_axis)?;
        specs.extend(of_axis);
    }
    let mut build = Build::open_work(base.as_ref().clone(), stop.clone()).await?;
    build.assign_splits().await?;
    let rows = preflight::training_rows(&build.virtual_inputs);
    specs.iter().try_for_each(|(spec, _)| preflight::batch(spec, None, rows))?;
    let (mut specs, mut curves) = (specs.into_iter(), Vec::new());
    for axis in axes {
        let mut points = Vec::new();
        for (value, (spec, change)) in axis.numbers().into_iter().zip(specs.by_ref()) {
            progress.note(&format!("with {change}"));
            let (swept, record) = trained(spec, axis.moves, allow_failed, stop, progress).await?;
            let point = Point::of(value, &record.trained);
            points.push(match axis.moves {
                Moves::Measure => {
                    let Measured { mean_recall, chance_mean_recall, seconds } = swept.measured(&record).await?;
                    let validation_chance = Some(chance_mean_recall);
                    Point { validation_mean_recall: mean_recall, validation_chance, seconds, ..point }
                }
                _ => Point {
                    from_earlier_weights: record.warm_start.is_some(),
                    of_earlier_tables: !swept.is_of_these_rows().await?,
                    ..point
                },
            });
        }
        points.sort_by(|a, b| a.value.total_cmp(&b.value));
        curves.push(Curve { country: build.spec.country.clone(), field: axis.field.clone(), points });
    }
    Ok(curves)
}

/// A build under each value of an axis, with the change in words.
///
/// # Errors
/// A value that the spec refuses.
pub(crate) fn of_axis(base: &BuildSpec, axis: &Axis) -> Result<Vec<(BuildSpec, String)>, WorkerError> {
    let text = base.to_toml();
    let changed = |value: &String| {
        let change = format!("{}={value}", axis.field);
        let spec = BuildSpec::parse(&text, &base.country, std::slice::from_ref(&change));
        Ok((spec.map_err(|e| WorkerError::Configuration(e.to_string()))?, change))
    };
    axis.values.iter().map(changed).collect()
}

/// Refuses values between which nothing is learnt otherwise: the same training would be a curve.
///
/// # Errors
/// Such a field, by its name.
pub(crate) fn check_values(axis: &Axis, specs: &[(BuildSpec, String)]) -> Result<(), WorkerError> {
    let learnt = |spec: &BuildSpec| stages::pretrain::parameters(spec, Training::Pretrain, &Weights::default());
    match specs {
        [(first, _), others @ ..] if axis.moves == Moves::Training && !others.is_empty() => {
            match others.iter().all(|(other, _)| learnt(other) == learnt(first)) {
                true => Err(WorkerError::Configuration(format!(
                    "--over {}: it decides nothing about what this build learns; every value has the same training",
                    axis.field
                ))),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The same of a pair.
///
/// # Errors
/// A value that the spec or the method refuses.
pub(crate) fn of_pair_axis(base: &PairSpec, axis: &Axis) -> Result<Vec<(PairSpec, String)>, WorkerError> {
    let text = base.to_toml();
    let changed = |value: &String| {
        let change = format!("{}={value}", axis.field);
        let spec = PairSpec::parse(&text, "pair", std::slice::from_ref(&change));
        let spec = spec.map_err(|e| WorkerError::Configuration(e.to_string()))?;
        stages::adapt::settings(&spec)?;
        Ok((spec, change))
    };
    axis.values.iter().map(changed).collect()
}

/// Refuses a field that decides nothing in a build.
pub(crate) fn check(axis: &Axis, base: &BuildSpec) -> Result<(), WorkerError> {
    let field = &axis.field;
    match axis.moves {
        Moves::Adaptation => Err(WorkerError::Configuration(format!(
            "--over {field}: {} is the spec of a build, and fields of adapt are a pair's: name the spec of a pair, such as \
             finland_to_spain.toml",
            base.country
        ))),
        Moves::Segments if !base.uses_segments() => Err(WorkerError::Configuration(format!(
            "--over {field}: {} learns from no segments; set segment.segmenter and pretrain.segments_per_image",
            base.country
        ))),
        Moves::Measure if !MEASURES.contains(&field.as_str()) => Err(WorkerError::Configuration(format!(
            "--over {field}: measures are swept over {}; what reranking brings on the validation split stands in every report",
            MEASURES.join(" and ")
        ))),
        _ => Ok(()),
    }
}

/// Fields that decide how a model is measured.
const MEASURES: [&str; 2] = ["evaluate.protocol", "evaluate.average_over_turns"];

/// Refuses a field that decides nothing in an adaptation.
pub(crate) fn check_pair(axis: &Axis, pair: &str) -> Result<(), WorkerError> {
    match axis.moves {
        Moves::Adaptation => Ok(()),
        _ => Err(WorkerError::Configuration(format!(
            "--over {}: {pair} is the spec of a pair, of which fields of adapt are swept; name the spec of a build",
            axis.field
        ))),
    }
}

/// Moves one setting of a pair after the other: an adaptation for each value.
async fn adaptations(
    of: &GivenPair,
    axes: &[Axis],
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<Vec<Curve>, WorkerError> {
    let base = of.open(stop).await?;
    let mut specs = Vec::new();
    for axis in axes {
        check_pair(axis, &base.name)?;
        // a value that makes no sense is found before the others are adapted with
        for (spec, change) in of_pair_axis(&of.spec, axis)? {
            base.check_batch(&spec)?;
            specs.push((spec, change));
        }
    }
    let (mut specs, mut curves) = (specs.into_iter(), Vec::new());
    for axis in axes {
        let mut points = Vec::new();
        for (number, (spec, change)) in axis.numbers().into_iter().zip(specs.by_ref()) {
            progress.note(&format!("with {change}"));
            let pair = GivenPair { spec, ..of.clone() }.open(stop).await?;
            let record = pair.adapt(&pair.spec, &mut Solo, progress).await?;
            let record =
                record.ok_or_else(|| WorkerError::Broken("an adaptation of one rank left no record".into()))?;
            points.push(Point::of(number, &record.trained));
        }
        points.sort_by(|a, b| a.value.total_cmp(&b.value));
        curves.push(Curve { country: base.name.clone(), field: axis.field.clone(), points });
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
    /// Whether it went on from weights of earlier tables: it has learnt for longer than one from scratch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_earlier_weights: bool,
    /// Whether its tables have changed since it was trained, by less than what asks for another training.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_earlier_tables: bool,
}

/// Trains each build with and without segments, and tests both.
///
/// # Errors
/// What ends a build, its trainings or its evaluation.
pub async fn single_domain(
    specs: Vec<BuildSpec>,
    stop: &Arc<AtomicBool>,
    progress: &Progress,
) -> Result<Vec<SingleDomain>, WorkerError> {
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
            let (swept, record) = trained(spec, Moves::Training, 0, stop, progress).await?;
            let recall = swept.test(&record, "test").await?;
            lines.push(SingleDomain {
                country: swept.build.spec.country.clone(),
                with_segments,
                from_earlier_weights: record.warm_start.is_some(),
                of_earlier_tables: !swept.is_of_these_rows().await?,
                model_digest: record.trained.model_digest,
                recall,
            });
        }
    }
    Ok(lines)
}
