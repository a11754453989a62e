use crate::Result;
use crate::ops::inference::{PackedLinear, Rows, has_inference_kernel};
use crate::ops::linear;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, DType, Module, Tensor};
use std::sync::Arc;

/// A frozen linear map, kept as suits its device.
#[derive(Clone, Debug)]
pub(crate) enum Projection {
    /// CPU, f32.
    Packed(PackedLinear),
    /// Any device and type: `[O, I]`.
    Dense { weight_oi: Tensor, bias_o: Option<Tensor> },
    /// Blocks of quantised weights, whose outputs stand behind each other.
    Quantised(Vec<QMatMul>),
}

impl Projection {
    pub(crate) fn new(weight_oi: Tensor, bias_o: Option<Tensor>) -> Result<Self> {
        Ok(match has_inference_kernel(&weight_oi) {
            true => Projection::Packed(PackedLinear::new(&weight_oi, bias_o.as_ref())?),
            false => Projection::Dense { weight_oi, bias_o },
        })
    }

    pub(crate) fn quantised(parts: Vec<Arc<QTensor>>) -> Result<Self> {
        let parts = parts.into_iter().map(QMatMul::from_arc).collect::<candle_core::Result<_>>()?;
        Ok(Projection::Quantised(parts))
    }

    /// `x [.., I]` to `[.., O]`.
    pub(crate) fn forward(&self, x: &Tensor, kind: Rows) -> candle_core::Result<Tensor> {
        match self {
            Projection::Packed(packed) => packed.forward(x, kind),
            Projection::Dense { weight_oi, bias_o } => linear(x, weight_oi, bias_o.as_ref()),
            Projection::Quantised(parts) => {
                let wide = x.to_dtype(DType::F32)?.contiguous()?;
                let outputs = parts.iter().map(|part| part.forward(&wide)).collect::<candle_core::Result<Vec<_>>>()?;
                Tensor::cat(&outputs, D::Minus1)?.to_dtype(x.dtype())
            }
        }
    }
}
