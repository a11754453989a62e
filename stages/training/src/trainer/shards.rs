//! The optimiser's memory in parts, each kept by one rank (ZeRO stage 1, Rajbhandari et al. 2020, section 5.1).
//!
//! A parameter's history is kept whole by one rank, which alone moves the parameter and then sends it to all others.
//! Every number is the one that a rank with all histories computes, to the last bit.

use std::collections::BTreeMap;

use candle_core::Device;

use crate::buckets::in_buckets;
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::optimiser::{AdamW, HeldHistory, History, State};

/// Which rank keeps a parameter's history.
pub(super) struct Shards {
    owners: BTreeMap<String, usize>,
}

impl Shards {
    pub(super) fn of(optimiser: &AdamW, world_size: usize) -> Self {
        Self { owners: assign(optimiser.parameters().map(|(name, var)| (name, var.elem_count())), world_size) }
    }

    /// Whether `rank` keeps the history of a parameter.
    pub(super) fn keeps(&self, rank: usize, name: &str) -> bool {
        self.owners.get(name) == Some(&rank)
    }

    /// After a step: every rank gets the parameters that the others have moved, in messages of `bucket_bytes`.
    pub(super) fn exchange(&self, optimiser: &AdamW, ranks: &mut dyn Communicator, bucket_bytes: usize) -> Result<()> {
        let vars: BTreeMap<&str, _> = optimiser.parameters().collect();
        for root in 0..ranks.world_size() {
            let of_root = vars.iter().filter(|(name, _)| self.keeps(root, name));
            let tensors = of_root.map(|(name, var)| ((*name).to_owned(), var.as_detached_tensor()));
            let sent = in_buckets(tensors, bucket_bytes, |flat| ranks.broadcast(flat, root))?;
            if ranks.rank() != root {
                for (name, tensor) in sent {
                    vars[name.as_str()].set(&tensor)?;
                }
            }
        }
        Ok(())
    }

    /// The optimiser's whole state, in host memory; `None` on all ranks but the first. One parameter's history at a
    /// time passes through the others.
    pub(super) fn gather(&self, optimiser: &mut AdamW, ranks: &mut dyn Communicator) -> Result<Option<State>> {
        let mut state = State::default();
        for (name, var, history) in optimiser.histories() {
            let Some(&owner) = self.owners.get(name) else {
                return Err(Error::argument("optimiser", format!("has {name}, which no rank keeps")));
            };
            let sent = match history {
                HeldHistory::Here(history) => history.try_map(|tensor| ranks.broadcast(tensor, owner))?,
                _ => History::start(var)?.try_map(|tensor| ranks.broadcast(tensor, owner))?,
            };
            if ranks.rank() == 0 {
                state.put(name, &sent.try_map(|tensor| tensor.to_device(&Device::Cpu))?);
            }
        }
        state.put_steps(*optimiser.steps())?;
        Ok((ranks.rank() == 0).then_some(state))
    }
}

/// Largest first, each to the rank that has the least: no rank has more than an even share and one parameter.
fn assign<'a>(sizes: impl Iterator<Item = (&'a str, usize)>, world_size: usize) -> BTreeMap<String, usize> {
    let mut by_size: Vec<(&str, usize)> = sizes.collect();
    by_size.sort_by(|(a, large), (b, small)| small.cmp(large).then(a.cmp(b)));
    let mut loads = vec![0; world_size.max(1)];
    let mut owners = BTreeMap::new();
    for (name, size) in by_size {
        let least = (0..loads.len()).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        loads[least] += size;
        owners.insert(name.to_owned(), least);
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_do_not_depend_on_the_order() {
        let names: Vec<String> = (0..40).map(|at| format!("p{at:02}")).collect();
        let sizes: Vec<(&str, usize)> =
            names.iter().enumerate().map(|(at, name)| (name.as_str(), (at * 37) % 11 * 1000)).collect();
        let (total, largest): (usize, usize) = (sizes.iter().map(|(_, size)| size).sum(), 10_000);
        for world_size in [1, 2, 3, 7] {
            let owners = assign(sizes.iter().copied(), world_size);
            assert_eq!(owners, assign(sizes.iter().rev().copied(), world_size));
            assert_eq!(owners.len(), sizes.len());
            for rank in 0..world_size {
                let kept: usize = sizes.iter().filter(|(name, _)| owners[*name] == rank).map(|(_, size)| size).sum();
                assert!(kept <= total / world_size + largest, "{world_size} ranks: {kept} of {total}");
            }
        }
    }
}
