//! From low-resolution logits to run lengths, without the image of logits between them.

use super::crops::CropBox;
use super::interpolation::Taps;
use super::nms::BoxXyxy;
use crate::ops::real::{Real, vectorised};
use crate::sam::preprocess::resized_size;
use pixels::PixelError;
use pixels::mask::Rle;

/// A mask at the resolution of the image it was asked of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thresholded {
    /// Of the whole image.
    pub(super) rle: Rle,
    /// Within the crop; zeros for an empty mask.
    pub(super) box_xyxy: BoxXyxy,
    /// Pixels above the high threshold divided by those above the low one; NaN for none of both.
    pub(super) stability_score: f32,
}

/// Upscales and thresholds the masks of one crop.
///
/// Both interpolations of the reference (to the network's input, then, without the padding, to the crop) are linear,
/// so that a pixel is a sum over about three by three logits. Columns are made one at a time, since run lengths go down
/// the columns: besides the logits, a mask needs `mask_side` columns of floats.
pub(super) struct Thresholder {
    rows: Taps,
    cols: Taps,
    mask_side: usize,
    crop: CropBox,
    image_height: usize,
    image_width: usize,
    low: f32,
    high: f32,
}

/// Memory that is used again from mask to mask.
#[derive(Default)]
pub(super) struct Scratch {
    /// `[mask_side, height]`: logits upscaled along the columns.
    columns: Vec<f32>,
    rows: Vec<f32>,
    column: Vec<f32>,
    bits: Vec<u8>,
}

/// Rows that are upscaled before they are turned into columns: one cache line of each column.
const ROWS_PER_TURN: usize = 16;

impl Thresholder {
    /// For masks of `mask_side` x `mask_side` logits of a network whose input has `input_side` pixels; stability
    /// compares the thresholds `offset` above and below zero.
    pub(super) fn new(
        mask_side: usize,
        input_side: usize,
        crop: CropBox,
        (image_height, image_width): (usize, usize),
        offset: f64,
    ) -> Self {
        let (height, width) = resized_size(crop.height(), crop.width(), input_side);
        Self {
            rows: Taps::new(mask_side, input_side, height, crop.height()),
            cols: Taps::new(mask_side, input_side, width, crop.width()),
            mask_side,
            crop,
            image_height,
            image_width,
            low: -offset as f32,
            high: offset as f32,
        }
    }

    /// `logits [mask_side, mask_side]`, row by row.
    pub(super) fn threshold(&self, logits: &[f32], scratch: &mut Scratch) -> Result<Thresholded, PixelError> {
        let height = self.crop.height();
        scratch.columns.resize(self.mask_side * height, 0.0);
        scratch.rows.resize(ROWS_PER_TURN * self.mask_side, 0.0);
        scratch.column.resize(height, 0.0);
        scratch.bits.resize(height, 0);
        vectorised(
            #[inline(always)]
            || self.upscale_columns(logits, &mut scratch.rows, &mut scratch.columns),
        );
        let (mut above_high, mut above_low) = (0u64, 0u64);
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut bounds: Option<[usize; 4]> = None;
        for (x, (start, weights)) in self.cols.iter().enumerate() {
            let columns = &scratch.columns[start * height..];
            let (column, bits) = (&mut scratch.column, &mut scratch.bits);
            let counts = vectorised(
                #[inline(always)]
                || {
                    combine(columns, weights, column);
                    compare(column, bits, self.low, self.high)
                },
            );
            above_low += counts.low;
            above_high += counts.high;
            let first = (self.crop.left + x) * self.image_height + self.crop.top;
            for_each_run(&scratch.bits, |from, to| {
                runs.push((first + from, first + to));
                let [left, top, right, bottom] = bounds.unwrap_or([x, from, x, to - 1]);
                bounds = Some([left, top.min(from), right.max(x), bottom.max(to - 1)]);
            });
        }
        Ok(Thresholded {
            rle: Rle::from_runs(self.image_height as u32, self.image_width as u32, runs)?,
            box_xyxy: bounds.unwrap_or_default().map(|x| x as u32),
            stability_score: above_high as f32 / above_low as f32,
        })
    }

    /// Upscales along the columns, and turns rows into columns on the way.
    #[inline(always)]
    fn upscale_columns(&self, logits: &[f32], rows: &mut [f32], columns: &mut [f32]) {
        let (side, height) = (self.mask_side, self.crop.height());
        for first in (0..height).step_by(ROWS_PER_TURN) {
            let here = ROWS_PER_TURN.min(height - first);
            let taps = self.rows.iter().skip(first).take(here);
            for ((start, weights), row) in taps.zip(rows.chunks_exact_mut(side)) {
                let (&weight, others) = weights.split_first().expect("a pixel has a weight");
                for (out, &logit) in row.iter_mut().zip(&logits[start * side..]) {
                    *out = weight * logit;
                }
                for (&weight, logits) in others.iter().zip(logits[(start + 1) * side..].chunks_exact(side)) {
                    for (out, &logit) in row.iter_mut().zip(logits) {
                        *out = Real::mul_add(weight, logit, *out);
                    }
                }
            }
            for (x, column) in columns.chunks_exact_mut(height).enumerate() {
                for (out, row) in column[first..first + here].iter_mut().zip(rows.chunks_exact(side)) {
                    *out = row[x];
                }
            }
        }
    }
}

/// A column of pixels from the columns of values beside it.
#[inline(always)]
fn combine(columns: &[f32], weights: &[f32], out: &mut [f32]) {
    let height = out.len();
    let (&weight, others) = weights.split_first().expect("a pixel has a weight");
    for (out, &value) in out.iter_mut().zip(columns) {
        *out = weight * value;
    }
    for (&weight, column) in others.iter().zip(columns[height..].chunks_exact(height)) {
        for (out, &value) in out.iter_mut().zip(column) {
            *out = Real::mul_add(weight, value, *out);
        }
    }
}

struct Counts {
    low: u64,
    high: u64,
}

/// Writes which logits are above zero, and counts those above the other thresholds.
#[inline(always)]
fn compare(logits: &[f32], bits: &mut [u8], low: f32, high: f32) -> Counts {
    let (mut above_low, mut above_high) = (0u32, 0u32);
    for (bit, &logit) in bits.iter_mut().zip(logits) {
        *bit = u8::from(logit > 0.0);
        above_low += u32::from(logit > low);
        above_high += u32::from(logit > high);
    }
    Counts { low: above_low.into(), high: above_high.into() }
}

/// Calls `visit(start, end)` for every run of ones.
fn for_each_run(bits: &[u8], mut visit: impl FnMut(usize, usize)) {
    let mut from = 0;
    while let Some(start) = next(bits, from, 1) {
        let end = next(bits, start, 0).unwrap_or(bits.len());
        visit(start, end);
        from = end;
    }
}

/// The first `wanted` bit from `from` on; eight at a time while there is none.
fn next(bits: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let rest = bits.get(from..)?;
    let other = [1 - wanted; 8];
    let (words, _) = rest.as_chunks::<8>();
    let skipped = 8 * words.iter().take_while(|&&word| word == other).count();
    rest[skipped..].iter().position(|&bit| bit == wanted).map(|place| from + skipped + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: an image of logits, then thresholds.
    fn by_the_book(t: &Thresholder, logits: &[f32]) -> (Vec<u8>, f32) {
        let (mut bits, mut low, mut high) = (vec![0u8; t.image_height * t.image_width], 0u32, 0u32);
        for (y, (first_row, row_weights)) in t.rows.iter().enumerate() {
            for (x, (first_col, col_weights)) in t.cols.iter().enumerate() {
                let mut logit = 0f64;
                for (i, &row_weight) in row_weights.iter().enumerate() {
                    for (j, &col_weight) in col_weights.iter().enumerate() {
                        let value = logits[(first_row + i) * t.mask_side + first_col + j];
                        logit += f64::from(row_weight) * f64::from(col_weight) * f64::from(value);
                    }
                }
                bits[(t.crop.top + y) * t.image_width + t.crop.left + x] = u8::from(logit > 0.0);
                low += u32::from(logit > f64::from(t.low));
                high += u32::from(logit > f64::from(t.high));
            }
        }
        (bits, high as f32 / low as f32)
    }

    #[test]
    fn masks_boxes_and_stability_are_those_of_the_definition() {
        let logits: Vec<f32> = (0..256)
            .map(|i| ((i % 16) as f32 * 0.9).sin() * 3.0 + ((i / 16) as f32 * 0.7).cos() * 2.0 - 0.123)
            .collect();
        for (crop, image) in [
            (CropBox { left: 0, top: 0, right: 37, bottom: 50 }, (50, 37)),
            (CropBox { left: 3, top: 7, right: 103, bottom: 41 }, (60, 110)),
            (CropBox { left: 0, top: 0, right: 1, bottom: 1 }, (1, 1)),
        ] {
            let thresholder = Thresholder::new(16, 64, crop, image, 1.0);
            let mut scratch = Scratch::default();
            let found = thresholder.threshold(&logits, &mut scratch).unwrap();
            let (bits, stability) = by_the_book(&thresholder, &logits);
            assert_eq!(found.rle.to_row_major(), bits);
            assert_eq!(found.stability_score, stability);
            let [left, top, width, height] = found.rle.bbox_xywh();
            let (left, top) = (left - crop.left as u32, top - crop.top as u32);
            assert_eq!(found.box_xyxy, [left, top, left + width - 1, top + height - 1]);
        }
    }

    #[test]
    fn nothing_and_everything() {
        let crop = CropBox { left: 0, top: 0, right: 20, bottom: 30 };
        let thresholder = Thresholder::new(4, 16, crop, (30, 20), 1.0);
        let mut scratch = Scratch::default();
        let nothing = thresholder.threshold(&[-5.0; 16], &mut scratch).unwrap();
        assert_eq!((nothing.rle.area_px(), nothing.box_xyxy), (0, [0; 4]));
        assert!(nothing.stability_score.is_nan());
        let everything = thresholder.threshold(&[5.0; 16], &mut scratch).unwrap();
        assert_eq!(everything.rle.counts, [0, 600]);
        assert_eq!((everything.box_xyxy, everything.stability_score), ([0, 0, 19, 29], 1.0));
        let undefined = thresholder.threshold(&[f32::NAN; 16], &mut scratch).unwrap();
        assert_eq!(undefined.rle.area_px(), 0);
    }

    #[test]
    fn runs_of_all_lengths_are_found() {
        for pattern in [vec![1u8; 20], vec![0; 20], [vec![0; 9], vec![1; 17], vec![0; 1], vec![1; 2]].concat()] {
            let mut bits = vec![0; pattern.len()];
            for_each_run(&pattern, |start, end| bits[start..end].fill(1));
            assert_eq!(bits, pattern);
        }
    }
}
