//! `urbancross status`: what a work store holds for a build, without looking at the source.

use manifests::Artifact;
use manifests::words::count;
use serde::Serialize;
use stages::Step;
use workers::WorkerError;
use workers::publish::Summary;

use crate::build::Build;
use crate::trainings::{BySettings, trainings_by_settings, unknown_in_words};

/// What a work store holds of one step.
#[derive(Debug, Serialize)]
pub struct StatusLine {
    /// Name of the stage or training; of what people write the table.
    pub step: &'static str,
    /// In words: published, empty, or what is missing.
    pub state: String,
    /// Rows of its table; of a training those that it learnt from.
    pub rows: u64,
    /// Sound rows that are not wanted, such as those outside of the country. `None`: no summary tells.
    pub excluded: Option<u64>,
    /// Rows in quarantine. `None`: no summary tells.
    pub errors: Option<u64>,
    /// Version of its Delta table.
    pub version: Option<u64>,
    /// How long its last run took.
    pub seconds: Option<f64>,
}

/// One line per step, and one more for a training that was run with other settings.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn status(build: &Build) -> Result<Vec<StatusLine>, WorkerError> {
    let mut lines = Vec::new();
    let behind = crate::settled::behind(build).await?;
    for step in stages::steps(&build.spec) {
        let name = step.name();
        let summary: Option<Summary> =
            build.work.get_record(&manifests::paths::summary(&build.spec.country, name)).await?;
        let seconds = summary.as_ref().map(|s| s.seconds);
        let (excluded, errors) = summary.map(|s| (s.excluded, s.errors)).unzip();
        let line = match step {
            Step::Map(stage) => {
                for input in stage.inputs.iter().filter(|input| input.artifact.is_sparse()) {
                    lines.extend(written_line(build, input.artifact).await?);
                }
                let pinned = build.pin(stage.output).await?;
                let lost = workers::parts::lost(&build.work, &pinned, &build.spec.country).await?;
                let state = match (pinned.parts.len(), lost.len()) {
                    (0, _) => "empty".to_owned(),
                    (_, 0) if behind.contains(&name) => "published; a run has to look at it again".to_owned(),
                    (_, 0) => "published".to_owned(),
                    (all, lost) => format!("{lost} of {} lost; a run makes them again", count(all, "part")),
                };
                StatusLine {
                    step: name,
                    state,
                    rows: pinned.rows(),
                    excluded,
                    errors,
                    version: pinned.version,
                    seconds,
                }
            }
            Step::Train(training) => {
                let trainings = trainings_by_settings(build, training).await?;
                lines.push(training_line(training.name(), &trainings));
                lines.extend(others_line(training.name(), &trainings));
                continue;
            }
            Step::Evaluate => match crate::evaluate::stored_or_why(build).await? {
                Err(why) => StatusLine { state: format!("must run: {why}"), ..empty_line(name) },
                Ok(evaluation) => StatusLine {
                    state: evaluation.quoted().in_words(),
                    rows: evaluation.recall.image_gallery as u64,
                    ..empty_line(name)
                },
            },
        };
        lines.push(line);
    }
    Ok(lines)
}

/// A table that people write, where somebody did.
async fn written_line(build: &Build, artifact: Artifact) -> Result<Option<StatusLine>, WorkerError> {
    let pinned = build.pin(artifact).await?;
    if pinned.parts.is_empty() {
        return Ok(None);
    }
    let lost = workers::parts::lost(&build.work, &pinned, &build.spec.country).await?;
    let state = match lost.len() {
        0 => "by people".to_owned(),
        lost => format!("{} of what people wrote lost: bring back from a copy", count(lost, "part")),
    };
    let line = empty_line(artifact.name());
    Ok(Some(StatusLine { state, rows: pinned.rows(), version: pinned.version, ..line }))
}

/// The run whose model is the build's.
fn training_line(step: &'static str, trainings: &BySettings) -> StatusLine {
    let current = trainings.current.as_ref();
    let state = match (current, trainings.lacks) {
        (Some(record), _) => record.trained.best_validation(),
        (None, Some(field)) => unknown_in_words(field),
        (None, None) => "must run".to_owned(),
    };
    StatusLine {
        state,
        rows: current.map_or(0, |record| record.trained.train_rows),
        seconds: current.map(|record| record.trained.seconds),
        ..empty_line(step)
    }
}

/// Runs that other settings made, which say nothing about the build as its spec is now.
fn others_line(step: &'static str, trainings: &BySettings) -> Option<StatusLine> {
    let others = &trainings.others;
    (!others.is_empty() && trainings.lacks.is_none()).then(|| StatusLine {
        state: format!("{} with other settings", count(others.len(), "finished run")),
        rows: others.iter().map(|record| record.trained.train_rows).fold(0, u64::saturating_add),
        seconds: Some(others.iter().map(|record| record.trained.seconds).sum()),
        ..empty_line(step)
    })
}

fn empty_line(step: &'static str) -> StatusLine {
    StatusLine { step, state: String::new(), rows: 0, excluded: None, errors: None, version: None, seconds: None }
}
