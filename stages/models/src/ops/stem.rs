use super::LAYER_NORM_EPSILON;
use super::activation::{Activation, activation, gelu, gelu_slope, quick_gelu, quick_gelu_slope};
use super::conv::{Conv2d, conv2d};
use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::layer_norm::{layer_norm, normalise_row, normalise_row_backward};
use super::matrix::sum_partials;
use super::real::{Real, add, add_products, vectorised};
use super::tiles::{Sizes, Tile, per_task};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// The weights of one stage of a convolutional stem.
#[derive(Clone, Copy, Debug)]
pub struct StemStage<'a> {
    /// `[O, K, K, C]`
    pub weight_ohwi: &'a Tensor,
    /// `[O]`
    pub bias_o: &'a Tensor,
    /// `[O]`
    pub norm_weight_o: &'a Tensor,
    /// `[O]`
    pub norm_bias_o: &'a Tensor,
}

/// activation(layer_norm([`conv2d`](super::conv2d)(x))), the norm over channels.
///
/// `x_bhwc [B, H, W, C]`; returns `[B, H', W', O]`. The CPU kernel does all three in the cache, a few rows of the
/// image at a time: alone, norm and activation would spend their time on memory, and candle's backward pass on the
/// gradients between them.
///
/// # Errors
/// As [`conv2d`](super::conv2d); a norm of another width.
pub fn stem_stage(
    x_bhwc: &Tensor,
    stage: StemStage<'_>,
    kind: Activation,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let StemStage { weight_ohwi, bias_o, norm_weight_o, norm_bias_o } = stage;
    if has_kernel(x_bhwc) {
        let op = Stage { conv: Conv2d { stride, padding }, kind };
        return apply(op, &[x_bhwc, weight_ohwi, bias_o, norm_weight_o, norm_bias_o]);
    }
    let x = conv2d(x_bhwc, weight_ohwi, Some(bias_o), stride, padding)?;
    activation(&layer_norm(&x, norm_weight_o, norm_bias_o, LAYER_NORM_EPSILON)?, kind)
}

struct Stage {
    conv: Conv2d,
    kind: Activation,
}

impl Stage {
    fn sizes<T>(&self, args: &[View<'_, T>]) -> Result<Sizes> {
        let sizes = self.conv.sizes(&args[..3])?;
        let (weight, bias) = (args[3].dims, args[4].dims);
        if weight != [sizes.out_channels] || bias != [sizes.out_channels] {
            bail!("stem_stage: convolution {:?}, norm {weight:?} and {bias:?}", args[1].dims)
        }
        Ok(sizes)
    }
}

impl CpuOp for Stage {
    const NAME: &'static str = "stem_stage";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = self.sizes(args)?;
        let [x, weight, bias, norm_weight, norm_bias] = [0, 1, 2, 3, 4].map(|i: usize| args[i].data);
        let dims = [s.batch, s.out_height, s.out_width, s.out_channels];
        let count = dims.iter().product();
        let (mut out, mut normed) = (vec![T::zero(); count], vec![T::zero(); count]);
        let mut rstd = vec![T::zero(); count / s.out_channels];
        out.par_chunks_mut(s.out_image())
            .zip(normed.par_chunks_mut(s.out_image()))
            .zip(rstd.par_chunks_mut(s.out_image() / s.out_channels))
            .zip(x.par_chunks(s.image()))
            .for_each_init(
                || s.unfolding(),
                |unfolded, (((out, normed), rstd), image)| {
                    for tile in s.tiles() {
                        let rows = Rows { values: &mut out[tile.elements()], weight: norm_weight, bias: norm_bias };
                        let (normed, rstd) = (&mut normed[tile.elements()], &mut rstd[tile.positions()]);
                        tile.forward(image, weight, Some(bias), unfolded, rows.values);
                        match self.kind {
                            Activation::Gelu => vectorised(
                                #[inline(always)]
                                || rows.finish(normed, rstd, gelu),
                            ),
                            Activation::QuickGelu => vectorised(
                                #[inline(always)]
                                || rows.finish(normed, rstd, quick_gelu),
                            ),
                        }
                    }
                },
            );
        Ok(Forward { out, dims: dims.to_vec(), saved: vec![normed, rstd] })
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let s = self.sizes(pass.args)?;
        let x = pass.args[0].data;
        let [normed, rstd] = pass.saved else { bail!("stem_stage: the forward pass kept nothing") };
        let (samples, channels) = (s.samples_per_task(), s.out_channels);
        let (images, out_images) = (s.image() * samples, s.out_image() * samples);
        let mut grad_x = vec![T::zero(); if pass.needed[0] { x.len() } else { 0 }];
        let partials: Vec<Vec<T>> = per_task(&mut grad_x, images, x.len().div_ceil(images))
            .into_par_iter()
            .zip(x.par_chunks(images).zip(pass.grad.par_chunks(out_images)))
            .zip(normed.par_chunks(out_images).zip(rstd.par_chunks(out_images / channels)))
            .map(|((grad_x, (x, grad)), (normed, rstd))| {
                let mut task = Task::new(self.kind, &s, pass.args);
                let mut grad_images = grad_x.chunks_exact_mut(s.image());
                let outputs = grad.chunks_exact(s.out_image()).zip(normed.chunks_exact(s.out_image()));
                let outputs = outputs.zip(rstd.chunks_exact(s.out_image() / channels));
                for (image, ((grad, normed), rstd)) in x.chunks_exact(s.image()).zip(outputs) {
                    let mut grad_image = grad_images.next();
                    for tile in s.tiles() {
                        let grad = &grad[tile.elements()];
                        let kept = (&normed[tile.elements()], &rstd[tile.positions()]);
                        task.backward_tile(tile, image, grad, kept, grad_image.as_deref_mut());
                    }
                }
                task.sums
            })
            .collect();
        let weights = pass.args[1].data.len();
        let mut grad_weight = sum_partials(partials, weights + 3 * channels);
        let mut grad_bias = grad_weight.split_off(weights);
        let mut grad_norm_weight = grad_bias.split_off(channels);
        let grad_norm_bias = grad_norm_weight.split_off(channels);
        Ok(vec![
            pass.needed[0].then_some(grad_x),
            Some(grad_weight),
            Some(grad_bias),
            Some(grad_norm_weight),
            Some(grad_norm_bias),
        ])
    }
}

/// The backward pass of some samples on one thread.
struct Task<'a, T> {
    kind: Activation,
    weight: &'a [T],
    norm_weight: &'a [T],
    norm_bias: &'a [T],
    /// Gradients of weight, bias, norm weight and norm bias behind each other.
    sums: Vec<T>,
    unfolded: Vec<T>,
    grad_conv: Vec<T>,
}

impl<'a, T: Real> Task<'a, T> {
    fn new(kind: Activation, s: &Sizes, args: &[View<'a, T>]) -> Self {
        let weight = args[1].data;
        Self {
            kind,
            weight,
            norm_weight: args[3].data,
            norm_bias: args[4].data,
            sums: vec![T::zero(); weight.len() + 3 * s.out_channels],
            unfolded: s.unfolding(),
            grad_conv: s.tile_output(),
        }
    }

    fn backward_tile(
        &mut self,
        tile: Tile,
        image: &[T],
        grad: &[T],
        (normed, rstd): (&[T], &[T]),
        grad_image: Option<&mut [T]>,
    ) {
        let grad_conv = &mut self.grad_conv[..grad.len()];
        grad_conv.copy_from_slice(grad);
        let (weight_sums, sums) = self.sums.split_at_mut(self.weight.len());
        let rows = Rows { values: grad_conv, weight: self.norm_weight, bias: self.norm_bias };
        match self.kind {
            Activation::Gelu => vectorised(
                #[inline(always)]
                || rows.unfinish(normed, rstd, sums, gelu_slope),
            ),
            Activation::QuickGelu => vectorised(
                #[inline(always)]
                || rows.unfinish(normed, rstd, sums, quick_gelu_slope),
            ),
        }
        let grad_conv = &self.grad_conv[..grad.len()];
        tile.backward_weight(image, grad_conv, &mut self.unfolded, weight_sums);
        if let Some(grad_image) = grad_image {
            tile.backward_image(self.weight, grad_conv, &mut self.unfolded, grad_image);
        }
    }
}

/// Rows of channels under a norm with this weight and bias.
struct Rows<'a, T> {
    values: &'a mut [T],
    weight: &'a [T],
    bias: &'a [T],
}

impl<T: Real> Rows<'_, T> {
    /// Norm and activation, in place; `normed` and `rstd` are kept for the backward pass.
    #[inline(always)]
    fn finish(self, normed: &mut [T], rstd: &mut [T], f: impl Fn(T) -> T) {
        let width = self.weight.len();
        let rows = self.values.chunks_exact_mut(width).zip(normed.chunks_exact_mut(width));
        for ((out, normed), rstd) in rows.zip(rstd) {
            *rstd = normalise_row(out, normed, LAYER_NORM_EPSILON);
            let affine = self.weight.iter().zip(self.bias);
            for ((out, &normed), (&weight, &bias)) in out.iter_mut().zip(&*normed).zip(affine) {
                *out = f(normed.mul_add(weight, bias));
            }
        }
    }

    /// The way back: turns gradients of the activations into gradients of the convolution's output. `sums` collects
    /// those of the convolution's bias, the norm's weight and the norm's bias.
    #[inline(always)]
    fn unfinish(self, normed: &[T], rstd: &[T], sums: &mut [T], slope: impl Fn(T) -> T) {
        let width = self.weight.len();
        let (conv_bias_sums, norm_sums) = sums.split_at_mut(width);
        let (weight_sums, bias_sums) = norm_sums.split_at_mut(width);
        let rows = self.values.chunks_exact_mut(width).zip(normed.chunks_exact(width));
        for ((grad, normed), &rstd) in rows.zip(rstd) {
            let affine = self.weight.iter().zip(self.bias);
            for ((grad, &normed), (&weight, &bias)) in grad.iter_mut().zip(normed).zip(affine) {
                *grad *= slope(normed.mul_add(weight, bias));
            }
            add_products(weight_sums, grad, normed);
            add(bias_sums, grad);
            for (grad, &weight) in grad.iter_mut().zip(self.weight) {
                *grad *= weight;
            }
            normalise_row_backward(normed, rstd, grad);
            add(conv_bias_sums, grad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;

    fn stage(a: &[Tensor]) -> StemStage<'_> {
        StemStage { weight_ohwi: &a[1], bias_o: &a[2], norm_weight_o: &a[3], norm_bias_o: &a[4] }
    }

    fn args(batch: usize, side: usize, channels: usize, outputs: usize) -> Vec<Tensor> {
        let dims: [&[usize]; 5] =
            [&[batch, side, side + 1, channels], &[outputs, 3, 3, channels], &[outputs], &[outputs], &[outputs]];
        (0..).zip(dims).map(|(seed, dims)| random(dims, seed)).collect()
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for kind in [Activation::Gelu, Activation::QuickGelu] {
            assert_gradients(&args(2, 4, 2, 3), |a| stem_stage(&a[0], stage(a), kind, 2, 1));
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        // 18 samples are more than there are tasks, 40 x 41 px more than one tile.
        assert_same_as_composed(
            &args(18, 40, 8, 20),
            |a| stem_stage(&a[0], stage(a), Activation::Gelu, 1, 1),
            |a| {
                let x = conv2d(&a[0], &a[1], Some(&a[2]), 1, 1)?;
                activation(&layer_norm(&x, &a[3], &a[4], LAYER_NORM_EPSILON)?, Activation::Gelu)
            },
        );
    }

    #[test]
    fn a_norm_of_another_width_is_an_error() {
        let mut a = args(1, 4, 2, 3);
        a[4] = random(&[4], 1);
        assert!(stem_stage(&a[0], stage(&a), Activation::Gelu, 2, 1).is_err());
    }
}
