use candle_core::{DType, Result, Tensor};

use super::launch::{Made, Softmax, softmax, softmax_back};
use super::node::GpuOp;

/// Attention of queries, keys and values behind each other; the probabilities are computed again on the way back.
pub(crate) struct AttentionOp {
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// `u8 [B, L]`, on the GPU and contiguous.
    pub(crate) key_valid: Option<Tensor>,
}

/// Queries, keys and values `[B, heads, L, D / heads]`, and the probabilities `[B, heads, L, L]`.
struct Attended {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
}

impl AttentionOp {
    /// The factor of the queries, and that of the scores in the softmax. In f16 the products of large queries and keys
    /// would overflow on their way to scores that do not: there the queries are scaled.
    fn factors(qkv_ble: &Tensor, head_width: usize) -> (f64, f64) {
        let scale = (head_width as f64).powf(-0.5);
        if qkv_ble.dtype() == DType::F16 { (scale, 1.0) } else { (1.0, scale) }
    }

    fn attend(&self, qkv_ble: &Tensor) -> Result<Attended> {
        let (batch, length, packed) = qkv_ble.dims3()?;
        let (heads, head_width) = (self.heads, packed / 3 / self.heads);
        let (of_queries, scale) = Self::factors(qkv_ble, head_width);
        let part = |i: usize| {
            let part = qkv_ble.narrow(2, i * packed / 3, packed / 3)?;
            part.reshape((batch, length, heads, head_width))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let q = if of_queries == 1.0 { q } else { (q * of_queries)? };
        let seen = Softmax { scale, queries: length, heads, causal: self.causal, valid: self.key_valid.as_ref() };
        let p = softmax(&q.matmul(&k.t()?)?, seen)?.tensor();
        Ok(Attended { q, k, v, p })
    }
}

impl GpuOp for AttentionOp {
    const NAME: &'static str = "attention";

    fn forward(&self, args: &[Tensor]) -> Result<Made> {
        let (batch, length, packed) = args[0].dims3()?;
        let Attended { v, p, .. } = self.attend(&args[0])?;
        Made::copied(&p.matmul(&v)?.transpose(1, 2)?.reshape((batch, length, packed / 3))?)
    }

    fn backward(&self, args: &[Tensor], _: &[bool], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (batch, length, packed) = args[0].dims3()?;
        let (heads, head_width) = (self.heads, packed / 3 / self.heads);
        let (of_queries, scale) = Self::factors(&args[0], head_width);
        let Attended { q, k, v, p } = self.attend(&args[0])?;
        let grad = grad.reshape((batch, length, heads, head_width))?.transpose(1, 2)?.contiguous()?;
        let dv = p.t()?.matmul(&grad)?;
        let ds = softmax_back(&p, &grad.matmul(&v.t()?)?, scale)?.tensor();
        drop(p);
        let (dq, dk) = (ds.matmul(&k)?, ds.t()?.matmul(&q)?);
        let dq = if of_queries == 1.0 { dq } else { (dq * of_queries)? };
        let behind = |x: &Tensor| x.transpose(1, 2)?.reshape((batch, length, packed / 3));
        Ok(vec![Some(Tensor::cat(&[behind(&dq)?, behind(&dk)?, behind(&dv)?], 2)?)])
    }
}
