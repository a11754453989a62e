//! What a work store holds, and how two of them differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use workers::parts::PartReader;

use crate::tables;

/// A row: its columns as text.
type Row = BTreeMap<String, String>;

/// Everything that a finished build left behind.
#[derive(Debug, Default)]
pub struct Holdings {
    /// By table, by image.
    tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
    /// Digest of the model that was evaluated.
    model: String,
    /// The stored evaluation.
    recall: String,
}

/// Columns that follow the model: after an edit it depends on how far a training had come.
const OF_THE_MODEL: [&str; 5] = ["model", "recipe", "embedding", "texts", "embedding_digest"];

fn follows_model(table: &str, column: &str) -> bool {
    [Artifact::ImageEmbeddings, Artifact::TextEmbeddings].iter().any(|a| a.name() == table)
        && OF_THE_MODEL.contains(&column)
}

impl Holdings {
    /// Reads a store whole.
    ///
    /// # Errors
    /// Anything that no finished build may show: a table that cannot be read, a row twice, two models, no evaluation.
    pub fn read(spec: &BuildSpec) -> Result<Holdings, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map_err(|e| e.to_string())?.block_on(read(spec.clone()))
    }

    /// The first difference to what is wanted. `same_model`: also in what follows the trained weights.
    pub fn difference(&self, wanted: &Holdings, same_model: bool) -> Option<String> {
        for (table, wanted_rows) in &wanted.tables {
            let rows = &self.tables[table];
            if let Some(id) = wanted_rows.keys().find(|id| !rows.contains_key(*id)) {
                return Some(format!("{table}: {} of {} rows, {id} is missing", rows.len(), wanted_rows.len()));
            }
            if let Some(id) = rows.keys().find(|id| !wanted_rows.contains_key(*id)) {
                return Some(format!("{table}: {id} should not be there"));
            }
            let differing = rows.iter().filter_map(|(id, row)| {
                let (column, value) = row.iter().find(|(column, value)| {
                    (same_model || !follows_model(table, column)) && wanted_rows[id].get(*column) != Some(value)
                })?;
                Some((id, column, value, wanted_rows[id].get(column)))
            });
            let differing: Vec<_> = differing.collect();
            if let Some((id, column, value, wanted)) = differing.first() {
                let count = differing.len();
                return Some(format!(
                    "{table}: {count} rows differ; {id}.{column} is {value:.200}, not {wanted:.200?}"
                ));
            }
        }
        if same_model && self.model != wanted.model {
            return Some(format!("the model is {}, not {}", self.model, wanted.model));
        }
        if same_model && self.recall != wanted.recall {
            return Some(format!("the evaluation says {}, not {}", self.recall, wanted.recall));
        }
        None
    }
}

async fn read(spec: BuildSpec) -> Result<Holdings, String> {
    let build = Build::open_work(spec, Arc::default()).await.map_err(|e| e.to_string())?;
    let mut holdings = Holdings::default();
    for artifact in tables(&build) {
        let rows = table_rows(&build, artifact).await?;
        holdings.tables.insert(artifact.name(), rows);
    }
    let evaluation = pipeline::evaluate::stored(&build).await.map_err(|e| e.to_string())?;
    let evaluation = evaluation.ok_or("no evaluation of these tables")?;
    holdings.recall = format!("{:?}", evaluation.recall);
    holdings.model = evaluation.model_digest;
    for artifact in [Artifact::ImageEmbeddings, Artifact::TextEmbeddings] {
        let table = artifact.name();
        if let Some((id, row)) = holdings.tables[table].iter().find(|(_, row)| row["model"] != holdings.model) {
            let of = &row["model"];
            return Err(format!("{table}: {id} is of model {of}, the evaluation is of {}", holdings.model));
        }
    }
    Ok(holdings)
}

async fn table_rows(build: &Build, artifact: Artifact) -> Result<BTreeMap<String, Row>, String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", artifact.name());
    let fields = artifact.fields();
    let names: Vec<&str> = fields.iter().map(|f| f.name).collect();
    let mut rows = BTreeMap::new();
    for part in build.pin(artifact).await.map_err(|e| said(&e))?.parts {
        let reader = PartReader::open(&build.work, artifact, &part).await.map_err(|e| said(&e))?;
        let batch = reader.read(&names).await.map_err(|e| said(&e))?;
        let options = FormatOptions::new().with_null("null");
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()
            .map_err(|e| said(&e))?;
        for index in 0..batch.num_rows() {
            let row: Row =
                names.iter().zip(&columns).map(|(n, c)| ((*n).to_owned(), c.value(index).to_string())).collect();
            let id = row["image_id"].clone();
            if rows.insert(id.clone(), row).is_some() {
                return Err(said(&format!("{id} is there twice")));
            }
        }
    }
    Ok(rows)
}
