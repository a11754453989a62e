use super::super::half;
use super::super::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use super::super::real::{Real, max_of, sum_of, vectorised};
use super::{has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

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
    if !has_inference_kernel(q_bqd) {
        let split = |x: Tensor, length| x.reshape((batch, length, heads, head_width))?.transpose(1, 2)?.contiguous();
        let q = split(q_bqd.contiguous()?, queries)?;
        let k = split(kv_bke.narrow(2, 0, width)?.contiguous()?, keys)?;
        let v = split(kv_bke.narrow(2, width, width)?.contiguous()?, keys)?;
        let weights = half::softmax(&half::scores(&q, &k, scale)?)?.to_dtype(v.dtype())?;
        return weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, width));
    }
    on_cpu(&[q_bqd, kv_bke], &[batch, queries, width], |args| {
        let mut out = vec![0.0; args[0].len()];
        let samples = args[0].par_chunks((queries * width).max(1)).zip(args[1].par_chunks(keys * packed));
        out.par_chunks_mut((queries * width).max(1)).zip(samples).for_each_init(
            || vec![0.0; queries * keys],
            |weights, (out, (q, kv))| {
                for start in (0..width).step_by(head_width) {
                    let q = Matrix::strided(&q[start..], queries, head_width, width);
                    let k = Matrix::strided(&kv[start..], keys, head_width, packed);
                    let v = Matrix::strided(&kv[width + start..], keys, head_width, packed);
                    let scores = MatrixMut::new(weights, queries, keys);
                    multiply(scores, Write::Overwrite, q, k.t(), scale, Threads::One);
                    vectorised(
                        #[inline(always)]
                        || weights.chunks_exact_mut(keys).for_each(softmax),
                    );
                    let out = MatrixMut::strided(&mut out[start..], queries, head_width, width);
                    multiply(out, Write::Overwrite, Matrix::new(weights, queries, keys), v, 1.0, Threads::One);
                }
            },
        );
        out
    })
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let max = max_of(row);
    row.iter_mut().for_each(|x| *x = Real::exp(*x - max));
    let factor = 1.0 / sum_of(row, |x| x);
    row.iter_mut().for_each(|x| *x *= factor);
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
