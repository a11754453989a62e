//! Exports of a build: its rows, its model and the curves of its trainings, in folders that other programs open, each with a card that says what is in
//! it and whose it is.

mod croissant;
mod data_card;
mod licence;
mod model_card;

use std::path::Path;

use manifests::plan::PinnedTable;
use manifests::{Artifact, paths};
use stages::fit::{CURVE_FILE, CurvePoint, RESULT_FOLDER, read_curve};
use stages::{Step, Training};
use workers::export::curves::{Moment, event_file};
use workers::export::{Draft, ExportRequest, Filter, Format, Lacking, Written, lacking, lacking_in_words};
use workers::train::{self, ROWS_FILE, TrainingRecord};
use workers::{WorkerError, durable};

use crate::build::Build;
use crate::trainings::{current_record, no_model};

/// Which rows are exported, and how.
pub struct DataExport {
    /// The layout.
    pub format: Format,
    /// Names of splits; none: training, validation and test.
    pub splits: Vec<String>,
    /// A file of a format with several is closed when it is larger than this.
    pub file_bytes: u64,
    /// Goes on without the shards that a table lacks rows of.
    pub unfinished: bool,
}

/// Writes rows of a build into a new folder.
///
/// # Errors
/// [`WorkerError::Configuration`] for a folder that is not empty, or a build that has not made the tables, or not all
/// rows; otherwise what ends reading or writing.
pub async fn data(build: &Build, wanted: &DataExport, output: &Path) -> Result<Written, WorkerError> {
    let draft = Draft::begin(output)?;
    let mut tables = Vec::new();
    for artifact in wanted.format.tables() {
        tables.push(build.pin(*artifact).await?);
    }
    let without = unmade(build, &tables).await?;
    if !without.is_empty() && !wanted.unfinished {
        return Err(WorkerError::Configuration(format!(
            "{} lacks the rows of {}: run its build to its end (`urbancross run` with its spec), or leave these shards \
             out with --unfinished",
            build.spec.country,
            lacking_in_words(&without)
        )));
    }
    let request = ExportRequest {
        work: &build.work,
        tables: &tables,
        country: &build.spec.country,
        format: wanted.format,
        filter: Filter { splits: wanted.splits.clone(), without },
        file_bytes: wanted.file_bytes,
        stop: &build.stop,
    };
    let written = workers::export::export(&request, &draft).await?;
    let facts = data_card::Facts {
        spec: &build.spec,
        format: wanted.format,
        tables: &tables,
        written: &written,
        reviews: &build.pin(Artifact::CaptionReviews).await?,
        changed_at: crate::page::changed_at(build).await?,
    };
    draft.write("README.md", &facts.card())?;
    if wanted.format == Format::HuggingFace {
        draft.write("croissant.json", &croissant::describe(&facts))?;
    }
    draft.finish()?;
    Ok(written)
}

/// Shards that tables have no rows of, where no run has found that there are none to make.
async fn unmade(build: &Build, tables: &[PinnedTable]) -> Result<Lacking, WorkerError> {
    let mut unmade = Lacking::new();
    for table in tables {
        let shards = lacking(table, tables);
        if shards.is_empty() {
            continue;
        }
        let stage = stages::map_stages(&build.spec).into_iter().find(|stage| stage.output == table.artifact);
        if let Some(stage) = stage
            && crate::settled::has_nothing_left(build, &stage).await?
        {
            continue;
        }
        unmade.insert(table.artifact, shards);
    }
    Ok(unmade)
}

/// Writes the model of a build into a new folder: our own format with a reader for PyTorch, and where others have such a
/// network also their layouts.
///
/// # Errors
/// [`WorkerError::Configuration`] for a folder that is not empty, or a build without a model; weights that are not those of
/// the run's record.
pub async fn model(build: &Build, output: &Path) -> Result<TrainingRecord, WorkerError> {
    let draft = Draft::begin(output)?;
    let Some(record) = current_record(build, Training::Pretrain).await? else { return Err(no_model(build).await?) };
    let result = train::fetch_result(&build.work, &build.spec, Training::Pretrain, &record.key, &build.scratch).await?;
    tokio::task::block_in_place(|| stages::fit::export_model(&result, draft.folder())).map_err(WorkerError::from)?;
    // whoever starts from these weights is told if they saw what is held out
    let rows = result.join(ROWS_FILE);
    if rows.is_file() {
        let copy = draft.folder().join(ROWS_FILE);
        std::fs::copy(&rows, &copy).map_err(|e| WorkerError::of_io(&copy, &e))?;
    }
    let evaluation = crate::evaluate::stored(build).await?;
    let facts = model_card::Facts {
        spec: &build.spec,
        record: &record,
        // figures of another model are none of this one
        evaluation: evaluation.filter(|of| of.model_digest == record.trained.model_digest),
        has_layouts: draft.folder().join("open_clip").is_dir(),
    };
    draft.write("README.md", &facts.card())?;
    draft.finish()?;
    Ok(record)
}

/// Writes the curves of a build's trainings into a new folder, as TensorBoard reads them: a run for each training. Their
/// names are given.
///
/// # Errors
/// [`WorkerError::Configuration`] for a folder that is not empty, or a build that has trained nothing; a store that does
/// not answer.
pub async fn curves(build: &Build, output: &Path) -> Result<Vec<&'static str>, WorkerError> {
    let draft = Draft::begin(output)?;
    let mut written = Vec::new();
    for step in stages::steps(&build.spec) {
        let Step::Train(training) = step else { continue };
        let Some(record) = current_record(build, training).await? else { continue };
        let run = paths::training_run(&build.spec.country, training.name(), &record.key);
        let text = build.work.get(&format!("{run}/{CURVE_FILE}")).await?.unwrap_or_default();
        let moments = moments(&read_curve(&String::from_utf8_lossy(&text)));
        let folder = draft.folder().join(training.name());
        durable::write(&folder.join("events.out.tfevents.0.urbancross"), &event_file(&moments))?;
        written.push(training.name());
    }
    if written.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{} has trained nothing in {}: run its build first (`urbancross run` with its spec)",
            build.spec.country,
            build.work.url()
        )));
    }
    draft.finish()?;
    Ok(written)
}

/// Points of a curve by the names under which they are shown. A step is a hundredth of an epoch, and so is a second: when it
/// was, curves do not say.
fn moments(curve: &[CurvePoint]) -> Vec<Moment> {
    let moments = curve.iter().map(|point| {
        let step = (point.epoch * 100.0).round().max(0.0);
        let named = [
            ("loss/total", point.loss),
            ("learning rate", point.learning_rate),
            ("validation/mean recall, percent", point.validation_mean_recall),
        ];
        let named = named.into_iter().filter_map(|(name, number)| Some((name.to_owned(), number?)));
        let parts = point.parts.iter().map(|(name, number)| (format!("loss/{name}"), *number));
        Moment { step: step as u64, seconds: step, numbers: named.chain(parts).collect() }
    });
    moments.filter(|moment| !moment.numbers.is_empty()).collect()
}

/// The trained model of a build, and its folder in the work store; `None`: nothing is trained yet.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn place_of_model(build: &Build) -> Result<Option<(TrainingRecord, String)>, WorkerError> {
    Ok(current_record(build, Training::Pretrain).await?.map(|record| {
        let run = paths::training_run(&build.spec.country, Training::Pretrain.name(), &record.key);
        (record, format!("{run}/{RESULT_FOLDER}"))
    }))
}
