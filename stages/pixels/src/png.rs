//! PNG through the `png` decoder of `image`.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits};

use crate::PixelError;

pub(crate) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Width and height from the header chunk, which must come first.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), PixelError> {
    let header = bytes
        .get(12..24)
        .and_then(|chunk| chunk.strip_prefix(b"IHDR"))
        .ok_or_else(|| PixelError::broken("png without a header chunk"))?;
    let (sides, _) = header.as_chunks::<4>();
    Ok((u32::from_be_bytes(sides[0]), u32::from_be_bytes(sides[1])))
}

/// Decodes to interleaved RGB over white. The caller has checked the size that the header claims.
pub(crate) fn decode_into(bytes: &[u8], pixels: u64, data: &mut Vec<u8>) -> Result<(), PixelError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(widest_alloc(pixels));
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(png_error)?;
    let has_alpha = decoder.color_type().has_alpha();
    let is_rgb8 = decoder.color_type() == ColorType::Rgb8;
    let image = DynamicImage::from_decoder(decoder).map_err(png_error)?;
    if has_alpha {
        let rgba = image.into_rgba8();
        data.extend(rgba.pixels().flat_map(|pixel| over_white(pixel.0)));
    } else if is_rgb8 {
        *data = image.into_bytes();
    } else {
        *data = image.into_rgb8().into_raw();
    }
    Ok(())
}

/// What a decoder may allocate: four 16-bit channels, twice (decoded and converted), and a megabyte for profiles and texts.
pub(crate) fn widest_alloc(pixels: u64) -> u64 {
    16 * pixels + (1 << 20)
}

/// Composites one pixel on white, rounding to nearest.
pub(crate) fn over_white([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [red, green, blue].map(|value| {
        let sum = u32::from(value) * alpha + 255 * (255 - alpha);
        ((sum + 127) / 255) as u8
    })
}

fn png_error(error: ImageError) -> PixelError {
    match error {
        ImageError::Unsupported(error) => PixelError::unsupported(error),
        error => PixelError::broken(format!("png: {error}")),
    }
}
