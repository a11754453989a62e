//! Numbers of what waits for a person, kept for the shards that were looked into: their parts never change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use manifests::plan::PinnedTable;
use manifests::review::Waits;
use serde::Serialize;

/// Numbers of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Those that wait, by why.
    pub waiting: BTreeMap<Waits, u64>,
    /// Those that somebody has decided about.
    pub decided: u64,
    /// Of these, those of which the next run of the build will make use.
    pub pending: u64,
}

impl Tally {
    /// Of one reason, or of any, how many wait.
    pub(super) fn waits(&self, only: Option<Waits>) -> u64 {
        self.waiting.iter().filter(|(waits, _)| only.is_none_or(|only| only == **waits)).map(|(_, images)| images).sum()
    }

    pub(super) fn add(&mut self, other: Tally) {
        for (waits, images) in other.waiting {
            *self.waiting.entry(waits).or_default() += images;
        }
        self.decided += other.decided;
        self.pending += other.pending;
    }
}

/// The numbers of one shard, and the names of the parts that they are of.
type Known = (Vec<Option<String>>, Tally);

/// Numbers by shard: whoever asks again reads only the shards that have new parts since.
#[derive(Clone, Default)]
pub(super) struct KnownTallies(Arc<Mutex<BTreeMap<u32, Known>>>);

impl KnownTallies {
    /// The numbers of a shard, if they are those of its parts in these tables.
    pub(super) fn of(&self, pins: &[PinnedTable], shard: u32) -> Option<Tally> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, tally) = known.get(&shard)?;
        (*of == parts(pins, shard)).then(|| tally.clone())
    }

    pub(super) fn put(&self, pins: &[PinnedTable], shard: u32, tally: Tally) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, (parts(pins, shard), tally));
    }
}

fn parts(pins: &[PinnedTable], shard: u32) -> Vec<Option<String>> {
    pins.iter().map(|table| table.part(shard).map(|part| part.path.clone())).collect()
}
