//! Stage `structured_embeddings`: a vector for each variant of an image's structured captions, by a sentence encoder.

use std::sync::Arc;

use arrow::array::BinaryArray;
use manifests::Artifact;
use wording::{Field, Variant};

use crate::segment_features::half_bytes;
use crate::sentences::{ENCODER_FIELD, Role, Sentences, fields, parameters};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "structured_embeddings";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input {
            artifact: Artifact::StructuredCaptions,
            digests: &["variants_digest"],
            columns: &["variants"],
        }],
        output: Artifact::StructuredEmbeddings,
        source: None,
        model: ModelUse::Named(&[ENCODER_FIELD]),
        told: None,
        recipe_digest: Some("embedding_digest"),
        parameters: |spec| {
            let mut parameters = parameters(spec, &[Role::Document]);
            let mut named = spec.text_retrieval.fields.clone();
            named.sort_unstable();
            parameters["fields"] = serde_json::json!(named);
            parameters
        },
        open: |context| {
            Ok(Box::new(EmbedVariants { sentences: Sentences::open(NAME, context)?, fields: fields(context.spec) }))
        },
    }
}

struct EmbedVariants {
    sentences: Sentences,
    fields: Vec<Field>,
}

impl Transform for EmbedVariants {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let variants = variants(rows).map_err(table_error)?;
        let texts: Vec<String> = variants.iter().flatten().map(|variant| variant.text_of(&self.fields)).collect();
        let vectors = self.sentences.encode(Role::Document, &texts)?;
        content(&variants, &vectors).map_err(table_error)
    }
}

/// The variants of each row.
fn variants(rows: &InputRows) -> Result<Vec<Vec<Variant>>, TableError> {
    let columns = Columns::new(Artifact::StructuredCaptions, &rows.tables[&Artifact::StructuredCaptions]);
    (0..rows.len())
        .map(|row| {
            let items = columns.structs("variants", row)?;
            let inner = columns.inner(&items);
            let (one_sentence, feature, caption) =
                (inner.text("one_sentence")?, inner.text("feature")?, inner.text("caption")?);
            let variant = |item: usize| Variant {
                one_sentence: one_sentence.value(item).to_owned(),
                feature: feature.value(item).to_owned(),
                caption: caption.value(item).to_owned(),
            };
            Ok((0..items.num_rows()).map(variant).collect())
        })
        .collect()
}

fn content(variants: &[Vec<Variant>], vectors: &[Vec<f32>]) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = variants.iter().map(|variants| Some(variants.len())).collect();
    let vectors = BinaryArray::from_iter_values(vectors.iter().map(|vector| half_bytes(vector)));
    let lists = table::struct_lists(Artifact::StructuredEmbeddings, "variants", &lengths, vec![Arc::new(vectors)])?;
    let digests = table::texts(variants.iter().map(|_| None::<String>));
    Ok(MapOutput {
        outcomes: vec![Outcome::Good; variants.len()],
        content: table::content(Artifact::StructuredEmbeddings, vec![lists, digests])?,
    })
}
