//! InstructBLIP: captions of images, guided by an instruction.
//!
//! Dai et al., "InstructBLIP: Towards General-purpose Vision-Language Models with Instruction Tuning" (2023). An image
//! tower, a Q-Former that reads the instruction too, and a language model that begins with the Q-Former's queries;
//! all frozen, read from Hugging Face's checkpoints (Salesforce/instructblip-vicuna-7b, -vicuna-13b, -flan-t5-xl,
//! -flan-t5-xxl).

mod caption;
mod config;
#[cfg(test)]
mod goldens;
mod qformer;
#[cfg(test)]
mod tests;

pub use config::{InstructBlipConfig, LanguageConfig, QFormerConfig, VisionConfig};

use crate::captioning::check_vocabulary;
use crate::checkpoint::{Checkpoint, read_json};
use crate::frozen_vit::FrozenVit;
use crate::language::projection::Projection;
use crate::language::weights::{self, Weights};
use crate::language::{GenerationConfig, Llama, T5};
use crate::ops::inference::{RotaryLayout, Rows};
use crate::tokenizer::{BertNormalizer, TextTokenizer};
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use qformer::QFormer;
use std::path::Path;

/// A frozen InstructBLIP.
#[derive(Clone, Debug)]
pub struct InstructBlip {
    config: InstructBlipConfig,
    generation: Option<GenerationConfig>,
    vision: FrozenVit,
    queries_qd: Tensor,
    qformer: QFormer,
    projection: Projection,
    language: Language,
    tokenizers: Option<Tokenizers>,
    device: Device,
    dtype: DType,
}

#[derive(Clone, Debug)]
enum Language {
    Llama(Llama),
    T5(T5),
}

/// The two vocabularies of an instruction.
#[derive(Clone, Debug)]
struct Tokenizers {
    language: TextTokenizer,
    qformer: TextTokenizer,
}

impl InstructBlip {
    /// Reads a folder as Hugging Face publishes it: `config.json`, `model.safetensors` or the shards of
    /// `model.safetensors.index.json`, and for texts `tokenizer.json` with `qformer_tokenizer/`.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`], [`ModelError::Config`], and [`ModelError::MissingTensor`] or
    /// [`ModelError::WrongShape`] with the name of the tensor and its shapes.
    pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::load_with(folder, device, dtype, Language::new)
    }

    /// The same with the language model from a GGUF file with quantised weights; that of the folder is not read.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`ModelError::Malformed`] for a file that is no GGUF of such a model.
    pub fn load_with_gguf(folder: &Path, gguf: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::load_with(folder, device, dtype, |config, _| {
            let llama = Llama::load_gguf(gguf, device, dtype)?;
            if llama.config().hidden_size != config.width() {
                return Err(ModelError::AnotherModel {
                    path: gguf.to_owned(),
                    reason: format!("width {}, InstructBLIP wants {}", llama.config().hidden_size, config.width()),
                });
            }
            Ok(Language::Llama(llama))
        })
    }

    /// The configuration of what [`load`](Self::load) would read, if weights and vocabularies lie beside it. No weights
    /// are read.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ModelError::Input`] without vocabularies.
    pub fn examine(folder: &Path) -> Result<InstructBlipConfig> {
        let path = folder.join("config.json");
        let config = InstructBlipConfig::from_json(&path, read_json(&path)?)?;
        Checkpoint::open_folder(folder, weights::FILES)?;
        Tokenizers::open(folder, &config)?.ok_or_else(no_tokenizers)?;
        GenerationConfig::read(folder)?;
        Ok(config)
    }

    fn load_with(
        folder: &Path,
        device: &Device,
        dtype: DType,
        language: impl FnOnce(&LanguageConfig, &Weights<'_>) -> Result<Language>,
    ) -> Result<Self> {
        let path = folder.join("config.json");
        let config = InstructBlipConfig::from_json(&path, read_json(&path)?)?;
        let checkpoint = Checkpoint::open_folder(folder, weights::FILES)?;
        let weights = Weights::new(&checkpoint, device, dtype);
        let (width, queries) = (config.qformer.hidden_size, config.num_query_tokens);
        Ok(Self {
            vision: FrozenVit::eva(config.vision.shape(), config.vision.qkv_bias, &weights.at("vision_model"))?,
            queries_qd: weights.tensor("query_tokens", &[1, queries, width])?.squeeze(0)?,
            qformer: QFormer::new(&config.qformer, &weights.at("qformer"))?,
            projection: weights.linear("language_projection", width, config.language.width(), true)?,
            language: language(&config.language, &weights.at("language_model"))?,
            tokenizers: Tokenizers::open(folder, &config)?,
            generation: GenerationConfig::read(folder)?,
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// What tells this network from others, weights apart.
    pub fn config(&self) -> &InstructBlipConfig {
        &self.config
    }

    /// Image and instruction as the language model sees them.
    ///
    /// `pixel_values_bchw [B, 3, S, S]`, normalised by CLIP's mean and deviation; `qformer_ids_bl` (`u32 [B, L]`, the
    /// instruction in BERT's vocabulary, L may be 0) and `qformer_mask_bl` (`u8`, 1 = a token). Returns query
    /// embeddings `[B, Q, D]` of the language model's width.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a shape that does not fit, [`ModelError::Tensor`] if the device fails.
    pub fn encode(
        &self,
        pixel_values_bchw: &Tensor,
        qformer_ids_bl: &Tensor,
        qformer_mask_bl: &Tensor,
    ) -> Result<Tensor> {
        let image_bkd = self.encode_image(pixel_values_bchw)?;
        let hidden = self.query(&image_bkd, qformer_ids_bl, qformer_mask_bl)?;
        Ok(self.projection.forward(&hidden.narrow(1, 0, self.config.num_query_tokens)?.contiguous()?, Rows::Many)?)
    }

    /// `[B, 3, S, S]` to the image tower's tokens `[B, K, E]`.
    fn encode_image(&self, pixel_values_bchw: &Tensor) -> Result<Tensor> {
        let side = self.config.vision.image_size;
        match pixel_values_bchw.dims() {
            &[_, 3, height, width] if (height, width) == (side, side) => {}
            other => {
                return Err(ModelError::Input(format!(
                    "pixel values have shape {other:?}, the network wants [B, 3, {side}, {side}]"
                )));
            }
        }
        let pixels = pixel_values_bchw.detach().to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(self.vision.encode(&pixels)?)
    }

    /// The Q-Former's output, queries and then instruction: `[B, Q + L, H]`.
    fn query(&self, image_bkd: &Tensor, ids_bl: &Tensor, mask_bl: &Tensor) -> Result<Tensor> {
        let c = &self.config.qformer;
        match ids_bl.dims() {
            &[batch, length]
                if batch == image_bkd.dims()[0]
                    && length <= c.max_position_embeddings
                    && mask_bl.dims() == ids_bl.dims() => {}
            other => {
                return Err(ModelError::Input(format!(
                    "the instruction's ids have shape {other:?}, its mask {:?}; the Q-Former wants [{}, L] with L up to {}",
                    mask_bl.dims(),
                    image_bkd.dims()[0],
                    c.max_position_embeddings
                )));
            }
        }
        let ids_bl = ids_bl.to_dtype(DType::U32)?;
        if let Some(id) = ids_bl.flatten_all()?.to_vec1::<u32>()?.iter().find(|&&id| id as usize >= c.vocab_size) {
            return Err(ModelError::Input(format!(
                "instruction id {id} is not in the Q-Former's vocabulary of {}",
                c.vocab_size
            )));
        }
        let (ids_bl, mask_bl) =
            (ids_bl.to_device(&self.device)?, mask_bl.to_dtype(DType::U8)?.to_device(&self.device)?);
        Ok(self.qformer.encode(&self.queries_qd, &ids_bl, &mask_bl, image_bkd)?)
    }
}

fn no_tokenizers() -> ModelError {
    ModelError::Input(
        "this InstructBLIP has no tokenizers; put tokenizer.json and qformer_tokenizer/ beside its weights".to_owned(),
    )
}

impl Language {
    fn new(config: &LanguageConfig, weights: &Weights<'_>) -> Result<Self> {
        Ok(match config {
            LanguageConfig::Llama(config) => {
                Language::Llama(Llama::new(config.clone(), weights, RotaryLayout::Halves)?)
            }
            LanguageConfig::T5(config) => Language::T5(T5::new(config.clone(), weights)?),
        })
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Language::Llama(llama) => llama.embed(ids),
            Language::T5(t5) => t5.embed(ids),
        }
    }
}

impl Tokenizers {
    /// Both, or none if one is missing.
    fn open(folder: &Path, config: &InstructBlipConfig) -> Result<Option<Self>> {
        let language = folder.join("tokenizer.json");
        let json = folder.join("qformer_tokenizer/tokenizer.json");
        let vocabulary = folder.join("qformer_tokenizer/vocab.txt");
        if !language.is_file() || !(json.is_file() || vocabulary.is_file()) {
            return Ok(None);
        }
        let language = TextTokenizer::from_file(&language)?;
        let qformer = match json.is_file() {
            true => TextTokenizer::from_file(&json)?,
            false => TextTokenizer::from_bert_vocabulary(&vocabulary, BertNormalizer::default())?,
        };
        for (tokenizer, path, vocabulary) in [
            (&language, &folder.join("tokenizer.json"), config.language.vocab_size()),
            (&qformer, &folder.join("qformer_tokenizer"), config.qformer.vocab_size),
        ] {
            check_vocabulary(tokenizer, path, vocabulary)?;
        }
        Ok(Some(Self { language, qformer }))
    }
}
