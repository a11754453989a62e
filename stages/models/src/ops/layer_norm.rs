use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::matrix::{ROWS_PER_BLOCK, sum_partials};
use super::real::{Real, sum_of, sum_of_pairs, vectorised};
use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

/// The epsilon of every CLIP.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// (x - mean) / sqrt(variance + epsilon) * weight + bias, over the last dimension.
///
/// `x [.., D]`, `weight [D]`, `bias [D]`. The variance is the biased one.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    if has_kernel(x) {
        return apply(LayerNorm { epsilon }, &[x, weight, bias]);
    }
    composed(x, weight, bias, epsilon)
}

fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred
        .broadcast_div(&(variance + epsilon)?.sqrt()?)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

struct LayerNorm {
    epsilon: f64,
}

fn check<T>(args: &[View<'_, T>]) -> Result<()> {
    let (x, weight, bias) = (args[0].dims, args[1].dims, args[2].dims);
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
        let grads = layer_norm_backward(
            pass.args[0].data,
            pass.args[1].data,
            pass.grad,
            None,
            self.epsilon,
        );
        Ok(vec![Some(grads.x), Some(grads.weight), Some(grads.bias)])
    }
}

#[inline(always)]
fn mean_and_rstd<T: Real>(row: &[T], epsilon: f64) -> (T, T) {
    let count = T::of(row.len() as f64);
    let mean = sum_of(row, |x| x) / count;
    let variance = sum_of(row, |x| (x - mean) * (x - mean)) / count;
    (mean, T::one() / (variance + T::of(epsilon)).sqrt())
}

pub(super) fn layer_norm_forward<T: Real>(
    x: &[T],
    weight: &[T],
    bias: &[T],
    epsilon: f64,
) -> Vec<T> {
    let width = weight.len();
    let mut out = vec![T::zero(); x.len()];
    out.par_chunks_mut(ROWS_PER_BLOCK * width)
        .zip(x.par_chunks(ROWS_PER_BLOCK * width))
        .for_each(|(out, x)| {
            vectorised(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        let (mean, rstd) = mean_and_rstd(x, epsilon);
                        for i in 0..width {
                            out[i] = ((x[i] - mean) * rstd).mul_add(weight[i], bias[i]);
                        }
                    }
                },
            );
        });
    out
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
            let (weight_sums, bias_sums) = sums.split_at_mut(width);
            let mut normed = vec![T::zero(); width];
            let mut scaled = vec![T::zero(); width];
            vectorised(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                    for (grad_x, (x, grad)) in grad_x.chunks_exact_mut(width).zip(rows) {
                        let (mean, rstd) = mean_and_rstd(x, epsilon);
                        for i in 0..width {
                            normed[i] = (x[i] - mean) * rstd;
                            scaled[i] = grad[i] * weight[i];
                            weight_sums[i] = grad[i].mul_add(normed[i], weight_sums[i]);
                            bias_sums[i] += grad[i];
                        }
                        let count = T::of(width as f64);
                        let mean_scaled = sum_of(&scaled, |x| x) / count;
                        let mean_product = sum_of_pairs(&scaled, &normed, |a, b| a * b) / count;
                        for i in 0..width {
                            grad_x[i] +=
                                rstd * (scaled[i] - mean_scaled - normed[i] * mean_product);
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let mut weight = sum_partials(partials, 2 * width);
    let bias = weight.split_off(width);
    LayerNormGrads {
        x: grad_x,
        weight,
        bias,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for width in [1, 3, 40] {
            let args = [
                random(&[2, 3, width], 1),
                random(&[width], 2),
                random(&[width], 3),
            ];
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
