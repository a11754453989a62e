//! A trainable CLIP: two towers that put images and texts into one space.
//!
//! Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). Parameters bear
//! open_clip's names, so that a plain vision Transformer of ours is an open_clip checkpoint as it is.

mod config;
mod config_files;
mod dual_encoder;
#[cfg(test)]
mod goldens;
mod hugging_face;
mod names;
mod open_clip;
mod places;
mod presets;
mod reading;
mod resnet;
mod resnet_shape;
mod source;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod torch_tests;
mod towers;
mod vision;
mod weights;

pub use config::{
    ClipConfig, Eot, INIT_LOGIT_SCALE, OPENAI_IMAGE_MEAN, OPENAI_IMAGE_STD, Pool, Stem, TextConfig, VisionConfig,
};
pub use presets::SeenPreset;

use crate::checkpoint::Checkpoint;
use crate::ops::Dropout;
use crate::parameters::Parameters;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use source::Gradients;
use std::path::Path;
use text::TextInput;
use towers::ClipTower;
use weights::{TextWeights, VisionWeights, declarations, logit_scale};

/// A CLIP with its variables.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use models::clip::{Clip, ClipConfig};
/// use models::tokenizer::Tokenizer;
/// let tokenizer = Tokenizer::train(["a lake", "a lake beside a road", "a road"], 100)?;
/// let mut config = ClipConfig::preset(choices::Preset::Tiny);
/// config.text.vocab_size = tokenizer.vocab_size();
/// let clip = Clip::init(&config, 1, &Device::Cpu, DType::F32)?;
/// let ids = tokenizer.encode("a lake", config.text.context_length)?;
/// let text_be = clip.encode_text(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)?;
/// let image_be = clip.encode_image(&Tensor::zeros((2, 3, 64, 64), DType::F32, &Device::Cpu)?)?;
/// assert_eq!((text_be.dims(), image_be.dims()), (&[1, config.embed_dim][..], &[2, config.embed_dim][..]));
/// assert_eq!(image_be.get(0)?.to_vec1::<f32>()?, image_be.get(1)?.to_vec1::<f32>()?, "equal images");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clip {
    config: ClipConfig,
    parameters: Parameters,
    /// None: every layer looks at one input alone.
    buffers: Parameters,
    vision: VisionWeights,
    text: TextWeights,
    logit_scale: Tensor,
}

impl Clip {
    /// A network to be trained from scratch; equal seeds give equal weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a configuration that describes no network, [`ModelError::Tensor`] if the device has
    /// no room.
    pub fn init(config: &ClipConfig, seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        config.validate()?;
        let parameters = Parameters::init(&declarations(config), seed, device, dtype)?;
        Self::from_parameters(config, parameters)
    }

    /// A network around parameters that are there already, with the names and shapes of `config`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a configuration that describes no network, [`ModelError::Input`] for the first
    /// parameter that is missing or has another shape.
    pub fn from_parameters(config: &ClipConfig, parameters: Parameters) -> Result<Self> {
        config.validate()?;
        for declaration in declarations(config) {
            let found = parameters.get(&declaration.name).map(|variable| variable.dims());
            if found != Some(&declaration.shape) {
                return Err(ModelError::Input(format!(
                    "parameter {} has shape {found:?}, the configuration asks for {:?}",
                    declaration.name, declaration.shape
                )));
            }
        }
        Ok(Self::around(config, parameters, Gradients::On)?)
    }

    fn around(config: &ClipConfig, parameters: Parameters, gradients: Gradients) -> candle_core::Result<Self> {
        Ok(Self {
            vision: VisionWeights::new(config, &parameters, gradients)?,
            text: TextWeights::new(config, &parameters, gradients)?,
            logit_scale: logit_scale(&parameters, gradients)?,
            config: config.clone(),
            parameters,
            buffers: Parameters::default(),
        })
    }

    /// Reads a folder that this project, open_clip or Hugging Face's transformers has written, or a file of weights with
    /// a configuration of such a folder beside it.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for a checkpoint of something else, [`ModelError::MissingTensor`],
    /// [`ModelError::UnexpectedTensor`] and [`ModelError::WrongShape`] with the name of the tensor.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let (config, checkpoint) = reading::open(path)?;
        Self::read(&checkpoint, &config, device, dtype)
    }

    /// Reads a bare file of weights, safetensors or a state dictionary of PyTorch, in open_clip's, OpenAI's or Hugging
    /// Face's names. The file does not say which activation it was trained with: `config` must ([`ClipConfig::beside`]).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_file(path: &Path, config: &ClipConfig, device: &Device, dtype: DType) -> Result<Self> {
        Self::read(&Checkpoint::open(path)?.unwrapped(), config, device, dtype)
    }

    /// The configuration of what [`load`](Self::load) would read, if its tensors are all there in their shapes. No weights
    /// are read.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn examine(path: &Path) -> Result<ClipConfig> {
        let (config, checkpoint) = reading::open(path)?;
        config.validate()?;
        places::places(&checkpoint, &declarations(&config))?;
        Ok(config)
    }

    fn read(checkpoint: &Checkpoint, config: &ClipConfig, device: &Device, dtype: DType) -> Result<Self> {
        config.validate()?;
        let parameters = reading::read(checkpoint, &declarations(config), device, dtype)?;
        Self::from_parameters(config, parameters)
    }

    /// What tells this network from others, weights apart.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The variables that [`encode_image`](Self::encode_image) and [`encode_text`](Self::encode_text) read; changing
    /// them changes the network.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Embeds images: `pixel_values_bchw [B, 3, S, S]`, normalised by `image_mean` and `image_std`, to `[B, E]`, not
    /// normalised in length.
    ///
    /// # Errors
    /// [`ModelError::Input`] for pixels of another shape, [`ModelError::Tensor`] if the device fails.
    pub fn encode_image(&self, pixel_values_bchw: &Tensor) -> Result<Tensor> {
        self.encode_image_with(pixel_values_bchw, None)
    }

    /// Like [`encode_image`](Self::encode_image), for a training step: with dropout of the tokens and of what each
    /// block adds to them.
    ///
    /// # Errors
    /// As [`encode_image`](Self::encode_image).
    pub fn encode_image_with(&self, pixel_values_bchw: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
        self.images(pixel_values_bchw, dropout)?.embed()
    }

    /// The image tower on `pixel_values_bchw [B, 3, S, S]`; or on bytes that are yet to be normalised, `[B, S, S, 3]`.
    fn images<'a>(&'a self, pixel_values_bchw: &Tensor, dropout: Option<&'a Dropout>) -> Result<ClipTower<'a>> {
        let side = self.config.vision.image_size;
        let pixels = pixel_values_bchw.to_device(self.logit_scale.device())?;
        let pixels = match (pixels.dtype(), pixels.dims()) {
            (DType::U8, &[_, height, width, 3]) if (height, width) == (side, side) => {
                self.config.preprocessing().normalise(&pixels)?
            }
            (_, &[_, 3, height, width]) if (height, width) == (side, side) => pixels,
            (_, other) => {
                return Err(ModelError::Input(format!(
                    "pixel values have shape {other:?}, the network wants [B, 3, {side}, {side}]"
                )));
            }
        };
        let pixels = pixels.to_dtype(self.dtype())?;
        Ok(ClipTower::Image { weights: &self.vision, kind: self.config.activation, pixels_bchw: pixels, dropout })
    }

    /// Embeds texts: `input_ids_bl` (`u32 [B, L]`, L at most the context length) to `[B, E]`, not normalised in
    /// length.
    ///
    /// # Errors
    /// [`ModelError::Input`] for ids of another shape or out of the vocabulary, or a text without its end,
    /// [`ModelError::Tensor`] if the device fails.
    pub fn encode_text(&self, input_ids_bl: &Tensor) -> Result<Tensor> {
        self.encode_text_with(input_ids_bl, None)
    }

    /// Like [`encode_text`](Self::encode_text), for a training step: with dropout of the tokens and of what each block
    /// but the last adds to them.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_text_with(&self, input_ids_bl: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
        self.texts(input_ids_bl, dropout)?.embed()
    }

    /// The text tower on `input_ids_bl` (`u32 [B, L]`).
    fn texts<'a>(&'a self, input_ids_bl: &Tensor, dropout: Option<&'a Dropout>) -> Result<ClipTower<'a>> {
        let t = &self.config.text;
        match input_ids_bl.dims() {
            &[_, length] if (1..=t.context_length).contains(&length) => {}
            other => {
                return Err(ModelError::Input(format!(
                    "input ids have shape {other:?}, the network wants [B, L] with L from 1 to {}",
                    t.context_length
                )));
            }
        }
        let ids = input_ids_bl.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        if let Some(id) = ids.iter().flatten().find(|&&id| id as usize >= t.vocab_size) {
            return Err(ModelError::Input(format!(
                "token id {id} is not in the vocabulary of {}; check that tokenizer and checkpoint belong together",
                t.vocab_size
            )));
        }
        let input = TextInput::new(&ids, t.eot, self.logit_scale.device())?;
        Ok(ClipTower::Text { weights: &self.text, input, dropout })
    }

    /// The type of weights and activations.
    pub fn dtype(&self) -> DType {
        self.text.projection.dtype()
    }

    /// The natural logarithm of the factor on cosines, a scalar in f32 or f64.
    pub fn logit_scale(&self) -> Tensor {
        self.logit_scale.clone()
    }

    /// A copy that never changes: the present weights, no gradients.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device has no room for the copy.
    pub fn frozen(&self) -> Result<Self> {
        Ok(Self::around(&self.config, self.parameters.deep_copy()?, Gradients::Off)?)
    }

    /// The same weights, and whatever becomes of them, read without building a graph: for evaluation during training.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if the device fails.
    pub fn without_gradients(&self) -> Result<Self> {
        Ok(Self::around(&self.config, self.parameters.clone(), Gradients::Off)?)
    }

    /// Writes `config.json` and `model.safetensors` in our own format, which has room for every configuration.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the file that could not be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        config_files::save_own(&self.config, &self.parameters, folder)
    }

    /// Writes `urbancross_clip.py` beside what [`save`](Self::save) wrote: it loads every configuration in PyTorch.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the file that could not be written.
    pub fn save_python(folder: &Path) -> Result<()> {
        let path = folder.join("urbancross_clip.py");
        std::fs::write(&path, include_str!("urbancross_clip.py")).map_err(ModelError::io(&path))
    }

    /// Writes `open_clip_config.json` and `open_clip_model.safetensors`; the tokenizer belongs beside them
    /// ([`Tokenizer::save_hugging_face`](crate::tokenizer::Tokenizer::save_hugging_face)).
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if open_clip has no such network.
    pub fn save_open_clip(&self, folder: &Path) -> Result<()> {
        open_clip::save(&self.config, &self.parameters, folder)
    }

    /// Writes `config.json`, `model.safetensors` and `preprocessor_config.json` as Hugging Face's `CLIPModel` has them; the
    /// tokenizer belongs beside them.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] if transformers has no such network.
    pub fn save_hugging_face(&self, folder: &Path) -> Result<()> {
        hugging_face::save(&self.config, &self.parameters, folder)
    }
}
