//! Segment Anything: masks for points and boxes, and for everything in an image.
//!
//! Kirillov et al., "Segment Anything" (2023), with the ViT-B, ViT-L and ViT-H encoders, and MobileSAM (Zhang et al.,
//! "Faster Segment Anything", 2023). For inference only. [`generator`] makes masks of a whole image.

mod checkpoint;
mod config;
pub mod generator;
#[cfg(test)]
mod goldens;
mod hugging_face;
mod layout;
mod mask_decoder;
mod names;
mod neck;
mod preprocess;
mod prompt_encoder;
mod source;
#[cfg(test)]
mod tests;
mod tiny_vit;
mod vit;

pub use config::{DecoderConfig, EncoderConfig, PIXEL_MEAN, PIXEL_STD, SamConfig, TinyVitConfig, VitConfig};
pub use mask_decoder::LowResMask;
pub use preprocess::resized_size;
pub use prompt_encoder::{PointLabel, Prompt};

use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use checkpoint::Stored;
use mask_decoder::{MaskDecoder, PreparedImage, Selection};
use prompt_encoder::PromptEncoder;
use source::{Given, Random, Tensors};
use std::collections::BTreeMap;
use std::path::Path;
use tiny_vit::TinyVit;
use vit::Vit;

/// A Segment Anything model with its weights.
#[derive(Clone, Debug)]
pub struct Sam {
    config: SamConfig,
    encoder: Encoder,
    prompt_encoder: PromptEncoder,
    decoder: MaskDecoder,
    device: Device,
    dtype: DType,
}

#[derive(Clone, Debug)]
enum Encoder {
    Vit(Vit),
    TinyVit(TinyVit),
}

/// What the network keeps of one image.
#[derive(Clone, Debug)]
pub struct ImageEmbedding(PreparedImage);

impl ImageEmbedding {
    /// `[S, S, D]` with S = [`SamConfig::embedding_side`]: the original code's embedding with channels last.
    pub fn tensor(&self) -> &Tensor {
        &self.0.embedding_hwd
    }
}

/// How many masks a prompt is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOutputs {
    /// One, for a prompt without doubt: a box, several points.
    Single,
    /// [`DecoderConfig::multimask_outputs`], for a prompt that may mean a part or the whole.
    Multi,
}

impl Sam {
    /// Random weights, for measurements and tests; equal seeds give equal weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a configuration that describes no network, [`ModelError::Tensor`] if the device has
    /// no room.
    pub fn init(config: &SamConfig, seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        Self::from_tensors(config, &Self::random_tensors(config, seed)?, device, dtype)
    }

    /// Random weights under the names of the original checkpoints.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a configuration that describes no network.
    pub fn random_tensors(config: &SamConfig, seed: u64) -> Result<BTreeMap<String, Tensor>> {
        let mut random = Random { seed, drawn: BTreeMap::new() };
        Self::assemble(config, &mut random, &Device::Cpu, DType::F32)?;
        Ok(random.drawn)
    }

    /// A network around weights in memory, under the names of the original checkpoints.
    ///
    /// # Errors
    /// [`ModelError::Input`] with name and both shapes if a tensor is missing or has another shape.
    pub fn from_tensors(
        config: &SamConfig,
        tensors: &BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Self::assemble(config, &mut Given { tensors, device, dtype }, device, dtype)
    }

    /// Reads a checkpoint: a folder of Hugging Face's `SamModel` (`config.json`, `model.safetensors` or its shards), or
    /// a `.pth`, `.pt` or `.safetensors` file in the names of `sam_vit_{b,l,h}_*.pth` or `mobile_sam.pt`. What a file
    /// says nothing of (the size of MobileSAM's input, the heads of the decoder) is taken from the published models.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for a checkpoint of something else, [`ModelError::MissingTensor`],
    /// [`ModelError::UnexpectedTensor`] and [`ModelError::WrongShape`] with the name of the tensor,
    /// [`ModelError::Malformed`] for a pickle that asks for anything but tensors.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::read(path, None, device, dtype)
    }

    /// As [`load`](Self::load), with the configuration given instead of guessed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_as(path: &Path, config: &SamConfig, device: &Device, dtype: DType) -> Result<Self> {
        Self::read(path, Some(config), device, dtype)
    }

    /// The configuration of what [`load`](Self::load) would read. No weights are read.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for a checkpoint of something else, and those of opening.
    pub fn examine(path: &Path) -> Result<SamConfig> {
        Stored::open(path, &Device::Cpu, DType::F32)?.config()
    }

    fn read(path: &Path, config: Option<&SamConfig>, device: &Device, dtype: DType) -> Result<Self> {
        let mut stored = Stored::open(path, device, dtype)?;
        let config = config.map_or_else(|| stored.config(), |config| Ok(config.clone()))?;
        let sam = Self::assemble(&config, &mut stored, device, dtype)?;
        stored.check_leftovers(&config)?;
        Ok(sam)
    }

    /// Writes weights as Hugging Face's `SamModel`: `config.json`, `preprocessor_config.json`, `model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for MobileSAM, which transformers has no model for.
    pub fn save_hugging_face(config: &SamConfig, tensors: &BTreeMap<String, Tensor>, folder: &Path) -> Result<()> {
        hugging_face::save(config, tensors, folder)
    }

    fn assemble(config: &SamConfig, source: &mut dyn Tensors, device: &Device, dtype: DType) -> Result<Self> {
        config.validate()?;
        let encoder = match &config.encoder {
            EncoderConfig::Vit(vit) => Encoder::Vit(Vit::load(source, config, vit)?),
            EncoderConfig::TinyVit(tiny) => Encoder::TinyVit(TinyVit::load(source, config, tiny)?),
        };
        let prompt_encoder = PromptEncoder::load(source, config)?;
        let decoder = MaskDecoder::load(source, config, prompt_encoder.places())?;
        let (config, device) = (config.clone(), device.clone());
        Ok(Self { config, encoder, prompt_encoder, decoder, device, dtype })
    }

    /// What tells this network from others, weights apart.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// Embeds images: `pixel_values_bchw [B, 3, S, S]` as [`pixel_values`](Self::pixel_values) makes them.
    ///
    /// # Errors
    /// [`ModelError::Input`] for another shape, [`ModelError::Tensor`] if the device fails.
    pub fn embed_images(&self, pixel_values_bchw: &Tensor) -> Result<Vec<ImageEmbedding>> {
        let side = self.config.image_size;
        let batch = match pixel_values_bchw.dims() {
            &[batch, 3, height, width] if (height, width) == (side, side) => batch,
            other => {
                return Err(ModelError::Input(format!(
                    "pixel values have shape {other:?}, the network wants [B, 3, {side}, {side}]"
                )));
            }
        };
        if batch == 0 {
            return Ok(Vec::new());
        }
        let pixels = pixel_values_bchw.to_device(&self.device)?.to_dtype(self.dtype)?;
        let embeddings = match &self.encoder {
            Encoder::Vit(vit) => vit.forward(&pixels)?,
            Encoder::TinyVit(tiny) => tiny.forward(&pixels)?,
        };
        (0..batch)
            .map(|image| {
                let embedding = embeddings.get(image)?;
                Ok(ImageEmbedding(self.decoder.prepare(embedding, self.prompt_encoder.no_mask())?))
            })
            .collect()
    }

    /// Low-resolution masks of prompts on one image, in the order of the prompts and of their outputs.
    ///
    /// All prompts of a call have the same number of points, and a box or none. With `above_iou`, masks whose predicted
    /// quality is not above it are left out, which saves most of their cost.
    ///
    /// # Errors
    /// [`ModelError::Input`] for prompts that differ in their number of points or boxes, and for a quality that is not
    /// finite; [`ModelError::Tensor`] if the device fails.
    pub fn predict(
        &self,
        image: &ImageEmbedding,
        prompts: &[Prompt],
        outputs: MaskOutputs,
        above_iou: Option<f32>,
    ) -> Result<Vec<LowResMask>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let multi = self.config.decoder.multimask_outputs;
        let outputs = match outputs {
            MaskOutputs::Single => 0..1,
            MaskOutputs::Multi => 1..multi + 1,
        };
        let sparse = self.prompt_encoder.sparse(prompts)?;
        let dense = self.prompt_encoder.dense(prompts, &self.device, self.dtype)?;
        let selection = Selection { outputs, above_iou };
        let no_mask = self.prompt_encoder.no_mask();
        self.decoder.predict(&image.0, sparse, prompts.len(), dense.as_ref(), no_mask, &selection)
    }
}
