//! One training of a run.

use std::time::Instant;

use ::training::communicator::Communicator;
use ::training::recall::beside_chance;
use ::training::trainer::Event;
use manifests::paths;
use manifests::words::count;
use stages::Training;
use workers::WorkerError;
use workers::publish::Summary;
use workers::train::{TrainRequest, TrainingRecord, pairs, train};

use crate::build::Build;
use crate::clock::unix_seconds;
use crate::progress::Progress;
use crate::trainings::TrainingState;

/// Runs a training unless a finished one is up to date. As one of several ranks: with all the others.
pub(crate) async fn run_training(
    build: &Build,
    training: Training,
    state: TrainingState,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<(), WorkerError> {
    match &state {
        TrainingState::UpToDate { record, changed } => {
            progress.note(&format!(
                "{:21} up to date ({}); {} of {} changed since ({:.2} %)",
                training.name(),
                record.trained.best_validation(),
                changed.changed,
                count(changed.rows, "row"),
                100.0 * changed.share()
            ));
            return Ok(());
        }
        TrainingState::MustRun(next) => progress.note(&format!("{:21} {}", training.name(), next.run.begins)),
    }
    let (started, began) = (unix_seconds(), Instant::now());
    let Some(record) = current_or_trained(build, training, state, ranks, progress).await? else { return Ok(()) };
    let trained = &record.trained;
    let left_out = pairs::written(&build.work, (&build.spec.country, training.name()), &record.key).await?;
    let left_out = pairs::in_words(left_out.values().map(String::as_str));
    if !left_out.is_empty() {
        progress.note(&format!("{:21} left out {left_out}", training.name()));
    }
    let notes = [
        ("parameters", trained.parameters.to_string()),
        ("best epoch", (trained.best_epoch + 1).to_string()),
        ("best validation", beside_chance(trained.best_validation_mean_recall, trained.validation_chance)),
        ("waited for data", format!("{:.1} s", trained.wait_seconds)),
        ("run", record.key.clone()),
        ("begins", record.begins.clone()),
        ("left out", left_out),
    ];
    let notes = notes.into_iter().filter(|(_, note)| !note.is_empty());
    let summary = Summary {
        stage: training.name().to_owned(),
        country: build.spec.country.clone(),
        started_unix_seconds: started,
        seconds: began.elapsed().as_secs_f64(),
        rows: trained.train_rows,
        computed: trained.samples,
        made_by: crate::made_by(),
        notes: notes.map(|(k, v)| (k.to_owned(), v)).collect(),
        ..Summary::default()
    };
    build.work.put_sealed(&paths::summary(&build.spec.country, training.name()), &summary).await
}

/// The record of a finished training: the one that is up to date, or the one that must run. `None` on ranks other than 0.
pub(crate) async fn current_or_trained(
    build: &Build,
    training: Training,
    state: TrainingState,
    ranks: &mut dyn Communicator,
    progress: &Progress,
) -> Result<Option<TrainingRecord>, WorkerError> {
    let next = match state {
        TrainingState::UpToDate { record, .. } => return Ok(Some(*record)),
        TrainingState::MustRun(next) => *next,
    };
    if let Some((pictures, image_id)) = next.rows.learnt_and_held_out() {
        return Err(WorkerError::Configuration(format!(
            "{}: the splits of {} have {} in training that validation or test has too, such as \
             {image_id}: an older version assigned them; `urbancross run` assigns the splits again",
            training.name(),
            build.spec.country,
            count(pictures, "picture")
        )));
    }
    let epochs = stages::pretrain::of_training(&build.spec, training).epochs;
    let bar = progress.training(training.name(), epochs);
    let request = TrainRequest {
        work: &build.work,
        spec: &build.spec,
        weights: &build.weights,
        training,
        pending: next.run,
        rows: next.rows,
        scratch: &build.scratch,
        stop: &build.stop,
        ranks,
    };
    let record = train(request, |event: &Event| bar.event(event)).await?;
    if let Some(record) = &record {
        bar.finish(&record.trained);
    }
    Ok(record)
}
