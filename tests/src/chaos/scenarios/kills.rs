//! Workers that are killed or asked to stop.

use std::time::Duration;

use super::super::Outcome;
use super::super::shim::{Action, Strike};
use super::super::trial::Trial;

/// The longest that a build takes, about.
const A_BUILD_MS: usize = 600;

/// A time at which a build may be anywhere.
pub(super) fn some_time(trial: &mut Trial<'_>) -> Duration {
    Duration::from_millis(trial.dice.below(A_BUILD_MS) as u64)
}

pub fn at_random(trial: &mut Trial<'_>) -> Outcome {
    for _ in 0..=trial.dice.below(4) {
        let mut worker = trial.start(None)?;
        let after = some_time(trial);
        if worker.end_within(after)?.is_none() {
            trial.tell(format!("SIGKILL after {after:?}"));
            worker.signal("KILL");
            worker.end()?;
            trial.counts.kills += 1;
        }
        if trial.dice.below(4) == 0 {
            trial.edit()?;
        }
    }
    trial.comes_to_the_right_end()
}

/// Killed at one change, then, on the way to the end, at another.
pub fn at_a_change(trial: &mut Trial<'_>) -> Outcome {
    let all = trial.arsenal.changes;
    let first = trial.walk(all);
    for at in [first, 1 + trial.dice.below(all - first + 1)] {
        let strike = Strike { after: trial.dice.coin(), ..Strike::at(Action::Kill, at) };
        if trial.start(Some(&strike))?.end()?.was_killed() {
            trial.counts.kills += 1;
        } else {
            trial.counts.missed += 1;
        }
        if trial.dice.below(4) == 0 {
            trial.edit()?;
        }
    }
    trial.comes_to_the_right_end()
}

pub fn beside_others(trial: &mut Trial<'_>) -> Outcome {
    // it shares the changes with the others
    let strike = Strike::at(Action::Kill, 1 + trial.dice.below(trial.arsenal.changes / 3));
    trial.leases = trial.dice.coin();
    let mut killed = trial.start(Some(&strike))?;
    let mut others = Vec::new();
    for _ in 0..=trial.dice.below(2) {
        others.push(trial.start(None)?);
    }
    if killed.end()?.was_killed() {
        trial.counts.kills += 1;
    } else {
        trial.counts.missed += 1;
    }
    for other in &mut others {
        other.ends_with(&[0])?;
    }
    trial.is_right()?;
    trial.comes_to_the_right_end()
}

pub fn terminated(trial: &mut Trial<'_>) -> Outcome {
    trial.leases = trial.dice.coin();
    let mut worker = trial.start(None)?;
    let mut other = match trial.dice.coin() {
        true => Some(trial.start(None)?),
        false => None,
    };
    let after = some_time(trial);
    if worker.end_within(after)?.is_none() {
        trial.tell(format!("SIGTERM after {after:?}"));
        worker.signal("TERM");
        trial.counts.stops += 1;
    }
    worker.ends_after_term()?;
    if let Some(other) = &mut other {
        other.ends_with(&[0])?;
        trial.is_right()?;
    }
    trial.comes_to_the_right_end()
}
