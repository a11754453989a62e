//! One shard of a stage: which rows it has, what each is made of, and what becomes of it.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::compute::take;
use manifests::recipe::{CommittedRow, Reason, RecipeParts, RowAction, decide};
use manifests::{Artifact, Digest, PartFile, Plan, digest};
use sources::split::DropReason;
use stages::stage::{Input, Stage};
use stages::table::Columns;

use crate::error::WorkerError;
use crate::listing::{self, ListedRow, Listing};
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// The split of one image, made over all boxes and pictures of a country.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedRow {
    pub image_id: String,
    pub split: &'static str,
    /// Why it was dropped from its split.
    pub reason: Option<DropReason>,
}

impl AssignedRow {
    pub(crate) fn digest(&self) -> String {
        digest::of_value(&(self.split, self.reason.map(DropReason::as_str)))
    }
}

/// Inputs that are no tables.
#[derive(Default)]
pub struct VirtualInputs {
    pub listing: Listing,
    /// By shard, sorted by image id.
    pub assignment: Vec<Vec<AssignedRow>>,
}

impl VirtualInputs {
    /// Digest of each shard's slice of an input that is no table.
    pub fn slices(&self, artifact: Artifact) -> Vec<Digest> {
        match artifact {
            Artifact::Listing => self.listing.shard_digests(),
            _ => self
                .assignment
                .iter()
                .map(|rows| {
                    let text: Vec<_> =
                        rows.iter().map(|r| (&r.image_id, r.split, r.reason.map(DropReason::as_str))).collect();
                    digest::of_value(&text)
                })
                .collect(),
        }
    }
}

/// Where the rows of one input lie.
enum Rows<'a> {
    Part(Box<PartReader>),
    Listed(&'a [ListedRow]),
    Assigned(&'a [AssignedRow]),
    None,
}

/// One input of a shard: image id → (row, digests).
struct InputShard<'a> {
    input: Input,
    rows: Rows<'a>,
    index: BTreeMap<String, (usize, Vec<String>)>,
}

/// One row of a shard, with what becomes of it.
#[derive(Debug, Clone)]
pub struct RowTask {
    pub image_id: String,
    pub action: RowAction,
    /// `None` for rows to delete.
    pub recipe: Option<RecipeParts>,
    /// Row of each input.
    positions: Vec<usize>,
    /// Row of the committed part.
    pub committed: Option<usize>,
    /// Row of the part that a stopped worker left, where it holds exactly what is to be computed.
    pub partial: Option<usize>,
}

/// A shard of a stage at pinned versions.
pub struct ShardJoin<'a> {
    inputs: Vec<InputShard<'a>>,
    committed: Option<Box<PartReader>>,
    partial: Option<Box<PartReader>>,
    /// Every row that is or was, in order of image id.
    pub tasks: Vec<RowTask>,
}

impl<'a> ShardJoin<'a> {
    /// Reads the identity columns of a shard and decides about each row. `partial` is a part that a stopped worker left
    /// of the same work; one that cannot be read is as good as none.
    pub async fn load(
        work: &WorkStore,
        stage: &Stage,
        plan: &Plan,
        shard: u32,
        virtual_inputs: &'a VirtualInputs,
        partial: Option<&PartFile>,
    ) -> Result<ShardJoin<'a>, WorkerError> {
        let mut inputs = Vec::with_capacity(stage.inputs.len());
        for input in stage.inputs {
            inputs.push(load_input(work, *input, plan, shard, virtual_inputs).await?);
        }
        let artifact = plan.output.artifact;
        let (committed, rows) = load_committed(work, artifact, plan.output.part(shard)).await?;
        let mut tasks = decide_rows(stage, plan, shard, &inputs, &rows);
        let (partial, left) = load_committed(work, artifact, partial).await.unwrap_or_else(|error| {
            tracing::warn!(stage = stage.name, shard, %error, "what a stopped worker left cannot be read");
            (None, CommittedRows::new())
        });
        for task in tasks.iter_mut().filter(|t| matches!(t.action, RowAction::Compute(_))) {
            let made = left.get(&task.image_id).filter(|(_, row)| task.is_made_by(row));
            task.partial = made.map(|(row, _)| *row);
        }
        Ok(ShardJoin { inputs, committed, partial, tasks })
    }

    /// Reads the columns that the stage asks for, for some of the tasks (in order of image id).
    pub async fn read_inputs(&self, tasks: &[&RowTask]) -> Result<BTreeMap<Artifact, RecordBatch>, WorkerError> {
        let mut tables = BTreeMap::new();
        for (i, shard) in self.inputs.iter().enumerate() {
            let positions: Vec<usize> = tasks.iter().map(|t| t.positions[i]).collect();
            let artifact = shard.input.artifact;
            let table_error = |e: stages::table::TableError| WorkerError::Broken(e.to_string());
            let batch = match &shard.rows {
                Rows::Part(reader) => reader.read_rows(shard.input.columns, &positions).await?,
                Rows::Listed(rows) => listing::batch(positions.iter().map(|&p| &rows[p])).map_err(table_error)?,
                Rows::Assigned(rows) => assignment_batch(positions.iter().map(|&p| &rows[p])).map_err(table_error)?,
                Rows::None => return Err(WorkerError::Broken(format!("{} has no rows here", artifact.name()))),
            };
            tables.insert(artifact, batch);
        }
        Ok(tables)
    }

    /// The listed row of a task, for stages that read source bytes.
    pub fn listed(&self, task: &RowTask) -> Option<&'a ListedRow> {
        self.inputs.iter().zip(&task.positions).find_map(|(input, &row)| match &input.rows {
            Rows::Listed(rows) => rows.get(row),
            _ => None,
        })
    }

    /// Reads committed rows as they are, by rising index.
    pub async fn read_committed(&self, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
        read_whole_rows(self.committed.as_deref(), rows).await
    }

    /// Reads rows that a stopped worker left, by rising index.
    pub async fn read_partial(&self, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
        read_whole_rows(self.partial.as_deref(), rows).await
    }
}

impl RowTask {
    /// Is this row what the task would compute?
    fn is_made_by(&self, row: &CommittedRow) -> bool {
        self.recipe.as_ref().is_some_and(|wanted| wanted.digest() == row.recipe)
    }
}

async fn read_whole_rows(reader: Option<&PartReader>, rows: &[usize]) -> Result<RecordBatch, WorkerError> {
    let Some(reader) = reader else {
        return Err(WorkerError::Broken("there is no part to copy rows from".into()));
    };
    let fields = reader.artifact().fields();
    let columns: Vec<&str> = fields.iter().map(|f| f.name).collect();
    reader.read_rows(&columns, rows).await
}

async fn load_input<'a>(
    work: &WorkStore,
    input: Input,
    plan: &Plan,
    shard: u32,
    virtual_inputs: &'a VirtualInputs,
) -> Result<InputShard<'a>, WorkerError> {
    let digests_of = |row: &ListedRow| -> Vec<String> {
        input
            .digests
            .iter()
            .map(|name| match *name {
                "text_digest" => row.text_digest(),
                "image_digest" => row.image_digest.clone(),
                _ => row.meta_digest.clone(),
            })
            .collect()
    };
    let (rows, index) = match input.artifact {
        Artifact::Listing => {
            let rows = virtual_inputs.listing.shard(shard);
            let index = rows.iter().enumerate().map(|(i, r)| (r.image_id.clone(), (i, digests_of(r)))).collect();
            (Rows::Listed(rows), index)
        }
        Artifact::Assignment => {
            let rows = virtual_inputs.assignment.get(shard as usize).map_or(&[][..], Vec::as_slice);
            let index = rows.iter().enumerate().map(|(i, r)| (r.image_id.clone(), (i, vec![r.digest()]))).collect();
            (Rows::Assigned(rows), index)
        }
        artifact if plan.input(artifact).is_some_and(|table| table.lost.contains(&shard)) => {
            return Err(WorkerError::Broken(format!(
                "shard {shard} of {} lost its file: run the build, which makes it again before anything reads it",
                artifact.name()
            )));
        }
        artifact => match plan.input(artifact).and_then(|table| table.part(shard)) {
            None => (Rows::None, BTreeMap::new()),
            Some(part) => {
                let reader = PartReader::open(work, artifact, part).await?;
                let columns: Vec<&str> = ["image_id", "status"].iter().chain(input.digests).copied().collect();
                let batch = reader.read(&columns).await?;
                let index = good_rows(artifact, &batch, input.digests)?;
                (Rows::Part(Box::new(reader)), index)
            }
        },
    };
    Ok(InputShard { input, rows, index })
}

fn good_rows(
    artifact: Artifact,
    batch: &RecordBatch,
    digests: &[&str],
) -> Result<BTreeMap<String, (usize, Vec<String>)>, WorkerError> {
    let read = || -> Result<_, stages::table::TableError> {
        let columns = Columns::new(artifact, batch);
        let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
        let digests = digests.iter().map(|d| columns.text(d)).collect::<Result<Vec<_>, _>>()?;
        Ok((0..batch.num_rows())
            .filter(|&row| status.value(row) == "ok")
            .map(|row| (ids.value(row).to_owned(), (row, digests.iter().map(|d| d.value(row).to_owned()).collect())))
            .collect())
    };
    read().map_err(|e| WorkerError::Broken(e.to_string()))
}

type CommittedRows = BTreeMap<String, (usize, CommittedRow)>;

async fn load_committed(
    work: &WorkStore,
    artifact: Artifact,
    part: Option<&PartFile>,
) -> Result<(Option<Box<PartReader>>, CommittedRows), WorkerError> {
    let Some(part) = part else { return Ok((None, BTreeMap::new())) };
    let reader = PartReader::open(work, artifact, part).await?;
    let batch = reader.read(&COMMITTED_COLUMNS).await?;
    let rows = committed_rows(artifact, &batch).map_err(|e| WorkerError::Broken(e.to_string()))?;
    Ok((Some(Box::new(reader)), rows))
}

/// Columns that say what a committed row was made of.
pub const COMMITTED_COLUMNS: [&str; 7] =
    ["image_id", "status", "recipe", "stage_version", "model", "parameters", "inputs"];

/// Reads [`COMMITTED_COLUMNS`].
pub fn committed_rows(artifact: Artifact, batch: &RecordBatch) -> Result<CommittedRows, stages::table::TableError> {
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
    inputs: &[InputShard<'_>],
    committed: &CommittedRows,
) -> Vec<RowTask> {
    let lost = plan.output.lost.contains(&shard);
    let wanted = |image_id: &str| -> Option<(RecipeParts, Vec<usize>)> {
        let mut digests = BTreeMap::new();
        let mut positions = Vec::with_capacity(inputs.len());
        for shard in inputs {
            let (row, values) = shard.index.get(image_id)?;
            positions.push(*row);
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

fn assignment_batch<'a>(
    rows: impl Iterator<Item = &'a AssignedRow> + Clone,
) -> Result<RecordBatch, stages::table::TableError> {
    use stages::table::texts;
    stages::table::content(
        Artifact::Assignment,
        vec![
            texts(rows.clone().map(|r| Some(r.image_id.clone()))),
            texts(rows.clone().map(|r| Some(r.split))),
            texts(rows.clone().map(|r| r.reason.map(DropReason::as_str))),
            texts(rows.map(|r| Some(r.digest()))),
        ],
    )
}

/// Rows of a batch in another order.
pub fn reorder(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, WorkerError> {
    let indices = arrow::array::UInt32Array::from(rows.to_vec());
    let columns = batch
        .columns()
        .iter()
        .map(|column| take(column, &indices, None))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new(batch.schema(), columns));
    columns.map_err(|e| WorkerError::Broken(format!("cannot order rows: {e}")))
}
