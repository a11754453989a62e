//! Stage `text_embeddings`: one L2-normalised vector per caption by the trained model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::StringArray;
use candle_core::{DType, Device, Tensor};
use manifests::{Artifact, FieldType};
use models::ModelError;
use models::dual_encoder::DualEncoder;
use models::ops::l2_normalise;
use models::tokenizer::Tokenizer;

use crate::device::{arithmetic, compute_error, opening_error};
use crate::image_embeddings::finite_rows;
use crate::network::{Network, load_network};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "text_embeddings";

/// The trained model's embedding of each caption, of length one.
pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] }],
        output: Artifact::TextEmbeddings,
        source: None,
        model: ModelUse::Retrieval,
        told: None,
        recipe_digest: Some("embedding_digest"),
        parameters: |spec| serde_json::json!({ "precision": arithmetic(spec) }),
        open: |context| {
            Ok(Box::new(EmbedTexts {
                network: load_network(NAME, context)?,
                tokenizer: load_tokenizer(NAME, context)?,
            }))
        },
    }
}

/// Name of the tokenizer inside a checkpoint folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The folder of a checkpoint, which may be named by its file of weights.
pub(crate) fn folder_of(checkpoint: &Path) -> &Path {
    if checkpoint.is_file() { checkpoint.parent().unwrap_or(checkpoint) } else { checkpoint }
}

/// Loads the tokenizer that lies beside a model.
///
/// # Errors
/// [`StageError::Configuration`] if the model has no tokenizer that can be read.
pub fn load_tokenizer(stage: &'static str, context: &StageContext<'_>) -> Result<Tokenizer, StageError> {
    let file = folder_of(context.model_folder(stage)?).join(TOKENIZER_FILE);
    Tokenizer::from_file(&file)
        .map_err(|e| opening_error(stage, &Device::Cpu, format!("tokenizer {}: {e}", file.display()), &e))
}

/// A `tokenizer.json`, CLIP's own vocabulary file, or the folder of one.
pub(crate) fn read_tokenizer(stage: &'static str, path: &Path) -> Result<Tokenizer, StageError> {
    let file = file_at(path);
    let why = |e: &ModelError| format!("model.tokenizer {}: {e}", file.display());
    read_file(&file).map_err(|e| opening_error(stage, &Device::Cpu, why(&e), &e))
}

/// As [`read_tokenizer`], with an error that names the file only.
pub(crate) fn tokenizer_at(path: &Path) -> Result<Tokenizer, String> {
    let file = file_at(path);
    read_file(&file).map_err(|e| format!("{}: {e}", file.display()))
}

fn file_at(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() }
}

fn read_file(file: &Path) -> Result<Tokenizer, ModelError> {
    if file.extension().is_some_and(|e| e == "json") && !file.ends_with("vocab.json") {
        Tokenizer::from_file(file)
    } else {
        Tokenizer::from_clip_bpe(file)
    }
}

/// Encodes captions, 256 at a time; L2-normalised vectors.
pub(crate) fn encode_texts<N: DualEncoder>(
    stage: &'static str,
    network: &N,
    tokenizer: &Tokenizer,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, StageError> {
    let length = network.context_length();
    let mut vectors = Vec::with_capacity(texts.len());
    for batch in texts.chunks(256) {
        let encode = || -> Result<Vec<Vec<f32>>, String> {
            let mut input_ids = Vec::with_capacity(batch.len() * length);
            for text in batch {
                input_ids.extend(tokenizer.encode(text, length).map_err(|e| e.to_string())?);
            }
            let input_ids_bl =
                Tensor::from_vec(input_ids, (batch.len(), length), &Device::Cpu).map_err(|e| e.to_string())?;
            let text_bd = network.encode_text(&input_ids_bl).map_err(|e| e.to_string())?;
            let text_bd = text_bd.to_dtype(DType::F32).and_then(|e| l2_normalise(&e)).map_err(|e| e.to_string())?;
            finite_rows(&text_bd)
        };
        vectors.extend(encode().map_err(|why| compute_error(stage, network.device(), why))?);
    }
    Ok(vectors)
}

struct EmbedTexts {
    network: Network,
    tokenizer: Tokenizer,
}

impl Transform for EmbedTexts {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let captions = Columns::new(Artifact::Captions, &rows.tables[&Artifact::Captions])
            .texts("captions")
            .map_err(table_error)?;
        let flat: Vec<&str> = captions.iter().flatten().map(String::as_str).collect();
        let vectors = encode_texts(NAME, &self.network, &self.tokenizer, &flat)?;
        content(&captions, vectors).map_err(table_error)
    }
}

fn content(captions: &[Vec<String>], vectors: Vec<Vec<f32>>) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = captions.iter().map(|c| Some(c.len())).collect();
    let texts = StringArray::from_iter_values(captions.iter().flatten());
    let lengths_of_vectors: Vec<_> = vectors.iter().map(Vec::len).collect();
    let values = arrow::array::Float32Array::from_iter_values(vectors.into_iter().flatten());
    let vectors = table::required_list_of(&FieldType::Float32, &lengths_of_vectors, Arc::new(values))?;
    let lists = table::struct_lists(Artifact::TextEmbeddings, "texts", &lengths, vec![Arc::new(texts), vectors])?;
    let digests = table::texts(captions.iter().map(|_| None::<String>));
    Ok(MapOutput {
        outcomes: vec![Outcome::Good; captions.len()],
        content: table::content(Artifact::TextEmbeddings, vec![lists, digests])?,
    })
}
