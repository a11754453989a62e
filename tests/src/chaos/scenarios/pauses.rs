//! Workers that stand still at a step of a build while others work.

use std::time::Duration;

use super::super::Outcome;
use super::super::journal::Step;
use super::super::shim::{Action, Strike};
use super::super::trial::Trial;
use super::super::worker::{End, Worker};
use super::kills::some_time;

/// How long a worker may wait for one that stands still: it may hold what the other needs.
pub(super) const WAITING: Duration = Duration::from_secs(4);

pub fn first(trial: &mut Trial<'_>) -> Outcome {
    let arsenal = trial.arsenal;
    late(trial, &arsenal.first_steps)
}

pub fn after_an_edit(trial: &mut Trial<'_>) -> Outcome {
    let arsenal = trial.arsenal;
    trial.start(None)?.ends_with(&[0])?;
    trial.edit()?;
    late(trial, &arsenal.later_steps)
}

/// The same where no two clocks agree: each is wrong by up to a day.
pub fn wrong_clocks(trial: &mut Trial<'_>) -> Outcome {
    let arsenal = trial.arsenal;
    if trial.dice.coin() {
        trial.clock = some_clock(trial);
        trial.start(None)?.ends_with(&[0])?;
        trial.edit()?;
    }
    trial.clock = some_clock(trial);
    late(trial, &arsenal.first_steps)
}

fn some_clock(trial: &mut Trial<'_>) -> i64 {
    const DAY: usize = 86_400;
    trial.dice.below(2 * DAY) as i64 - DAY as i64
}

/// One or two workers stand still, the source may be edited, another worker finishes; then the late ones go on.
fn late(trial: &mut Trial<'_>, steps: &[Step]) -> Outcome {
    // with leases the others wait
    trial.leases = trial.dice.below(4) == 0;
    let chosen = trial.walk(steps.len()) - 1;
    let mut late = vec![paused(trial, &steps[chosen])?];
    if trial.dice.below(3) == 0 {
        let second = trial.dice.below(steps.len());
        late.push(paused(trial, &steps[second])?);
    }
    if trial.dice.coin() {
        trial.edit()?;
    }
    if trial.clock != 0 {
        trial.clock = some_clock(trial);
    }
    let mut other = trial.start(None)?;
    let finished = other.end_within(WAITING)?;
    trial.tell(format!("beside the late ones: {finished:?}"));
    trial.counts.overtook += u32::from(finished == Some(End::Code(0)));
    let edits = trial.counts.edits;
    for worker in &mut late {
        worker.release();
        // now and then the source changes while a late worker is on its way again
        if trial.dice.below(6) == 0 {
            trial.edit()?;
        }
        worker.end_within(WAITING)?;
    }
    late.push(other);
    for worker in &mut late {
        worker.ends_with(&[0, 75])?;
    }
    if finished == Some(End::Code(0)) && trial.counts.edits == edits {
        is_still_right(trial)?;
    }
    trial.comes_to_the_right_end()
}

/// A late worker gets a signal after another has finished, and then goes on.
pub fn stopped(trial: &mut Trial<'_>) -> Outcome {
    trial.leases = trial.dice.below(4) == 0;
    let arsenal = trial.arsenal;
    let chosen = trial.walk(arsenal.first_steps.len()) - 1;
    let mut late = match trial.dice.coin() {
        true => paused(trial, &arsenal.first_steps[chosen])?,
        false => paused_anywhere(trial)?,
    };
    if trial.dice.below(3) == 0 {
        trial.edit()?;
    }
    let mut other = trial.start(None)?;
    let finished = other.end_within(WAITING)?;
    trial.tell(format!("beside the late one: {finished:?}"));
    trial.counts.overtook += u32::from(finished == Some(End::Code(0)));
    if trial.dice.below(4) == 0 {
        late.signal("KILL");
        late.end()?;
        trial.counts.kills += 1;
    } else {
        late.signal("TERM");
        late.release();
        late.ends_after_term()?;
        trial.counts.stops += 1;
    }
    other.ends_with(&[0, 75])?;
    if finished == Some(End::Code(0)) {
        is_still_right(trial)?;
    }
    trial.comes_to_the_right_end()
}

fn is_still_right(trial: &mut Trial<'_>) -> Outcome {
    trial.is_right().map_err(|why| format!("what another worker had finished was undone: {why}"))
}

/// A worker that stands still at a step; or one that waits or ended, where it does not come by.
pub(super) fn paused(trial: &mut Trial<'_>, step: &Step) -> Result<Worker, String> {
    let strike = Strike {
        action: Action::Stop,
        at: step.at,
        call: Some(step.call.clone()),
        path: Some(step.path.clone()),
        after: trial.dice.coin(),
    };
    let worker = trial.start(Some(&strike))?;
    counted(trial, worker)
}

/// A worker that stands still wherever it is at some time.
fn paused_anywhere(trial: &mut Trial<'_>) -> Result<Worker, String> {
    let mut worker = trial.start(None)?;
    let after = some_time(trial);
    if worker.end_within(after)?.is_none() {
        trial.tell(format!("SIGSTOP after {after:?}"));
        worker.signal("STOP");
    }
    counted(trial, worker)
}

fn counted(trial: &mut Trial<'_>, mut worker: Worker) -> Result<Worker, String> {
    if worker.stops_within(WAITING)? {
        trial.counts.pauses += 1;
    } else {
        trial.counts.missed += 1;
    }
    Ok(worker)
}
