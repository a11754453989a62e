#[cfg(feature = "cuda")]
use super::cuda;
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::half::widen;
use super::matrix::written;
use super::real::{Real, vectorised};
use candle_core::{Result, Tensor};
pub use choices::Activation;
use rayon::prelude::*;
use std::mem::MaybeUninit;

const QUICK_GELU_FACTOR: f64 = 1.702;

/// Of e, as far as f32 can go. Beyond it the result is nothing, and the gradient was infinity times zero.
const LARGEST_EXPONENT: f64 = 80.0;

/// Applies `kind` to every element.
///
/// # Errors
/// A type that is not a float.
pub fn activation(x: &Tensor, kind: Activation) -> Result<Tensor> {
    if has_kernel(x) {
        return apply(kind, &[x]);
    }
    #[cfg(feature = "cuda")]
    if cuda::applies(x) {
        return cuda::apply(cuda::ActivationOp(kind), &[x]);
    }
    composed(x, kind)
}

fn composed(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = widen(x)?;
    let y = match kind {
        // candle's own `gelu_erf` has a rounded constant in its gradient.
        Activation::Gelu => ((&x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * (&x * 0.5)?,
        // 1 / (1 + exp(-1.702 x)): every step has a gradient in candle.
        Activation::QuickGelu => &x / ((&x * -QUICK_GELU_FACTOR)?.minimum(LARGEST_EXPONENT)?.exp()? + 1.0)?,
    }?;
    y.to_dtype(dtype)
}

impl CpuOp for Activation {
    const NAME: &'static str = "activation";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        Ok(Forward::new(activation_forward(args[0].data, *self), args[0].dims))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let mut grad = pass.grad.to_vec();
        activation_backward(pass.args[0].data, &mut grad, *self);
        Ok(vec![Some(grad)])
    }
}

const ELEMENTS_PER_TASK: usize = 16 * 1024;

pub(crate) fn activation_forward<T: Real>(x: &[T], kind: Activation) -> Vec<T> {
    let fill = |out: &mut [MaybeUninit<T>]| {
        out.par_chunks_mut(ELEMENTS_PER_TASK).zip(x.par_chunks(ELEMENTS_PER_TASK)).for_each(|(out, x)| match kind {
            Activation::Gelu => vectorised(
                #[inline(always)]
                || map(x, out, gelu),
            ),
            Activation::QuickGelu => vectorised(
                #[inline(always)]
                || map(x, out, quick_gelu),
            ),
        });
    };
    // SAFETY: `map` writes as many elements as it reads, and there are as many to write.
    unsafe { written(x.len(), fill) }
}

/// Multiplies `grad` by the derivative at `x`.
pub(super) fn activation_backward<T: Real>(x: &[T], grad: &mut [T], kind: Activation) {
    grad.par_chunks_mut(ELEMENTS_PER_TASK).zip(x.par_chunks(ELEMENTS_PER_TASK)).for_each(|(grad, x)| match kind {
        Activation::Gelu => vectorised(
            #[inline(always)]
            || scale(x, grad, gelu_slope),
        ),
        Activation::QuickGelu => vectorised(
            #[inline(always)]
            || scale(x, grad, quick_gelu_slope),
        ),
    });
}

#[inline(always)]
fn map<T: Real>(x: &[T], out: &mut [MaybeUninit<T>], f: impl Fn(T) -> T) {
    for (out, &x) in out.iter_mut().zip(x) {
        out.write(f(x));
    }
}

#[inline(always)]
fn scale<T: Real>(x: &[T], grad: &mut [T], slope: impl Fn(T) -> T) {
    for (grad, &x) in grad.iter_mut().zip(x) {
        *grad *= slope(x);
    }
}

#[inline(always)]
pub(crate) fn gelu<T: Real>(x: T) -> T {
    x * normal_cdf(x)
}

/// Derivative of [`gelu`].
#[inline(always)]
pub(super) fn gelu_slope<T: Real>(x: T) -> T {
    const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
    let density = T::of(FRAC_1_SQRT_TAU) * (x * x * T::of(-0.5)).exp();
    x.mul_add(density, normal_cdf(x))
}

#[inline(always)]
pub(super) fn quick_gelu<T: Real>(x: T) -> T {
    x * quick_sigmoid(x)
}

/// Derivative of [`quick_gelu`].
#[inline(always)]
pub(super) fn quick_gelu_slope<T: Real>(x: T) -> T {
    let s = quick_sigmoid(x);
    s * (T::of(QUICK_GELU_FACTOR) * x).mul_add(T::one() - s, T::one())
}

#[inline(always)]
fn quick_sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (T::of(-QUICK_GELU_FACTOR) * x).exp())
}

#[inline(always)]
fn normal_cdf<T: Real>(x: T) -> T {
    let half = T::of(0.5);
    half.mul_add((x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf(), half)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    #[test]
    fn gradients_agree_with_finite_differences() {
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            assert_gradients(&[random(&[4, 9], 1)], |a| activation(&a[0], kind));
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            let x = (random(&[40, 50], 1) * 4.0).unwrap();
            assert_same_as_composed(&[x], |a| activation(&a[0], kind), |a| composed(&a[0], kind));
        }
    }

    #[test]
    fn far_out_values_stay_finite() {
        let x = Tensor::new(&[-1e4f32, -200.0, 0.0, 200.0, 1e30], &candle_core::Device::Cpu).unwrap();
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            let y = activation(&x, kind).unwrap().to_vec1::<f32>().unwrap();
            assert!(y[0].abs() < 1e-2 && y[1].abs() < 1e-3 && y[2] == 0.0, "{kind:?}: {y:?}");
            assert!((y[3] / 200.0 - 1.0).abs() < 1e-6 && (y[4] / 1e30 - 1.0).abs() < 1e-6, "{kind:?}: {y:?}");
        }
    }
}
