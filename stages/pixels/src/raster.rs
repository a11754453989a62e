//! TIFF, BMP and WebP through the decoders of `image`.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits};

use crate::PixelError;
use crate::png::{over_white, widest_alloc};

/// A format that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raster {
    Tiff,
    Bmp,
    WebP,
}

impl Raster {
    /// By the first bytes.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            // plain ones, and those with offsets of eight bytes
            [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Some(Self::Tiff),
            [b'B', b'M', ..] => Some(Self::Bmp),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::WebP => "webp",
        }
    }

    fn error(self) -> impl Fn(ImageError) -> PixelError {
        move |error| match error {
            ImageError::Unsupported(error) => PixelError::unsupported(error),
            error => PixelError::broken(format!("{}: {error}", self.name())),
        }
    }

    fn open<'a>(self, bytes: &'a [u8]) -> Result<Box<dyn ImageDecoder + 'a>, PixelError> {
        let cursor = Cursor::new(bytes);
        Ok(match self {
            Self::Tiff => Box::new(TiffDecoder::new(cursor).map_err(self.error())?),
            Self::Bmp => Box::new(BmpDecoder::new(cursor).map_err(self.error())?),
            Self::WebP => Box::new(WebPDecoder::new(cursor).map_err(self.error())?),
        })
    }

    /// Width and height, from the header.
    pub(crate) fn dimensions(self, bytes: &[u8]) -> Result<(u32, u32), PixelError> {
        Ok(self.open(bytes)?.dimensions())
    }

    /// Decodes to interleaved RGB over white; the first page of a TIFF, the first picture of an animation. The caller has
    /// checked the size that the header claims.
    pub(crate) fn decode_into(self, bytes: &[u8], pixels: u64, data: &mut Vec<u8>) -> Result<(), PixelError> {
        let mut decoder = self.open(bytes)?;
        let colour = decoder.color_type();
        // a fourth band of an aerial picture may be infrared: nothing says that it is an opacity
        if self == Self::Tiff && colour.has_alpha() {
            return Err(PixelError::unsupported("TIFF with a band beside grey, or beside red, green and blue"));
        }
        if matches!(colour, ColorType::Rgb32F | ColorType::Rgba32F) {
            return Err(PixelError::unsupported("TIFF with floating-point numbers"));
        }
        // numbers of a sensor, of which a byte's worth would be all but black
        if self == Self::Tiff && matches!(colour, ColorType::L16 | ColorType::Rgb16) {
            return Err(PixelError::unsupported(
                "TIFF with 16 bits a band: stretch it to 8, as with `gdal_translate -ot Byte -scale`",
            ));
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(widest_alloc(pixels));
        decoder.set_limits(limits).map_err(self.error())?;
        let image = DynamicImage::from_decoder(decoder).map_err(self.error())?;
        if colour.has_alpha() {
            data.extend(image.into_rgba8().pixels().flat_map(|pixel| over_white(pixel.0)));
        } else {
            *data = image.into_rgb8().into_raw();
        }
        Ok(())
    }
}
