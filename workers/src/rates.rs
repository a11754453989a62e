//! How fast rows of a stage were made, as the markers of finished shards tell.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use manifests::attempts::Object;
use manifests::plan::{Phases, Usage};
use manifests::spec::DeviceKind;
use manifests::{Marker, paths};

use crate::error::WorkerError;
use crate::map::SHARDS_AROUND;
use crate::stores::WorkStore;

/// Markers that are counted: more would say the same.
const MOST_COUNTED: u32 = 64;
/// Markers that are read, where most are of other devices.
const MOST_READ: usize = 1024;

/// Which shards tell how fast a stage is.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Digest of the settings that decide how fast it is ([`Stage::pace`](stages::stage::Stage::pace)).
    pub settings: &'a str,
    /// What kind of device computed; `None`: whichever.
    pub device: Option<DeviceKind>,
}

/// What finished shards of a stage took together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Markers that tell.
    pub shards: u32,
    /// Rows that were computed in them, by the workers that finished them.
    pub rows: u64,
    /// Where the time went.
    pub phases: Phases,
    /// What a server was asked for.
    pub usage: Usage,
}

/// Word for shards whose markers do not say what made them.
pub const UNKNOWN: &str = "unknown";
/// Word for shards that were made with other settings.
pub const OTHER_SETTINGS: &str = "other settings";

/// What markers say for settings and devices of a kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    /// What those took that count.
    pub counted: Measured,
    /// Shards that tell something else: by the name of another kind of device, [`OTHER_SETTINGS`] or [`UNKNOWN`].
    pub left_out: BTreeMap<&'static str, u32>,
}

impl Rates {
    fn add(&mut self, marker: &Marker, wanted: Wanted<'_>) {
        if !Measured::tells(marker) {
            return;
        }
        let other = match marker.device {
            _ if marker.settings.is_empty() => UNKNOWN,
            _ if marker.settings != wanted.settings => OTHER_SETTINGS,
            device if wanted.device.is_none_or(|kind| device == Some(kind)) => return self.counted.add(marker),
            device => device.map_or(UNKNOWN, DeviceKind::name),
        };
        *self.left_out.entry(other).or_default() += 1;
    }
}

impl Measured {
    fn tells(marker: &Marker) -> bool {
        let is_told = marker.phases.named().iter().all(|(_, seconds)| seconds.is_finite() && *seconds >= 0.0);
        is_told && marker.phases.map > 0.0 && marker.computed > marker.taken_over
    }

    fn add(&mut self, marker: &Marker) {
        let phases = marker.phases;
        self.shards += 1;
        self.rows += marker.computed.saturating_sub(marker.taken_over);
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

/// Reads what shards of a stage have taken that tell what is wanted.
///
/// # Errors
/// A store that does not answer.
pub async fn measured(
    work: &WorkStore,
    country: &str,
    stage: &str,
    wanted: Wanted<'_>,
    at_once: usize,
) -> Result<Rates, WorkerError> {
    let folder = paths::markers(country, stage);
    let names = work.list(&folder).await?;
    let markers = names.into_iter().filter(|name| matches!(Object::of_name(name), Some((_, Object::Marker))));
    let mut read = futures::stream::iter(markers.take(MOST_READ))
        .map(|name| {
            let path = format!("{folder}/{name}");
            async move { work.get_sealed::<Marker>(&path).await }
        })
        .buffered(at_once.max(1));
    let mut rates = Rates::default();
    while rates.counted.shards < MOST_COUNTED
        && let Some(marker) = read.try_next().await?
    {
        marker.iter().for_each(|marker| rates.add(marker, wanted));
    }
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use manifests::PartFile;

    use super::*;

    const SETTINGS: &str = "those of now";

    fn marker(computed: u64, phases: Phases) -> Marker {
        let part = PartFile { shard: 0, path: String::new(), size_bytes: 1, rows: computed };
        let usage = Usage::default();
        let (seconds, device, settings) = (99.0, Some(DeviceKind::Cuda), SETTINGS.into());
        let (taken_over, kept, carried, deleted, errors) = (0, 0, 0, 0, 0);
        Marker { part, computed, taken_over, kept, carried, deleted, errors, seconds, phases, usage, device, settings }
    }

    fn rates(markers: &[Marker], device: Option<DeviceKind>) -> Rates {
        let mut rates = Rates::default();
        markers.iter().for_each(|marker| rates.add(marker, Wanted { settings: SETTINGS, device }));
        rates
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
        let phases = [
            Phases::default(),
            Phases { map: f64::NAN, ..Phases::default() },
            Phases { map: f64::INFINITY, ..Phases::default() },
            Phases { map: 1.0, fetch: -9.0, ..Phases::default() },
        ];
        let mut markers: Vec<Marker> = phases.into_iter().map(|phases| marker(5, phases)).collect();
        markers.push(marker(0, Phases { map: 1.0, ..Phases::default() }));
        for of in [None, Some(DeviceKind::Cpu), Some(DeviceKind::Cuda)] {
            assert_eq!(rates(&markers, of), Rates::default());
        }
    }

    #[test]
    fn rows_that_others_had_made_took_no_time_here() {
        let phases = Phases { map: 10.0, ..Phases::default() };
        let taken_over = |rows| Marker { taken_over: rows, ..marker(512, phases) };
        let told = rates(&[taken_over(384)], Some(DeviceKind::Cuda)).counted;
        assert_eq!((told.rows, told.rows_per_second()), (128, Some(12.8)));
        assert_eq!(rates(&[taken_over(512), taken_over(600)], None), Rates::default());
    }

    #[test]
    fn what_other_settings_took_is_left_out_and_told() {
        let of = |settings: &str| Marker {
            settings: settings.into(),
            ..marker(9, Phases { map: 1.0, ..Phases::default() })
        };
        let told = rates(&[of(SETTINGS), of("others"), of("others"), of("")], Some(DeviceKind::Cuda));
        assert_eq!((told.counted.shards, told.counted.rows), (1, 9));
        assert_eq!(told.left_out, BTreeMap::from([(OTHER_SETTINGS, 2), (UNKNOWN, 1)]));
    }

    #[test]
    fn what_other_devices_took_is_left_out_and_told() {
        let of = |device, rows| Marker { device, ..marker(rows, Phases { map: 1.0, ..Phases::default() }) };
        let (gpu, cpu, earlier) = (of(Some(DeviceKind::Cuda), 90), of(Some(DeviceKind::Cpu), 3), of(None, 5));
        let markers = [cpu.clone(), gpu, cpu, earlier];
        let on_gpus = rates(&markers, Some(DeviceKind::Cuda));
        assert_eq!((on_gpus.counted.shards, on_gpus.counted.rows_per_second()), (1, Some(90.0)));
        assert_eq!(on_gpus.left_out, BTreeMap::from([("cpu", 2), ("unknown", 1)]));
        let on_cpus = rates(&markers, Some(DeviceKind::Cpu));
        assert_eq!((on_cpus.counted.shards, on_cpus.counted.rows_per_second()), (2, Some(3.0)));
        assert_eq!(on_cpus.left_out, BTreeMap::from([("cuda", 1), ("unknown", 1)]));
        let on_any = rates(&markers, None);
        assert_eq!((on_any.counted.shards, on_any.left_out.len()), (4, 0));
    }
}
