//! Stage `splits`: writes down which split each image belongs to. The assignment itself looks at all boxes and all
//! pictures of a country at once and is made when the stage is planned (`sources::split`).

use std::sync::Arc;

use arrow::array::RecordBatch;
use manifests::Artifact;

use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "splits";

/// Which split each image is in, or why it is in none.
pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input {
            artifact: Artifact::Assignment,
            digests: &["split_digest"],
            columns: &["split", "split_reason", "split_digest"],
        }],
        output: Artifact::Splits,
        source: None,
        model: ModelUse::None,
        told: None,
        recipe_digest: None,
        // the ratio is already inside the assignment: a row whose split stays is not touched
        parameters: |_| serde_json::json!({}),
        open: |_: &StageContext<'_>| Ok(Box::new(CopyAssignment)),
    }
}

struct CopyAssignment;

impl Transform for CopyAssignment {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        copy(&rows.tables[&Artifact::Assignment]).map_err(|source| StageError::Table { stage: NAME, source })
    }
}

fn copy(batch: &RecordBatch) -> Result<MapOutput, TableError> {
    let columns = Columns::new(Artifact::Assignment, batch);
    let copied = ["split", "split_reason", "split_digest"]
        .iter()
        .map(|name| Ok(Arc::new(columns.text(name)?.clone()) as _))
        .collect::<Result<Vec<_>, TableError>>()?;
    Ok(MapOutput {
        outcomes: vec![Outcome::Good; batch.num_rows()],
        content: table::content(Artifact::Splits, copied)?,
    })
}
