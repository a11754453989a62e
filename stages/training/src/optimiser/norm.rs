//! The norm of all gradients together, and what clipping makes of it.

use candle_core::{D, DType, Device, Tensor};

use super::in_place;
use crate::error::{Error, Result};
use crate::host::scalar;

/// The root of the summed squares of gradients, where they lie.
pub(super) enum Norm {
    /// Of gradients in host memory.
    Known(f64),
    /// A scalar in f64 on a device, which nobody has waited for.
    OnDevice(Tensor),
}

/// What gradients are multiplied by: `factor` and, where there is one, a number of one element on their device.
pub(super) struct Clip {
    pub(super) factor: f64,
    pub(super) on_device: Option<Tensor>,
}

impl Norm {
    /// Of gradients that all lie in one place.
    pub(super) fn of<'g>(gradients: impl Iterator<Item = &'g Tensor>) -> Result<Self> {
        let (mut on_device, mut on_host) = (Vec::new(), 0.0);
        for gradient in gradients {
            match gradient.device().is_cpu() {
                true => on_host += in_place::sum_of_squares(gradient)?,
                false => on_device.push(gradient.contiguous()?),
            }
        }
        match on_device.is_empty() {
            true => Ok(Self::Known(on_host.sqrt())),
            false => Ok(Self::OnDevice(root_of_squares(&on_device)?)),
        }
    }

    /// The number; waits for the device.
    pub(super) fn read(self) -> Result<f64> {
        match self {
            Self::Known(norm) => Ok(norm),
            Self::OnDevice(norm) => scalar(&norm),
        }
    }

    /// Scales a larger norm than `most` down to it; 0: none is.
    pub(super) fn clip(&self, most: f64) -> Result<Clip> {
        Ok(match self {
            Self::Known(norm) if most > 0.0 && *norm > most => Clip { factor: most / norm, on_device: None },
            Self::OnDevice(norm) if most > 0.0 => {
                let factor = (norm.recip()? * most)?.minimum(1.0)?;
                Clip { factor: 1.0, on_device: Some(factor.to_dtype(DType::F32)?.reshape(1)?) }
            }
            _ => Clip { factor: 1.0, on_device: None },
        })
    }

    /// A scalar in f64.
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        match self {
            Self::Known(norm) => Ok(Tensor::new(norm, &Device::Cpu)?),
            Self::OnDevice(norm) => Ok(norm),
        }
    }
}

/// The norm of tensors on a device, a scalar in f64.
fn root_of_squares(tensors: &[Tensor]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if tensors.iter().all(|tensor| models::ops::gpu_kernels(tensor) && tensor.dtype() != DType::F16) {
        return Ok(models::ops::norm(&tensors.iter().collect::<Vec<_>>())?);
    }
    let mut squares = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let tensor = tensor.to_dtype(if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
        // row by row: one sum of everything is one block's work on a GPU
        let of_rows = if tensor.rank() > 1 { tensor.sqr()?.sum(D::Minus1)? } else { tensor.sqr()? };
        squares.push(of_rows.sum_all()?.to_dtype(DType::F64)?);
    }
    Ok(Tensor::stack(&squares, 0)?.sum_all()?.sqrt()?)
}

/// A norm as it is. `what` it is and its step are for the message.
///
/// # Errors
/// It is not finite.
pub(crate) fn check_norm(norm: f64, what: &str, step: u64) -> Result<f64> {
    if norm.is_finite() {
        return Ok(norm);
    }
    Err(Error::Numbers {
        what: format!("{what} of step {step}"),
        problem: format!("is {norm}; lower the learning rate or the clipping norm, or check the batch"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factor that a device computes is the one that the host does, to the rounding of f32.
    #[test]
    fn clipping_is_the_same_wherever_the_norm_is() {
        for (norm, most) in [(4.0, 1.0), (0.25, 1.0), (1.0, 1.0), (0.0, 1.0), (3.0, 0.0), (1e-30, 2.5), (1e30, 2.5)] {
            let known = Norm::Known(norm).clip(most).unwrap();
            let there = Norm::OnDevice(Tensor::new(norm, &Device::Cpu).unwrap());
            let clip = there.clip(most).unwrap();
            let on_device = clip.on_device.map_or(1.0, |factor| factor.to_vec1::<f32>().unwrap()[0]);
            assert_eq!((on_device * clip.factor as f32), known.factor as f32, "norm {norm}, at most {most}");
            assert_eq!(there.read().unwrap(), norm);
        }
    }
}
