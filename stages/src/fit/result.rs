//! What a finished training leaves: the model to use, and what is said of it.

use std::path::Path;

use candle_core::{DType, Device};
use manifests::digest;
use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use training::checkpoint::{self, Which};
use training::recall::beside_chance;

use crate::network::Network;
use crate::stage::StageError;
use crate::text_embeddings::TOKENIZER_FILE;

/// Folder of a run with the model to use: `config.json`, `model.safetensors`, `tokenizer.json`.
pub const RESULT_FOLDER: &str = "result";

/// What failed, in errors that are of no step.
const MODEL: &str = "model";

/// What a finished run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Digest of weights, configuration and vocabulary.
    pub model_digest: String,
    /// Numbers that the model has.
    pub parameters: u64,
    /// Rows in the training split.
    pub train_rows: u64,
    /// Rows in the validation split.
    pub validation_rows: u64,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch whose weights were kept, from 0.
    pub best_epoch: usize,
    /// Mean recall of these weights on the validation split, in percent.
    pub best_validation_mean_recall: f64,
    /// The mR of guessing over the validation split; `None`: not known when the run was recorded.
    #[serde(default)]
    pub validation_chance: Option<f64>,
    /// Pairs learnt from, counted once for each time they were seen.
    pub samples: u64,
    /// Seconds of all starts of the run, as far as what they did was saved; validation included.
    pub seconds: f64,
    /// Seconds of these that steps waited for data.
    pub wait_seconds: f64,
}

impl Trained {
    /// The best validation mR beside chance, in words.
    pub fn best_validation(&self) -> String {
        format!("best validation {}", beside_chance(self.best_validation_mean_recall, self.validation_chance))
    }
}

/// Copies the best weights and the vocabulary to [`RESULT_FOLDER`], with what other programs read of the network.
pub(crate) fn write_result<N: DualEncoder>(
    stage: &'static str,
    folder: &Path,
    tokenizer: &Tokenizer,
) -> Result<String, StageError> {
    let failed = |e: models::ModelError| StageError::of(stage, &e);
    let best = checkpoint::find(folder, Which::Best)
        .ok_or_else(|| StageError::Compute { stage, why: "there is no best checkpoint".into() })?;
    let network = N::load(&best.join("model"), &Device::Cpu, DType::F32).map_err(failed)?;
    let result = folder.join(RESULT_FOLDER);
    let written = checkpoint::replace(&result, |draft| Ok(write_model(&network, tokenizer, draft)?));
    written.map_err(|e| StageError::of(stage, &e))?;
    digest_of::<N>(&result).map_err(|e| StageError::of(stage, &e))
}

/// Our own format, and what other programs read.
fn write_model<N: DualEncoder>(network: &N, tokenizer: &Tokenizer, folder: &Path) -> models::Result<()> {
    network.save(folder)?;
    tokenizer.save(&folder.join(TOKENIZER_FILE))?;
    network.export(tokenizer, folder)
}

/// Writes the model of a run's result folder into another one, as a training of this version leaves it: results of older
/// ones lack files that other programs read.
///
/// # Errors
/// What cannot be read or written.
pub fn export_model(result: &Path, folder: &Path) -> Result<(), StageError> {
    let written = Network::load(result, &Device::Cpu, DType::F32).and_then(|network| {
        let tokenizer = Tokenizer::from_file(&result.join(TOKENIZER_FILE))?;
        write_model(&network, &tokenizer, folder)
    });
    written.map_err(|e| StageError::of(MODEL, &e))
}

/// Digest of the model in a folder: weights, configuration and vocabulary.
///
/// # Errors
/// What cannot be read.
pub fn model_digest(folder: &Path) -> Result<String, StageError> {
    digest_of::<Network>(folder).map_err(|e| StageError::of(MODEL, &e))
}

fn digest_of<N: DualEncoder>(folder: &Path) -> models::Result<String> {
    let network = N::load(folder, &Device::Cpu, DType::F32)?;
    let mut weights = network.parameters().digest()?;
    if !network.buffers().is_empty() {
        weights += &network.buffers().digest()?;
    }
    let tokenizer = Tokenizer::from_file(&folder.join(TOKENIZER_FILE))?.digest()?;
    Ok(digest::of_value(&(weights, tokenizer, network.identity())))
}
