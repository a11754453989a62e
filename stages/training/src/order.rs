//! The order in which rows are learnt: a pure function of (seed, epoch, step).
//!
//! Rows lie in row groups of a table, and reading a row means reading its group. An epoch therefore shuffles the row
//! groups, cuts that sequence into windows of a bounded number of groups, and shuffles the rows inside each window: a
//! reader holds one window at a time, or two where a batch straddles the border.

use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// The order of all epochs over one table.
#[derive(Clone, Debug)]
pub struct DataOrder {
    /// First row of each row group, and the number of rows at the end.
    starts: Vec<u64>,
    window_row_groups: usize,
    batch: usize,
    seed: u64,
}

/// Where a row lies in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// Row group.
    pub row_group: u32,
    /// Row within the group.
    pub row: u32,
}

impl DataOrder {
    /// `row_group_lengths` in table order; `window_row_groups` groups are mixed with one another; `batch` is the global
    /// batch of all ranks together.
    ///
    /// # Errors
    /// A window or batch of 0, or fewer rows than one batch (training drops the last partial batch).
    pub fn new(row_group_lengths: &[u32], window_row_groups: usize, batch: usize, seed: u64) -> Result<Self> {
        let mut starts = vec![0; row_group_lengths.len() + 1];
        for (group, &length) in row_group_lengths.iter().enumerate() {
            starts[group + 1] = starts[group] + u64::from(length);
        }
        let rows = starts[row_group_lengths.len()];
        if window_row_groups == 0 || batch == 0 || rows < batch as u64 {
            let problem = format!(
                "{rows} rows in batches of {batch}, windows of {window_row_groups} row groups: \
                 needs at least one full batch and one row group per window"
            );
            return Err(Error::argument("data order", problem));
        }
        Ok(Self { starts, window_row_groups, batch, seed })
    }

    /// Rows of the table.
    pub fn rows(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Full batches of an epoch, equal for every epoch and rank. The rows left over are dropped; which ones differs
    /// from epoch to epoch.
    pub fn steps_per_epoch(&self) -> usize {
        (self.rows() / self.batch as u64) as usize
    }

    /// Order of one epoch. Costs one pass over the row groups; keep it for the steps of the epoch.
    pub fn epoch(&self, epoch: usize) -> EpochOrder<'_> {
        let mut row_groups: Vec<u32> = (0..self.starts.len() as u32 - 1).collect();
        row_groups.shuffle(&mut self.rng(epoch, None));
        let lengths = row_groups
            .chunks(self.window_row_groups)
            .map(|window| window.iter().map(|&group| self.group(group).end - self.group(group).start).sum::<u64>());
        let mut window_starts = vec![0];
        for length in lengths {
            window_starts.push(window_starts[window_starts.len() - 1] + length);
        }
        EpochOrder { order: self, epoch, row_groups, window_starts }
    }

    /// Rows of the global batch of one step, counted over the whole table.
    ///
    /// # Errors
    /// `step` beyond the epoch.
    pub fn global_batch(&self, epoch: usize, step: usize) -> Result<Vec<u64>> {
        self.epoch(epoch).batch(step)
    }

    /// Row group and row within it.
    pub fn place(&self, row: u64) -> RowPlace {
        let row_group = self.starts.partition_point(|&start| start <= row) - 1;
        RowPlace { row_group: row_group as u32, row: (row - self.starts[row_group]) as u32 }
    }

    fn group(&self, group: u32) -> Range<u64> {
        self.starts[group as usize]..self.starts[group as usize + 1]
    }

    /// One independent stream for the row groups of an epoch (no window) and one for each of its windows.
    fn rng(&self, epoch: usize, window: Option<usize>) -> ChaCha8Rng {
        let mut key = [0; 32];
        let window = window.map_or(0, |window| window as u64 + 1);
        for (slot, word) in key.chunks_exact_mut(8).zip([self.seed, epoch as u64, window]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// The order of one epoch.
#[derive(Clone, Debug)]
pub struct EpochOrder<'a> {
    order: &'a DataOrder,
    epoch: usize,
    row_groups: Vec<u32>,
    /// Position in the epoch of each window's first row, and of the end.
    window_starts: Vec<u64>,
}

impl EpochOrder<'_> {
    /// Rows of the global batch of one step, counted over the whole table.
    ///
    /// # Errors
    /// `step` beyond the epoch.
    pub fn batch(&self, step: usize) -> Result<Vec<u64>> {
        let steps = self.order.steps_per_epoch();
        if step >= steps {
            return Err(Error::argument("step", format!("{step} of an epoch of {steps} steps")));
        }
        let batch = self.order.batch as u64;
        let (start, end) = (step as u64 * batch, (step as u64 + 1) * batch);
        let first = self.window_starts.partition_point(|&window| window <= start) - 1;
        let mut rows = Vec::with_capacity(self.order.batch);
        for window in first.. {
            let window_start = self.window_starts[window];
            if window_start >= end {
                break;
            }
            let shuffled = self.window(window);
            let from = start.saturating_sub(window_start) as usize;
            let to = ((end - window_start) as usize).min(shuffled.len());
            rows.extend_from_slice(&shuffled[from..to]);
            if rows.len() == self.order.batch {
                break;
            }
        }
        Ok(rows)
    }

    fn window(&self, window: usize) -> Vec<u64> {
        let groups = self.row_groups.chunks(self.order.window_row_groups).nth(window).unwrap_or_default();
        let mut rows: Vec<u64> = groups.iter().flat_map(|&group| self.order.group(group)).collect();
        rows.shuffle(&mut self.order.rng(self.epoch, Some(window)));
        rows
    }
}

/// Slice of a global batch that rank `rank` of `world_size` learns: concatenated over ranks they are the batch.
///
/// # Errors
/// A world that does not divide the batch (ranks must take equal steps), or a rank outside it.
pub fn rank_slice(global_batch: &[u64], rank: usize, world_size: usize) -> Result<&[u64]> {
    let batch = global_batch.len();
    if world_size == 0 || rank >= world_size || !batch.is_multiple_of(world_size) {
        let problem =
            format!("rank {rank} of {world_size} for a global batch of {batch}: needs a batch divisible by the ranks");
        return Err(Error::argument("rank", problem));
    }
    let local = batch / world_size;
    Ok(&global_batch[rank * local..(rank + 1) * local])
}

/// Batches of an evaluation: every row once, in table order, the last batch as short as it falls.
pub fn evaluation_batches(rows: u64, batch: usize) -> impl Iterator<Item = Range<u64>> {
    let batch = batch.max(1) as u64;
    (0..rows.div_ceil(batch)).map(move |b| b * batch..((b + 1) * batch).min(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [u32; 9] = [64, 64, 10, 0, 64, 33, 64, 1, 64];

    fn order() -> DataOrder {
        DataOrder::new(&LENGTHS, 2, 7, 42).unwrap()
    }

    fn whole_epoch(order: &DataOrder, epoch: usize) -> Vec<u64> {
        (0..order.steps_per_epoch()).flat_map(|step| order.global_batch(epoch, step).unwrap()).collect()
    }

    #[test]
    fn every_row_comes_once_in_an_epoch() {
        // 364 rows = 52 batches of 7: nothing is dropped.
        let mut rows = whole_epoch(&order(), 0);
        assert_eq!(rows.len(), 364);
        rows.sort_unstable();
        assert_eq!(rows, (0..364).collect::<Vec<_>>());
        // 364 = 36 batches of 10 and 4 rows dropped, others in the next epoch.
        let order = DataOrder::new(&LENGTHS, 2, 10, 42).unwrap();
        let dropped = |epoch| {
            let seen = whole_epoch(&order, epoch);
            (0..364).filter(|row| !seen.contains(row)).collect::<Vec<u64>>()
        };
        assert_eq!((dropped(0).len(), dropped(1).len()), (4, 4));
        assert_ne!(dropped(0), dropped(1));
    }

    #[test]
    fn epochs_and_seeds_differ_but_calls_do_not() {
        let (one, other_seed) = (order(), DataOrder::new(&LENGTHS, 2, 7, 43).unwrap());
        assert_ne!(whole_epoch(&one, 0), whole_epoch(&one, 1));
        assert_ne!(whole_epoch(&one, 0), whole_epoch(&other_seed, 0));
        assert_ne!(whole_epoch(&one, 0), (0..364).collect::<Vec<_>>());
        // Steps asked for backwards, or alone, are the same: a run can resume anywhere.
        let forwards = whole_epoch(&one, 3);
        for step in (0..52).rev() {
            assert_eq!(order().global_batch(3, step).unwrap(), forwards[step * 7..][..7]);
        }
    }

    #[test]
    fn rows_stay_within_their_window_of_row_groups() {
        let order = order();
        let epoch = order.epoch(5);
        let positions = whole_epoch(&order, 5);
        for (position, &row) in positions.iter().enumerate() {
            let window = epoch.window_starts.partition_point(|&start| start <= position as u64) - 1;
            let groups = epoch.row_groups.chunks(2).nth(window).unwrap();
            assert!(groups.contains(&order.place(row).row_group), "row {row} at {position} left window {window}");
        }
    }

    #[test]
    fn rows_are_found_in_their_groups() {
        let order = order();
        assert_eq!(order.place(0), RowPlace { row_group: 0, row: 0 });
        assert_eq!(order.place(137), RowPlace { row_group: 2, row: 9 });
        // Group 3 is empty.
        assert_eq!(order.place(138), RowPlace { row_group: 4, row: 0 });
        assert_eq!(order.place(363), RowPlace { row_group: 8, row: 63 });
    }

    #[test]
    fn ranks_share_the_batch_and_world_size_is_no_argument_of_the_order() {
        let order = DataOrder::new(&LENGTHS, 3, 12, 1).unwrap();
        let global = order.global_batch(0, 4).unwrap();
        for world_size in [1, 2, 3, 4] {
            let joined: Vec<u64> =
                (0..world_size).flat_map(|rank| rank_slice(&global, rank, world_size).unwrap().to_vec()).collect();
            assert_eq!(joined, global);
        }
        assert!(rank_slice(&global, 0, 5).unwrap_err().to_string().contains("rank 0 of 5 for a global batch of 12"));
    }

    #[test]
    fn evaluation_drops_nothing() {
        let batches: Vec<_> = evaluation_batches(10, 4).collect();
        assert_eq!(batches, [0..4, 4..8, 8..10]);
    }

    #[test]
    fn impossible_orders_are_refused() {
        assert!(DataOrder::new(&[3], 1, 4, 0).unwrap_err().to_string().contains("3 rows in batches of 4"));
        assert!(DataOrder::new(&[8], 0, 4, 0).is_err());
        assert!(order().global_batch(0, 52).unwrap_err().to_string().contains("52 of an epoch of 52 steps"));
    }
}
