//! Trainings of a driver on processes, as the records of a run have them.

use std::ffi::OsString;

use workers::WorkerError;

use super::TrainJob;
use crate::run_record::{Placement, RunRecord};

/// A training whose tries are written down.
pub(super) struct Recorded<'a> {
    record: RunRecord<'a>,
    run: &'a str,
    step: &'static str,
}

impl<'a> Recorded<'a> {
    pub(super) fn new(job: &TrainJob<'a>, run: &'a str, home: &str) -> Self {
        Self { record: RunRecord::new(job.work, home, run), run, step: job.step }
    }

    /// Writes down the next try, and says what its ranks are told of it.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn begin(&self, ranks: usize) -> Result<[OsString; 4], WorkerError> {
        let placed = self.record.placements().await?;
        let before = placed.iter().filter(|placed| placed.step == self.step).map(|placed| placed.attempt).max();
        let attempt = before.unwrap_or(0) + 1;
        self.record.forget_ends(self.step).await?;
        let placement = Placement {
            step: self.step.to_owned(),
            plan: String::new(),
            attempt,
            processes: u32::try_from(ranks).unwrap_or(u32::MAX),
            unix_seconds: crate::clock::unix_seconds() as u64,
            jobs: Vec::new(),
        };
        self.record.place(&placement).await?;
        Ok(["--run", self.run, "--attempt", &attempt.to_string()].map(OsString::from))
    }
}
