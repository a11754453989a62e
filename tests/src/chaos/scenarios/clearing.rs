//! `gc` beside running builds.

use std::time::Duration;

use super::super::Outcome;
use super::super::shim::{Action, Strike};
use super::super::trial::Trial;
use super::super::worker::{End, Worker};
use super::pauses::{WAITING, paused};

/// Old parts of two edits lie about; a worker stands still at a step while `gc` deletes all that is not needed, itself
/// killed now and then, and another worker works. Nobody loses what is needed.
pub fn gc(trial: &mut Trial<'_>) -> Outcome {
    let arsenal = trial.arsenal;
    // programs before `gc` know no such verb
    if trial.start_verb("gc", &["--help"], None)?.end()? != End::Code(0) {
        trial.counts.missed += 1;
        return Ok(());
    }
    for _ in 0..2 {
        trial.start(None)?.ends_with(&[0])?;
        trial.edit()?;
    }
    let chosen = trial.walk(arsenal.later_steps.len()) - 1;
    trial.leases = trial.dice.coin();
    let mut late = paused(trial, &arsenal.later_steps[chosen])?;
    let mut other = match trial.dice.coin() {
        true => Some(trial.start(None)?),
        false => None,
    };
    let killed = Strike { call: Some("unlink".into()), ..Strike::at(Action::Kill, 1 + trial.dice.below(20)) };
    let killed = (trial.dice.below(3) == 0).then_some(killed);
    let mut gc = delete(trial, killed.as_ref())?;
    gc.end_within(Duration::from_secs(2))?;
    late.release();
    if gc.end()?.was_killed() {
        trial.counts.kills += 1;
    } else {
        gc.ends_with(&[0, 75])?;
    }
    late.ends_with(&[0, 75])?;
    if let Some(other) = &mut other {
        other.end_within(WAITING)?;
        other.ends_with(&[0, 75])?;
    }
    trial.comes_to_the_right_end()?;
    delete(trial, None)?.ends_with(&[0])?;
    trial.is_right().map_err(|why| format!("after gc: {why}"))?;
    trial.comes_to_the_right_end()
}

fn delete(trial: &mut Trial<'_>, strike: Option<&Strike>) -> Result<Worker, String> {
    trial.start_verb("gc", &["--delete", "--keep-days", "0"], strike)
}
