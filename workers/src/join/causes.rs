//! What makes the rows of a shard stale, field by field.

use std::collections::BTreeMap;

use manifests::recipe::{RowAction, causes};

use super::{COMMITTED_COLUMNS, ShardJoin, committed_rows};
use crate::error::WorkerError;

impl ShardJoin {
    /// What differs between the recipes of rows that are to be made again and the wanted ones, with the number of rows: input
    /// fields, the model, each parameter with its values before and now, the stage's version.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a part that cannot be read; a store that does not answer.
    pub async fn causes(&self) -> Result<BTreeMap<String, u64>, WorkerError> {
        let mut counts = BTreeMap::new();
        let Some(committed) = &self.committed else { return Ok(counts) };
        let batch = committed.read(&COMMITTED_COLUMNS).await?;
        let rows = committed_rows(committed.artifact(), &batch).map_err(|e| WorkerError::Broken(e.to_string()))?;
        for task in self.tasks.iter().filter(|task| matches!(task.action, RowAction::Compute(_))) {
            if let (Some((_, before)), Some(wanted)) = (rows.get(&task.image_id), &task.recipe) {
                for cause in causes(before, &wanted.row()) {
                    *counts.entry(cause).or_default() += 1;
                }
            }
        }
        Ok(counts)
    }
}
