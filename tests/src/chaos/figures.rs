//! What was done to workers, in numbers.

use std::fmt;
use std::ops::AddAssign;

#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub kills: u32,
    /// Workers that stood still while others worked.
    pub pauses: u32,
    /// Workers that finished while others stood still.
    pub overtook: u32,
    pub stops: u32,
    pub edits: u32,
    /// Calls that failed.
    pub faults: u32,
    pub cuts: u32,
    /// Acts of other programs at a table.
    pub foreign: u32,
    /// Chosen points that a worker did not come by.
    pub missed: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.kills += other.kills;
        self.pauses += other.pauses;
        self.overtook += other.overtook;
        self.stops += other.stops;
        self.edits += other.edits;
        self.faults += other.faults;
        self.cuts += other.cuts;
        self.foreign += other.foreign;
        self.missed += other.missed;
    }
}

/// A line of the table of figures.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub name: String,
    pub trials: u32,
    pub failed: u32,
    pub counts: Counts,
}

pub const HEADER: &str =
    "scenario        trials  kills pauses overtook  stops  edits faults   cuts others missed failed";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { kills, pauses, overtook, stops, edits, faults, cuts, foreign, missed } = self.counts;
        let Line { name, trials, failed, .. } = self;
        write!(
            f,
            "{name:15} {trials:6} {kills:6} {pauses:6} {overtook:8} {stops:6} {edits:6} {faults:6} {cuts:6} {foreign:6} {missed:6} {failed:6}"
        )
    }
}

impl AddAssign<&Line> for Line {
    fn add_assign(&mut self, other: &Line) {
        self.trials += other.trials;
        self.failed += other.failed;
        self.counts += other.counts;
    }
}
