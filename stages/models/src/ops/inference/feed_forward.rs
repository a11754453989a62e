use super::super::real::{Real, vectorised};
use super::{for_each_row, has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{D, Result, Tensor, bail};

/// The non-linearity of a gated feed-forward layer (Shazeer, "GLU Variants Improve Transformer").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x sigmoid(x): LLaMA.
    Silu,
    /// The tanh approximation of GELU: Flan-T5's `gelu_new`.
    GeluTanh,
}

/// f(gate) * up, where `gate_up [.., 2 M]` holds the gate and then what it scales; returns `[.., M]`.
///
/// # Errors
/// An odd last dimension, or a tensor that wants gradients.
pub fn gated(gate_up: &Tensor, gate: Gate) -> Result<Tensor> {
    refuse_gradients("gated", &[gate_up])?;
    let both = gate_up.dim(D::Minus1)?;
    if !both.is_multiple_of(2) {
        bail!("gated: {both} features are no gate and its equal")
    }
    let width = both / 2;
    if !has_inference_kernel(gate_up) {
        let (left, right) = (gate_up.narrow(D::Minus1, 0, width)?, gate_up.narrow(D::Minus1, width, width)?);
        let left = match gate {
            Gate::Silu => left.contiguous()?.silu()?,
            Gate::GeluTanh => left.contiguous()?.gelu()?,
        };
        return left * right.contiguous()?;
    }
    let mut dims = gate_up.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    on_cpu(&[gate_up], &dims, |args| {
        let mut out = vec![0.0; args[0].len() / 2];
        for_each_row(&mut out, width, |row, out| {
            let (left, right) = args[0][row * both..][..both].split_at(width);
            match gate {
                Gate::Silu => vectorised(
                    #[inline(always)]
                    || map(left, right, out, silu),
                ),
                Gate::GeluTanh => vectorised(
                    #[inline(always)]
                    || map(left, right, out, gelu_tanh),
                ),
            }
        });
        out
    })
}

#[inline(always)]
fn map(left: &[f32], right: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
        *out = f(left) * right;
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + Real::exp(-x))
}

/// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u))
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let u = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + Real::exp(-2.0 * u))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::random;
    use super::*;
    use candle_core::DType;

    #[test]
    fn kernel_and_composition_agree() {
        let x = (random(&[3, 40], 1) * 5.0).unwrap();
        for gate in [Gate::Silu, Gate::GeluTanh] {
            // f64 takes candle's way.
            let exact = gated(&x, gate).unwrap();
            let kernel = gated(&x.to_dtype(DType::F32).unwrap(), gate).unwrap().to_dtype(DType::F64).unwrap();
            let off = (exact - kernel).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(off < 1e-5, "{gate:?}: off by {off}");
        }
        assert!(gated(&random(&[3, 5], 1), Gate::Silu).is_err());
    }
}
