use super::source::{Norm, Tensors};
use crate::Result;
use crate::ops::{image_conv2d, linear};
use candle_core::Tensor;

/// Epsilon of the layer norms over channels (`LayerNorm2d`).
pub(super) const CHANNEL_NORM_EPSILON: f64 = 1e-6;

/// From the encoder's width to that of the decoder: 1 x 1 convolution, norm, 3 x 3 convolution, norm.
#[derive(Clone, Debug)]
pub(super) struct Neck {
    reduce_weight_oi: Tensor,
    reduce_norm: Norm,
    mix_weight_ohwi: Tensor,
    mix_norm: Norm,
}

impl Neck {
    pub(super) fn load(source: &mut dyn Tensors, inputs: usize, outputs: usize) -> Result<Self> {
        let name = |part: &str| format!("image_encoder.neck.{part}");
        let reduce = source.tensor(&name("0.weight"), &[outputs, inputs, 1, 1])?;
        let mix = source.tensor(&name("2.weight"), &[outputs, outputs, 3, 3])?;
        Ok(Self {
            reduce_weight_oi: reduce.reshape((outputs, inputs))?,
            reduce_norm: Norm::load(source, &name("1"), outputs, CHANNEL_NORM_EPSILON)?,
            mix_weight_ohwi: mix.permute((0, 2, 3, 1))?.contiguous()?,
            mix_norm: Norm::load(source, &name("3"), outputs, CHANNEL_NORM_EPSILON)?,
        })
    }

    /// `[B, H, W, I]` to `[B, H, W, O]`.
    pub(super) fn forward(&self, x_bhwi: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.reduce_norm.apply(&linear(x_bhwi, &self.reduce_weight_oi, None)?)?;
        self.mix_norm.apply(&image_conv2d(&x, &self.mix_weight_ohwi, None, 1, 1)?)
    }
}
