use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::real::Real;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

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
    if has_kernel(pixels_bchw) {
        return apply(Patches { patch }, &[pixels_bchw]);
    }
    let (rows, cols) = (height / patch, width / patch);
    pixels_bchw
        .reshape((batch, channels, rows, patch, cols, patch))?
        .permute((0, 2, 4, 1, 3, 5))?
        .contiguous()?
        .reshape((batch, rows * cols, channels * patch * patch))
}

struct Patches {
    patch: usize,
}

impl Patches {
    /// Calls `visit(start in the image, start in the patches)` for every run of `patch` pixels of one image.
    fn for_each_run(&self, [channels, height, width]: [usize; 3], mut visit: impl FnMut(usize, usize)) {
        let patch = self.patch;
        let (cols, area) = (width / patch, patch * patch);
        for channel in 0..channels {
            for y in 0..height {
                for col in 0..cols {
                    let cell = y / patch * cols + col;
                    let inside = channel * area + y % patch * patch;
                    visit((channel * height + y) * width + col * patch, cell * channels * area + inside);
                }
            }
        }
    }
}

fn sizes<T>(pixels: &View<'_, T>) -> Result<(usize, [usize; 3])> {
    match *pixels.dims {
        [batch, channels, height, width] => Ok((batch, [channels, height, width])),
        _ => bail!("patches: pixels {:?}", pixels.dims),
    }
}

impl CpuOp for Patches {
    const NAME: &'static str = "patches";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let (batch, size @ [channels, height, width]) = sizes(&args[0])?;
        let (patch, image) = (self.patch, (channels * height * width).max(1));
        let mut out = vec![T::zero(); args[0].data.len()];
        out.par_chunks_mut(image).zip(args[0].data.par_chunks(image)).for_each(|(out, pixels)| {
            self.for_each_run(size, |from, to| out[to..to + patch].copy_from_slice(&pixels[from..from + patch]));
        });
        let cells = height / patch * (width / patch);
        Ok(Forward::new(out, &[batch, cells, channels * patch * patch]))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let (_, size) = sizes(&pass.args[0])?;
        let (patch, image) = (self.patch, size.iter().product::<usize>().max(1));
        let mut out = vec![T::zero(); pass.grad.len()];
        out.par_chunks_mut(image).zip(pass.grad.par_chunks(image)).for_each(|(out, grad)| {
            self.for_each_run(size, |from, to| out[from..from + patch].copy_from_slice(&grad[to..to + patch]));
        });
        Ok(vec![Some(out)])
    }
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
