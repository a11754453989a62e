//! What a run looks at before it writes anything, and what it writes first.

use stages::{Step, Training};
use workers::WorkerError;
use workers::removals::Removals;

use crate::build::Build;
use crate::plan::Model;
use crate::progress::Progress;
use crate::run_options::RunOptions;
use crate::trainings::{TrainingState, current_record, training_state};
use crate::{last_overrides, preflight};

/// Looks for rows that leave the tables because the source no longer offers them.
///
/// # Errors
/// Most rows leave, and nobody has accepted that.
pub(super) async fn check_removals<'b>(
    build: &'b mut Build,
    options: &RunOptions,
) -> Result<&'b Removals, WorkerError> {
    let country = build.spec.country.clone();
    let removals = crate::preview::removals(build).await?;
    match removals.are_most() && !options.accept_removals {
        true => Err(WorkerError::Configuration(removals.refusal(&country))),
        false => Ok(removals),
    }
}

/// Refuses what the rows that are known cannot bear, before anything is written.
pub(super) async fn check_rows(
    build: &mut Build,
    options: &RunOptions,
    progress: &Progress,
) -> Result<(), WorkerError> {
    check_batch(build, options).await?;
    // where splits are final, a batch that they cannot fill is found before anything is written
    let is_settled = crate::settled::is_settled(build, &stages::splits::stage(), &Model::default()).await?;
    if is_settled && will_train(build, options).await? {
        assign_splits(build, options.until.as_deref(), progress).await?;
        check_batch(build, options).await?;
    }
    Ok(())
}

/// Is there a training among the steps that were asked for of which no finished run has the settings?
async fn will_train(build: &Build, options: &RunOptions) -> Result<bool, WorkerError> {
    for step in preflight::steps(&build.spec, options.until.as_deref()) {
        if let Step::Train(training) = step
            && current_record(build, training).await?.is_none()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the work store, and writes down in it what is fixed or worth knowing.
pub(super) async fn begin(build: &mut Build, options: &RunOptions) -> Result<(), WorkerError> {
    build.work.make()?;
    build.claim_layout().await?;
    last_overrides::save(&build.work, &build.spec, &options.set).await;
    build.keep_listing().await
}

/// Refuses a batch that a training which must run cannot fill, as far as its rows are known.
pub(super) async fn check_batch(build: &Build, options: &RunOptions) -> Result<(), WorkerError> {
    let rows = preflight::training_rows(&build.virtual_inputs);
    let Err(error) = preflight::batch(&build.spec, options.until.as_deref(), rows) else { return Ok(()) };
    match training_state(build, Training::Pretrain, options.retrain).await? {
        TrainingState::MustRun(_) => Err(error),
        TrainingState::UpToDate { .. } => Ok(()),
    }
}

/// Assigns every image to a split, and says so where one stays empty.
///
/// # Errors
/// A split that a later step of a run up to `until` cannot do without.
pub(super) async fn assign_splits(
    build: &mut Build,
    until: Option<&str>,
    progress: &Progress,
) -> Result<(), WorkerError> {
    let changed = build.assign_splits().await?;
    let what = preflight::splits(build.virtual_inputs.assigned(), &build.spec, until)?;
    if let Some(what) = what.filter(|_| changed) {
        progress.note(&what);
    }
    Ok(())
}
