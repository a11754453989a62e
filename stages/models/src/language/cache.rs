//! Keys and values of running sequences.

use super::generate::{Branch, RequestId};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::collections::BTreeMap;

/// Slots of a new cache.
const FIRST_CAPACITY: usize = 256;

/// Which cache slots hold which sequence: bookkeeping alone, no tensors.
///
/// Slots are handed out one behind the other. A beam is a path through them; what no path names any more is dead and
/// goes when the cache is compacted.
#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    paths: BTreeMap<RequestId, Vec<Vec<u32>>>,
    used: usize,
}

impl SlotTable {
    /// The paths of a request, one per beam.
    pub(crate) fn paths(&self, id: RequestId) -> &[Vec<u32>] {
        self.paths.get(&id).map_or(&[], Vec::as_slice)
    }

    /// A new request whose single path has `length` new slots.
    pub(crate) fn insert(&mut self, id: RequestId, length: usize) -> &[u32] {
        let path = (self.used..self.used + length).map(|slot| slot as u32).collect();
        self.used += length;
        let paths = self.paths.entry(id).or_default();
        *paths = vec![path];
        &paths[0]
    }

    /// The request's next beams: each continues a present one by a new slot.
    pub(crate) fn branch(&mut self, id: RequestId, branches: &[Branch]) -> Result<&[Vec<u32>]> {
        let Some(paths) = self.paths.get_mut(&id) else { bail!("request {id:?} is not in the cache") };
        let mut next = Vec::with_capacity(branches.len());
        for (branch, slot) in branches.iter().zip(self.used as u32..) {
            let Some(parent) = paths.get(branch.parent) else {
                bail!("request {id:?} has {} beams, not one with number {}", paths.len(), branch.parent)
            };
            // The only copy that a change of beams costs.
            let mut path = Vec::with_capacity(parent.len() + 1);
            path.extend_from_slice(parent);
            path.push(slot);
            next.push(path);
        }
        self.used += branches.len();
        *paths = next;
        Ok(paths)
    }

    pub(crate) fn remove(&mut self, id: RequestId) {
        self.paths.remove(&id);
        if self.paths.is_empty() {
            self.used = 0;
        }
    }

    /// Renumbers all live slots from 0; returns the old slot of each new one.
    fn compact(&mut self) -> Vec<u32> {
        let mut live: Vec<u32> = self.paths.values().flatten().flatten().copied().collect();
        live.sort_unstable();
        live.dedup();
        for slot in self.paths.values_mut().flatten().flatten() {
            // Every slot of every path is in `live`.
            *slot = live.binary_search(slot).map_or(0, |new| new as u32);
        }
        self.used = live.len();
        live
    }
}

/// The tensors behind the slots, for every layer.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) table: SlotTable,
    /// `[capacity, kv width]` per layer: keys and values.
    layers: Vec<(Tensor, Tensor)>,
    /// The slot that the next rows of each layer go to.
    first_new: usize,
    /// Slots that the cache grows to; more only where live ones do not fit.
    most_slots: usize,
}

impl KvCache {
    pub(crate) fn new(
        layers: usize,
        kv_width: usize,
        most_slots: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let empty = || Tensor::zeros((FIRST_CAPACITY.min(most_slots.max(1)), kv_width), dtype, device);
        let layers = (0..layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        Ok(Self { table: SlotTable::default(), layers, first_new: 0, most_slots })
    }

    /// Makes room for `rows` more slots. Call before the table hands them out.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<()> {
        // one that found no room to grow in the middle of it has layers of two sizes
        let capacities = self.layers.iter().flat_map(|(keys, values)| [keys.dims()[0], values.dims()[0]]);
        let capacity = capacities.min().unwrap_or(usize::MAX);
        if self.table.used + rows > capacity {
            let live = self.table.compact();
            // Mostly dead: clearing up is enough. Else twice the room, so that copying stays rare.
            let wanted = live.len() + rows;
            let capacity =
                if 4 * wanted <= 3 * capacity { capacity } else { (2 * wanted).min(self.most_slots).max(wanted) };
            for (keys, values) in &mut self.layers {
                *keys = moved(keys, &live, capacity)?;
                *values = moved(values, &live, capacity)?;
            }
        }
        self.first_new = self.table.used;
        Ok(())
    }

    /// Writes the rows of one layer into the slots handed out since [`reserve`](Self::reserve).
    pub(crate) fn write(&self, layer: usize, keys_rx: &Tensor, values_rx: &Tensor) -> Result<()> {
        let (keys, values) = self.layer(layer);
        keys.slice_set(&keys_rx.contiguous()?, 0, self.first_new)?;
        values.slice_set(&values_rx.contiguous()?, 0, self.first_new)
    }

    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }
}

/// The live rows of a cache in a tensor with room for `capacity`.
fn moved(cache: &Tensor, live: &[u32], capacity: usize) -> Result<Tensor> {
    let larger = Tensor::zeros((capacity, cache.dim(1)?), cache.dtype(), cache.device())?;
    if !live.is_empty() {
        larger.slice_set(&cache.index_select(&Tensor::new(live, cache.device())?, 0)?, 0, 0)?;
    }
    Ok(larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(parent: usize) -> Branch {
        Branch { parent, token: 0 }
    }

    #[test]
    fn beams_share_slots_and_the_dead_ones_go() {
        let (a, b) = (RequestId(1), RequestId(2));
        let mut table = SlotTable::default();
        assert_eq!(table.insert(a, 3), [0, 1, 2]);
        assert_eq!(table.insert(b, 1), [3]);
        assert_eq!(table.branch(a, &[branch(0), branch(0)]).unwrap(), [vec![0, 1, 2, 4], vec![0, 1, 2, 5]]);
        assert_eq!(table.branch(a, &[branch(1), branch(1)]).unwrap(), [vec![0, 1, 2, 5, 6], vec![0, 1, 2, 5, 7]]);
        assert!(table.branch(a, &[branch(2)]).is_err() && table.branch(RequestId(9), &[]).is_err());
        table.remove(b);
        assert_eq!(table.compact(), [0, 1, 2, 5, 6, 7]);
        assert_eq!(table.paths(a), [vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 5]]);
        table.remove(a);
        assert_eq!(table.insert(b, 1), [0]);
    }

    #[test]
    fn a_cache_grows_to_its_bound_and_lives_on_what_the_dead_leave() {
        let mut cache = KvCache::new(1, 2, 300, &Device::Cpu, DType::F32).unwrap();
        let capacity = |cache: &KvCache| cache.layer(0).0.dims()[0];
        for round in 0..10 {
            cache.reserve(100).unwrap();
            cache.table.insert(RequestId(round), 100);
            if round >= 2 {
                cache.table.remove(RequestId(round - 2));
            }
            assert!(capacity(&cache) <= 300, "{}", capacity(&cache));
        }
        assert_eq!(capacity(&KvCache::new(1, 2, 10, &Device::Cpu, DType::F32).unwrap()), 10);
        // what lives has its place even where the bound was too low
        cache.reserve(500).unwrap();
        assert!(capacity(&cache) >= 700);
    }

    #[test]
    fn rows_survive_growth_and_compaction() {
        let mut cache = KvCache::new(2, 3, usize::MAX, &Device::Cpu, DType::F32).unwrap();
        let (old, new) = (RequestId(0), RequestId(1));
        let rows = |value: f32, count: usize| Tensor::full(value, (count, 3), &Device::Cpu).unwrap();
        cache.reserve(5).unwrap();
        cache.table.insert(old, 5);
        (0..2).for_each(|layer| cache.write(layer, &rows(1.0, 5), &rows(2.0, 5)).unwrap());
        cache.reserve(200).unwrap();
        cache.table.insert(new, 200);
        (0..2).for_each(|layer| cache.write(layer, &rows(3.0, 200), &rows(4.0, 200)).unwrap());
        cache.table.remove(old);
        cache.reserve(400).unwrap();
        let slots: Vec<usize> = cache.table.paths(new)[0].iter().map(|&slot| slot as usize).collect();
        assert_eq!(slots, (0..200).collect::<Vec<_>>());
        let (keys, values) = cache.layer(1);
        assert!(keys.dims()[0] >= 600);
        let sum = |x: &Tensor| x.narrow(0, 0, 200).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!((sum(keys), sum(values)), (1800.0, 2400.0));
    }
}
