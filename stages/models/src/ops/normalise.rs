use super::half::widen;
use candle_core::{D, Result, Tensor};

/// Rows shorter than this count as zero.
const SHORTEST: f64 = 1e-12;

/// Scales the last dimension to length one: x / |x|.
///
/// A row of zeros stays a row of zeros and has a zero gradient, where the plain formula has none.
///
/// # Errors
/// A type that is not a float.
pub fn l2_normalise(x_bd: &Tensor) -> Result<Tensor> {
    let dtype = x_bd.dtype();
    let x_bd = widen(x_bd)?;
    let squares = x_bd.sqr()?.sum_keepdim(D::Minus1)?;
    let is_zero = squares.le(SHORTEST * SHORTEST)?;
    let length = is_zero.where_cond(&squares.ones_like()?, &squares)?.sqrt()?;
    let kept = is_zero.eq(0u8)?.to_dtype(x_bd.dtype())?;
    x_bd.broadcast_div(&length)?.broadcast_mul(&kept)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn gradients_agree_with_finite_differences() {
        assert_gradients(&[random(&[3, 5], 1)], |a| l2_normalise(&a[0]));
    }

    #[test]
    fn a_zero_row_stays_zero_and_has_no_gradient() {
        let x = Var::new(&[[0f32, 0.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let y = l2_normalise(&x).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 0.0], [0.6, 0.8]]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(grad[0], [0.0, 0.0]);
        assert!(grad[1].iter().all(|g| g.is_finite() && *g != 0.0), "{grad:?}");
    }
}
