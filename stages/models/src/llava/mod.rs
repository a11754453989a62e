//! LLaVA 1.5: captions of images by a chat with a language model.
//!
//! Liu et al., "Improved Baselines with Visual Instruction Tuning" (2023). The patches of a CLIP's image tower, projected by
//! an MLP, stand in a prompt of Vicuna; all frozen, read from Hugging Face's checkpoints (llava-hf/llava-1.5-7b-hf,
//! -13b-hf) with the names of any version of transformers.

mod caption;
mod config;
#[cfg(test)]
mod goldens;
#[cfg(test)]
mod tests;

pub use config::{LlavaConfig, LlavaVisionConfig};

use crate::captioning::check_vocabulary;
use crate::checkpoint::{Checkpoint, read_json};
use crate::frozen_vit::FrozenVit;
use crate::language::projection::Projection;
use crate::language::weights::{self, Weights};
use crate::language::{GenerationConfig, Llama};
use crate::ops::inference::{RotaryLayout, Rows};
use crate::ops::{Activation, activation};
use crate::preprocessing::Preprocessing;
use crate::tokenizer::TextTokenizer;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// What stands for the image in a prompt.
const IMAGE: &str = "<image>";

/// A frozen LLaVA.
#[derive(Clone, Debug)]
pub struct Llava {
    config: LlavaConfig,
    generation: Option<GenerationConfig>,
    preprocessing: Preprocessing,
    vision: FrozenVit,
    projector: [Projection; 2],
    language: Llama,
    tokenizer: Option<TextTokenizer>,
    device: Device,
    dtype: DType,
}

impl Llava {
    /// Reads a folder as Hugging Face publishes it: `config.json`, `model.safetensors` or the shards of
    /// `model.safetensors.index.json`, and for texts `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`], [`ModelError::Config`], and [`ModelError::MissingTensor`] or
    /// [`ModelError::WrongShape`] with the name of the tensor and its shapes.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::load_with(folder, device, dtype, |config, weights| {
            Llama::new(config.clone(), weights, RotaryLayout::Halves)
        })
    }

    /// The same with the language model from a GGUF file with quantised weights; that of the folder is not read.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`ModelError::Malformed`] for a file that is no GGUF of such a model.
    pub fn load_with_gguf(folder: &Path, gguf: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::load_with(folder, device, dtype, |config, _| {
            let llama = Llama::load_gguf(gguf, device, dtype)?;
            let (found, wanted) = (llama.config().hidden_size, config.hidden_size);
            if found != wanted {
                let reason = format!("width {found}, LLaVA wants {wanted}");
                return Err(ModelError::AnotherModel { path: gguf.to_owned(), reason });
            }
            Ok(llama)
        })
    }

    /// The configuration of what [`load`](Self::load) would read, if weights and a vocabulary lie beside it. No weights are
    /// read.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ModelError::Input`] without a vocabulary.
    pub fn examine(folder: &Path) -> Result<LlavaConfig> {
        let config = read_config(folder)?;
        Checkpoint::open_folder(folder, weights::FILES)?;
        open_tokenizer(folder, &config)?.ok_or_else(no_tokenizer)?;
        read_preprocessing(folder, &config)?;
        GenerationConfig::read(folder)?;
        Ok(config)
    }

    fn load_with(
        folder: &Path,
        device: &Device,
        dtype: DType,
        language: impl FnOnce(&crate::language::LlamaConfig, &Weights<'_>) -> Result<Llama>,
    ) -> Result<Self> {
        let config = read_config(folder)?;
        let checkpoint = Checkpoint::open_folder(folder, weights::FILES)?.renamed(|name| Some(published(name)));
        let weights = Weights::new(&checkpoint, device, dtype);
        let (seen, width, bias) = (config.vision.hidden_size, config.language.hidden_size, config.projector_bias);
        let projector = weights.at("multi_modal_projector");
        Ok(Self {
            vision: FrozenVit::clip(config.shape()?, &weights.at("vision_tower.vision_model"))?,
            projector: [
                projector.linear("linear_1", seen, width, bias)?,
                projector.linear("linear_2", width, width, bias)?,
            ],
            language: language(&config.language, &weights.at("language_model"))?,
            tokenizer: open_tokenizer(folder, &config)?,
            preprocessing: read_preprocessing(folder, &config)?,
            generation: GenerationConfig::read(folder)?,
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// What tells this network from others, weights apart.
    pub fn config(&self) -> &LlavaConfig {
        &self.config
    }

    /// Images as the language model sees them: `[B, 3, S, S]` to `[B, T, D]`.
    fn encode_images(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        let pixels_bchw = pixels_bchw.detach().to_device(&self.device)?.to_dtype(self.dtype)?;
        let mut seen_bld = self.vision.encode(&pixels_bchw)?;
        if self.config.drops_class_token {
            seen_bld = seen_bld.narrow(1, 1, seen_bld.dim(1)? - 1)?.contiguous()?;
        }
        let hidden = activation(&self.projector[0].forward(&seen_bld, Rows::Many)?, Activation::Gelu)?;
        Ok(self.projector[1].forward(&hidden, Rows::Many)?)
    }
}

/// A tensor's name as transformers up to 4.51 had it, and as checkpoints are published: later versions moved the towers.
fn published(name: &str) -> String {
    let moved = match name.strip_prefix("model.") {
        Some(inner) => match inner.strip_prefix("language_model.") {
            Some(part) => format!("language_model.model.{part}"),
            None => inner.to_owned(),
        },
        None if name.starts_with("lm_head.") => format!("language_model.{name}"),
        None => name.to_owned(),
    };
    match moved.strip_prefix("vision_tower.") {
        Some(part) if !part.starts_with("vision_model.") => format!("vision_tower.vision_model.{part}"),
        _ => moved,
    }
}

fn read_config(folder: &Path) -> Result<LlavaConfig> {
    let path = folder.join("config.json");
    LlavaConfig::from_json(&path, read_json(&path)?)
}

fn read_preprocessing(folder: &Path, config: &LlavaConfig) -> Result<Preprocessing> {
    Preprocessing::beside(&folder.join("config.json"), config.vision.image_size)
}

/// `None` where the folder has none.
fn open_tokenizer(folder: &Path, config: &LlavaConfig) -> Result<Option<TextTokenizer>> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    let tokenizer = TextTokenizer::from_file_with_marker(&path, IMAGE)?;
    check_vocabulary(&tokenizer, &path, config.language.vocab_size)?;
    Ok(Some(tokenizer))
}

fn no_tokenizer() -> ModelError {
    ModelError::Input("this LLaVA has no tokenizer; put tokenizer.json beside its weights".to_owned())
}
