//! `urbancross status`: what a work store holds for a build, without looking at the source.

use serde::Serialize;
use stages::{Step, Training};
use workers::WorkerError;
use workers::publish::Summary;

use crate::build::Build;
use crate::trainings::standing_record;

#[derive(Debug, Serialize)]
pub struct StatusLine {
    pub step: &'static str,
    pub state: String,
    pub rows: u64,
    pub errors: u64,
    pub version: Option<u64>,
    pub seconds: Option<f64>,
}

/// One line per step.
pub async fn status(build: &Build) -> Result<Vec<StatusLine>, WorkerError> {
    let mut lines = Vec::new();
    for step in stages::steps(&build.spec) {
        let name = step.name();
        let summary: Option<Summary> =
            build.work.get_json(&manifests::paths::summary(&build.spec.country, name)).await?;
        let seconds = summary.as_ref().map(|s| s.seconds);
        let errors = summary.as_ref().map_or(0, |s| s.errors);
        let line = match step {
            Step::Map(stage) => {
                let pinned = build.pin(stage.output).await?;
                let state = if pinned.parts.is_empty() { "empty" } else { "published" };
                StatusLine {
                    step: name,
                    state: state.into(),
                    rows: pinned.rows(),
                    errors,
                    version: pinned.version,
                    seconds,
                }
            }
            Step::Train(training) => training_line(build, training, seconds).await?,
            Step::Evaluate => match crate::evaluate::stored(build).await? {
                None => {
                    StatusLine { step: name, state: "due".into(), rows: 0, errors: 0, version: None, seconds: None }
                }
                Some(evaluation) => StatusLine {
                    step: name,
                    state: format!("mR {:.2}", evaluation.mean_recall()),
                    rows: evaluation.recall.image_gallery as u64,
                    errors: 0,
                    version: None,
                    seconds: None,
                },
            },
        };
        lines.push(line);
    }
    Ok(lines)
}

async fn training_line(build: &Build, training: Training, seconds: Option<f64>) -> Result<StatusLine, WorkerError> {
    let record = standing_record(build, training).await?;
    Ok(StatusLine {
        step: training.name(),
        state: record
            .as_ref()
            .map_or("due".into(), |r| format!("best validation mR {:.2}", r.trained.best_validation_mean_recall)),
        rows: record.as_ref().map_or(0, |r| r.trained.train_rows),
        errors: 0,
        version: None,
        seconds,
    })
}
