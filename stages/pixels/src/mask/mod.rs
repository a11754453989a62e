//! Binary masks as COCO run lengths (`pycocotools.mask`).

mod string;

use crate::{MAX_PIXELS, PixelError, rgb};

/// COCO's uncompressed run-length encoding: lengths of alternating runs of zeros and ones over the
/// pixels in **column-major** order, beginning with zeros (a first length of 0 if the first pixel is
/// set).
///
/// Make it with one of the constructors, which see to it that the lengths add up to
/// `height * width`. On a mask put together by hand the methods ignore runs past the last pixel.
///
/// ```
/// use pixels::mask::Rle;
/// let mask = Rle::from_row_major(&[
///     false, true, true,
///     false, true, false,
/// ], 2, 3)?;
/// assert_eq!(mask.counts, [2, 3, 1], "down the columns");
/// assert_eq!((mask.area_px(), mask.bbox_xywh()), (3, [1, 0, 2, 2]));
/// assert_eq!(Rle::from_coco_string(&mask.to_coco_string(), 2, 3)?, mask);
/// # Ok::<(), pixels::PixelError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rle {
    /// Height of the mask in pixels.
    pub height: u32,
    /// Width of the mask in pixels.
    pub width: u32,
    /// Lengths of the runs, zeros first.
    pub counts: Vec<u32>,
}

impl Rle {
    /// Takes run lengths that come from outside.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the mask is empty, [`PixelError::TooLarge`] above [`MAX_PIXELS`],
    /// [`PixelError::Broken`] if the lengths do not add up to `height * width`.
    pub fn new(height: u32, width: u32, counts: Vec<u32>) -> Result<Self, PixelError> {
        rgb::check_size(width, height)?;
        let sum: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let area = u64::from(height) * u64::from(width);
        if sum != area {
            return Err(PixelError::broken(format!(
                "mask runs add up to {sum} pixels, {height} x {width} (height x width) has {area}"
            )));
        }
        Ok(Self { height, width, counts })
    }

    /// Encodes a mask of `height` rows of `width` values, each `bool` or `u8` (set if not zero).
    ///
    /// # Errors
    /// [`PixelError::Shape`] if `bits` is not `height * width` long or the mask is empty,
    /// [`PixelError::TooLarge`] above [`MAX_PIXELS`].
    pub fn from_row_major<Bit: Copy + Into<u8>>(bits: &[Bit], height: u32, width: u32) -> Result<Self, PixelError> {
        /// Columns transposed at a time: one cache line of bytes.
        const STRIP: usize = 64;
        rgb::check_size(width, height)?;
        let (rows, columns) = (height as usize, width as usize);
        if bits.len() != rows * columns {
            return Err(PixelError::Shape {
                what: format!(
                    "a mask of {height} x {width} (height x width) needs {} values, got {}",
                    rows * columns,
                    bits.len()
                ),
            });
        }
        let mut runs = RunBuilder::new(height, width);
        let mut strip = vec![0u8; rows * STRIP.min(columns)];
        for first in (0..columns).step_by(STRIP) {
            let strip_columns = STRIP.min(columns - first);
            for (y, row) in bits.chunks_exact(columns).enumerate() {
                for (x, &bit) in row[first..first + strip_columns].iter().enumerate() {
                    strip[x * rows + y] = u8::from(bit.into() != 0);
                }
            }
            let mut start = first * rows;
            for run in strip[..strip_columns * rows].chunk_by(|a, b| a == b) {
                let end = start + run.len();
                if run[0] != 0 {
                    runs.push(start as u32, end as u32);
                }
                start = end;
            }
        }
        Ok(runs.finish())
    }

    /// Encodes runs of set pixels, given as column-major start and end in ascending order. Runs that touch become one,
    /// empty ones none.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the mask is empty, [`PixelError::TooLarge`] above [`MAX_PIXELS`],
    /// [`PixelError::Broken`] for runs that overlap, descend or leave the mask.
    pub fn from_runs(
        height: u32,
        width: u32,
        runs: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<Self, PixelError> {
        rgb::check_size(width, height)?;
        let mut builder = RunBuilder::new(height, width);
        for (start, end) in runs {
            if start < builder.end as usize || end < start || end > height as usize * width as usize {
                return Err(PixelError::broken(format!(
                    "mask run {start}..{end} behind pixel {} of {height} x {width} (height x width)",
                    builder.end
                )));
            }
            if start < end {
                builder.push(start as u32, end as u32);
            }
        }
        Ok(builder.finish())
    }

    /// One byte a pixel, 0 or 1, row-major: `[height, width]`.
    pub fn to_row_major(&self) -> Vec<u8> {
        let (rows, columns) = (self.height as usize, self.width as usize);
        let mut bits = vec![0; rows * columns];
        for (start, end) in self.runs() {
            let (mut x, mut y) = (start / rows, start % rows);
            for _ in start..end {
                bits[y * columns + x] = 1;
                y += 1;
                if y == rows {
                    (x, y) = (x + 1, 0);
                }
            }
        }
        bits
    }

    /// Number of set pixels.
    pub fn area_px(&self) -> u64 {
        self.runs().map(|(start, end)| (end - start) as u64).sum()
    }

    /// Smallest box around the set pixels: left, top, width, height; all zero if none is set.
    pub fn bbox_xywh(&self) -> [u32; 4] {
        let rows = self.height as usize;
        let mut bounds: Option<[usize; 4]> = None;
        for (start, end) in self.runs() {
            let last = end - 1;
            let (left, right) = (start / rows, last / rows);
            let (top, bottom) = if left == right {
                (start % rows, last % rows)
            } else {
                (0, rows - 1) // the run goes over a column's foot to the next one's head
            };
            bounds = Some(match bounds {
                None => [left, top, right, bottom],
                Some([l, t, r, b]) => [l.min(left), t.min(top), r.max(right), b.max(bottom)],
            });
        }
        bounds.map_or([0; 4], |[left, top, right, bottom]| {
            [left, top, right - left + 1, bottom - top + 1].map(|value| value as u32)
        })
    }

    fn same_size(&self, other: &Self) -> Result<(), PixelError> {
        if (self.height, self.width) == (other.height, other.width) {
            return Ok(());
        }
        Err(PixelError::Shape {
            what: format!(
                "masks of {} x {} and {} x {} (height x width)",
                self.height, self.width, other.height, other.width
            ),
        })
    }

    /// Number of pixels set in both masks.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the masks differ in size.
    pub fn intersection_px(&self, other: &Self) -> Result<u64, PixelError> {
        self.same_size(other)?;
        let (mut ours, mut theirs) = (self.runs().peekable(), other.runs().peekable());
        let mut shared = 0;
        while let (Some(&(start_a, end_a)), Some(&(start_b, end_b))) = (ours.peek(), theirs.peek()) {
            shared += end_a.min(end_b).saturating_sub(start_a.max(start_b)) as u64;
            if end_a <= end_b {
                ours.next();
            } else {
                theirs.next();
            }
        }
        Ok(shared)
    }

    /// Number of pixels set in either mask.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the masks differ in size.
    pub fn union_px(&self, other: &Self) -> Result<u64, PixelError> {
        Ok(self.area_px() + other.area_px() - self.intersection_px(other)?)
    }

    /// Number of pixels set in any of several masks of one image; how much of the image they cover together.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the masks differ in size.
    pub fn covered_px(masks: &[&Self]) -> Result<u64, PixelError> {
        let Some((first, others)) = masks.split_first() else { return Ok(0) };
        others.iter().try_for_each(|other| first.same_size(other))?;
        let mut runs: Vec<(usize, usize)> = masks.iter().flat_map(|mask| mask.runs()).collect();
        runs.sort_unstable();
        let (mut covered, mut reached) = (0, 0);
        for (start, end) in runs {
            covered += end.saturating_sub(start.max(reached)) as u64;
            reached = reached.max(end);
        }
        Ok(covered)
    }

    /// Intersection over union, 0 for two empty masks (as pycocotools, where `iscrowd` is false).
    ///
    /// # Errors
    /// [`PixelError::Shape`] if the masks differ in size.
    pub fn iou(&self, other: &Self) -> Result<f64, PixelError> {
        let intersection = self.intersection_px(other)?;
        if intersection == 0 {
            return Ok(0.0);
        }
        Ok(intersection as f64 / self.union_px(other)? as f64)
    }

    /// The runs of set pixels, none empty, as column-major start and end.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let pixels = (u64::from(self.height) * u64::from(self.width)).min(MAX_PIXELS) as usize;
        self.counts
            .iter()
            .scan(0usize, move |position, &count| {
                let start = *position;
                *position = start.saturating_add(count as usize).min(pixels);
                Some((start, *position))
            })
            .skip(1)
            .step_by(2)
            .filter(|(start, end)| start < end)
    }
}

/// Puts an [`Rle`] together from runs of set pixels in ascending column-major order.
pub(crate) struct RunBuilder {
    height: u32,
    width: u32,
    counts: Vec<u32>,
    end: u32,
}

impl RunBuilder {
    /// For a mask whose size has passed [`rgb::check_size`], so that positions fit 32 bits.
    pub(crate) fn new(height: u32, width: u32) -> Self {
        Self { height, width, counts: Vec::new(), end: 0 }
    }

    /// Appends the set pixels `start..end`; a run that begins where the last one ended extends it.
    pub(crate) fn push(&mut self, start: u32, end: u32) {
        match self.counts.last_mut() {
            Some(last) if start == self.end => *last += end - start,
            _ => self.counts.extend([start - self.end, end - start]),
        }
        self.end = end;
    }

    pub(crate) fn finish(mut self) -> Rle {
        let pixels = self.height * self.width;
        if self.end < pixels {
            self.counts.push(pixels - self.end);
        }
        Rle { height: self.height, width: self.width, counts: self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_their_union() {
        let mask = |bits: [u8; 6]| Rle::from_row_major(&bits, 2, 3).unwrap();
        let (a, b, c) = (mask([1, 1, 0, 0, 0, 0]), mask([0, 1, 1, 0, 0, 0]), mask([0, 0, 0, 0, 0, 1]));
        assert_eq!(Rle::covered_px(&[]).unwrap(), 0);
        assert_eq!(Rle::covered_px(&[&a]).unwrap(), 2);
        assert_eq!(Rle::covered_px(&[&a, &b, &c, &a]).unwrap(), 4);
        assert_eq!(Rle::covered_px(&[&a, &b]).unwrap(), a.union_px(&b).unwrap());
        assert!(Rle::covered_px(&[&a, &Rle::from_row_major(&[1u8], 1, 1).unwrap()]).is_err());
    }

    #[test]
    fn runs_are_column_major_and_begin_with_zeros() {
        // 0 1
        // 1 1
        let rle = Rle::from_row_major(&[false, true, true, true], 2, 2).unwrap();
        assert_eq!(rle.counts, [1, 3]);
        assert_eq!(rle.to_row_major(), [0, 1, 1, 1]);
        let first_set = Rle::from_row_major(&[7u8, 0, 0, 0], 2, 2).unwrap();
        assert_eq!(first_set.counts, [0, 1, 3]);
    }

    #[test]
    fn a_run_over_the_foot_of_a_column_spans_all_rows() {
        // columns: 0 0 1 | 1 0 0
        let rle = Rle::from_row_major(&[0u8, 1, 0, 0, 1, 0], 3, 2).unwrap();
        assert_eq!(rle.counts, [2, 2, 2]);
        assert_eq!(rle.bbox_xywh(), [0, 0, 2, 3]);
    }

    #[test]
    fn wide_masks_join_runs_across_strips() {
        let bits = vec![1u8; 3 * 200];
        let rle = Rle::from_row_major(&bits, 3, 200).unwrap();
        assert_eq!(rle.counts, [0, 600]);
        assert_eq!(rle.area_px(), 600);
        assert_eq!(rle.to_row_major(), bits);
    }

    #[test]
    fn empty_masks_have_no_area_box_or_overlap() {
        let empty = Rle::from_row_major(&[0u8; 6], 2, 3).unwrap();
        assert_eq!(empty.counts, [6]);
        assert_eq!(empty.area_px(), 0);
        assert_eq!(empty.bbox_xywh(), [0; 4]);
        assert_eq!(empty.iou(&empty), Ok(0.0));
    }

    #[test]
    fn overlap_of_two_masks() {
        let a = Rle::from_row_major(&[1u8, 1, 0, 0, 1, 1], 2, 3).unwrap();
        let b = Rle::from_row_major(&[0u8, 1, 1, 0, 1, 0], 2, 3).unwrap();
        assert_eq!(a.intersection_px(&b), Ok(2));
        assert_eq!(a.union_px(&b), Ok(5));
        assert_eq!(a.iou(&b), Ok(0.4));
        let other_size = Rle::from_row_major(&[1u8; 6], 3, 2).unwrap();
        assert!(matches!(a.iou(&other_size), Err(PixelError::Shape { .. })));
    }

    #[test]
    fn runs_there_and_back() {
        let rle = Rle::from_runs(3, 4, [(0, 2), (2, 4), (5, 5), (7, 12)]).unwrap();
        assert_eq!(rle.counts, [0, 4, 3, 5]);
        assert_eq!(rle.runs().collect::<Vec<_>>(), [(0, 4), (7, 12)]);
        assert_eq!(Rle::from_runs(3, 4, rle.runs()), Ok(rle));
        for runs in [vec![(0, 13)], vec![(3, 2)], vec![(0, 4), (3, 5)]] {
            assert!(matches!(Rle::from_runs(3, 4, runs), Err(PixelError::Broken { .. })));
        }
    }

    #[test]
    fn wrong_sums_and_sizes_are_refused() {
        assert!(Rle::new(2, 3, vec![1, 5]).is_ok());
        assert!(matches!(Rle::new(2, 3, vec![1, 4]), Err(PixelError::Broken { .. })));
        assert!(matches!(Rle::new(2, 3, vec![u32::MAX; 9]), Err(PixelError::Broken { .. })));
        assert!(matches!(Rle::new(60_000, 60_000, vec![3_600_000_000]), Err(PixelError::TooLarge { .. })));
        assert!(matches!(Rle::from_row_major(&[0u8; 5], 2, 3), Err(PixelError::Shape { .. })));
    }

    #[test]
    fn hand_made_masks_with_surplus_runs_do_no_harm() {
        let rle = Rle { height: 2, width: 2, counts: vec![1, 9, 9, 9] };
        assert_eq!(rle.to_row_major(), [0, 1, 1, 1]);
        assert_eq!(rle.area_px(), 3);
        assert_eq!(rle.bbox_xywh(), [0, 0, 2, 2]);
    }
}
