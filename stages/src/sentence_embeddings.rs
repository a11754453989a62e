//! Stage `sentence_embeddings`: a vector for each caption by a sentence encoder, as a query and as what is searched.

use std::sync::Arc;

use arrow::array::{BinaryArray, StringArray};
use manifests::Artifact;

use crate::segment_features::half_bytes;
use crate::sentences::{ENCODER_FIELD, Role, Sentences, parameters};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "sentence_embeddings";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] }],
        output: Artifact::SentenceEmbeddings,
        source: None,
        model: ModelUse::Named(&[ENCODER_FIELD]),
        told: None,
        recipe_digest: Some("embedding_digest"),
        parameters: |spec| parameters(spec, &[Role::Query, Role::Document]),
        open: |context| Ok(Box::new(EmbedCaptions(Sentences::open(NAME, context)?))),
    }
}

struct EmbedCaptions(Sentences);

impl Transform for EmbedCaptions {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let captions = Columns::new(Artifact::Captions, &rows.tables[&Artifact::Captions])
            .texts("captions")
            .map_err(table_error)?;
        let flat: Vec<&String> = captions.iter().flatten().collect();
        let queries = self.0.encode(Role::Query, &flat)?;
        let documents = match self.0.has_one_role() {
            true => None,
            false => Some(self.0.encode(Role::Document, &flat)?),
        };
        content(&captions, &queries, documents.as_deref()).map_err(table_error)
    }
}

fn content(
    captions: &[Vec<String>],
    queries: &[Vec<f32>],
    documents: Option<&[Vec<f32>]>,
) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = captions.iter().map(|captions| Some(captions.len())).collect();
    let texts = StringArray::from_iter_values(captions.iter().flatten());
    let vectors = BinaryArray::from_iter_values(queries.iter().map(|vector| half_bytes(vector)));
    let of_documents: BinaryArray = match documents {
        Some(documents) => documents.iter().map(|vector| Some(half_bytes(vector))).collect(),
        None => queries.iter().map(|_| None::<Vec<u8>>).collect(),
    };
    let columns = vec![Arc::new(texts) as _, Arc::new(vectors) as _, Arc::new(of_documents) as _];
    let lists = table::struct_lists(Artifact::SentenceEmbeddings, "texts", &lengths, columns)?;
    let digests = table::texts(captions.iter().map(|_| None::<String>));
    Ok(MapOutput {
        outcomes: vec![Outcome::Good; captions.len()],
        content: table::content(Artifact::SentenceEmbeddings, vec![lists, digests])?,
    })
}
