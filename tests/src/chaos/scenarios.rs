//! The stories.

use std::time::Duration;

use super::Outcome;
use super::shim::{Action, Strike};
use super::trial::Trial;
use super::worker::End;

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// Trials of the bounded form and of the long one.
    pub rounds: [u64; 2],
    pub tell: fn(&mut Trial<'_>) -> Outcome,
}

pub const SCENARIOS: [Scenario; 2] = [
    Scenario { name: "kill", what: "SIGKILL at random times, then the same command", rounds: [10, 200], tell: kill },
    Scenario {
        name: "late",
        what: "a worker stands still at a commit while others finish, the source edited or not, then goes on",
        rounds: [20, 200],
        tell: late,
    },
];

/// The longest that a build takes, about.
const A_BUILD_MS: usize = 500;
/// How long others may wait for a worker that stands still and holds what they need.
const WAITING: Duration = Duration::from_secs(5);

fn kill(trial: &mut Trial<'_>) -> Outcome {
    for _ in 0..=trial.dice.below(4) {
        let mut worker = trial.start(None)?;
        let after = Duration::from_millis(trial.dice.below(A_BUILD_MS) as u64);
        if worker.end_within(after)?.is_none() {
            worker.signal("KILL");
            worker.end()?;
            trial.counts.kills += 1;
        }
    }
    trial.comes_to_the_right_end()
}

fn late(trial: &mut Trial<'_>) -> Outcome {
    let (call, path) = *trial.dice.choose(&[
        ("link", "_delta_log"),
        ("link", "markers"),
        ("rename", "part-"),
        ("rename", "summaries"),
    ]);
    let strike = Strike {
        action: Action::Stop,
        at: 1 + trial.dice.below(12),
        call: Some(call.to_owned()),
        path: Some(path.to_owned()),
        after: trial.dice.coin(),
    };
    let mut late = trial.start(Some(&strike))?;
    if !late.until_stopped()? {
        trial.counts.missed += 1;
        return trial.comes_to_the_right_end();
    }
    trial.counts.pauses += 1;
    if trial.dice.coin() {
        trial.edit()?;
    }
    let mut other = trial.start(None)?;
    let finished = other.end_within(WAITING)?;
    late.signal("CONT");
    let ends = [late.end()?, other.end()?];
    trial.story.push(format!("finished beside it: {finished:?}; ends: {ends:?}"));
    if let Some(end) = ends.iter().find(|end| !matches!(end, End::Code(0 | 75))) {
        return Err(format!("{end:?}: {} {}", late.last_words(), other.last_words()));
    }
    if finished == Some(End::Code(0)) {
        trial.is_right()?;
    }
    trial.comes_to_the_right_end()
}
