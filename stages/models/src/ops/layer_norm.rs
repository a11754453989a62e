#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::half::widen;
use super::matrix::{ROWS_PER_BLOCK, sum_partials, written};
use super::real::{Real, add, add_products, sum_of, sum_of_pairs, vectorised};
use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// (x - mean) / sqrt(variance + epsilon) * weight + bias, over the last dimension.
///
/// `x [.., D]`, `weight [D]`, `bias [D]`. The variance is the biased one.
///
/// # Errors
/// Shapes other than these.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    if has_kernel(x) {
        return apply(LayerNorm { epsilon }, &[x, weight, bias]);
    }
    #[cfg(feature = "cuda")]
    if cuda::applies(x) {
        check_dims(x.dims(), weight.dims(), bias.dims())?;
        return cuda::apply(cuda::LayerNormOp { epsilon }, &[x, weight, bias]);
    }
    composed(x, weight, bias, epsilon)
}

fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let (x, weight, bias) = (widen(x)?, widen(weight)?, widen(bias)?);
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(dtype)
}

struct LayerNorm {
    epsilon: f64,
}

fn check<T>(args: &[View<'_, T>]) -> Result<()> {
    check_dims(args[0].dims, args[1].dims, args[2].dims)
}

fn check_dims(x: &[usize], weight: &[usize], bias: &[usize]) -> Result<()> {
    match x.last() {
        Some(width) if *width > 0 && weight == [*width] && bias == [*width] => Ok(()),
        _ => bail!("layer_norm: input {x:?}, weight {weight:?}, bias {bias:?}"),
    }
}

impl CpuOp for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        check(args)?;
        let out = layer_norm_forward(args[0].data, args[1].data, args[2].data, self.epsilon);
        Ok(Forward::new(out, args[0].dims))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let grads = layer_norm_backward(pass.args[0].data, pass.args[1].data, pass.grad, None, self.epsilon);
        Ok(vec![Some(grads.x), Some(grads.weight), Some(grads.bias)])
    }
}

/// Replaces a row by (x - mean) * rstd and returns rstd, the inverse of its standard deviation.
#[inline(always)]
pub(crate) fn normalise_row<T: Real>(x: &[T], normed: &mut [T], epsilon: f64) -> T {
    let count = T::of(x.len() as f64);
    let mean = sum_of(x, |x| x) / count;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
    let rstd = T::one() / (variance + T::of(epsilon)).sqrt();
    for (normed, &x) in normed.iter_mut().zip(x) {
        *normed = (x - mean) * rstd;
    }
    rstd
}

/// Turns the gradient of a normed row into that of the row itself.
#[inline(always)]
pub(super) fn normalise_row_backward<T: Real>(normed: &[T], rstd: T, grad: &mut [T]) {
    let count = T::of(normed.len() as f64);
    let mean = sum_of(grad, |grad| grad) / count;
    let mean_product = sum_of_pairs(grad, normed, |grad, normed| grad * normed) / count;
    for (grad, &normed) in grad.iter_mut().zip(normed) {
        *grad = rstd * (*grad - mean - normed * mean_product);
    }
}

pub(crate) fn layer_norm_forward<T: Real>(x: &[T], weight: &[T], bias: &[T], epsilon: f64) -> Vec<T> {
    let width = weight.len();
    let fill = |out: &mut [MaybeUninit<T>]| {
        let block = ROWS_PER_BLOCK * width;
        out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| {
            let mut normed = vec![T::zero(); width];
            vectorised(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        normalise_row(x, &mut normed, epsilon);
                        let affine = weight.iter().zip(bias);
                        for ((out, &normed), (&weight, &bias)) in out.iter_mut().zip(&normed).zip(affine) {
                            out.write(normed.mul_add(weight, bias));
                        }
                    }
                },
            );
        });
    };
    // SAFETY: the blocks consist of whole rows, each of which is written.
    unsafe { written(x.len(), fill) }
}

pub(super) struct LayerNormGrads<T> {
    pub(super) x: Vec<T>,
    pub(super) weight: Vec<T>,
    pub(super) bias: Vec<T>,
}

/// Gradients; `residual` is added to that of `x` (the branch that went around the norm).
pub(super) fn layer_norm_backward<T: Real>(
    x: &[T],
    weight: &[T],
    grad: &[T],
    residual: Option<&[T]>,
    epsilon: f64,
) -> LayerNormGrads<T> {
    let width = weight.len();
    let block = ROWS_PER_BLOCK * width;
    let mut grad_x = match residual {
        Some(residual) => residual.to_vec(),
        None => vec![T::zero(); x.len()],
    };
    // Weight and bias gradients of one block of rows stand behind each other.
    let partials: Vec<Vec<T>> = grad_x
        .par_chunks_mut(block)
        .zip(x.par_chunks(block).zip(grad.par_chunks(block)))
        .map(|(grad_x, (x, grad))| {
            let mut sums = vec![T::zero(); 2 * width];
            let mut scratch = vec![T::zero(); 2 * width];
            let (weight_sums, bias_sums) = sums.split_at_mut(width);
            let (normed, scaled) = scratch.split_at_mut(width);
            vectorised(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                    for (grad_x, (x, grad)) in grad_x.chunks_exact_mut(width).zip(rows) {
                        let rstd = normalise_row(x, normed, epsilon);
                        add_products(weight_sums, grad, normed);
                        add(bias_sums, grad);
                        for ((scaled, &grad), &weight) in scaled.iter_mut().zip(grad).zip(weight) {
                            *scaled = grad * weight;
                        }
                        normalise_row_backward(normed, rstd, scaled);
                        add(grad_x, scaled);
                    }
                },
            );
            sums
        })
        .collect();
    let mut weight = sum_partials(partials, 2 * width);
    let bias = weight.split_off(width);
    LayerNormGrads { x: grad_x, weight, bias }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for width in [1, 3, 40] {
            let args = [random(&[2, 3, width], 1), random(&[width], 2), random(&[width], 3)];
            assert_gradients(&args, |a| layer_norm(&a[0], &a[1], &a[2], 1e-5));
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        let args = [random(&[300, 33], 1), random(&[33], 2), random(&[33], 3)];
        assert_same_as_composed(
            &args,
            |a| layer_norm(&a[0], &a[1], &a[2], 1e-5),
            |a| composed(&a[0], &a[1], &a[2], 1e-5),
        );
    }
}
