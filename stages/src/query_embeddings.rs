//! Stage `query_embeddings`: the sentence encoder's vector of what was said of an image.

use std::sync::Arc;

use arrow::array::BinaryArray;
use manifests::Artifact;

use crate::segment_features::half_bytes;
use crate::sentences::{ENCODER_FIELD, Role, Sentences, parameters};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns};

const NAME: &str = "query_embeddings";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::QueryTexts, digests: &["text_digest"], columns: &["text"] }],
        output: Artifact::QueryEmbeddings,
        source: None,
        model: ModelUse::Named(&[ENCODER_FIELD]),
        told: None,
        recipe_digest: Some("embedding_digest"),
        parameters: |spec| parameters(spec, &[Role::Query]),
        open: |context| Ok(Box::new(EmbedQueries(Sentences::open(NAME, context)?))),
    }
}

struct EmbedQueries(Sentences);

impl Transform for EmbedQueries {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let texts = Columns::new(Artifact::QueryTexts, &rows.tables[&Artifact::QueryTexts])
            .text("text")
            .map_err(table_error)?;
        // who said nothing finds nothing
        let said: Vec<Option<&str>> = texts.iter().map(|text| text.filter(|text| !text.trim().is_empty())).collect();
        let flat: Vec<&str> = said.iter().flatten().copied().collect();
        let mut vectors = self.0.encode(Role::Query, &flat)?.into_iter();
        let vectors: BinaryArray =
            said.iter().map(|text| text.and_then(|_| vectors.next()).map(|v| half_bytes(&v))).collect();
        let columns = vec![Arc::new(vectors) as _, table::texts(said.iter().map(|_| None::<String>))];
        let content = table::content(Artifact::QueryEmbeddings, columns).map_err(table_error)?;
        Ok(MapOutput { outcomes: vec![Outcome::Good; said.len()], content })
    }
}
