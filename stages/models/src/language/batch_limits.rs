//! How much of a device a running batch may take.

use candle_core::Device;

use crate::device;

/// Bounds of a running batch: memory, not words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Requests at a time; at least one runs.
    pub rows: usize,
    /// For keys and values. `None`: most of what is free on a GPU, no bound on a CPU.
    pub cache_bytes: Option<u64>,
}

impl From<usize> for BatchLimits {
    fn from(rows: usize) -> Self {
        Self { rows, cache_bytes: None }
    }
}

/// What one request needs of a cache at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheNeed {
    /// Keys and values of one position in all layers.
    pub(crate) bytes_per_slot: u64,
    /// Of a decoder's own tokens (and, without an encoder, the prompt's).
    pub(crate) own_slots: usize,
    /// Of an encoder's output.
    pub(crate) cross_slots: usize,
}

/// What a batch gets: rows, and slots that its caches never exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) rows: usize,
    pub(crate) own_slots: usize,
    pub(crate) cross_slots: usize,
}

impl Room {
    /// As many requests as fit, of those that are wanted; one in any case, since nobody knows before it is tried.
    pub(crate) fn of(limits: BatchLimits, need: CacheNeed, device: &Device) -> Self {
        let bytes = limits.cache_bytes.or_else(|| device::memory(device).map(|memory| share_for_cache(memory.free)));
        let per_row = need.bytes_per_slot.saturating_mul((need.own_slots + need.cross_slots) as u64).max(1);
        let fitting = bytes.map_or(u64::MAX, |bytes| bytes / per_row);
        let rows = limits.rows.min(usize::try_from(fitting).unwrap_or(usize::MAX)).max(1);
        let slots = |each: usize| rows.saturating_mul(each);
        Self { rows, own_slots: slots(need.own_slots), cross_slots: slots(need.cross_slots) }
    }
}

/// A fifth stays for what is computed on the way: images, prompts, logits.
fn share_for_cache(free: u64) -> u64 {
    free / 5 * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_run_as_fit() {
        let need = CacheNeed { bytes_per_slot: 100, own_slots: 8, cross_slots: 2 };
        let room = |rows, cache_bytes| Room::of(BatchLimits { rows, cache_bytes }, need, &Device::Cpu);
        assert_eq!(room(6, None).rows, 6, "a CPU has no bound of its own");
        assert_eq!(room(6, Some(3_999)), Room { rows: 3, own_slots: 24, cross_slots: 6 });
        assert_eq!(room(6, Some(1 << 40)).rows, 6);
        assert_eq!(room(6, Some(1)).rows, 1, "one is tried");
        assert_eq!(room(0, None).rows, 1);
        let vast = CacheNeed { bytes_per_slot: u64::MAX, own_slots: 1 << 40, cross_slots: 0 };
        assert_eq!(Room::of(BatchLimits { rows: 4, cache_bytes: Some(u64::MAX) }, vast, &Device::Cpu).rows, 1);
        assert_eq!(share_for_cache(1_000), 800);
    }
}
