use super::super::layer_norm::{layer_norm, normalise_row};
use super::super::real::vectorised;
use super::{for_each_row, has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{D, Result, Tensor, bail};

/// Layer norm of x + y over the last dimension, as networks have it that normalise behind each sum (BERT).
///
/// `x` and `y` `[.., D]`, `weight` and `bias` `[D]`. The variance is the biased one.
///
/// # Errors
/// Shapes other than these, or tensors that want gradients.
pub fn residual_norm(x: &Tensor, y: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let args = [x, y, weight, bias];
    refuse_gradients("residual_norm", &args)?;
    let width = x.dim(D::Minus1)?;
    if x.dims() != y.dims() || width == 0 || weight.dims() != [width] || bias.dims() != [width] {
        bail!("residual_norm: {:?} + {:?}, weight {:?}, bias {:?}", x.dims(), y.dims(), weight.dims(), bias.dims())
    }
    if !args.into_iter().all(has_inference_kernel) {
        return layer_norm(&(x + y)?, weight, bias, epsilon);
    }
    on_cpu(&args, x.dims(), |args| {
        let (x, y, weight, bias) = (args[0], args[1], args[2], args[3]);
        let mut out = vec![0.0; x.len()];
        for_each_row(&mut out, width, |row, out| {
            let place = row * width..(row + 1) * width;
            let (x, y) = (&x[place.clone()], &y[place]);
            let mut sum = vec![0.0; width];
            vectorised(
                #[inline(always)]
                || {
                    for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
                        *sum = x + y;
                    }
                    normalise_row(&sum, out, epsilon);
                    for ((out, &weight), &bias) in out.iter_mut().zip(weight).zip(bias) {
                        *out = out.mul_add(weight, bias);
                    }
                },
            );
        });
        out
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::random;
    use super::*;
    use candle_core::DType;

    #[test]
    fn it_is_the_norm_of_the_sum() {
        let f32s = |dims: &[usize], seed| random(dims, seed).to_dtype(DType::F32).unwrap();
        let (x, y, w, b) = (f32s(&[3, 50, 37], 1), f32s(&[3, 50, 37], 2), f32s(&[37], 3), f32s(&[37], 4));
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let exact = layer_norm(&(wide(&x) + wide(&y)).unwrap(), &wide(&w), &wide(&b), 1e-5).unwrap();
        let ours = residual_norm(&x, &y, &w, &b, 1e-5).unwrap();
        let off = (wide(&ours) - exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(off < 2e-6, "{off}");
        assert!(residual_norm(&x, &y.narrow(1, 0, 3).unwrap(), &w, &b, 1e-5).is_err());
        let tracked = candle_core::Var::from_tensor(&x).unwrap();
        assert!(residual_norm(tracked.as_tensor(), &y, &w, &b, 1e-5).is_err());
    }
}
