//! CLIP as what a training knows of a network.

use super::text::end_of_text;
use super::{Clip, ClipConfig};
use crate::dual_encoder::{DualEncoder, LOGIT_SCALE, MAX_LOGIT_SCALE, Pass, Tower};
use crate::parameters::Parameters;
use crate::preprocessing::Preprocessing;
use crate::tokenizer::Tokenizer;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;

impl ClipConfig {
    /// How images become the network's input.
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing { side_px: self.vision.image_size, mean: self.image_mean, std: self.image_std }
    }
}

impl DualEncoder for Clip {
    fn identity(&self) -> Value {
        json!(self.config)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn buffers(&self) -> &Parameters {
        &self.buffers
    }

    fn device(&self) -> &Device {
        self.logit_scale.device()
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn embed_dim(&self) -> usize {
        self.config.embed_dim
    }

    fn logit_scale(&self) -> Tensor {
        self.logit_scale.clone()
    }

    fn is_of_image_tower(name: &str) -> bool {
        name.starts_with("visual.")
    }

    fn preprocessing(&self) -> Preprocessing {
        self.config.preprocessing()
    }

    fn context_length(&self) -> usize {
        self.config.text.context_length
    }

    fn vocab_size(&self) -> usize {
        self.config.text.vocab_size
    }

    fn is_token(&self, input_ids_l: &[u32]) -> Vec<bool> {
        let end = end_of_text(input_ids_l, self.config.text.eot);
        (0..input_ids_l.len()).map(|at| at <= end).collect()
    }

    fn image_tower<'a>(&'a self, images: &Tensor, pass: Pass<'a>) -> Result<Box<dyn Tower + 'a>> {
        no_tokens(&pass)?;
        Ok(Box::new(self.images(images, pass.dropout)?))
    }

    fn text_tower<'a>(&'a self, input_ids_bl: &Tensor, pass: Pass<'a>) -> Result<Box<dyn Tower + 'a>> {
        no_tokens(&pass)?;
        Ok(Box::new(self.texts(input_ids_bl, pass.dropout)?))
    }

    fn clamp(&self) -> Result<()> {
        match self.parameters.get(LOGIT_SCALE) {
            Some(scale) => Ok(scale.set(&scale.as_detached_tensor().minimum(MAX_LOGIT_SCALE)?)?),
            None => Ok(()),
        }
    }

    fn copy_as(&self, dtype: DType) -> Result<Self> {
        let parameters = match dtype == self.dtype() {
            true => self.parameters.deep_copy()?,
            false => self.parameters.to_dtype(dtype)?,
        };
        Self::from_parameters(&self.config, parameters)
    }

    fn frozen(&self) -> Result<Self> {
        self.frozen()
    }

    fn without_gradients(&self) -> Result<Self> {
        self.without_gradients()
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.save(folder)
    }

    fn load(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::load(folder, device, dtype)
    }

    fn export(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
        Clip::save_python(folder)?;
        let layouts =
            [("open_clip", Clip::save_open_clip as fn(&Clip, &Path) -> _), ("hugging_face", Clip::save_hugging_face)];
        for (name, save) in layouts {
            let folder = folder.join(name);
            match save(self, &folder) {
                Ok(()) => tokenizer.save_hugging_face(&folder, self.config.text.context_length)?,
                Err(ModelError::Unsupported { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn no_tokens(pass: &Pass) -> Result<()> {
    match pass.tokens {
        true => Err(ModelError::Config("CLIP gives no vectors of tokens: choose an objective that needs none".into())),
        false => Ok(()),
    }
}
