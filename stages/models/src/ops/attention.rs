#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::half;
use super::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use super::real::{Real, exponentiate, normalise, sum_of_pairs, vectorised};
use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

/// Multi-head scaled dot-product attention, softmax(q k^T / sqrt(D / heads)) v.
///
/// `qkv_ble [B, L, 3 D]` holds queries, keys and values behind each other, each with its heads behind each other.
/// With `causal`, a position sees itself and what comes before it. `key_valid_bl` (`u8 [B, L]`, 1 = valid) hides
/// padding; a position that sees nothing yields zeros. Returns `[B, L, D]`. The probabilities are not kept for the
/// backward pass but computed again.
///
/// # Errors
/// Shapes other than these, or a width that the heads do not divide.
pub fn attention(qkv_ble: &Tensor, heads: usize, causal: bool, key_valid_bl: Option<&Tensor>) -> Result<Tensor> {
    let (batch, length, packed) = qkv_ble.dims3()?;
    if heads == 0 || !packed.is_multiple_of(3 * heads) {
        bail!("attention: {packed} features cannot be split into q, k, v of {heads} heads")
    }
    if let Some(valid) = key_valid_bl
        && valid.dims() != [batch, length]
    {
        bail!("attention: padding mask {:?} beside q, k, v {:?}", valid.dims(), qkv_ble.dims())
    }
    #[cfg(feature = "cuda")]
    if cuda::applies(qkv_ble) {
        let key_valid = key_valid_bl
            .map(|valid| valid.to_dtype(DType::U8)?.to_device(qkv_ble.device())?.contiguous())
            .transpose()?;
        return cuda::apply(cuda::AttentionOp { heads, causal, key_valid }, &[qkv_ble]);
    }
    if !has_kernel(qkv_ble) {
        return composed(qkv_ble, heads, causal, key_valid_bl);
    }
    let key_valid = key_valid_bl.map(|valid| valid.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()).transpose()?;
    apply(Attention { heads, causal, key_valid }, &[qkv_ble])
}

fn composed(qkv_ble: &Tensor, heads: usize, causal: bool, key_valid_bl: Option<&Tensor>) -> Result<Tensor> {
    let (batch, length, packed) = qkv_ble.dims3()?;
    let width = packed / 3;
    let part = |i| {
        qkv_ble
            .narrow(2, i * width, width)?
            .reshape((batch, length, heads, width / heads))?
            .transpose(1, 2)?
            .contiguous()
    };
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = half::scores(&q, &k, ((width / heads) as f64).powf(-0.5))?;
    let mut visible = Tensor::ones((batch, heads, length, length), DType::U8, qkv_ble.device())?;
    if causal {
        let lower: Vec<u8> = (0..length * length).map(|i| u8::from(i % length <= i / length)).collect();
        let lower = Tensor::from_vec(lower, (1, 1, length, length), qkv_ble.device())?;
        visible = visible.broadcast_mul(&lower)?;
    }
    if let Some(valid) = key_valid_bl {
        let valid = valid.to_dtype(DType::U8)?.reshape((batch, 1, 1, length))?;
        visible = visible.broadcast_mul(&valid)?;
    }
    let hidden = Tensor::full(-1e30f32, visible.shape(), qkv_ble.device())?.to_dtype(scores.dtype())?;
    let scores = visible.where_cond(&scores, &hidden)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
    let weights = (scores.exp()? * visible.to_dtype(scores.dtype())?)?;
    let total = (weights.sum_keepdim(D::Minus1)? + 1e-30)?;
    let attended = weights.broadcast_div(&total)?.to_dtype(v.dtype())?.matmul(&v)?;
    attended.transpose(1, 2)?.reshape((batch, length, width))
}

pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) causal: bool,
    pub(super) key_valid: Option<Vec<u8>>,
}

impl CpuOp for Attention {
    const NAME: &'static str = "attention";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let &[batch, length, packed] = args[0].dims else { bail!("attention: q, k, v {:?}", args[0].dims) };
        let out = self.forward_slices(args[0].data, length, packed / 3);
        Ok(Forward::new(out, &[batch, length, packed / 3]))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let &[_, length, packed] = pass.args[0].dims else { bail!("attention: q, k, v {:?}", pass.args[0].dims) };
        let grad = self.backward_slices(pass.args[0].data, pass.grad, length, packed / 3);
        Ok(vec![Some(grad)])
    }
}

impl Attention {
    fn valid(&self, sample: usize, length: usize) -> Option<&[u8]> {
        self.key_valid.as_deref().map(|valid| &valid[sample * length..][..length])
    }

    fn head<'a, T>(
        qkv: &'a [T],
        length: usize,
        width: usize,
        head_width: usize,
        part: usize,
        head: usize,
    ) -> Matrix<'a, T> {
        Matrix::strided(&qkv[part * width + head * head_width..], length, head_width, 3 * width)
    }

    /// softmax(q k^T / sqrt(head width)) of one head into `probabilities [L, L]`.
    fn probabilities<T: Real>(
        &self,
        q: Matrix<'_, T>,
        k: Matrix<'_, T>,
        valid: Option<&[u8]>,
        head_width: usize,
        probabilities: &mut [T],
        length: usize,
    ) {
        let scores = MatrixMut::new(probabilities, length, length);
        let scale = (head_width as f64).powf(-0.5);
        multiply(scores, Write::Overwrite, q, k.t(), scale, Threads::One);
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in probabilities.chunks_exact_mut(length).enumerate() {
                    let (visible, hidden) = row.split_at_mut(if self.causal { i + 1 } else { length });
                    softmax_in_place(visible, valid);
                    hidden.fill(T::zero());
                }
            },
        );
    }

    /// `qkv [B, L, 3 D]` to `[B, L, D]`.
    pub(super) fn forward_slices<T: Real>(&self, qkv: &[T], length: usize, width: usize) -> Vec<T> {
        let head_width = width / self.heads;
        let mut out = vec![T::zero(); qkv.len() / 3];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(length * width).zip(qkv.par_chunks(3 * length * width)).enumerate().for_each_init(
            || vec![T::zero(); length * length],
            |probabilities, (sample, (out, qkv))| {
                let valid = self.valid(sample, length);
                for head in 0..self.heads {
                    let part = |part| Self::head(qkv, length, width, head_width, part, head);
                    self.probabilities(part(0), part(1), valid, head_width, probabilities, length);
                    multiply(
                        MatrixMut::strided(&mut out[head * head_width..], length, head_width, width),
                        Write::Overwrite,
                        Matrix::new(probabilities, length, length),
                        part(2),
                        1.0,
                        Threads::One,
                    );
                }
            },
        );
        out
    }

    /// Gradient of `qkv`, given that of the output.
    pub(super) fn backward_slices<T: Real>(&self, qkv: &[T], grad: &[T], length: usize, width: usize) -> Vec<T> {
        let head_width = width / self.heads;
        let scale = (head_width as f64).powf(-0.5);
        let mut grad_qkv = vec![T::zero(); qkv.len()];
        if qkv.is_empty() {
            return grad_qkv;
        }
        grad_qkv
            .par_chunks_mut(3 * length * width)
            .zip(qkv.par_chunks(3 * length * width).zip(grad.par_chunks(length * width)))
            .enumerate()
            .for_each_init(
                || (vec![T::zero(); length * length], vec![T::zero(); length * length]),
                |(probabilities, scores), (sample, (grad_qkv, (qkv, grad)))| {
                    let valid = self.valid(sample, length);
                    for head in 0..self.heads {
                        let part = |part| Self::head(qkv, length, width, head_width, part, head);
                        let grad = Matrix::strided(&grad[head * head_width..], length, head_width, width);
                        self.probabilities(part(0), part(1), valid, head_width, probabilities, length);
                        let mut write = |part: usize, a, b, scale| {
                            let start = part * width + head * head_width;
                            let out = MatrixMut::strided(&mut grad_qkv[start..], length, head_width, 3 * width);
                            multiply(out, Write::Overwrite, a, b, scale, Threads::One);
                        };
                        write(2, Matrix::new(probabilities, length, length).t(), grad, 1.0);
                        multiply(
                            MatrixMut::new(scores, length, length),
                            Write::Overwrite,
                            grad,
                            part(2).t(),
                            1.0,
                            Threads::One,
                        );
                        vectorised(
                            #[inline(always)]
                            || softmax_backward(probabilities, scores, length),
                        );
                        let scores = Matrix::new(scores, length, length);
                        write(0, scores, part(1), scale);
                        write(1, scores.t(), part(0), scale);
                    }
                },
            );
        grad_qkv
    }
}

/// Softmax over the valid entries; the others become zero.
#[inline(always)]
fn softmax_in_place<T: Real>(row: &mut [T], valid: Option<&[u8]>) {
    if let Some(valid) = valid {
        for (x, &valid) in row.iter_mut().zip(valid) {
            if valid == 0 {
                *x = T::of(f32::MIN as f64);
            }
        }
    }
    exponentiate(row);
    if let Some(valid) = valid {
        for (x, &valid) in row.iter_mut().zip(valid) {
            if valid == 0 {
                *x = T::zero();
            }
        }
    }
    normalise(row);
}

/// Turns gradients of the probabilities into gradients of the scores: p * (g - sum(p g)), row by row.
#[inline(always)]
fn softmax_backward<T: Real>(probabilities: &[T], grad: &mut [T], length: usize) {
    let rows = probabilities.chunks_exact(length).zip(grad.chunks_exact_mut(length));
    for (p, g) in rows {
        let dot = sum_of_pairs(p, g, |p, g| p * g);
        for (g, &p) in g.iter_mut().zip(p) {
            *g = p * (*g - dot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;
    use candle_core::Device;

    fn padding() -> Tensor {
        Tensor::new(&[[1u8, 1, 1, 0, 0], [1, 1, 1, 1, 1]], &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let qkv = random(&[2, 5, 18], 1);
        for causal in [false, true] {
            for valid in [None, Some(padding())] {
                assert_gradients(std::slice::from_ref(&qkv), |a| attention(&a[0], 3, causal, valid.as_ref()));
            }
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        let qkv = random(&[2, 5, 24], 1);
        for causal in [false, true] {
            for valid in [None, Some(padding())] {
                assert_same_as_composed(
                    std::slice::from_ref(&qkv),
                    |a| attention(&a[0], 2, causal, valid.as_ref()),
                    |a| composed(&a[0], 2, causal, valid.as_ref()),
                );
            }
        }
    }

    #[test]
    fn what_is_hidden_has_no_influence() {
        let qkv = random(&[1, 5, 12], 1);
        let short = attention(&qkv.narrow(1, 0, 3).unwrap(), 2, true, None).unwrap();
        let long = attention(&qkv, 2, true, None).unwrap().narrow(1, 0, 3).unwrap();
        let masked = attention(&qkv, 2, true, Some(&Tensor::new(&[[1u8, 1, 1, 0, 0]], &Device::Cpu).unwrap()));
        let masked = masked.unwrap().narrow(1, 0, 3).unwrap();
        for other in [long, masked] {
            let difference = (&short - other).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f64>().unwrap() < 1e-14);
        }
    }

    #[test]
    fn a_row_that_sees_nothing_is_zero() {
        let qkv = random(&[1, 2, 12], 1);
        let nothing = Tensor::zeros((1, 2), DType::U8, &Device::Cpu).unwrap();
        let out = attention(&qkv, 2, false, Some(&nothing)).unwrap();
        assert_eq!(out.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        assert!(attention(&random(&[1, 2, 10], 1), 2, false, None).is_err());
        assert!(attention(&random(&[1, 2, 12], 1), 0, false, None).is_err());
        assert!(attention(&random(&[1, 2, 12], 1), 2, false, Some(&padding())).is_err());
    }
}
