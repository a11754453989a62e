//! What is written down of a run before something is placed for it.

use workers::WorkerError;

use crate::engine::MapJob;
use crate::run_record::{Placement, RunRecord};

/// Ends a driver whose run was cancelled after it began: the jobs that it would place now nobody takes away.
///
/// # Errors
/// [`WorkerError::Stopped`], and a store that does not answer.
pub(in crate::engine) async fn check_wanted(record: &RunRecord<'_>) -> Result<(), WorkerError> {
    if record.is_cancelled().await? { Err(WorkerError::Stopped) } else { Ok(()) }
}

/// Writes down what is placed next, unless the run was cancelled meanwhile.
///
/// # Errors
/// As of [`check_wanted`].
pub(super) async fn begin(record: &RunRecord<'_>, step: &str, plan: &str, attempt: u32) -> Result<(), WorkerError> {
    check_wanted(record).await?;
    record.forget_ends(step).await?;
    let placement = Placement {
        step: step.to_owned(),
        plan: plan.to_owned(),
        attempt,
        processes: 0,
        unix_seconds: crate::clock::unix_seconds() as u64,
        jobs: Vec::new(),
    };
    record.place(&placement).await
}

/// The same of a plan that was placed before.
///
/// # Errors
/// As of [`check_wanted`].
pub(super) async fn begin_again(record: &RunRecord<'_>, map: &MapJob<'_>) -> Result<(), WorkerError> {
    let placed = record.placements().await?;
    let before = placed.iter().filter(|placed| placed.step == map.stage && placed.plan == map.plan);
    let attempt = before.map(|placed| placed.attempt).max().unwrap_or(0) + 1;
    begin(record, map.stage, map.plan, attempt).await
}
