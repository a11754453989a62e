//! Files and folders that hold a Segment Anything model.

use super::config::{EncoderConfig, SamConfig};
use super::source::Tensors;
use super::{hugging_face, layout, names};
use crate::checkpoint::Checkpoint;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeSet;
use std::path::Path;

/// Files of a folder that may hold the weights, the first that is there counts.
const FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// The tensors of a checkpoint, under the original names, and what describes their network.
pub(super) struct Stored<'a> {
    checkpoint: Checkpoint,
    /// What lies beside the weights.
    written: Option<SamConfig>,
    used: BTreeSet<String>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Stored<'a> {
    pub(super) fn open(path: &Path, device: &'a Device, dtype: DType) -> Result<Self> {
        let (checkpoint, written) = if path.is_dir() {
            let config = hugging_face::read_config(&path.join("config.json"))?;
            (Checkpoint::open_folder(path, FILES)?, Some(config))
        } else {
            (Checkpoint::open(path)?, None)
        };
        let mut checkpoint = checkpoint.unwrapped();
        if checkpoint.shapes().any(|(name, _)| name.starts_with("vision_encoder.")) {
            checkpoint = checkpoint.renamed(names::original_name);
        }
        Ok(Self { checkpoint, written, used: BTreeSet::new(), device, dtype })
    }

    /// The configuration beside the weights, or else what their shapes say.
    pub(super) fn config(&self) -> Result<SamConfig> {
        if let Some(written) = &self.written {
            return Ok(written.clone());
        }
        let shapes = self.checkpoint.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec()));
        let another = |reason| ModelError::AnotherModel { path: self.checkpoint.path().to_owned(), reason };
        layout::config_of(&shapes.collect()).map_err(another)
    }

    pub(super) fn check_leftovers(&self, config: &SamConfig) -> Result<()> {
        let is_tiny = matches!(config.encoder, EncoderConfig::TinyVit(_));
        // MobileSAM's checkpoint keeps the classifier that its encoder was trained with.
        let is_classifier = |name: &str| {
            let part = name.strip_prefix("image_encoder.").filter(|_| is_tiny);
            part.is_some_and(|part| part.starts_with("head.") || part.starts_with("norm_head."))
        };
        let is_counter = |name: &str| name.ends_with("num_batches_tracked") || name.ends_with("attention_bias_idxs");
        let mut names = self.checkpoint.shapes().map(|(name, _)| name);
        match names.find(|name| !self.used.contains(*name) && !is_classifier(name) && !is_counter(name)) {
            None => Ok(()),
            Some(leftover) => Err(self.checkpoint.unexpected(leftover)),
        }
    }
}

impl Tensors for Stored<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor(name, shape)?;
        self.used.insert(name.to_owned());
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }
}
