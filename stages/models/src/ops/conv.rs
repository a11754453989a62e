use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::linear::linear;
use super::matrix::{column_sums, sum_partials};
use super::real::Real;
use super::tiles::{Sizes, per_task};
use super::unfold::Unfold;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Two-dimensional convolution with channels last.
///
/// `x_bhwc [B, H, W, C]`, `weight_ohwi [O, K, K, C]`, `bias [O]`; returns `[B, H', W', O]` with
/// H' = (H + 2 padding - K) / stride + 1. With channels last the pixels under a kernel row lie side by side, the
/// product with the weight leaves the output in place, and a layer norm over channels needs no transposition.
///
/// The kernel unfolds a few output rows at a time (they stay in the cache) and multiplies them by the weight.
///
/// # Errors
/// Shapes other than these, a stride of zero, or a kernel larger than the padded image.
pub fn conv2d(
    x_bhwc: &Tensor,
    weight_ohwi: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let op = Conv2d { stride, padding };
    if has_kernel(x_bhwc) {
        return match bias {
            Some(bias) => apply(op, &[x_bhwc, weight_ohwi, bias]),
            None => apply(op, &[x_bhwc, weight_ohwi]),
        };
    }
    op.composed(x_bhwc, weight_ohwi, bias)
}

#[derive(Clone, Copy)]
pub(super) struct Conv2d {
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Conv2d {
    fn composed(self, x_bhwc: &Tensor, weight_ohwi: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let s = self.sizes_of(x_bhwc.dims(), weight_ohwi.dims(), bias.map(Tensor::dims))?;
        let unfold = Unfold { kernel: s.kernel, stride: s.stride, padding: s.padding };
        let unfolded = Tensor::cat(&unfold.places(x_bhwc)?, 3)?;
        linear(&unfolded, &weight_ohwi.reshape((s.out_channels, ()))?, bias)
    }

    /// Checks input, weight and perhaps bias against each other.
    pub(super) fn sizes<T>(self, args: &[View<'_, T>]) -> Result<Sizes> {
        self.sizes_of(args[0].dims, args[1].dims, args.get(2).map(|bias| bias.dims))
    }

    fn sizes_of(self, x: &[usize], weight: &[usize], bias: Option<&[usize]>) -> Result<Sizes> {
        let (&[batch, height, width, channels], &[out_channels, kernel, kernel_width, in_channels]) = (x, weight)
        else {
            bail!("conv2d: input {x:?}, weight {weight:?}")
        };
        let padded = height.min(width) + 2 * self.padding;
        let fits = kernel == kernel_width && in_channels == channels && padded >= kernel;
        let is_empty = [kernel, self.stride, out_channels, height, width, channels].contains(&0);
        if !fits || is_empty {
            bail!("conv2d: input {x:?} does not fit weight {weight:?} with stride {}", self.stride)
        }
        if let Some(bias) = bias
            && bias != [out_channels]
        {
            bail!("conv2d: bias {bias:?} does not fit weight {weight:?}")
        }
        Ok(Sizes {
            batch,
            height,
            width,
            channels,
            kernel,
            stride: self.stride,
            padding: self.padding,
            out_height: (height + 2 * self.padding - kernel) / self.stride + 1,
            out_width: (width + 2 * self.padding - kernel) / self.stride + 1,
            out_channels,
        })
    }
}

impl CpuOp for Conv2d {
    const NAME: &'static str = "conv2d";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = self.sizes(args)?;
        let dims = [s.batch, s.out_height, s.out_width, s.out_channels];
        let (weight, bias) = (args[1].data, args.get(2).map(|bias| bias.data));
        let mut out = vec![T::zero(); dims.iter().product()];
        out.par_chunks_mut(s.out_image()).zip(args[0].data.par_chunks(s.image())).for_each_init(
            || s.unfolding(),
            |unfolded, (out, image)| {
                for tile in s.tiles() {
                    tile.forward(image, weight, bias, unfolded, &mut out[tile.elements()]);
                }
            },
        );
        Ok(Forward::new(out, &dims))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let s = self.sizes(pass.args)?;
        let (x, weight, grad) = (pass.args[0].data, pass.args[1].data, pass.grad);
        let samples = s.samples_per_task();
        let (images, out_images) = (s.image() * samples, s.out_image() * samples);
        let mut grad_x = vec![T::zero(); if pass.needed[0] { x.len() } else { 0 }];
        let partials: Vec<Vec<T>> = per_task(&mut grad_x, images, x.len().div_ceil(images))
            .into_par_iter()
            .zip(x.par_chunks(images).zip(grad.par_chunks(out_images)))
            .map(|(grad_x, (x, grad))| {
                let (mut grad_weight, mut unfolded) = (vec![T::zero(); weight.len()], s.unfolding());
                let mut grad_images = grad_x.chunks_exact_mut(s.image());
                for (image, grad) in x.chunks_exact(s.image()).zip(grad.chunks_exact(s.out_image())) {
                    let mut grad_image = grad_images.next();
                    for tile in s.tiles() {
                        let grad = &grad[tile.elements()];
                        tile.backward_weight(image, grad, &mut unfolded, &mut grad_weight);
                        if let Some(grad_image) = &mut grad_image {
                            tile.backward_image(weight, grad, &mut unfolded, grad_image);
                        }
                    }
                }
                grad_weight
            })
            .collect();
        let grad_weight = sum_partials(partials, weight.len());
        let mut grads = vec![pass.needed[0].then_some(grad_x), Some(grad_weight)];
        if pass.args.len() == 3 {
            grads.push(Some(column_sums(grad, s.out_channels)));
        }
        Ok(grads)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (kernel, stride, padding) in [(3, 2, 1), (3, 1, 1), (2, 2, 0), (1, 1, 0), (3, 1, 2), (5, 3, 0)] {
            let args = [random(&[2, 5, 6, 2], 1), random(&[3, kernel, kernel, 2], 2), random(&[3], 3)];
            assert_gradients(&args, |a| conv2d(&a[0], &a[1], Some(&a[2]), stride, padding));
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        // 20 samples are more than there are tasks, 40 x 41 px more than one tile.
        let args = [random(&[20, 40, 41, 8], 1), random(&[5, 3, 3, 8], 2), random(&[5], 3)];
        let op = Conv2d { stride: 1, padding: 1 };
        assert_same_as_composed(
            &args,
            |a| conv2d(&a[0], &a[1], Some(&a[2]), 1, 1),
            |a| op.composed(&a[0], &a[1], Some(&a[2])),
        );
    }

    #[test]
    fn a_sum_of_pixels_by_hand() {
        let x = Tensor::arange(0f32, 9.0, &Device::Cpu).unwrap().reshape((1, 3, 3, 1)).unwrap();
        let ones = Tensor::ones((1, 3, 3, 1), DType::F32, &Device::Cpu).unwrap();
        let y = conv2d(&x, &ones, None, 2, 1).unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [8., 12., 20., 24.]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = random(&[1, 4, 4, 2], 1);
        assert!(conv2d(&x, &random(&[3, 3, 3, 4], 2), None, 1, 1).is_err());
        assert!(conv2d(&x, &random(&[3, 9, 9, 2], 2), None, 1, 1).is_err());
        assert!(conv2d(&x, &random(&[3, 3, 3, 2], 2), None, 0, 1).is_err());
    }
}
