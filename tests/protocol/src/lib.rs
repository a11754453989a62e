//! A model of the commit protocol, and a search through all of its states. The decisions are those of
//! [`manifests::commit`], so that what is checked here is what runs.
//!
//! # The protocol
//!
//! For each table and shard there is one *live* part, or none yet. Live parts change only by a commit to the table's
//! log, which is put if absent under the next version: of two commits against one version one loses, reads the log
//! again and decides again. Parts are written whole before anything names them, never change, and have names that no
//! other part ever gets. A *marker*, put if absent under a shard's key, names the part that finished this work; it is
//! a hint.
//!
//! A worker goes through a stage like this:
//! 1. It pins the live parts of its output, the *bases*.
//! 2. Only then does it read what it computes from. So that is at least as new as what went into the bases.
//! 3. It plans. A shard stands if its base is there and holds what is wanted. If all stand, the stage is done, and
//!    there is no other end: after each commit it begins again at 1. If an input has no part, or its part is gone, it
//!    begins again at the first stage.
//! 4. For each shard that does not stand it looks for a marker under the shard's key. If the marker's part is there and
//!    not *doomed*, it is taken. Otherwise the worker computes, writes a part and puts the marker; if another marker
//!    came first, it takes that one's part on the same conditions, or else keeps its own.
//! 5. It reads the log and commits: a part becomes live where the base is still live and the part is not doomed.
//!
//! A worker that is stopped publishes nothing. A shard whose rows have all left gets a part without rows.
//!
//! `gc` first commits a *horizon* to the log. A part written before it is doomed: no commit makes it live any more. Then
//! `gc` lists files, reads the log, and deletes what is doomed, save what is live or named by a young marker; old
//! markers go too. A worker that read the log before the horizon loses its commit to it, and one that reads the log
//! later sees it, so no pause is too long. That the horizon lies a grace period back is a courtesy: it saves work that
//! somebody is about to use.
//!
//! # What is checked
//!
//! Between any two steps a worker may be paused for any time, killed, or killed and started again; the answer to a
//! commit may be lost; the source is edited; `gc` runs; others run `VACUUM`, `DELETE` and `RESTORE`. In every state:
//! * No commit removes a part that its plan did not read.
//! * A marker names a part of just the rows that are wanted under its key.
//! * Every live part is there, save one that a `VACUUM` without retention took out of a worker's hands.
//! * The version of the source that a live part was computed from never falls, unless others removed or restored parts.
//! * Once a worker that was started after the last change from outside has finished, the tables are those of an
//!   undisturbed build, and remain so whatever older workers do.
//! * A new worker alone comes to its end and leaves the tables of an undisturbed build.
//!
//! # Where it ends
//!
//! What a worker read may be wrong by the time it commits, and the base that it replaces right again: an edit was
//! undone, a table restored. Somebody who found nothing to do meanwhile left no trace in the log that could stop the
//! commit. Whoever made it plans again, notices, and mends it; until then the tables are behind, and if that worker is
//! killed before, they are until the next one is started. And a `RESTORE` to parts that `gc` is just deleting loses them.

// a model of a protocol: the text above explains its states
#![allow(missing_docs, clippy::missing_errors_doc)]

pub mod others;
pub mod search;
pub mod worker;
pub mod world;

pub use search::search;

/// What the protocol asks of workers and of `gc`. Each rule can be dropped, to see what it is there for.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub pin_before_reading: bool,
    /// A commit holds only where the base is still live.
    pub compare_base: bool,
    /// A shard stands only if the part that is live for it is there.
    pub look_behind_bases: bool,
    /// A marker counts only while its part is there.
    pub look_behind_markers: bool,
    pub keep_empty_parts: bool,
    pub stop_in_silence: bool,
    /// A stage is done when a plan finds nothing to do, not when its commit was applied.
    pub look_again: bool,
    /// `gc` commits its horizon before it deletes.
    pub fence: bool,
    /// `gc` spares what is younger than the grace period.
    pub grace: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        pin_before_reading: true,
        compare_base: true,
        look_behind_bases: true,
        look_behind_markers: true,
        keep_empty_parts: true,
        stop_in_silence: true,
        look_again: true,
        fence: true,
        grace: true,
    };
}

/// What people do to a table with tools that do not know our rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Without retention: all files go that are not live.
    Vacuum,
    Delete,
    Restore,
}

/// Who is there and what may happen.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub shards: usize,
    /// The source before and after each edit: a letter for each shard's rows, `-` for none.
    pub source: &'static [&'static str],
    /// How often each worker may be started; it may be killed at any time before each start but the first.
    pub runs: [u8; 2],
    pub lost_answers: u8,
    /// The grace period passes once, at any time.
    pub grace_passes: bool,
    pub gc: bool,
    /// One of these happens once, at any time.
    pub foreign: &'static [Foreign],
    /// What a worker read may be wrong and then right again. The promise is weaker then: it holds while no worker
    /// stands between a commit of its own and its end, and one that is killed there counts as a change from outside.
    pub content_returns: bool,
}

impl Scenario {
    /// Two workers, one of which may be killed, and an edit.
    pub const EDIT: Scenario = Scenario {
        shards: 1,
        source: &["x", "y"],
        runs: [1, 2],
        lost_answers: 0,
        grace_passes: false,
        gc: false,
        foreign: &[],
        content_returns: false,
    };

    /// The rows of each shard at a version of the source.
    pub fn rows(&self, source: u8) -> [world::Rows; world::SHARDS] {
        let text = self.source[usize::from(source) - 1].as_bytes();
        std::array::from_fn(|shard| text.get(shard).copied().unwrap_or(world::NO_ROWS))
    }
}
