//! What operations on f16 and bf16 compute in f32 inside.
//!
//! Sums of squares, exponentials and sums of many leave the range of f16 where inputs and results do not, and often
//! without a trace: a layer norm whose squares overflow divides by infinity and gives zeros, finite ones.

#[cfg(feature = "cuda")]
use super::cuda;
use candle_core::{D, DType, Result, Tensor};

/// The type in which sums and exponentials of values of `dtype` are taken.
pub(crate) fn widened(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype }
}

/// `x` in that type; the same tensor if it is in it.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(widened(x.dtype()))
}

/// scale q k^T over the last two dimensions, widened.
pub(crate) fn scores(q: &Tensor, k: &Tensor, scale: f64) -> Result<Tensor> {
    if q.dtype() == widened(q.dtype()) {
        return q.matmul(&k.t()?)? * scale;
    }
    // scaled first: the products of large queries and keys would overflow on their way to scores that do not
    widen(&(q * scale)?.matmul(&k.t()?)?)
}

/// exp(x) over its sum in the last dimension, in the type that `scores` has: hand it widened ones.
pub(crate) fn softmax(scores: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::applies(scores) && !scores.track_op() {
        return Ok(cuda::softmax(&scores.contiguous()?)?.tensor());
    }
    let powers = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::super::inference::{
        AttentionMask, AttentionPaths, PathQueries, cross_attention, paged_attention, rms_norm,
    };
    use super::super::testing::random;
    use super::super::*;
    use super::*;
    use candle_core::{Device, Var};

    const HALVES: [DType; 2] = [DType::F16, DType::BF16];

    fn floats(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Largest difference to the same operation in f64 on the same rounded arguments, over the largest value.
    #[track_caller]
    fn assert_as_in_f64(args: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
        for (dtype, tolerance) in HALVES.into_iter().zip([2e-3, 2e-2]) {
            let half: Vec<Tensor> = args.iter().map(|arg| arg.to_dtype(dtype).unwrap()).collect();
            let exact: Vec<Tensor> = half.iter().map(|arg| arg.to_dtype(DType::F64).unwrap()).collect();
            let (found, wanted) = (f(&half).unwrap(), f(&exact).unwrap());
            assert_eq!(found.dtype(), dtype, "the type outside stays");
            let (found, wanted) = (floats(&found), floats(&wanted));
            let largest = wanted.iter().fold(0f64, |most, x| most.max(x.abs()));
            assert!(largest > 0.0);
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() <= tolerance * largest, "{dtype:?}: {found} beside {wanted}");
            }
        }
    }

    fn times(x: &Tensor, factor: f64) -> Tensor {
        (x * factor).unwrap()
    }

    /// The squares of 768 values of 12 add up to 110,592, and the square of one of 300 is 90,000: more than f16 holds.
    #[test]
    fn norms_of_large_values_are_not_zeros() {
        let width = 768;
        let (weight, bias) = (random(&[width], 2), random(&[width], 3));
        for factor in [20.0, 300.0] {
            let x = times(&random(&[3, width], 1), factor);
            assert_as_in_f64(&[x.clone(), weight.clone(), bias.clone()], |a| layer_norm(&a[0], &a[1], &a[2], 1e-5));
            assert_as_in_f64(&[x.clone(), weight.clone()], |a| rms_norm(&a[0], &a[1], 1e-6));
            assert_as_in_f64(&[x], |a| l2_normalise(&a[0]));
        }
    }

    /// Thousands of keys that all count alike: their sum passes f16's 2048, behind which ones are lost.
    #[test]
    fn attention_over_many_keys_is_their_mean() {
        let (length, width) = (5000, 8);
        let keys = times(&random(&[1, length, 2 * width], 1), 1e-3);
        let queries = random(&[1, 2, width], 2);
        assert_as_in_f64(&[queries.clone(), keys.clone()], |a| {
            // values of about one
            let values = (a[1].narrow(2, width, width)? + 1.0)?;
            cross_attention(&a[0], &Tensor::cat(&[&a[1].narrow(2, 0, width)?, &values], 2)?, 2)
        });
        let side = 48;
        let qkv = times(&random(&[1, side, side, 3 * width], 3), 1e-3);
        let (padding, bias) = (random(&[3 * width], 4), times(&random(&[1, side * side, side * side], 5), 1e-3));
        assert_as_in_f64(&[qkv, padding, bias], |a| {
            let values = (a[0].narrow(3, 2 * width, width)? + 1.0)?;
            let qkv = Tensor::cat(&[&a[0].narrow(3, 0, 2 * width)?, &values], 3)?;
            window_attention(&qkv, &a[1], 1, side, &RelativePositions::Bias(a[2].clone()))
        });
    }

    /// Queries and keys of about 60, 64 channels of them: their products are some 230,000, the scores 29,000.
    #[test]
    fn attention_with_large_scores_stays_finite() {
        let (length, width) = (5, 64);
        let qkv = random(&[2, length, 3 * width], 1);
        let part = |at: usize, factor: f64, shift: f64| (qkv.narrow(2, at * width, width)? + shift)? * factor;
        let parts = [part(0, 40.0, 1.5), part(1, 40.0, 1.5), part(2, 1.0, 0.0)].map(Result::unwrap);
        let qkv = Tensor::cat(&parts, 2).unwrap();
        for dtype in HALVES {
            let qkv = qkv.to_dtype(dtype).unwrap();
            let attended = attention(&qkv, 1, false, None).unwrap();
            assert!(floats(&attended).iter().all(|x| x.is_finite()), "{dtype:?}");
            let (q, kv) = (qkv.narrow(2, 0, width).unwrap(), qkv.narrow(2, width, 2 * width).unwrap());
            assert!(floats(&cross_attention(&q, &kv, 1).unwrap()).iter().all(|x| x.is_finite()), "{dtype:?}");
            let rows = |x: Tensor| x.contiguous().unwrap().reshape((2 * length, width)).unwrap();
            let (q, k, v) = (rows(q), rows(kv.narrow(2, 0, width).unwrap()), rows(kv.narrow(2, width, width).unwrap()));
            let path =
                PathQueries { slots: (0..2 * length as u32).collect(), rows: 2 * length, mask: AttentionMask::Causal };
            let found = paged_attention(&q, (&k, &v), &AttentionPaths::new(vec![path], None), 1, 0.125).unwrap();
            assert!(floats(&found).iter().all(|x| x.is_finite()), "{dtype:?}");
        }
    }

    #[test]
    fn a_position_that_sees_nothing_is_zero() {
        let valid = Tensor::zeros((1, 3), DType::U8, &Device::Cpu).unwrap();
        for dtype in HALVES {
            let qkv = random(&[1, 3, 12], 1).to_dtype(dtype).unwrap();
            assert_eq!(floats(&attention(&qkv, 2, false, Some(&valid)).unwrap()), [0.0; 12], "{dtype:?}");
        }
    }

    /// exp(1.702 x 7) is more than f16 holds, and its gradient was infinity times zero.
    #[test]
    fn gradients_of_far_out_values_are_numbers() {
        for (dtype, kind) in HALVES.into_iter().flat_map(|d| [Activation::QuickGelu, Activation::Gelu].map(|k| (d, k)))
        {
            let x = Tensor::new(&[-6e4f32, -300.0, -60.0, -7.0, 7.0, 6e4], &Device::Cpu).unwrap();
            let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
            let y = activation(x.as_tensor(), kind).unwrap();
            let gradients = y.sum_all().unwrap().backward().unwrap();
            let gradient = floats(gradients.get(&x).unwrap());
            assert!(gradient.iter().all(|g| g.is_finite()), "{dtype:?} {kind:?}: {gradient:?}");
            assert!((gradient[5] - 1.0).abs() < 1e-2 && gradient[..3].iter().all(|g| g.abs() < 1e-2), "{gradient:?}");
        }
    }

    /// Gradients too pass through the wide type: those of a norm's weight are a sum over all rows.
    #[test]
    fn gradients_of_norms_are_those_in_f64() {
        let args = [times(&random(&[4, 768], 1), 20.0), random(&[768], 2), random(&[768], 3)];
        let gradient = |dtype| {
            let vars: Vec<Var> = args.iter().map(|a| Var::from_tensor(&a.to_dtype(dtype).unwrap()).unwrap()).collect();
            let y = layer_norm(&vars[0], &vars[1], &vars[2], 1e-5).unwrap();
            let store = y.sqr().unwrap().to_dtype(DType::F64).unwrap().sum_all().unwrap().backward().unwrap();
            vars.iter().map(|var| floats(store.get(var).unwrap())).collect::<Vec<_>>()
        };
        let (found, wanted) = (gradient(DType::F16), gradient(DType::F64));
        for (found, wanted) in found.iter().zip(&wanted) {
            let largest = wanted.iter().fold(0f64, |most, x| most.max(x.abs()));
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-2 * largest));
        }
    }
}
