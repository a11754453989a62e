use super::conv::{Conv2d, conv2d};
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::real::Real;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// [`conv2d`] for a few large images: threads share the rows of one image; inference only.
///
/// # Errors
/// As [`conv2d`].
pub fn image_conv2d(
    x_bhwc: &Tensor,
    weight_ohwi: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    if !has_kernel(x_bhwc) {
        return conv2d(x_bhwc, weight_ohwi, bias, stride, padding);
    }
    let op = ImageConv(Conv2d { stride, padding });
    match bias {
        Some(bias) => apply(op, &[x_bhwc, weight_ohwi, bias]),
        None => apply(op, &[x_bhwc, weight_ohwi]),
    }
}

struct ImageConv(Conv2d);

impl CpuOp for ImageConv {
    const NAME: &'static str = "image_conv2d";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = self.0.sizes(args)?;
        let dims = [s.batch, s.out_height, s.out_width, s.out_channels];
        let (weight, bias) = (args[1].data, args.get(2).map(|bias| bias.data));
        let mut out = vec![T::zero(); dims.iter().product()];
        for (mut out, image) in out.chunks_mut(s.out_image()).zip(args[0].data.chunks(s.image())) {
            let mut tiles = Vec::new();
            for tile in s.tiles() {
                let (here, rest) = out.split_at_mut(tile.elements().len());
                tiles.push((tile, here));
                out = rest;
            }
            tiles.into_par_iter().for_each_init(
                || s.unfolding(),
                |unfolded, (tile, out)| tile.forward(image, weight, bias, unfolded, out),
            );
        }
        Ok(Forward::new(out, &dims))
    }

    fn backward<T: Real>(&self, _: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        bail!("image_conv2d: there is no backward pass")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_values, random};
    use super::*;

    #[test]
    fn it_is_the_convolution() {
        // 40 x 41 px are more than one tile.
        let args = [random(&[2, 40, 41, 8], 1), random(&[5, 3, 3, 8], 2), random(&[5], 3)];
        for stride in [1, 2] {
            assert_same_values(
                &args,
                |a| image_conv2d(&a[0], &a[1], Some(&a[2]), stride, 1),
                |a| conv2d(&a[0], &a[1], Some(&a[2]), stride, 1),
            );
        }
        assert_same_values(&args, |a| image_conv2d(&a[0], &a[1], None, 1, 1), |a| conv2d(&a[0], &a[1], None, 1, 1));
    }
}
