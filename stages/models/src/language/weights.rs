//! The weights of a frozen network, in the names of Hugging Face's checkpoints.

use super::projection::Projection;
use crate::checkpoint::Checkpoint;
use crate::{ModelError, Result};
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

    /// The same tensors in another type.
    pub(crate) fn in_type(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn device(&self) -> &Device {
        self.device
    }

    /// The tensor `name`, which must have `shape`.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.check_scales(&name)?;
        let tensor = self.checkpoint.tensor(&name, shape)?;
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    /// Numbers in eight bits are weights only with the scales beside them.
    fn check_scales(&self, name: &str) -> Result<()> {
        let beside = name.strip_suffix("weight").map(|map| format!("{map}scale_weight"));
        let mut scales = [format!("{name}_scale"), format!("{name}_scale_inv")].into_iter().chain(beside);
        match scales.find(|scale| self.checkpoint.shape(scale).is_some()) {
            None => Ok(()),
            Some(scale) => {
                let reason = format!("{name} is quantised, and its scales ({scale}) are not read");
                Err(ModelError::malformed(self.checkpoint.path(), reason + ": use the checkpoint in bf16"))
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn weights_without_their_scales_are_refused() {
        let of = |beside: &str| {
            let ones = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
            let tensors = ["layer.up.weight", beside].map(|name| (name.to_owned(), ones.clone()));
            let checkpoint = Checkpoint::from_tensors(tensors.into(), Path::new("w"));
            let weights = Weights::new(&checkpoint, &Device::Cpu, DType::F32);
            weights.at("layer").tensor("up.weight", &[2, 3]).map(drop).map_err(|error| error.to_string())
        };
        for scale in ["layer.up.weight_scale", "layer.up.weight_scale_inv", "layer.up.scale_weight"] {
            let why = of(scale).unwrap_err();
            assert!(why.contains("layer.up.weight is") && why.contains(scale) && why.contains("bf16"), "{why}");
        }
        // a scale of its own belongs to nothing else
        assert_eq!(of("layer.down.weight_scale"), Ok(()));
    }
}
