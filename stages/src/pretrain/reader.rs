//! Rows of a split in the order of training.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use training::batch::BoxError;
use training::order::{DataOrder, rank_slice};

use crate::stage::StageError;
use crate::train_rows::{TrainRow, TrainRows};

/// A row, within the row group that holds it.
pub(crate) type HeldRow = (Arc<Vec<TrainRow>>, usize);

/// Reads the rows of one batch after another, and holds two windows of row groups at most.
pub(crate) struct Reader<'a> {
    rows: &'a mut dyn TrainRows,
    order: DataOrder,
    most_groups: usize,
    /// Row groups of the windows that the present batch touches.
    held: BTreeMap<u32, Arc<Vec<TrainRow>>>,
    /// Order of use, oldest first.
    used: Vec<u32>,
    /// Rows of the epoch at hand, in order: (epoch, batches).
    epoch: Option<(usize, Vec<Vec<u64>>)>,
}

impl<'a> Reader<'a> {
    /// `field` names the setting that `batch` comes from.
    pub(crate) fn new(
        stage: &'static str,
        rows: &'a mut dyn TrainRows,
        window_row_groups: usize,
        (field, batch): (&str, usize),
        seed: u64,
    ) -> Result<Self, StageError> {
        let order = DataOrder::new(rows.groups(), window_row_groups, batch, seed)
            .map_err(|e| StageError::Configuration { stage, why: format!("{field}: {e}") })?;
        // two windows: a batch may straddle their border
        let most_groups = 2 * window_row_groups;
        Ok(Self { rows, order, most_groups, held: BTreeMap::new(), used: Vec::new(), epoch: None })
    }

    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.order.steps_per_epoch()
    }

    /// Slice `rank` of `world_size` of the global batch of a step.
    pub(crate) fn batch(
        &mut self,
        epoch: usize,
        step: usize,
        (rank, world_size): (usize, usize),
    ) -> Result<Vec<HeldRow>, BoxError> {
        if self.epoch.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let order = self.order.epoch(epoch);
            let batches = (0..self.order.steps_per_epoch()).map(|s| order.batch(s)).collect::<Result<Vec<_>, _>>()?;
            self.epoch = Some((epoch, batches));
        }
        let batch = self.epoch.as_ref().and_then(|(_, batches)| batches.get(step));
        let batch = batch.ok_or_else(|| format!("step {step} is beyond epoch {epoch}"))?;
        let own = rank_slice(batch, rank, world_size)?.iter().map(|&row| self.order.place(row)).collect::<Vec<_>>();
        self.hold(&own.iter().map(|place| place.row_group).collect())?;
        let held = |group: u32| self.held.get(&group).ok_or_else(|| format!("row group {group} was not read"));
        own.into_iter().map(|place| Ok((held(place.row_group)?.clone(), place.row as usize))).collect()
    }

    /// Reads those of the row groups that are not held, all together, and lets go of those that were not wanted for
    /// longest.
    fn hold(&mut self, wanted: &BTreeSet<u32>) -> Result<(), BoxError> {
        self.used.retain(|group| !wanted.contains(group));
        let most_others = self.most_groups.saturating_sub(wanted.len());
        let gone = self.used.len().saturating_sub(most_others);
        for group in self.used.drain(..gone) {
            self.held.remove(&group);
        }
        let missing: Vec<u32> = wanted.iter().filter(|group| !self.held.contains_key(*group)).copied().collect();
        let read = self.rows.read_many(&missing.iter().map(|&group| group as usize).collect::<Vec<_>>())?;
        self.held.extend(missing.into_iter().zip(read.into_iter().map(Arc::new)));
        self.used.extend(wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_rows::RowsError;

    /// Eight groups of four rows. Where `together` is set, it says how many groups were asked for at once.
    struct Eight {
        lengths: [u32; 8],
        together: Option<Vec<usize>>,
        reads: usize,
    }

    impl TrainRows for Eight {
        fn groups(&self) -> &[u32] {
            &self.lengths
        }

        fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, RowsError> {
            self.reads += 1;
            let row = |row: u32| TrainRow {
                image_id: format!("{group}-{row}"),
                bytes: Vec::new(),
                bytes_digest: String::new(),
                captions: Vec::new(),
                segments: Vec::new(),
                embedded: None,
            };
            Ok((0..self.lengths[group]).map(row).collect())
        }

        fn read_many(&mut self, groups: &[usize]) -> Result<Vec<Vec<TrainRow>>, RowsError> {
            self.together.iter_mut().for_each(|together| together.push(groups.len()));
            groups.iter().map(|&group| self.read(group)).collect()
        }

        fn captions(&mut self) -> Result<Vec<String>, RowsError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn the_row_groups_of_a_window_are_read_together_and_each_once() {
        let mut rows = Eight { lengths: [4; 8], together: Some(Vec::new()), reads: 0 };
        let mut reader = Reader::new("pretrain", &mut rows, 4, ("pretrain.batch", 8), 7).unwrap();
        let mut seen = BTreeSet::new();
        for step in 0..reader.steps_per_epoch() {
            for (group, row) in reader.batch(0, step, (0, 1)).unwrap() {
                seen.insert(group[row].image_id.clone());
            }
            assert!(reader.held.len() <= 8 && reader.used.len() == reader.held.len());
        }
        assert_eq!((seen.len(), reader.steps_per_epoch()), (32, 4));
        drop(reader);
        let together = rows.together.unwrap();
        assert!(rows.reads == 8 && together[0] > 1, "{} reads: {together:?}", rows.reads);
    }

    #[test]
    fn no_more_than_two_windows_are_held_and_ranks_read_what_one_would() {
        let ids = |world_size: usize| {
            let mut of_ranks = Vec::new();
            for rank in 0..world_size {
                let mut rows = Eight { lengths: [4; 8], together: None, reads: 0 };
                let mut reader = Reader::new("pretrain", &mut rows, 1, ("pretrain.batch", 4), 7).unwrap();
                for step in 0..reader.steps_per_epoch() {
                    for (group, row) in reader.batch(1, step, (rank, world_size)).unwrap() {
                        of_ranks.push((step, rank, group[row].image_id.clone()));
                    }
                    assert!(reader.held.len() <= 2, "{} groups", reader.held.len());
                }
            }
            of_ranks.sort_by_key(|(step, rank, _)| (*step, *rank));
            of_ranks.into_iter().map(|(_, _, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(2));
    }
}
