//! How fast rows of a stage were made, as the markers of finished shards tell.

use futures::{StreamExt, TryStreamExt};
use manifests::attempts::Object;
use manifests::plan::{Phases, Usage};
use manifests::{Marker, paths};

use crate::error::WorkerError;
use crate::map::SHARDS_AROUND;
use crate::stores::WorkStore;

/// Markers that are read: more would say the same.
const MOST_MARKERS: usize = 64;

/// What finished shards of a stage took together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Markers that tell.
    pub shards: u32,
    /// Rows that were computed in them.
    pub rows: u64,
    /// Where the time went.
    pub phases: Phases,
    /// What a server was asked for.
    pub usage: Usage,
}

impl Measured {
    fn add(&mut self, marker: &Marker) {
        let phases = marker.phases;
        let is_told = phases.named().iter().all(|(_, seconds)| seconds.is_finite() && *seconds >= 0.0);
        if !is_told || phases.map <= 0.0 || marker.computed == 0 {
            return;
        }
        self.shards += 1;
        self.rows += marker.computed;
        self.phases.wait += phases.wait;
        self.phases.fetch += phases.fetch;
        self.phases.map += phases.map;
        self.phases.publish += phases.publish;
        self.usage += marker.usage;
    }

    /// Rows a second of one worker with one device; `None`: nothing was measured. While the device computes one shard, two
    /// others are fetched and written: only what takes longer than all of that is felt.
    pub fn rows_per_second(&self) -> Option<f64> {
        let seconds = self.phases.map.max(self.around());
        (self.shards > 0).then(|| self.rows as f64 / seconds)
    }

    /// Does the device wait for the stores?
    pub fn waits_for_stores(&self) -> bool {
        self.around() > self.phases.map
    }

    fn around(&self) -> f64 {
        (self.phases.fetch + self.phases.publish) / (1 + SHARDS_AROUND) as f64
    }
}

/// Reads what shards of a stage have taken.
///
/// # Errors
/// A store that does not answer.
pub async fn measured(work: &WorkStore, country: &str, stage: &str, at_once: usize) -> Result<Measured, WorkerError> {
    let folder = paths::markers(country, stage);
    let names = work.list(&folder).await?;
    let markers = names.into_iter().filter(|name| matches!(Object::of_name(name), Some((_, Object::Marker))));
    let mut read = futures::stream::iter(markers.take(MOST_MARKERS))
        .map(|name| {
            let path = format!("{folder}/{name}");
            async move { work.get_sealed::<Marker>(&path).await }
        })
        .buffered(at_once.max(1));
    let mut measured = Measured::default();
    while let Some(marker) = read.try_next().await? {
        marker.iter().for_each(|marker| measured.add(marker));
    }
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use manifests::PartFile;

    use super::*;

    fn marker(computed: u64, phases: Phases) -> Marker {
        let part = PartFile { shard: 0, path: String::new(), size_bytes: 1, rows: computed };
        let usage = Usage::default();
        Marker { part, computed, kept: 0, carried: 0, deleted: 0, errors: 0, seconds: 99.0, phases, usage }
    }

    #[test]
    fn the_slower_of_device_and_stores_tells_the_rate() {
        let mut measured = Measured::default();
        assert_eq!(measured.rows_per_second(), None);
        let phases = |fetch, map| Phases { wait: 50.0, fetch, map, publish: 0.0 };
        measured.add(&marker(100, phases(3.0, 10.0)));
        assert_eq!((measured.rows_per_second(), measured.waits_for_stores()), (Some(10.0), false));
        measured.add(&marker(100, phases(87.0, 10.0)));
        assert_eq!((measured.rows_per_second(), measured.waits_for_stores()), (Some(200.0 / 30.0), true));
    }

    #[test]
    fn markers_that_tell_nothing_or_nonsense_count_for_nothing() {
        let mut measured = Measured::default();
        for phases in [
            Phases::default(),
            Phases { map: f64::NAN, ..Phases::default() },
            Phases { map: f64::INFINITY, ..Phases::default() },
            Phases { map: 1.0, fetch: -9.0, ..Phases::default() },
        ] {
            measured.add(&marker(5, phases));
        }
        measured.add(&marker(0, Phases { map: 1.0, ..Phases::default() }));
        assert_eq!(measured, Measured::default());
    }
}
