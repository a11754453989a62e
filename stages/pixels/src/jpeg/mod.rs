//! JPEG: our own walk over the markers decides what is acceptable, `zune-jpeg` decodes.

mod structure;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::PixelError;
pub(crate) use structure::Frame;

/// Progressive images have about ten scans; each one costs a pass over the whole image.
const MAX_SCANS: usize = 100;

/// Decodes to interleaved RGB. The caller has checked the size that the header claims.
pub(crate) fn decode_into(bytes: &[u8], data: &mut Vec<u8>) -> Result<(), PixelError> {
    let frame = structure::check_complete(bytes)?;
    let (width, height) = frame.dimensions();
    let options = DecoderOptions::new_fast()
        .set_max_width(width as usize)
        .set_max_height(height as usize)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let broken = |error| PixelError::broken(format!("jpeg of {width} x {height} pixels: {error}"));
    decoder.decode_headers().map_err(broken)?;
    // Zeroed every time: nothing of the image before can show through in a reused buffer.
    data.resize(3 * width as usize * height as usize, 0);
    decoder.decode_into(data).map_err(broken)
}
