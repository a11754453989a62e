//! From the decoder's image to masks of four times its side.

use super::Upscaling;
use super::weights::{Dense, Norm};
use crate::Result;
use crate::ops::inverted_bottleneck::gelu_in_place;
use crate::ops::matrix::{Matrix, MatrixMut, Threads, Write, multiply};

/// Positions that are upscaled at a time: their 512 KiB stay in the cache.
const POSITIONS_PER_TILE: usize = 256;

/// Pixels of the mask for each position of the image.
const PIXELS: usize = 16;

#[derive(Debug)]
pub(super) struct Upscaler {
    first: Dense,
    norm: Norm,
    second: Dense,
    side: usize,
}

impl Upscaler {
    pub(super) fn new(upscaling: &Upscaling, side: usize) -> Result<Self> {
        Ok(Self {
            first: Dense::new(&upscaling.first)?,
            norm: Norm::new(&upscaling.norm)?,
            second: Dense::new(&upscaling.second)?,
            side,
        })
    }

    /// `image [N, D]` and `hyper [count, D / 8]` to logits `[4 H, 4 W]` of each mask.
    pub(super) fn masks(&self, image: &[f32], hyper: &[f32], count: usize) -> Vec<Vec<f32>> {
        let positions = self.side * self.side;
        let mut masks = vec![vec![0.0; positions * PIXELS]; count];
        if count == 0 {
            return masks;
        }
        let (width, channels) = (self.first.inputs, self.second.bias.len() / 4);
        let mut halves = vec![0.0; POSITIONS_PER_TILE * self.first.bias.len()];
        let mut pixels = vec![0.0; POSITIONS_PER_TILE * PIXELS * channels];
        let mut logits = vec![0.0; count * POSITIONS_PER_TILE * PIXELS];
        for (tile, image) in image.chunks(POSITIONS_PER_TILE * width).enumerate() {
            let here = image.len() / width;
            let halves = &mut halves[..here * self.first.bias.len()];
            self.first.apply_into(image, halves);
            self.norm.apply(halves);
            gelu_in_place(halves);
            let pixels = &mut pixels[..here * PIXELS * channels];
            self.second.apply_into(halves, pixels);
            gelu_in_place(pixels);
            let logits = &mut logits[..count * here * PIXELS];
            multiply(
                MatrixMut::new(logits, count, here * PIXELS),
                Write::Overwrite,
                Matrix::new(hyper, count, channels),
                Matrix::new(pixels, here * PIXELS, channels).t(),
                1.0,
                Threads::One,
            );
            for (mask, logits) in masks.iter_mut().zip(logits.chunks_exact(here * PIXELS)) {
                self.place(tile * POSITIONS_PER_TILE, logits, mask);
            }
        }
        masks
    }

    /// Puts the pixels of consecutive positions, each (row, column) of a square of squares, where they belong.
    fn place(&self, first: usize, logits: &[f32], mask: &mut [f32]) {
        let row_length = 4 * self.side;
        for (position, logits) in (first..).zip(logits.as_chunks::<PIXELS>().0) {
            let (y, x) = (position / self.side, position % self.side);
            for dy in 0..4 {
                let to = &mut mask[(4 * y + dy) * row_length + 4 * x..][..4];
                // Squares of 2 x 2 squares of 2 x 2: the higher bits choose the square.
                let from = dy / 2 * 8 + dy % 2 * 2;
                to[..2].copy_from_slice(&logits[from..from + 2]);
                to[2..].copy_from_slice(&logits[from + 4..from + 6]);
            }
        }
    }
}
