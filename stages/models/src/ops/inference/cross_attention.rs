use super::super::half;
use super::refuse_gradients;
use candle_core::{Result, Tensor, bail};

/// Multi-head attention of one sequence to another, softmax(q k^T / sqrt(D / heads)) v.
///
/// `q_bqd [B, Q, D]`; `kv_bke [B, K, 2 D]` holds keys and then values. Returns `[B, Q, D]`.
///
/// # Errors
/// Shapes other than these, a width that the heads do not divide, or tensors that want gradients.
pub fn cross_attention(q_bqd: &Tensor, kv_bke: &Tensor, heads: usize) -> Result<Tensor> {
    refuse_gradients("cross_attention", &[q_bqd, kv_bke])?;
    let ((batch, queries, width), (kv_batch, keys, packed)) = (q_bqd.dims3()?, kv_bke.dims3()?);
    if batch != kv_batch || packed != 2 * width || heads == 0 || !width.is_multiple_of(heads) || keys == 0 {
        bail!("cross_attention of {heads} heads: q {:?}, k and v {:?}", q_bqd.dims(), kv_bke.dims())
    }
    let head_width = width / heads;
    let scale = (head_width as f64).powf(-0.5);
    let split = |x: Tensor, length| x.reshape((batch, length, heads, head_width))?.transpose(1, 2)?.contiguous();
    let q = split(q_bqd.contiguous()?, queries)?;
    let k = split(kv_bke.narrow(2, 0, width)?.contiguous()?, keys)?;
    let v = split(kv_bke.narrow(2, width, width)?.contiguous()?, keys)?;
    let weights = half::softmax(&half::scores(&q, &k, scale)?)?.to_dtype(v.dtype())?;
    weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width))
}

#[cfg(test)]
mod tests {
    use super::super::super::attention;
    use super::super::super::testing::random;
    use super::*;
    use candle_core::DType;

    #[test]
    fn to_itself_it_is_self_attention() {
        let qkv = random(&[2, 7, 36], 1);
        for dtype in [DType::F32, DType::F64] {
            let qkv = qkv.to_dtype(dtype).unwrap();
            let own = attention(&qkv, 3, false, None).unwrap();
            let (q, kv) = (qkv.narrow(2, 0, 12).unwrap(), qkv.narrow(2, 12, 24).unwrap());
            let cross = cross_attention(&q, &kv, 3).unwrap();
            let off = (own - cross).unwrap().abs().unwrap().max_all().unwrap().to_dtype(DType::F64).unwrap();
            assert!(off.to_scalar::<f64>().unwrap() < 1e-6);
        }
        let (q, kv) = (qkv.narrow(2, 0, 12).unwrap(), qkv.narrow(2, 12, 24).unwrap());
        assert!(cross_attention(&q, &qkv, 3).is_err() && cross_attention(&q, &kv, 5).is_err());
    }
}
