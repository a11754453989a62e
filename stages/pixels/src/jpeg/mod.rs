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
    let image = structure::check_complete(bytes)?;
    let (width, height) = image.frame.dimensions();
    let options = DecoderOptions::new_fast()
        .set_max_width(width as usize)
        .set_max_height(height as usize)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(true);
    let guarded = guarded(&bytes[..image.end]);
    // zune-jpeg wants to have met the next marker when the first progressive scan is done.
    let bytes = if image.only_first_scan { bytes } else { guarded.as_slice() };
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let broken = |error| PixelError::broken(format!("jpeg of {width} x {height} pixels: {error}"));
    decoder.decode_headers().map_err(broken)?;
    // Zeroed every time: nothing of the image before can show through in a reused buffer.
    data.resize(3 * width as usize * height as usize, 0);
    decoder.decode_into(data).map_err(broken)
}

/// The image with eight bytes of ones between its last scan and its end marker.
///
/// Decoders go on with zeros where a scan ends too early, and zeros are valid codes: grey pixels and no
/// error. A code of all ones is forbidden (T.81, C.2), so that whoever reads on here fails; whoever is
/// done does not look.
fn guarded(image: &[u8]) -> Vec<u8> {
    const STUFFED_ONES: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];
    [image, &STUFFED_ONES, &[0xff, structure::END_OF_IMAGE]].concat()
}
