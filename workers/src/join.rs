//! One shard of a stage: which rows it has, what each is made of, and what becomes of it.

mod causes;
mod stand;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::compute::take;
use manifests::recipe::{CommittedRow, Reason, RecipeParts, RowAction, decide};
use manifests::{Artifact, PartFile, Plan};
use stages::stage::{Input, SourceBytes, Stage};
use stages::table::{Columns, TableError};

use crate::error::WorkerError;
use crate::listing::{self, ObjectRange};
use crate::parts::PartReader;
use crate::slices::InputStores;
use crate::stores::WorkStore;

/// One input of a shard: image id → (row, digests).
struct InputShard {
    input: Input,
    /// `None`: the shard has no rows.
    reader: Option<Box<PartReader>>,
    index: BTreeMap<String, (usize, Vec<String>)>,
}

/// One row of a shard, with what becomes of it.
#[derive(Debug, Clone)]
pub struct RowTask {
    /// Stem of the image's name.
    pub image_id: String,
    /// Keep, compute or delete.
    pub action: RowAction,
    /// `None` for rows to delete.
    pub recipe: Option<RecipeParts>,
    /// Row of each input; `None` where an input that has rows of some images has none of this one.
    positions: Vec<Option<usize>>,
    /// Row of the committed part.
    pub committed: Option<usize>,
    /// Row of the part that a stopped worker left, where it holds exactly what is to be computed.
    pub partial: Option<usize>,
}

/// A shard of a stage, as a plan pinned it.
pub struct ShardJoin {
    inputs: Vec<InputShard>,
    committed: Option<Box<PartReader>>,
    partial: Option<Box<PartReader>>,
    /// Every row that is or was, in order of image id.
    pub tasks: Vec<RowTask>,
}

impl ShardJoin {
    /// Reads the identity columns of a shard and decides about each row. `partial` is a part that a stopped worker left
    /// of the same work; one that cannot be read is as good as none.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn load(
        stores: InputStores<'_>,
        stage: &Stage,
        plan: &Plan,
        shard: u32,
        partial: Option<&PartFile>,
    ) -> Result<ShardJoin, WorkerError> {
        let (work, artifact) = (stores.tables, plan.output.artifact);
        let inputs = load_inputs(stores, stage, plan, shard).await?;
        let committed = open_part(work, artifact, plan.output.part(shard)).await?;
        let (committed, rows) = load_committed(committed).await?;
        let tasks = decide_rows(stage, plan, shard, &inputs, &rows);
        let mut join = ShardJoin { inputs, committed, partial: None, tasks };
        if let Some(told) = &stage.told {
            join.carry(told, &rows).await?;
        }
        let left = async { load_committed(open_part(work, artifact, partial).await?).await };
        let (partial, left) = match left.await {
            Err(error) if is_unreadable(&error) => {
                tracing::warn!(stage = stage.name, shard, %error, "what a stopped worker left cannot be read");
                (None, CommittedRows::new())
            }
            // a store that fails for a moment still has it
            left => left?,
        };
        for task in join.tasks.iter_mut().filter(|t| matches!(t.action, RowAction::Compute(_))) {
            let made = left.get(&task.image_id).filter(|(_, row)| task.is_made_by(row));
            task.partial = made.map(|(row, _)| *row);
        }
        join.partial = partial;
        Ok(join)
    }

    /// The same for rows that lie outside of the stage's table: `made` are those that are there already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn load_beside(
        stores: InputStores<'_>,
        stage: &Stage,
        plan: &Plan,
        shard: u32,
        made: Option<PartReader>,
    ) -> Result<ShardJoin, WorkerError> {
        let inputs = load_inputs(stores, stage, plan, shard).await?;
        let (committed, rows) = load_committed(made).await?;
        let tasks = decide_rows(stage, plan, shard, &inputs, &rows);
        Ok(ShardJoin { inputs, committed, partial: None, tasks })
    }

    /// Reads the columns that the stage asks for, for some of the tasks (in order of image id).
    pub(crate) async fn read_inputs(&self, tasks: &[&RowTask]) -> Result<BTreeMap<Artifact, RecordBatch>, WorkerError> {
        let mut tables = BTreeMap::new();
        for (i, shard) in self.inputs.iter().enumerate() {
            let artifact = shard.input.artifact;
            let positions: Vec<Option<usize>> = tasks.iter().map(|t| t.positions[i]).collect();
            let rows: Vec<usize> = positions.iter().flatten().copied().collect();
            if artifact.is_sparse() && rows.is_empty() {
                continue;
            }
            let Some(reader) = &shard.reader else {
                return Err(WorkerError::Broken(format!("{} has no rows here", artifact.name())));
            };
            let read = reader.read_rows(shard.input.columns, &rows).await?;
            tables.insert(artifact, if artifact.is_sparse() { spread(&read, &positions)? } else { read });
        }
        Ok(tables)
    }

    /// Where the source bytes of each task lie, for stages that read some.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a listing that cannot be read; a store that does not answer.
    pub async fn places(&self, source: Option<SourceBytes>) -> Result<Vec<Option<ObjectRange>>, WorkerError> {
        let Some(source) = source else { return Ok(vec![None; self.tasks.len()]) };
        let listed = self.inputs.iter().position(|shard| shard.input.artifact == Artifact::Listing);
        let Some((at, Some(reader))) = listed.map(|at| (at, &self.inputs[at].reader)) else {
            return Ok(vec![None; self.tasks.len()]);
        };
        let column = match source {
            SourceBytes::Image => "image",
            SourceBytes::Meta => "meta",
        };
        let places = listing::places(&reader.read(&[column]).await?, column);
        let places = places.map_err(|e| WorkerError::Broken(e.to_string()))?;
        Ok(self.tasks.iter().map(|task| places.get((*task.positions.get(at)?)?)?.clone()).collect())
    }

    /// Reads committed rows as they are, by rising index.
    pub(crate) async fn read_committed(&self, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
        read_whole_rows(self.committed.as_deref(), rows).await
    }

    /// Reads rows that a stopped worker left, by rising index.
    pub(crate) async fn read_partial(&self, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
        read_whole_rows(self.partial.as_deref(), rows).await
    }
}

impl RowTask {
    /// A row that there was none of.
    #[cfg(test)]
    pub(crate) fn to_compute(image_id: &str) -> RowTask {
        let (image_id, action) = (image_id.to_owned(), RowAction::Compute(Reason::New));
        RowTask { image_id, action, recipe: None, positions: Vec::new(), committed: None, partial: None }
    }

    /// Is this row what the task would compute?
    fn is_made_by(&self, row: &CommittedRow) -> bool {
        self.recipe.as_ref().is_some_and(|wanted| wanted.digest() == row.recipe)
    }
}

/// Is an error one of the part that is read, and not of the store in which it lies?
pub(crate) fn is_unreadable(error: &WorkerError) -> bool {
    use WorkerError as E;
    matches!(error, E::Broken(_) | E::Missing { .. } | E::Configuration(_) | E::Refused(_) | E::Outdated(_))
}

async fn read_whole_rows(reader: Option<&PartReader>, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
    let Some(reader) = reader else {
        return Err(WorkerError::Broken("there is no part to copy rows from".into()));
    };
    let fields = reader.artifact().fields();
    let columns: Vec<&str> = fields.iter().map(|f| f.name).collect();
    reader.read_rows(&columns, rows).await
}

async fn load_inputs(
    stores: InputStores<'_>,
    stage: &Stage,
    plan: &Plan,
    shard: u32,
) -> Result<Vec<InputShard>, WorkerError> {
    let mut inputs = Vec::with_capacity(stage.inputs.len());
    for input in stage.inputs {
        inputs.push(load_input(stores.of(input.artifact), *input, plan, shard).await?);
    }
    Ok(inputs)
}

async fn load_input(work: &WorkStore, input: Input, plan: &Plan, shard: u32) -> Result<InputShard, WorkerError> {
    let artifact = input.artifact;
    if plan.input(artifact).is_some_and(|table| table.lost.contains(&shard)) {
        if artifact == Artifact::TagRefreshes {
            return Err(WorkerError::Broken(format!(
                "shard {shard} of {} lost its file: `urbancross verify --repair` takes it out of the table, and then \
                 `urbancross tags refresh SPEC --osm FILE` finds its tags again",
                artifact.name()
            )));
        }
        if artifact.is_sparse() {
            return Err(WorkerError::Broken(format!(
                "shard {shard} of {} lost its file, and what people decided cannot be made again: bring the file back from \
                 a copy, or let `urbancross verify --repair` go back to what they had decided before",
                artifact.name()
            )));
        }
        return Err(WorkerError::Broken(format!(
            "shard {shard} of {} lost its file: run the build, which makes it again before anything reads it",
            artifact.name()
        )));
    }
    let Some(part) = plan.input(artifact).and_then(|table| table.part(shard)) else {
        return Ok(InputShard { input, reader: None, index: BTreeMap::new() });
    };
    let reader = PartReader::open(work, artifact, part).await?;
    let status = artifact.is_table().then_some("status");
    let columns: Vec<&str> = ["image_id"].into_iter().chain(status).chain(input.digests.iter().copied()).collect();
    let batch = reader.read(&columns).await?;
    let index = good_rows(artifact, &batch, input.digests).map_err(|e| WorkerError::Broken(e.to_string()))?;
    Ok(InputShard { input, reader: Some(Box::new(reader)), index })
}

/// Rows without error: what is no table has no others.
fn good_rows(
    artifact: Artifact,
    batch: &RecordBatch,
    digests: &[&str],
) -> Result<BTreeMap<String, (usize, Vec<String>)>, TableError> {
    let columns = Columns::new(artifact, batch);
    let ids = columns.text("image_id")?;
    let status = artifact.is_table().then(|| columns.text("status")).transpose()?;
    let digests = digests.iter().map(|d| columns.text(d)).collect::<Result<Vec<_>, _>>()?;
    Ok((0..batch.num_rows())
        .filter(|&row| status.is_none_or(|status| status.value(row) == "ok"))
        .map(|row| (ids.value(row).to_owned(), (row, digests.iter().map(|d| d.value(row).to_owned()).collect())))
        .collect())
}

type CommittedRows = BTreeMap<String, (usize, CommittedRow)>;

async fn open_part(
    work: &WorkStore,
    artifact: Artifact,
    part: Option<&PartFile>,
) -> Result<Option<PartReader>, WorkerError> {
    match part {
        Some(part) => PartReader::open(work, artifact, part).await.map(Some),
        None => Ok(None),
    }
}

async fn load_committed(reader: Option<PartReader>) -> Result<(Option<Box<PartReader>>, CommittedRows), WorkerError> {
    let Some(reader) = reader else { return Ok((None, BTreeMap::new())) };
    let batch = reader.read(&COMMITTED_COLUMNS).await?;
    let rows = committed_rows(reader.artifact(), &batch).map_err(|e| WorkerError::Broken(e.to_string()))?;
    Ok((Some(Box::new(reader)), rows))
}

/// Columns that say what a committed row was made of.
pub const COMMITTED_COLUMNS: [&str; 7] =
    ["image_id", "status", "recipe", "stage_version", "model", "parameters", "inputs"];

/// Reads [`COMMITTED_COLUMNS`].
///
/// # Errors
/// [`TableError::Column`] if the batch lacks one of them.
pub fn committed_rows(artifact: Artifact, batch: &RecordBatch) -> Result<CommittedRows, TableError> {
    let columns = Columns::new(artifact, batch);
    let text = |name| columns.text(name);
    let (ids, status, recipe) = (text("image_id")?, text("status")?, text("recipe")?);
    let (model, parameters, inputs) = (text("model")?, text("parameters")?, text("inputs")?);
    let version = columns.int32("stage_version")?;
    Ok((0..batch.num_rows())
        .map(|row| {
            let committed = CommittedRow {
                recipe: recipe.value(row).to_owned(),
                stage_version: version.value(row).max(0) as u32,
                model: model.value(row).to_owned(),
                parameters: parameters.value(row).to_owned(),
                inputs: inputs.value(row).to_owned(),
                failed: status.value(row) == "error",
            };
            (ids.value(row).to_owned(), (row, committed))
        })
        .collect())
}

/// The anti-join of wanted and committed rows. Pure: a plan and a worker come to the same end.
fn decide_rows(
    stage: &Stage,
    plan: &Plan,
    shard: u32,
    inputs: &[InputShard],
    committed: &CommittedRows,
) -> Vec<RowTask> {
    let lost = plan.output.lost.contains(&shard);
    let wanted = |image_id: &str| -> Option<(RecipeParts, Vec<Option<usize>>)> {
        let mut digests = BTreeMap::new();
        let mut positions = Vec::with_capacity(inputs.len());
        for shard in inputs {
            let Some((row, values)) = shard.index.get(image_id) else {
                if shard.input.artifact.is_sparse() {
                    positions.push(None);
                    continue;
                }
                return None;
            };
            positions.push(Some(*row));
            for (name, value) in shard.input.digests.iter().zip(values) {
                let field = name.trim_end_matches("_digest");
                digests.insert(format!("{}.{field}", shard.input.artifact.name()), value.clone());
            }
        }
        let parts = RecipeParts {
            stage: stage.name.to_owned(),
            stage_version: stage.version,
            model: plan.model.clone(),
            parameters: plan.parameters.clone(),
            inputs: digests,
        };
        Some((parts, positions))
    };
    let ids: std::collections::BTreeSet<&String> =
        inputs.first().into_iter().flat_map(|driver| driver.index.keys()).chain(committed.keys()).collect();
    ids.into_iter()
        .filter_map(|image_id| {
            let made_of = wanted(image_id);
            let old = committed.get(image_id);
            let action = decide(old.map(|(_, row)| row), made_of.as_ref().map(|(parts, _)| parts), plan.retry_errors)?;
            let action = if lost && old.is_none() { RowAction::Compute(Reason::Lost) } else { action };
            let (recipe, positions) = made_of.unzip();
            Some(RowTask {
                image_id: image_id.clone(),
                action,
                recipe,
                positions: positions.unwrap_or_default(),
                committed: old.map(|(row, _)| *row),
                partial: None,
            })
        })
        .collect()
}

/// One row for each position, all of them null where there is none: `rows` are those that there are, in order.
fn spread(rows: &RecordBatch, positions: &[Option<usize>]) -> Result<RecordBatch, WorkerError> {
    let mut next = 0;
    let indices: arrow::array::UInt32Array = positions
        .iter()
        .map(|position| {
            position.map(|_| {
                next += 1;
                next - 1
            })
        })
        .collect();
    let fields = rows.schema();
    let fields = fields.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    let columns = rows.columns().iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>();
    columns
        .and_then(|columns| RecordBatch::try_new(schema, columns))
        .map_err(|e| WorkerError::Broken(format!("cannot spread rows: {e}")))
}

/// Rows of a batch in another order.
pub(crate) fn reorder(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, WorkerError> {
    let indices = arrow::array::UInt32Array::from(rows.to_vec());
    let columns = batch
        .columns()
        .iter()
        .map(|column| take(column, &indices, None))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new(batch.schema(), columns));
    columns.map_err(|e| WorkerError::Broken(format!("cannot order rows: {e}")))
}
