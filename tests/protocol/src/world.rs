//! The state of a work store and of those who use it, small enough to visit every one that can be reached.

use manifests::Artifact;
use manifests::commit::ShardState;

use crate::{Rules, Scenario};

/// A part's place in [`World::parts`]. It stands for the part's name, which no other part ever gets.
pub type Id = u8;

/// One value for each of the two tables: A reads the source, B reads A.
pub const A: usize = 0;
pub const B: usize = 1;
pub const SHARDS: usize = 2;

pub type Live = [Option<Id>; SHARDS];

/// The rows of one shard, as far as it matters: a letter for the content, [`NO_ROWS`] for none.
pub type Rows = u8;
pub const NO_ROWS: Rows = b'-';

/// A part file. What it holds never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    pub rows: Rows,
    /// Version of the source that the rows were computed from.
    pub source: u8,
    pub exists: bool,
    /// Older than the grace period.
    pub old: bool,
    /// Older than the horizon that `gc` committed: it is not to become live any more.
    pub doomed: bool,
    /// `gc` is about to delete it.
    pub condemned: bool,
    /// Deleted by others, who do not know our rules.
    pub vacuumed: bool,
}

/// What a worker read of one shard: rows of the source, or a part of A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Input {
    pub rows: Rows,
    pub source: u8,
    pub part: Option<Id>,
}

/// Says which part finished some work; `table` to `input` are what the work's key is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Marker {
    pub table: usize,
    pub shard: usize,
    pub base: Option<Id>,
    pub input: Input,
    pub part: Id,
    pub old: bool,
}

/// The step that a worker takes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Step {
    #[default]
    Idle,
    Pin,
    Read,
    Look,
    Mark,
    ReadLog,
    Put,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Worker {
    /// How many more times it may be started.
    pub runs: u8,
    pub step: Step,
    pub table: usize,
    pub shard: usize,
    pub bases: Live,
    pub inputs: [Option<Input>; SHARDS],
    pub stale: [bool; SHARDS],
    pub made: Live,
    /// The log has not moved since this worker read it.
    pub current: bool,
    /// Started after the last change from outside.
    pub fresh: bool,
    /// It made a commit and has not come to its end.
    pub owes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gc {
    Ready,
    Fenced,
    Listed,
    Judged,
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// Version of the source, from 1.
    pub source: u8,
    pub parts: Vec<Part>,
    pub live: [Live; 2],
    /// Earlier versions that others could restore.
    pub history: Vec<(usize, Live)>,
    pub markers: Vec<Marker>,
    pub workers: [Worker; 2],
    pub gc: Gc,
    pub lost_answers: u8,
    pub grace_passes: bool,
    pub foreign: bool,
    /// Others have removed or restored parts.
    pub disturbed: bool,
    /// A worker that was started after the last change from outside has finished.
    pub settled: bool,
    pub broken: Option<&'static str>,
}

impl World {
    pub fn new(scenario: &Scenario) -> World {
        World {
            source: 1,
            parts: Vec::new(),
            live: [[None; SHARDS]; 2],
            history: Vec::new(),
            markers: Vec::new(),
            workers: scenario.runs.map(|runs| Worker { runs, ..Worker::default() }),
            gc: if scenario.gc { Gc::Ready } else { Gc::Over },
            lost_answers: scenario.lost_answers,
            grace_passes: scenario.grace_passes,
            foreign: !scenario.foreign.is_empty(),
            disturbed: false,
            settled: false,
            broken: None,
        }
    }

    pub fn part(&self, id: Id) -> &Part {
        &self.parts[usize::from(id)]
    }

    /// Whether a part is there and may become live.
    pub fn is_sound(&self, id: Id) -> bool {
        self.part(id).exists && !self.part(id).doomed
    }

    /// The log of a table gets a new version with these live parts.
    pub fn log(&mut self, table: usize, live: Live) {
        if self.foreign && !self.history.contains(&(table, self.live[table])) {
            self.history.push((table, self.live[table]));
        }
        self.live[table] = live;
        self.log_moved(table);
    }

    pub fn log_moved(&mut self, table: usize) {
        for worker in self.workers.iter_mut().filter(|w| w.table == table) {
            worker.current = false;
        }
    }

    /// Something changed that is not the workers' doing.
    pub fn changed_outside(&mut self) {
        self.settled = false;
        for worker in &mut self.workers {
            worker.fresh = false;
        }
    }

    /// The marker under a shard's key.
    pub fn marker(&self, table: usize, shard: usize, base: Option<Id>, input: Input) -> Option<&Marker> {
        let key = shard_key(table, shard, base, input);
        self.markers
            .iter()
            .find(|m| (m.table, m.shard) == (table, shard) && shard_key(m.table, m.shard, m.base, m.input) == key)
    }

    /// All live parts are there and are those of an undisturbed build from the source as it is.
    pub fn is_right(&self, scenario: &Scenario, rules: &Rules) -> bool {
        let wanted = scenario.rows(self.source);
        self.live.iter().all(|live| {
            (0..scenario.shards).all(|shard| match live[shard] {
                Some(id) => self.part(id).exists && self.part(id).rows == wanted[shard],
                None => !rules.keep_empty_parts && wanted[shard] == NO_ROWS,
            })
        })
    }

    /// What must hold in every state.
    pub fn violation(&self, scenario: &Scenario, rules: &Rules) -> Option<&'static str> {
        let lost = |id: &Id| !self.part(*id).exists && !self.part(*id).vacuumed;
        if self.broken.is_some() {
            self.broken
        } else if self.live.iter().flatten().flatten().any(lost) {
            Some("a live part is gone")
        } else if self.settled
            && !(scenario.content_returns && self.workers.iter().any(|w| w.owes))
            && !self.is_right(scenario, rules)
        {
            Some("a worker started after the last change has finished, and the tables are wrong")
        } else {
            None
        }
    }

    /// The same state with everything left out that nobody can come to see again, and with parts numbered in the
    /// order in which they are found, so that states that differ in names only are one.
    pub fn canonical(mut self) -> World {
        if !self.foreign {
            self.history.clear();
        }
        if self.gc == Gc::Over {
            self.grace_passes = false;
            self.parts.iter_mut().for_each(|part| part.old = false);
            self.markers.iter_mut().for_each(|marker| marker.old = false);
        }
        let mut names = Names { new: vec![None; self.parts.len()], order: Vec::new() };
        for live in self.live.iter_mut().chain(self.history.iter_mut().map(|(_, live)| live)) {
            live.iter_mut().flatten().for_each(|id| names.rename(id));
        }
        for worker in &mut self.workers {
            worker.bases.iter_mut().chain(&mut worker.made).flatten().for_each(|id| names.rename(id));
            worker.inputs.iter_mut().flatten().flat_map(|i| &mut i.part).for_each(|id| names.rename(id));
        }
        self.markers = names.markers_in_reach(std::mem::take(&mut self.markers));
        self.parts = names.order.iter().map(|&old| self.parts[usize::from(old)]).collect();
        self
    }
}

/// New names of parts, given in the order of asking.
struct Names {
    new: Vec<Option<Id>>,
    order: Vec<Id>,
}

impl Names {
    fn rename(&mut self, id: &mut Id) {
        let old = *id;
        *id = *self.new[usize::from(old)].get_or_insert_with(|| {
            self.order.push(old);
            (self.order.len() - 1) as Id
        });
    }

    /// Markers whose key can still be asked for: their base and input are known to somebody, or are none.
    fn markers_in_reach(&mut self, mut waiting: Vec<Marker>) -> Vec<Marker> {
        waiting.sort_unstable();
        let mut reached = Vec::new();
        loop {
            let is_known = |id: Option<Id>| id.is_none_or(|id| self.new[usize::from(id)].is_some());
            let Some(next) = waiting.iter().position(|m| is_known(m.base) && is_known(m.input.part)) else { break };
            let mut marker = waiting.remove(next);
            for id in marker.base.iter_mut().chain(&mut marker.input.part).chain([&mut marker.part]) {
                self.rename(id);
            }
            reached.push(marker);
        }
        reached.sort_unstable();
        reached
    }
}

/// The key as the program makes it.
fn shard_key(table: usize, shard: usize, base: Option<Id>, input: Input) -> manifests::Digest {
    let name = |id: Id| format!("part-{id}");
    let (base, part) = (base.map(name), input.part.map(name));
    let rows = char::from(input.rows).to_string();
    ShardState {
        stage: if table == A { "geotags" } else { "captions" },
        stage_version: 1,
        country: "finland",
        shard: shard as u32,
        model: "",
        parameters: "{}",
        retry_errors: false,
        base: base.as_deref(),
        inputs: vec![if table == A { (Artifact::Listing, Some(&rows)) } else { (Artifact::Geotags, part.as_deref()) }],
    }
    .key()
}
