use candle_core::{Result, Tensor, bail};

/// Cuts images into square patches, row by row.
///
/// `pixels_bchw [B, C, H, W]` with sides divisible by `patch`; returns `[B, H/patch * W/patch, C * patch * patch]`,
/// each patch in the order (channel, row, column) of a convolution weight, so that a patch embedding is a
/// [`linear`](super::linear) with that weight flattened.
///
/// # Errors
/// Not four dimensions, or sides that `patch` does not divide.
pub fn patches(pixels_bchw: &Tensor, patch: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = pixels_bchw.dims4()?;
    if patch == 0 || height % patch != 0 || width % patch != 0 {
        bail!("patches: an image of {height} x {width} px cannot be cut into patches of {patch} px")
    }
    let (rows, cols) = (height / patch, width / patch);
    pixels_bchw
        .reshape((batch, channels, rows, patch, cols, patch))?
        .permute((0, 2, 4, 1, 3, 5))?
        .contiguous()?
        .reshape((batch, rows * cols, channels * patch * patch))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, random};
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_agree_with_finite_differences() {
        assert_gradients(&[random(&[2, 3, 4, 6], 1)], |a| patches(&a[0], 2));
    }

    #[test]
    fn patches_come_row_by_row_and_channel_first() {
        let image = Tensor::arange(0f32, 32.0, &Device::Cpu).unwrap().reshape((1, 2, 4, 4)).unwrap();
        let cut = patches(&image, 2).unwrap();
        assert_eq!(cut.dims(), [1, 4, 8]);
        let rows = cut.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows[1], [2., 3., 6., 7., 18., 19., 22., 23.]);
        let composed = patches(&image.to_dtype(DType::BF16).unwrap(), 2).unwrap();
        assert_eq!(composed.to_dtype(DType::F32).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap(), rows);
    }

    #[test]
    fn sides_that_are_no_multiple_are_errors() {
        assert!(patches(&random(&[1, 3, 5, 4], 1), 2).is_err());
        assert!(patches(&random(&[1, 3, 4, 4], 1), 0).is_err());
    }
}
