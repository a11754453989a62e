use candle_core::{DType, Result, Tensor, bail};

use super::heads::{Heads, padded};
use super::launch::Made;
use super::node::{GpuOp, Pass};
use super::softmax::{Softmax, masked_softmax, softmax_back};

/// Attention of queries, keys and values behind each other; the probabilities are kept for the way back.
pub(crate) struct AttentionOp {
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// `u8 [B, L]`, on the GPU and contiguous.
    pub(crate) key_valid: Option<Tensor>,
}

/// Queries, keys and values `[B, heads, L, D / heads]`, and the probabilities `[B, heads, L, L]`; L is filled up, with zeros
/// wherever they could count: for keys and values, for probabilities of keys, and so for gradients.
struct Attended {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
}

impl AttentionOp {
    /// Where the heads lie, and the factor of the scores in the softmax.
    fn places(&self, qkv_ble: (usize, usize, usize), dtype: DType) -> (Heads, f64) {
        let (batch, length, stride) = qkv_ble;
        let width = stride / 3 / self.heads;
        let scale = (width as f64).powf(-0.5);
        // in f16 the products of large queries and keys would overflow on their way to scores that do not
        let (factor, scale) = if dtype == DType::F16 { (scale, 1.0) } else { (1.0, scale) };
        (Heads { batch, heads: self.heads, length, width, factor }, scale)
    }

    fn attend(&self, qkv_ble: &Tensor) -> Result<(Heads, Attended)> {
        let (places, scale) = self.places(qkv_ble.dims3()?, qkv_ble.dtype());
        let [q, k, v] = places.out_of(qkv_ble)?;
        let (length, heads, causal) = (places.length, self.heads, self.causal);
        let seen =
            Softmax { scale, keys: length, queries: padded(length), heads, causal, valid: self.key_valid.as_ref() };
        let p = masked_softmax(&q.matmul(&k.t()?)?, seen)?.tensor();
        Ok((places, Attended { q, k, v, p }))
    }

    /// `qkv_ble [B, L, 3 D]` to `[B, L, D]`, and what the way back wants to see again.
    pub(super) fn there(&self, qkv_ble: &Tensor) -> Result<(Made, [Tensor; 4])> {
        let (places, Attended { q, k, v, p }) = self.attend(qkv_ble)?;
        let made = Heads { factor: 1.0, ..places }.rows_of(&[&p.matmul(&v)?])?;
        Ok((made, [q, k, v, p]))
    }

    /// The gradient of queries, keys and values, of this shape, from that of the result `[B, L, D]`.
    pub(super) fn back(&self, qkv_ble: (usize, usize, usize), saved: &[Tensor], grad_bld: &Tensor) -> Result<Made> {
        let [q, k, v, p] = saved else { bail!("attention: the forward pass kept {} tensors", saved.len()) };
        let (places, scale) = self.places(qkv_ble, grad_bld.dtype());
        let [grad] = Heads { factor: 1.0, ..places }.out_of(grad_bld)?;
        let dv = p.t()?.matmul(&grad)?;
        let ds = softmax_back(p, &grad.matmul(&v.t()?)?, scale)?.tensor();
        let (dq, dk) = (ds.matmul(k)?, ds.t()?.matmul(q)?);
        places.rows_of(&[&dq, &dk, &dv])
    }
}

impl GpuOp for AttentionOp {
    const NAME: &'static str = "attention";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let (made, saved) = self.there(&args[0])?;
        Ok((made, saved.into()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.back(pass.args[0].dims3()?, pass.saved, pass.grad)?.tensor())])
    }
}
