//! Retrieval of text by text on the rows that an evaluation reads.

use std::collections::{BTreeMap, BTreeSet};

use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use manifests::Artifact;
use manifests::plan::PinnedTable;
use stages::evaluate::{EvaluatedRow, leave_out};
use stages::segment_features::from_half_bytes;
use stages::table::{Columns, TableError};
use stages::text_retrieval::{self, TextEvaluation, TextRow};
use workers::WorkerError;
use workers::parts::batches;

use super::broken;
use super::rows::embedded_rows;
use crate::build::Build;
use crate::trainings::Learnt;

/// The split that chooses the share of texts in a sum.
const VALIDATION: &str = "val";

/// Tables with vectors of texts.
pub(super) const TABLES: [Artifact; 3] =
    [Artifact::StructuredEmbeddings, Artifact::QueryEmbeddings, Artifact::SentenceEmbeddings];

/// Measures the rows of the test split, and leaves out of validation what was learnt from; `tables` are those of the trained model's vectors, `texts` those of [`TABLES`].
pub(super) async fn evaluate(
    build: &Build,
    tables: &[PinnedTable],
    texts: &[PinnedTable],
    (test, learnt): (&[EvaluatedRow], &Learnt),
) -> Result<TextEvaluation, WorkerError> {
    let mut validation = embedded_rows(build, tables, VALIDATION).await?;
    leave_out(&mut validation, learnt);
    // a country's other images stay where they are
    let wanted = validation.iter().chain(test).map(|row| row.image_id.as_str()).collect();
    let vectors = Vectors::read(build, texts, &wanted).await?;
    let (validation, test) = (vectors.of(&validation)?, vectors.of(test)?);
    Ok(tokio::task::block_in_place(|| text_retrieval::evaluate(&build.spec, &validation, &test))?)
}

/// Vectors by image, as the tables have them.
#[derive(Default)]
struct Vectors {
    /// With what is equal where the texts of these are.
    variants: BTreeMap<String, (Vec<Vec<f32>>, String)>,
    queries: BTreeMap<String, Vec<f32>>,
    captions: BTreeMap<String, Vec<CaptionVectors>>,
}

/// A caption as a query, and as what is searched where that differs.
struct CaptionVectors {
    text: String,
    query: Vec<f32>,
    document: Option<Vec<f32>>,
}

impl Vectors {
    async fn read(build: &Build, tables: &[PinnedTable], wanted: &BTreeSet<&str>) -> Result<Self, WorkerError> {
        let mut vectors = Self::default();
        for (artifact, table) in TABLES.into_iter().zip(tables) {
            let column = match artifact {
                Artifact::StructuredEmbeddings => "variants",
                Artifact::QueryEmbeddings => "vector",
                _ => "texts",
            };
            let columns = ["image_id", "status", column, "embedding_digest"];
            let mut read = batches(&build.work, table, &columns, build.spec.work.concurrency);
            while let Some(batch) = read.try_next().await? {
                vectors.add(artifact, &batch, wanted).map_err(broken)?;
            }
        }
        Ok(vectors)
    }

    fn add(&mut self, artifact: Artifact, batch: &RecordBatch, wanted: &BTreeSet<&str>) -> Result<(), TableError> {
        let columns = Columns::new(artifact, batch);
        let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
        let is_wanted = |row: &usize| status.value(*row) == "ok" && wanted.contains(ids.value(*row));
        for row in (0..batch.num_rows()).filter(is_wanted) {
            let id = ids.value(row).to_owned();
            match artifact {
                Artifact::StructuredEmbeddings => {
                    let items = columns.structs("variants", row)?;
                    let vectors = columns.inner(&items).binary("vector")?.iter().flatten().map(from_half_bytes);
                    // a digest of all that the vectors follow from, and no image is among it
                    let digest = columns.text("embedding_digest")?.value(row).to_owned();
                    self.variants.insert(id, (vectors.collect(), digest));
                }
                Artifact::QueryEmbeddings => {
                    let vector = columns.binary("vector")?;
                    if !arrow::array::Array::is_null(vector, row) {
                        self.queries.insert(id, from_half_bytes(vector.value(row)));
                    }
                }
                _ => {
                    let items = columns.structs("texts", row)?;
                    let inner = columns.inner(&items);
                    let (texts, queries) = (inner.text("text")?, inner.binary("vector")?);
                    let documents = inner.binary("document_vector")?;
                    let captions = texts.iter().zip(queries).zip(documents).filter_map(|((text, query), document)| {
                        let (text, query) = (text?.to_owned(), from_half_bytes(query?));
                        Some(CaptionVectors { text, query, document: document.map(from_half_bytes) })
                    });
                    self.captions.insert(id, captions.collect());
                }
            }
        }
        Ok(())
    }

    /// The rows with vectors of the same captions.
    fn of(&self, rows: &[EvaluatedRow]) -> Result<Vec<TextRow>, WorkerError> {
        let of_row = |row: &EvaluatedRow| {
            let captions = self.captions.get(&row.image_id).map_or(&[][..], Vec::as_slice);
            if !captions.iter().map(|caption| &caption.text).eq(row.captions.iter().map(|(text, _)| text)) {
                return Err(WorkerError::Configuration(format!(
                    "image {}: sentence_embeddings holds other captions than text_embeddings; run the build again",
                    row.image_id
                )));
            }
            let (variants, variants_digest) = self.variants.get(&row.image_id).cloned().unwrap_or_default();
            let document = |caption: &CaptionVectors| caption.document.as_ref().unwrap_or(&caption.query).clone();
            Ok(TextRow {
                evaluated: row.clone(),
                variants,
                variants_digest,
                query: self.queries.get(&row.image_id).cloned(),
                queries: captions.iter().map(|caption| caption.query.clone()).collect(),
                documents: captions.iter().map(document).collect(),
            })
        };
        rows.iter().map(of_row).collect()
    }
}
