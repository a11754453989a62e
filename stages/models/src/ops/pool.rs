//! Means over squares of an image.

use super::half::widen;
use super::unfold::Unfold;
use candle_core::{Result, Tensor, bail};

/// The mean of each square of `side` pixels: `x_bhwc [B, H, W, C]` to `[B, H / side, W / side, C]`; pixels at the right and
/// at the bottom that fill no square are left out.
///
/// # Errors
/// Not four dimensions, or an image that is smaller than a square.
pub fn mean_pool(x_bhwc: &Tensor, side: usize) -> Result<Tensor> {
    let (_, height, width, _) = x_bhwc.dims4()?;
    if side == 0 || height < side || width < side {
        bail!("mean_pool: no square of {side} px lies in an image of {height} x {width} px")
    }
    if side == 1 {
        return Ok(x_bhwc.clone());
    }
    let places = Unfold { kernel: side, stride: side, padding: 0 }.places(x_bhwc)?;
    let Some((first, others)) = places.split_first() else { bail!("mean_pool: no places") };
    let sum = others.iter().try_fold(widen(first)?, |sum, place| sum + widen(place)?)?;
    (sum / (side * side) as f64)?.to_dtype(x_bhwc.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn squares_become_their_means() {
        let x = Tensor::arange(0f32, 30.0, &Device::Cpu).unwrap().reshape((1, 3, 5, 2)).unwrap();
        let y = mean_pool(&x, 2).unwrap();
        assert_eq!(y.dims(), [1, 1, 2, 2]);
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [6., 7., 10., 11.]);
        assert_eq!(mean_pool(&x, 1).unwrap().dims(), x.dims());
        // a sum that f16 does not hold
        let large = Tensor::full(60_000f32, (1, 4, 4, 1), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        let mean = mean_pool(&large, 4).unwrap().to_dtype(DType::F32).unwrap();
        assert!((mean.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0] - 60_000.0).abs() < 32.0);
        assert!(mean_pool(&x, 4).is_err() && mean_pool(&x, 0).is_err());
    }
}
