//! Where the tensors of a network come from while it is put together.

use crate::parameters::{Declaration, Init, Parameters};
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Hands out tensors under the names of the original checkpoints.
pub(super) trait Tensors {
    /// The tensor called `name`, of exactly this shape.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;
}

/// A layer norm.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) weight_d: Tensor,
    pub(super) bias_d: Tensor,
    pub(super) epsilon: f64,
}

/// A linear layer.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    pub(super) weight_oi: Tensor,
    pub(super) bias_o: Tensor,
}

impl Norm {
    pub(super) fn load(source: &mut dyn Tensors, name: &str, width: usize, epsilon: f64) -> Result<Self> {
        Ok(Self {
            weight_d: source.tensor(&format!("{name}.weight"), &[width])?,
            bias_d: source.tensor(&format!("{name}.bias"), &[width])?,
            epsilon,
        })
    }

    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        crate::ops::layer_norm(x, &self.weight_d, &self.bias_d, self.epsilon)
    }
}

impl Dense {
    pub(super) fn load(source: &mut dyn Tensors, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight_oi: source.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias_o: source.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        crate::ops::linear(x, &self.weight_oi, Some(&self.bias_o))
    }
}

/// Random weights that keep activations at a sensible size; equal seeds give equal weights.
pub(super) struct Random {
    pub(super) seed: u64,
    /// Everything that was handed out.
    pub(super) drawn: BTreeMap<String, Tensor>,
}

impl Tensors for Random {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let is_norm = name.ends_with(".weight") && shape.len() == 1 || name.ends_with("running_var");
        let init = match shape {
            _ if is_norm => Init::Constant(1.0),
            [_] => Init::Normal { standard_deviation: 0.02 },
            _ if name.ends_with("gaussian_matrix") => Init::Normal { standard_deviation: 1.0 },
            _ if name.contains("embed.weight") || name.contains("rel_pos") || name.contains("_biases") => {
                Init::Normal { standard_deviation: 0.02 }
            }
            [_, inputs @ ..] => {
                Init::Normal { standard_deviation: (inputs.iter().product::<usize>().max(1) as f64).powf(-0.5) }
            }
            [] => Init::Constant(0.0),
        };
        let declaration = Declaration { name: name.to_owned(), shape: shape.to_vec(), init };
        let drawn = Parameters::init(&[declaration], self.seed, &Device::Cpu, DType::F32)?;
        let tensor = drawn.get(name).map(|variable| variable.as_detached_tensor());
        let tensor = tensor.ok_or_else(|| ModelError::Config(format!("tensor {name} was not drawn")))?;
        self.drawn.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }
}

/// Tensors in memory, for networks that are not read from a file.
pub(super) struct Given<'a> {
    pub(super) tensors: &'a BTreeMap<String, Tensor>,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
}

impl Tensors for Given<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) if tensor.dims() == shape => Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?),
            found => Err(ModelError::Input(format!(
                "tensor {name} has shape {:?}, the configuration asks for {shape:?}",
                found.map(|tensor| tensor.dims())
            ))),
        }
    }
}
