//! The weights of a frozen network, in the names of Hugging Face's checkpoints.

use super::projection::Projection;
use crate::Result;
use crate::checkpoint::Checkpoint;
use candle_core::{DType, Device, Tensor};

/// Files that may hold them, the first that is there counts.
pub(crate) const FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// The tensors whose names begin with a prefix.
#[derive(Clone)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Weights<'a> {
    /// All tensors of a checkpoint, and where they shall lie.
    pub(crate) fn new(checkpoint: &'a Checkpoint, device: &'a Device, dtype: DType) -> Self {
        Self { checkpoint, prefix: String::new(), device, dtype }
    }

    /// The tensors below `part`.
    pub(crate) fn at(&self, part: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{part}.", self.prefix), ..*self }
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// The tensor `name`, which must have `shape`.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor(&format!("{}{name}", self.prefix), shape)?;
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    /// The linear map `name`, `[outputs, inputs]`.
    pub(crate) fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Projection> {
        self.stacked(&[(name, outputs)], inputs, bias)
    }

    /// Linear maps of the same input as one, the outputs behind each other in the order of `parts`.
    pub(crate) fn stacked(&self, parts: &[(&str, usize)], inputs: usize, bias: bool) -> Result<Projection> {
        let weights = parts
            .iter()
            .map(|(name, outputs)| self.tensor(&format!("{name}.weight"), &[*outputs, inputs]))
            .collect::<Result<Vec<_>>>()?;
        let biases = parts
            .iter()
            .filter(|_| bias)
            .map(|(name, outputs)| self.tensor(&format!("{name}.bias"), &[*outputs]))
            .collect::<Result<Vec<_>>>()?;
        let bias = if bias { Some(joined(biases)?) } else { None };
        Projection::new(joined(weights)?, bias)
    }
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}
