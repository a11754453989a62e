//! Disks that are full or fail.

use super::super::Outcome;
use super::super::shim::{Action, EIO, ENOSPC, Strike};
use super::super::trial::Trial;
use super::super::worker::End;

pub fn full_disk(trial: &mut Trial<'_>) -> Outcome {
    failing(trial, ENOSPC)
}

pub fn failing_disk(trial: &mut Trial<'_>) -> Outcome {
    failing(trial, EIO)
}

/// The run says that trying again can help, or did not mind; and trying again helps.
fn failing(trial: &mut Trial<'_>, errno: i32) -> Outcome {
    let at = trial.walk(trial.arsenal.changes);
    let strike = Strike::at(Action::Fail { errno, from_then_on: trial.dice.coin() }, at);
    let end = trial.start(Some(&strike))?.ends_with(&[0, 75])?;
    trial.counts.faults += 1;
    if end == End::Code(0) {
        trial.is_right().map_err(|why| format!("exit 0 over a failed call: {why}"))?;
    }
    trial.comes_to_the_right_end()
}
