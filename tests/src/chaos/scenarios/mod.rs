//! The stories. A new one is a function in one of these files and a line in [`SCENARIOS`].

mod clearing;
mod cuts;
mod faults;
mod foreign;
mod kills;
mod pauses;
mod stores;

use super::Outcome;
use super::trial::Trial;

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// Trials of the bounded form and of the long one.
    pub rounds: [u64; 2],
    pub tell: fn(&mut Trial<'_>) -> Outcome,
}

const fn scenario(
    name: &'static str,
    what: &'static str,
    rounds: [u64; 2],
    tell: fn(&mut Trial<'_>) -> Outcome,
) -> Scenario {
    Scenario { name, what, rounds, tell }
}

pub const SCENARIOS: [Scenario; 16] = [
    scenario("kill", "SIGKILL at random times, edits in between", [12, 200], kills::at_random),
    scenario("kill-walk", "SIGKILL at every N-th change of the store", [24, 500], kills::at_a_change),
    scenario("kill-beside", "two or three workers at once, one of them killed", [8, 100], kills::beside_others),
    scenario("late", "a worker stands still at a step while others finish a first build", [24, 250], pauses::first),
    scenario("late-edit", "the same with a finished build and an edited source", [24, 250], pauses::after_an_edit),
    scenario(
        "stop",
        "SIGTERM or SIGKILL to a worker that stands still, after another has finished",
        [12, 100],
        pauses::stopped,
    ),
    scenario("term", "SIGTERM at a random time, alone or beside another worker", [8, 100], kills::terminated),
    scenario("clocks", "late workers whose clocks are wrong by up to a day", [6, 60], pauses::wrong_clocks),
    scenario("cut", "power cuts at every N-th change", [12, 200], cuts::at_a_change),
    scenario("cut-after", "a power cut after exit 0, which must lose nothing", [4, 50], cuts::after_the_end),
    scenario("cut-ext4", "a power cut of an ext4 image, where this machine mounts one", [4, 50], cuts::of_ext4),
    scenario("full", "ENOSPC at every N-th change, once or from then on", [12, 200], faults::full_disk),
    scenario("failing", "EIO at every N-th change, once or from then on", [12, 200], faults::failing_disk),
    scenario("foreign", "RESTORE, DELETE, OPTIMIZE and VACUUM by another program", [8, 48], foreign::maintenance),
    scenario("store", "an object store of which one request in five goes wrong", [2, 24], stores::faults),
    scenario("gc", "gc beside workers, old parts of two edits lying about", [6, 60], clearing::gc),
];
