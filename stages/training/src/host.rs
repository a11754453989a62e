//! What is read from the device.

use candle_core::Tensor;

use crate::error::Result;

/// A scalar on the host.
pub(crate) fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(candle_core::DType::F64)?.to_scalar()?)
}
