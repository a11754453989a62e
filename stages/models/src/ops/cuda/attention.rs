use candle_core::{DType, Result, Tensor};

use super::heads::{Heads, padded};
use super::launch::Made;
use super::node::{GpuOp, Pass};
use super::softmax::{Softmax, masked_softmax, softmax_back};

/// Attention of queries, keys and values behind each other; the probabilities are computed again on the way back.
pub(crate) struct AttentionOp {
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// `u8 [B, L]`, on the GPU and contiguous.
    pub(crate) key_valid: Option<Tensor>,
}

/// Queries, keys and values `[B, heads, L, D / heads]`, and the probabilities `[B, heads, L, L]`; L is filled up, with zeros
/// wherever they could count: for keys and values, for probabilities of keys, and so for gradients.
struct Attended {
    places: Heads,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
    /// Of the scores in the softmax.
    scale: f64,
}

impl AttentionOp {
    fn attend(&self, qkv_ble: &Tensor) -> Result<Attended> {
        let (batch, length, stride) = qkv_ble.dims3()?;
        let width = stride / 3 / self.heads;
        let scale = (width as f64).powf(-0.5);
        // in f16 the products of large queries and keys would overflow on their way to scores that do not
        let (factor, scale) = if qkv_ble.dtype() == DType::F16 { (scale, 1.0) } else { (1.0, scale) };
        let places = Heads { batch, heads: self.heads, length, width, factor };
        let [q, k, v] = places.out_of(qkv_ble)?;
        let (heads, causal) = (self.heads, self.causal);
        let seen =
            Softmax { scale, keys: length, queries: padded(length), heads, causal, valid: self.key_valid.as_ref() };
        let p = masked_softmax(&q.matmul(&k.t()?)?, seen)?.tensor();
        Ok(Attended { places, q, k, v, p, scale })
    }

    /// `qkv_ble [B, L, 3 D]` to `[B, L, D]`.
    pub(super) fn there(&self, qkv_ble: &Tensor) -> Result<Made> {
        let Attended { v, p, places, .. } = self.attend(qkv_ble)?;
        Heads { factor: 1.0, ..places }.rows_of(&[&p.matmul(&v)?])
    }

    /// The gradient of `qkv_ble` from that of the result `[B, L, D]`.
    pub(super) fn back(&self, qkv_ble: &Tensor, grad_bld: &Tensor) -> Result<Made> {
        let Attended { places, q, k, v, p, scale } = self.attend(qkv_ble)?;
        let [grad] = Heads { factor: 1.0, ..places }.out_of(grad_bld)?;
        let dv = p.t()?.matmul(&grad)?;
        let ds = softmax_back(&p, &grad.matmul(&v.t()?)?, scale)?.tensor();
        drop(p);
        let (dq, dk) = (ds.matmul(&k)?, ds.t()?.matmul(&q)?);
        places.rows_of(&[&dq, &dk, &dv])
    }
}

impl GpuOp for AttentionOp {
    const NAME: &'static str = "attention";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        Ok((self.there(&args[0])?, Vec::new()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.back(&pass.args[0], pass.grad)?.tensor())])
    }
}
