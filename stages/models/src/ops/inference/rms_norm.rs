use super::super::real::{sum_of, vectorised};
use super::{for_each_row, has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{D, DType, Result, Tensor, bail};

/// x / sqrt(mean(x^2) + epsilon) * w over the last dimension (Zhang and Sennrich, 2019), as LLaMA and T5 have it.
///
/// `x [.., D]`, `weight_d [D]`; the mean is taken in f32 whatever the type.
///
/// # Errors
/// Shapes other than these, or tensors that want gradients.
pub fn rms_norm(x: &Tensor, weight_d: &Tensor, epsilon: f64) -> Result<Tensor> {
    refuse_gradients("rms_norm", &[x, weight_d])?;
    let width = x.dim(D::Minus1)?;
    if weight_d.dims() != [width] {
        bail!("rms_norm: input {:?} does not fit weight {:?}", x.dims(), weight_d.dims())
    }
    if !has_inference_kernel(x) || !has_inference_kernel(weight_d) {
        return composed(x, weight_d, epsilon);
    }
    on_cpu(&[x, weight_d], x.dims(), |args| {
        let (x, weight) = (args[0], args[1]);
        let mut out = vec![0.0; x.len()];
        for_each_row(&mut out, width, |row, out| {
            let x = &x[row * width..][..width];
            vectorised(
                #[inline(always)]
                || {
                    let mean = sum_of(x, |x| x * x) / width as f32;
                    let factor = 1.0 / (mean + epsilon as f32).sqrt();
                    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * factor * weight;
                    }
                },
            );
        });
        out
    })
}

fn composed(x: &Tensor, weight_d: &Tensor, epsilon: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x.broadcast_div(&(mean + epsilon)?.sqrt()?)?.to_dtype(dtype)?;
    normed.broadcast_mul(&weight_d.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::random;
    use super::*;

    #[test]
    fn kernel_and_composition_agree() {
        let (x, w) = (random(&[5, 37], 1), random(&[37], 2));
        let (x, w) = (x.to_dtype(DType::F32).unwrap(), w.to_dtype(DType::F32).unwrap());
        let off = (rms_norm(&x, &w, 1e-6).unwrap() - composed(&x, &w, 1e-6).unwrap()).unwrap();
        assert!(off.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
        assert!(rms_norm(&x, &w.narrow(0, 0, 3).unwrap(), 1e-6).is_err());
    }
}
