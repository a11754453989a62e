use fast_image_resize::Resizer;

use crate::decode::decode_into;
use crate::normalise::{Tables, write_planes};
use crate::resample::clip_view_into;
use crate::{CLIP_MEAN, CLIP_STD, DecodeLimits, PixelError, Rgb};

/// Encoded image to CLIP input, with buffers kept from image to image: one per thread.
///
/// Same pixels as [`decode`](crate::decode), [`clip_view`](crate::clip_view) and
/// [`normalise_into`](crate::normalise_into) one after the other.
pub struct ClipPreprocess {
    side: u32,
    limits: DecodeLimits,
    tables: Tables,
    resizer: Resizer,
    decoded: Vec<u8>,
    view: Vec<u8>,
}

impl ClipPreprocess {
    /// For inputs of `side` x `side` pixels (zero becomes one), with CLIP's mean and deviation.
    pub fn new(side: u32, limits: DecodeLimits) -> Self {
        Self::with_statistics(side, limits, &CLIP_MEAN, &CLIP_STD)
    }

    /// As [`new`](Self::new) with the mean and deviation that another checkpoint was trained with.
    pub fn with_statistics(side: u32, limits: DecodeLimits, mean: &[f32; 3], std: &[f32; 3]) -> Self {
        let side = side.max(1);
        Self {
            side,
            limits,
            tables: Tables::new(mean, std),
            resizer: Resizer::new(),
            decoded: Vec::new(),
            view: vec![0; 3 * side as usize * side as usize],
        }
    }

    /// Values of one input: `3 * side * side`.
    pub fn values(&self) -> usize {
        self.view.len()
    }

    /// Decodes `bytes` and writes the input to `out_chw`, `[3, side, side]`.
    ///
    /// # Errors
    /// As [`decode`](crate::decode); [`PixelError::Shape`] if `out_chw` is not
    /// [`values`](Self::values) long.
    pub fn encoded_into(&mut self, bytes: &[u8], out_chw: &mut [f32]) -> Result<(), PixelError> {
        self.check(out_chw)?;
        let (width, height) = decode_into(bytes, &self.limits, &mut self.decoded)?;
        let source = (width, height, self.decoded.as_slice());
        clip_view_into(&mut self.resizer, source, self.side, &mut self.view);
        write_planes(self.view.as_chunks().0, &self.tables, out_chw);
        Ok(())
    }

    /// Writes the input made of a decoded image to `out_chw`, `[3, side, side]`.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if `out_chw` is not [`values`](Self::values) long.
    pub fn rgb_into(&mut self, rgb: &Rgb, out_chw: &mut [f32]) -> Result<(), PixelError> {
        self.check(out_chw)?;
        let source = (rgb.width, rgb.height, rgb.data.as_slice());
        clip_view_into(&mut self.resizer, source, self.side, &mut self.view);
        write_planes(self.view.as_chunks().0, &self.tables, out_chw);
        Ok(())
    }

    fn check(&self, out_chw: &[f32]) -> Result<(), PixelError> {
        if out_chw.len() == self.values() {
            return Ok(());
        }
        Err(PixelError::Shape {
            what: format!(
                "an input of 3 x {0} x {0} has {1} values, the output has room for {2}",
                self.side,
                self.values(),
                out_chw.len()
            ),
        })
    }
}
