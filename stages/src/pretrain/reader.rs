//! Rows of a split in the order of training.

use std::collections::BTreeMap;
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
        let own = rank_slice(batch, rank, world_size)?.to_vec();
        own.into_iter()
            .map(|row| {
                let place = self.order.place(row);
                Ok((self.row_group(place.row_group)?, place.row as usize))
            })
            .collect()
    }

    fn row_group(&mut self, group: u32) -> Result<Arc<Vec<TrainRow>>, BoxError> {
        self.used.retain(|&g| g != group);
        self.used.push(group);
        if let Some(rows) = self.held.get(&group) {
            return Ok(rows.clone());
        }
        while self.held.len() >= self.most_groups {
            let oldest = self.used.remove(0);
            self.held.remove(&oldest);
        }
        let rows = Arc::new(self.rows.read(group as usize)?);
        self.held.insert(group, rows.clone());
        Ok(rows)
    }
}
