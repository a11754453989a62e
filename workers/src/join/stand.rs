//! Rows that stand under a new recipe: those of which an edit says nothing to their stage, and those that somebody accepts.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, RecordBatch};
use manifests::recipe::{Reason, RecipeParts, RowAction, differs_only_in};
use stages::stage::{InputRows, ModelUse, Stage, Told};
use stages::table::{self, Columns, TableError};

use super::{CommittedRows, RowTask, ShardJoin};
use crate::error::WorkerError;

/// Rows of which it is asked at once what their stage was told.
const TOLD_ROWS: usize = 1024;

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

impl ShardJoin {
    /// Rows that would be computed for an edit that their stage makes nothing of stand, under their new recipe. It takes
    /// the inputs' columns and no more, so that a plan and a worker come to the same end.
    pub(super) async fn carry(&mut self, told: &Told, rows: &CommittedRows) -> Result<(), WorkerError> {
        let is_open = |task: &RowTask| {
            let (Some((_, row)), Some(recipe)) = (rows.get(&task.image_id), &task.recipe) else { return false };
            task.action == RowAction::Compute(Reason::InputChanged) && differs_only_in(row, recipe, told.input.name())
        };
        let open: Vec<usize> = (0..self.tasks.len()).filter(|&at| is_open(&self.tasks[at])).collect();
        let (Some(committed), Some(input)) =
            (&self.committed, self.inputs.iter().position(|shard| shard.input.artifact == told.input))
        else {
            return Ok(());
        };
        let mut stand = Vec::new();
        for some in open.chunks(TOLD_ROWS) {
            let tasks: Vec<&RowTask> = some.iter().map(|&at| &self.tasks[at]).collect();
            let positions: Vec<usize> = tasks.iter().filter_map(|task| task.committed).collect();
            let before = committed.read_rows(&[told.column], &positions).await?;
            let before = Columns::new(committed.artifact(), &before).text(told.column).map_err(broken)?.clone();
            if before.null_count() == before.len() {
                continue;
            }
            let now = (told.of)(told.by, &self.read_input(input, &tasks).await?).map_err(broken)?;
            let is_same = |row: &usize| !before.is_null(*row) && now[*row].as_deref() == Some(before.value(*row));
            stand.extend((0..some.len()).filter(is_same).map(|row| some[row]));
        }
        stand.into_iter().for_each(|at| self.tasks[at].action = RowAction::Carry);
        Ok(())
    }

    /// One input of some of the tasks, all of which have it.
    async fn read_input(&self, input: usize, tasks: &[&RowTask]) -> Result<InputRows, WorkerError> {
        let shard = &self.inputs[input];
        let rows: Vec<usize> = tasks.iter().filter_map(|task| task.positions[input]).collect();
        let Some(reader) = shard.reader.as_ref().filter(|_| rows.len() == tasks.len()) else {
            return Err(WorkerError::Broken(format!("{} lacks rows here", shard.input.artifact.name())));
        };
        let batch = reader.read_rows(shard.input.columns, &rows).await?;
        let image_ids = tasks.iter().map(|task| task.image_id.clone()).collect();
        Ok(InputRows { image_ids, tables: BTreeMap::from([(shard.input.artifact, batch)]), source: Vec::new() })
    }

    /// Content of rows that stand under a new recipe, in order of image id.
    pub(crate) async fn read_carried(&self, told: &Told, tasks: &[&RowTask]) -> Result<RecordBatch, WorkerError> {
        let input = self.inputs.iter().position(|shard| shard.input.artifact == told.input).ok_or_else(missing)?;
        let committed = self.committed.as_ref().ok_or_else(missing)?;
        let fields = committed.artifact().content_fields();
        let columns: Vec<&str> = fields.iter().map(|f| f.name).collect();
        let positions: Vec<usize> = tasks.iter().filter_map(|task| task.committed).collect();
        let content = committed.read_rows(&columns, &positions).await?;
        let renewed = (told.renew)(told.by, &self.read_input(input, tasks).await?, &content);
        renewed.map_err(broken)
    }

    /// Rows that are stale and could stand if somebody says so, with the reason of each: those that were made, and whose
    /// stage would make others. What people decided in a review is no such reason.
    pub(crate) async fn acceptable(&self, stage: &Stage) -> Result<BTreeMap<usize, Reason>, WorkerError> {
        use Reason::{InputChanged, ModelChanged, ParameterChanged, StageVersion};
        let stale = |at: usize| match self.tasks[at].action {
            RowAction::Carry => Some((at, InputChanged)),
            RowAction::Compute(reason @ (InputChanged | ModelChanged | ParameterChanged | StageVersion)) => {
                Some((at, reason))
            }
            _ => None,
        };
        let stale: Vec<(usize, Reason)> = (0..self.tasks.len()).filter_map(stale).collect();
        let Some(committed) = &self.committed else { return Ok(BTreeMap::new()) };
        let there = |(at, reason): (usize, Reason)| Some((at, self.tasks[at].committed?, reason));
        let stale: Vec<(usize, usize, Reason)> = stale.into_iter().filter_map(there).collect();
        let positions: Vec<usize> = stale.iter().map(|(_, row, _)| *row).collect();
        let rows = committed.read_rows(&["status", "model", "parameters"], &positions).await?;
        let columns = Columns::new(committed.artifact(), &rows);
        let text = |name| columns.text(name).map_err(broken);
        let (status, model, parameters) = (text("status")?, text("model")?, text("parameters")?);
        let good = stale.into_iter().enumerate().filter(|(row, (at, ..))| {
            let is_other =
                |wanted: &RecipeParts| (wanted.model != model.value(*row), wanted.parameters != parameters.value(*row));
            let recipe = self.tasks[*at].recipe.as_ref();
            status.value(*row) == "ok" && recipe.is_some_and(|wanted| can_stand(stage, is_other(wanted)))
        });
        Ok(good.map(|(_, (at, _, reason))| (at, reason)).collect())
    }

    /// Content of accepted rows, in order of image id: as it is, and told what they would be told now.
    pub(crate) async fn read_accepted(&self, stage: &Stage, tasks: &[&RowTask]) -> Result<RecordBatch, WorkerError> {
        let committed = self.committed.as_ref().ok_or_else(missing)?;
        let fields = committed.artifact().content_fields();
        let columns: Vec<&str> = fields.iter().map(|f| f.name).collect();
        let positions: Vec<usize> = tasks.iter().filter_map(|task| task.committed).collect();
        let content = committed.read_rows(&columns, &positions).await?;
        let Some(told) = &stage.told else { return Ok(content) };
        let input = self.inputs.iter().position(|shard| shard.input.artifact == told.input).ok_or_else(missing)?;
        let rows = self.read_input(input, tasks).await?;
        let now = table::texts((told.of)(told.by, &rows).map_err(broken)?);
        let renewed = (told.renew)(told.by, &rows, &content).map_err(broken)?;
        let schema = renewed.schema();
        let columns = schema.fields().iter().zip(renewed.columns());
        let columns: Vec<ArrayRef> = columns
            .map(|(field, column)| if field.name() == told.column { now.clone() } else { column.clone() })
            .collect();
        table::content(committed.artifact(), columns).map_err(broken)
    }

    /// Tasks whose committed rows are copied as they are while others are accepted.
    pub(crate) fn others<'t>(&'t self, accepted: &BTreeSet<usize>, at: std::ops::Range<usize>) -> Vec<&'t RowTask> {
        let is_other = |at: &usize| !accepted.contains(at) && self.tasks[*at].committed.is_some();
        at.filter(is_other).map(|at| &self.tasks[at]).collect()
    }
}

fn missing() -> WorkerError {
    WorkerError::Broken("there is no part to copy rows from".into())
}

/// Can rows of a stage stand whose model or parameters are others than is wanted? Not vectors and scores: these are compared
/// with those of other rows, which are by what is wanted. Nor what a model made that was trained anew.
fn can_stand(stage: &Stage, (other_model, other_parameters): (bool, bool)) -> bool {
    let are_numbers = stage.recipe_digest.is_some();
    let is_trained = matches!(stage.model, ModelUse::Scoring | ModelUse::Retrieval);
    !(are_numbers && (other_model || other_parameters) || is_trained && other_model)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who accepted vectors of an encoder that was replaced would have them compared with those of the new one.
    #[test]
    fn numbers_by_another_model_or_settings_cannot_stand() {
        let words = stages::images::stage();
        let numbers = Stage { recipe_digest: Some("embedding_digest"), model: ModelUse::Named(&[]), ..words };
        let of_trained = Stage { model: ModelUse::Scoring, ..words };
        let stands = |stage: &Stage| {
            [(false, false), (true, false), (false, true), (true, true)].map(|others| can_stand(stage, others))
        };
        assert_eq!(stands(&words), [true; 4]);
        assert_eq!(stands(&numbers), [true, false, false, false]);
        assert_eq!(stands(&of_trained), [true, false, true, false]);
    }
}
