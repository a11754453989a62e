//! Convolution a few output rows at a time: unfold the pixels under the kernel, multiply, and the reverse.

use super::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use super::real::{Real, add, vectorised};
use std::ops::Range;

/// Samples are dealt to at most this many tasks, each with a weight gradient of its own: a fixed number, so that the
/// order of summation does not depend on the number of threads.
const MAX_TASKS: usize = 16;

/// Unfolded elements held at a time: they stay in the cache.
const UNFOLDED_ELEMENTS: usize = 64 * 1024;

/// Every size of one convolution; none is zero but the batch.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) out_channels: usize,
}

impl Sizes {
    /// Elements of one input image.
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Elements of the output of one image.
    pub(super) fn out_image(&self) -> usize {
        self.out_height * self.out_width * self.out_channels
    }

    /// Elements under the kernel at one position.
    fn window(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    fn rows_per_tile(&self) -> usize {
        (UNFOLDED_ELEMENTS / (self.out_width * self.window())).clamp(1, self.out_height)
    }

    pub(super) fn samples_per_task(&self) -> usize {
        self.batch.div_ceil(MAX_TASKS).max(1)
    }

    /// Room for one unfolded tile.
    pub(super) fn unfolding<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); self.rows_per_tile() * self.out_width * self.window()]
    }

    /// Room for the output of one tile.
    pub(super) fn tile_output<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); self.rows_per_tile() * self.out_width * self.out_channels]
    }

    /// The tiles of one sample.
    pub(super) fn tiles(self) -> impl Iterator<Item = Tile> {
        let step = self.rows_per_tile();
        let tile = move |first_row| Tile { sizes: self, first_row, rows: step.min(self.out_height - first_row) };
        (0..self.out_height).step_by(step).map(tile)
    }
}

/// A few rows of the output of one sample.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    sizes: Sizes,
    first_row: usize,
    rows: usize,
}

impl Tile {
    /// Positions within the sample.
    pub(super) fn positions(&self) -> Range<usize> {
        let width = self.sizes.out_width;
        self.first_row * width..(self.first_row + self.rows) * width
    }

    /// Elements within the sample's output.
    pub(super) fn elements(&self) -> Range<usize> {
        let (positions, channels) = (self.positions(), self.sizes.out_channels);
        positions.start * channels..positions.end * channels
    }

    /// The convolution of `image` into `out`, the elements of this tile.
    pub(super) fn forward<T: Real>(
        &self,
        image: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        unfolded: &mut [T],
        out: &mut [T],
    ) {
        let s = &self.sizes;
        let positions = self.positions().len();
        let unfolded = &mut unfolded[..positions * s.window()];
        self.unfold(image, unfolded);
        let write = match bias {
            Some(bias) => {
                out.chunks_exact_mut(s.out_channels).for_each(|out| out.copy_from_slice(bias));
                Write::Add
            }
            None => Write::Overwrite,
        };
        multiply(
            MatrixMut::new(out, positions, s.out_channels),
            write,
            Matrix::new(unfolded, positions, s.window()),
            Matrix::new(weight, s.out_channels, s.window()).t(),
            1.0,
            Threads::One,
        );
    }

    /// Adds the weight gradient of this tile to `grad_weight`.
    pub(super) fn backward_weight<T: Real>(&self, image: &[T], grad: &[T], unfolded: &mut [T], grad_weight: &mut [T]) {
        let s = &self.sizes;
        let positions = self.positions().len();
        let unfolded = &mut unfolded[..positions * s.window()];
        self.unfold(image, unfolded);
        multiply(
            MatrixMut::new(grad_weight, s.out_channels, s.window()),
            Write::Add,
            Matrix::new(grad, positions, s.out_channels).t(),
            Matrix::new(unfolded, positions, s.window()),
            1.0,
            Threads::One,
        );
    }

    /// Adds the gradient of the image to `grad_image`.
    pub(super) fn backward_image<T: Real>(&self, weight: &[T], grad: &[T], unfolded: &mut [T], grad_image: &mut [T]) {
        let s = &self.sizes;
        let positions = self.positions().len();
        let unfolded = &mut unfolded[..positions * s.window()];
        multiply(
            MatrixMut::new(unfolded, positions, s.window()),
            Write::Overwrite,
            Matrix::new(grad, positions, s.out_channels),
            Matrix::new(weight, s.out_channels, s.window()),
            1.0,
            Threads::One,
        );
        self.fold(unfolded, grad_image);
    }

    /// Calls `visit(start in the image, start in the unfolded rows, length)` for every run of pixels that lies inside
    /// the image; what is not visited lies in the padding.
    #[inline(always)]
    fn for_each_run(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let s = &self.sizes;
        for row in 0..self.rows {
            for out_x in 0..s.out_width {
                let window = (row * s.out_width + out_x) * s.window();
                // Kernel columns whose pixel lies inside the image.
                let left = out_x * s.stride;
                let first = s.padding.saturating_sub(left);
                let end = (s.width + s.padding).saturating_sub(left).min(s.kernel);
                if first >= end {
                    continue;
                }
                for kernel_y in 0..s.kernel {
                    let y = (self.first_row + row) * s.stride + kernel_y;
                    if y < s.padding || y >= s.height + s.padding {
                        continue;
                    }
                    let pixel = (y - s.padding) * s.width + left + first - s.padding;
                    let to = window + (kernel_y * s.kernel + first) * s.channels;
                    visit(pixel * s.channels, to, (end - first) * s.channels);
                }
            }
        }
    }

    fn unfold<T: Real>(&self, image: &[T], unfolded: &mut [T]) {
        if self.sizes.padding > 0 {
            unfolded.fill(T::zero());
        }
        vectorised(
            #[inline(always)]
            || {
                self.for_each_run(
                    #[inline(always)]
                    |from, to, length| {
                        // A loop, since most runs are too short for a call.
                        let run = unfolded[to..to + length].iter_mut().zip(&image[from..from + length]);
                        for (unfolded, &pixel) in run {
                            *unfolded = pixel;
                        }
                    },
                );
            },
        );
    }

    /// The reverse of `unfold`: adds every window to the pixels that it came from.
    fn fold<T: Real>(&self, unfolded: &[T], image: &mut [T]) {
        vectorised(
            #[inline(always)]
            || {
                self.for_each_run(
                    #[inline(always)]
                    |to, from, length| {
                        add(&mut image[to..to + length], &unfolded[from..from + length]);
                    },
                );
            },
        );
    }
}

/// `out` in chunks for each task, or an empty slice for each where no output is wanted.
pub(super) fn per_task<T>(out: &mut [T], chunk: usize, tasks: usize) -> Vec<&mut [T]> {
    match out.is_empty() {
        true => (0..tasks).map(|_| &mut [][..]).collect(),
        false => out.chunks_mut(chunk).collect(),
    }
}
