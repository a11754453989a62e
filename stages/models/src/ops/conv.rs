use super::graph::{Backward, CpuOp, Forward, View, apply, has_kernel};
use super::matrix::{Matrix, MatrixMut, Threads, Write, column_sums, multiply, sum_partials};
use super::real::{Real, add, vectorised};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Two-dimensional convolution with channels last.
///
/// `x_bhwc [B, H, W, C]`, `weight_ohwi [O, K, K, C]`, `bias [O]`; returns `[B, H', W', O]` with
/// H' = (H + 2 padding - K) / stride + 1. With channels last the pixels under a kernel row lie side by side, the
/// product with the weight leaves the output in place, and a layer norm over channels needs no transposition.
///
/// The kernel unfolds a few output rows at a time (they stay in the cache) and multiplies them by the weight.
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

/// Samples are dealt to at most this many tasks, each with a weight gradient of its own: a fixed number, so that the
/// order of summation does not depend on the number of threads.
const MAX_TASKS: usize = 16;

/// Unfolded elements held at a time.
const UNFOLDED_ELEMENTS: usize = 64 * 1024;

#[derive(Clone, Copy)]
pub(super) struct Conv2d {
    pub(super) stride: usize,
    pub(super) padding: usize,
}

/// Every size of one convolution.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) out_channels: usize,
}

impl Sizes {
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    pub(super) fn out_image(&self) -> usize {
        self.out_height * self.out_width * self.out_channels
    }

    /// Elements under the kernel at one position.
    fn window(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// Output rows that are unfolded together.
    pub(super) fn rows_per_tile(&self) -> usize {
        let row = (self.out_width * self.window()).max(1);
        (UNFOLDED_ELEMENTS / row).clamp(1, self.out_height.max(1))
    }

    pub(super) fn samples_per_task(&self) -> usize {
        self.batch.div_ceil(MAX_TASKS).max(1)
    }

    /// Room for one unfolded tile.
    pub(super) fn unfolding<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); self.rows_per_tile() * self.out_width * self.window()]
    }

    pub(super) fn tiles(self) -> impl Iterator<Item = Tile> {
        let step = self.rows_per_tile();
        let tile = move |first_row| Tile {
            first_row,
            rows: step.min(self.out_height - first_row),
        };
        (0..self.out_height).step_by(step).map(tile)
    }
}

/// A few rows of the output of one sample.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    first_row: usize,
    rows: usize,
}

impl Tile {
    /// Positions within the sample.
    pub(super) fn positions(self, s: &Sizes) -> Range<usize> {
        self.first_row * s.out_width..(self.first_row + self.rows) * s.out_width
    }

    /// Elements within the sample's output.
    pub(super) fn elements(self, s: &Sizes) -> Range<usize> {
        let positions = self.positions(s);
        positions.start * s.out_channels..positions.end * s.out_channels
    }
}

impl Conv2d {
    fn composed(
        self,
        x_bhwc: &Tensor,
        weight_ohwi: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let x = x_bhwc.permute((0, 3, 1, 2))?.contiguous()?;
        let weight = weight_ohwi.permute((0, 3, 1, 2))?.contiguous()?;
        let y = x
            .conv2d(&weight, self.padding, self.stride, 1, 1)?
            .permute((0, 2, 3, 1))?;
        match bias {
            Some(bias) => y.broadcast_add(bias)?.contiguous(),
            None => y.contiguous(),
        }
    }

    pub(super) fn sizes<T>(self, args: &[View<'_, T>]) -> Result<Sizes> {
        let (x, weight) = (args[0].dims, args[1].dims);
        let (&[batch, height, width, channels], &[out_channels, kernel, kernel_width, in_channels]) =
            (x, weight)
        else {
            bail!("conv2d: input {x:?}, weight {weight:?}")
        };
        let padded = height.min(width) + 2 * self.padding;
        let fits =
            kernel == kernel_width && in_channels == channels && self.stride > 0 && kernel > 0;
        if !fits || padded < kernel || out_channels == 0 || height * width * channels == 0 {
            bail!("conv2d: input {x:?} does not fit weight {weight:?}")
        }
        if let Some(bias) = args.get(2)
            && bias.dims != [out_channels]
        {
            bail!(
                "conv2d: bias {:?} does not fit weight {weight:?}",
                bias.dims
            )
        }
        Ok(Sizes {
            batch,
            height,
            width,
            channels,
            kernel,
            out_height: (height + 2 * self.padding - kernel) / self.stride + 1,
            out_width: (width + 2 * self.padding - kernel) / self.stride + 1,
            out_channels,
        })
    }

    /// Calls `visit(image, unfolded, length)` for every run of pixels of the tile that lies inside the image; what is
    /// not visited lies in the padding.
    #[inline(always)]
    fn for_each_run(self, s: &Sizes, tile: Tile, mut visit: impl FnMut(usize, usize, usize)) {
        for row in 0..tile.rows {
            for out_x in 0..s.out_width {
                let window = (row * s.out_width + out_x) * s.window();
                // Kernel columns whose pixel lies inside the image.
                let left = out_x * self.stride;
                let first = self.padding.saturating_sub(left);
                let end = (s.width + self.padding).saturating_sub(left).min(s.kernel);
                if first >= end {
                    continue;
                }
                for ky in 0..s.kernel {
                    let y = (tile.first_row + row) * self.stride + ky;
                    if y < self.padding || y >= s.height + self.padding {
                        continue;
                    }
                    let pixel = (y - self.padding) * s.width + left + first - self.padding;
                    let to = window + (ky * s.kernel + first) * s.channels;
                    visit(pixel * s.channels, to, (end - first) * s.channels);
                }
            }
        }
    }

    fn unfold<T: Real>(self, s: &Sizes, image: &[T], tile: Tile, unfolded: &mut [T]) {
        if self.padding > 0 {
            unfolded.fill(T::zero());
        }
        vectorised(
            #[inline(always)]
            || {
                self.for_each_run(
                    s,
                    tile,
                    #[inline(always)]
                    |from, to, length| {
                        // A loop, since most runs are too short for a call.
                        for (unfolded, &x) in unfolded[to..to + length]
                            .iter_mut()
                            .zip(&image[from..from + length])
                        {
                            *unfolded = x;
                        }
                    },
                );
            },
        );
    }

    /// The reverse of `unfold`: adds every window to the pixels that it came from.
    fn fold<T: Real>(self, s: &Sizes, unfolded: &[T], tile: Tile, image: &mut [T]) {
        vectorised(
            #[inline(always)]
            || {
                self.for_each_run(
                    s,
                    tile,
                    #[inline(always)]
                    |to, from, length| {
                        add(&mut image[to..to + length], &unfolded[from..from + length]);
                    },
                );
            },
        );
    }

    /// One tile of the output of the image `x` into `out`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward_tile<T: Real>(
        self,
        s: &Sizes,
        x: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        tile: Tile,
        unfolded: &mut [T],
        out: &mut [T],
    ) {
        let positions = tile.positions(s).len();
        let unfolded = &mut unfolded[..positions * s.window()];
        self.unfold(s, x, tile, unfolded);
        if let Some(bias) = bias {
            out.chunks_exact_mut(s.out_channels)
                .for_each(|out| out.copy_from_slice(bias));
        }
        multiply(
            MatrixMut::new(out, positions, s.out_channels),
            if bias.is_some() {
                Write::Add
            } else {
                Write::Overwrite
            },
            Matrix::new(unfolded, positions, s.window()),
            Matrix::new(weight, s.out_channels, s.window()).t(),
            1.0,
            Threads::One,
        );
    }

    /// Adds the weight gradient of one tile to `grad_weight`, and the gradient of the image to `grad_x` unless that is
    /// empty.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward_tile<T: Real>(
        self,
        s: &Sizes,
        x: &[T],
        weight: &[T],
        grad: &[T],
        tile: Tile,
        unfolded: &mut [T],
        grad_weight: &mut [T],
        grad_x: &mut [T],
    ) {
        let positions = tile.positions(s).len();
        let grad = Matrix::new(grad, positions, s.out_channels);
        let unfolded = &mut unfolded[..positions * s.window()];
        self.unfold(s, x, tile, unfolded);
        multiply(
            MatrixMut::new(grad_weight, s.out_channels, s.window()),
            Write::Add,
            grad.t(),
            Matrix::new(unfolded, positions, s.window()),
            1.0,
            Threads::One,
        );
        if grad_x.is_empty() {
            return;
        }
        multiply(
            MatrixMut::new(unfolded, positions, s.window()),
            Write::Overwrite,
            grad,
            Matrix::new(weight, s.out_channels, s.window()),
            1.0,
            Threads::One,
        );
        self.fold(s, unfolded, tile, grad_x);
    }

    /// Weight gradient of a few samples; adds the input gradient to `grad_x` unless that is empty.
    fn backward_samples<T: Real>(
        self,
        s: &Sizes,
        x: &[T],
        weight: &[T],
        grad: &[T],
        grad_x: &mut [T],
    ) -> Vec<T> {
        let mut grad_weight = vec![T::zero(); weight.len()];
        let mut unfolded = s.unfolding();
        let samples = x
            .chunks_exact(s.image())
            .zip(grad.chunks_exact(s.out_image()));
        for (sample, (x, grad)) in samples.enumerate() {
            let grad_x = match grad_x.is_empty() {
                true => &mut [][..],
                false => &mut grad_x[sample * s.image()..][..s.image()],
            };
            for tile in s.tiles() {
                let grad = &grad[tile.elements(s)];
                self.backward_tile(
                    s,
                    x,
                    weight,
                    grad,
                    tile,
                    &mut unfolded,
                    &mut grad_weight,
                    grad_x,
                );
            }
        }
        grad_weight
    }
}

impl CpuOp for Conv2d {
    const NAME: &'static str = "conv2d";

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>> {
        let s = self.sizes(args)?;
        let dims = [s.batch, s.out_height, s.out_width, s.out_channels];
        let bias = args.get(2).map(|bias| bias.data);
        let mut out = vec![T::zero(); dims.iter().product()];
        out.par_chunks_mut(s.out_image())
            .zip(args[0].data.par_chunks(s.image().max(1)))
            .for_each_init(
                || s.unfolding(),
                |unfolded, (out, x)| {
                    for tile in s.tiles() {
                        let out = &mut out[tile.elements(&s)];
                        self.forward_tile(&s, x, args[1].data, bias, tile, unfolded, out);
                    }
                },
            );
        Ok(Forward::new(out, &dims))
    }

    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>> {
        let s = self.sizes(pass.args)?;
        let (x, weight, grad) = (pass.args[0].data, pass.args[1].data, pass.grad);
        let samples = s.samples_per_task();
        let (image, out_image) = (s.image().max(1) * samples, s.out_image() * samples);
        let mut grad_x = if pass.needed[0] {
            vec![T::zero(); x.len()]
        } else {
            Vec::new()
        };
        let partials: Vec<Vec<T>> = per_task(&mut grad_x, image, x.len().div_ceil(image))
            .into_par_iter()
            .zip(x.par_chunks(image).zip(grad.par_chunks(out_image)))
            .map(|(grad_x, (x, grad))| self.backward_samples(&s, x, weight, grad, grad_x))
            .collect();
        let mut grads = vec![
            pass.needed[0].then_some(grad_x),
            Some(sum_partials(partials, weight.len())),
        ];
        if pass.args.len() == 3 {
            grads.push(Some(column_sums(grad, s.out_channels)));
        }
        Ok(grads)
    }
}

/// `out` in chunks for each task, or an empty slice for each where no output is wanted.
pub(super) fn per_task<T>(out: &mut [T], chunk: usize, tasks: usize) -> Vec<&mut [T]> {
    match out.is_empty() {
        true => (0..tasks).map(|_| &mut [][..]).collect(),
        false => out.chunks_mut(chunk).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_gradients, assert_same_as_composed, random};
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (kernel, stride, padding) in [
            (3, 2, 1),
            (3, 1, 1),
            (2, 2, 0),
            (1, 1, 0),
            (3, 1, 2),
            (5, 3, 0),
        ] {
            let args = [
                random(&[2, 5, 6, 2], 1),
                random(&[3, kernel, kernel, 2], 2),
                random(&[3], 3),
            ];
            assert_gradients(&args, |a| {
                conv2d(&a[0], &a[1], Some(&a[2]), stride, padding)
            });
        }
    }

    #[test]
    fn kernel_and_composition_agree() {
        // 20 samples are more than there are tasks, 40 x 41 px more than one tile.
        let args = [
            random(&[20, 40, 41, 8], 1),
            random(&[5, 3, 3, 8], 2),
            random(&[5], 3),
        ];
        let op = Conv2d {
            stride: 1,
            padding: 1,
        };
        assert_same_as_composed(
            &args,
            |a| conv2d(&a[0], &a[1], Some(&a[2]), 1, 1),
            |a| op.composed(&a[0], &a[1], Some(&a[2])),
        );
    }

    #[test]
    fn a_sum_of_pixels_by_hand() {
        let x = Tensor::arange(0f32, 9.0, &Device::Cpu)
            .unwrap()
            .reshape((1, 3, 3, 1))
            .unwrap();
        let ones = Tensor::ones((1, 3, 3, 1), DType::F32, &Device::Cpu).unwrap();
        let y = conv2d(&x, &ones, None, 2, 1).unwrap();
        assert_eq!(
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [8., 12., 20., 24.]
        );
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = random(&[1, 4, 4, 2], 1);
        assert!(conv2d(&x, &random(&[3, 3, 3, 4], 2), None, 1, 1).is_err());
        assert!(conv2d(&x, &random(&[3, 9, 9, 2], 2), None, 1, 1).is_err());
        assert!(conv2d(&x, &random(&[3, 3, 3, 2], 2), None, 0, 1).is_err());
    }
}
