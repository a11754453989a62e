use crate::raster::Raster;
use crate::{PixelError, Rgb, jpeg, png, rgb};

/// What a decoder may spend on one image; both are checked before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels, by the header.
    pub max_pixels: u64,
    /// Most encoded bytes.
    pub max_bytes: u64,
}

impl Default for DecodeLimits {
    /// 64 megapixels and 64 MiB: SkyScript's tiles have 100 to 1,000 pixels on a side.
    fn default() -> Self {
        Self { max_pixels: 64_000_000, max_bytes: 64 << 20 }
    }
}

/// Decodes a JPEG, PNG, TIFF, BMP or WebP at its full resolution.
///
/// JPEG: baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK (Adobe's inverted inks), restart
/// markers. PNG: 16-bit channels are narrowed, transparent pixels lie on white. TIFF: the first page, grey or RGB, in
/// strips or tiles, stored or by LZW, PackBits or Deflate.
///
/// Strict where training data would otherwise be grey without anyone noticing: a JPEG without its
/// end-of-image marker, whose scans do not code every component, or whose last scan ends before the
/// last block is [`PixelError::Broken`], never a partly grey picture. Pillow refuses the first, too,
/// but is silent about the others. JPEG has no checksum: changed bits that still are valid codes pass.
///
/// ```
/// use pixels::{DecodeLimits, Rgb, clip_view, decode, encode_png};
/// let striped = Rgb::new(60, 40, [[200, 0, 0], [0, 0, 200]].concat().repeat(60 * 40 / 2))?;
/// let bytes = encode_png(&striped);
/// let rgb = decode(&bytes, &DecodeLimits::default())?;
/// assert_eq!(rgb.data, striped.data);
/// let view = clip_view(&rgb, 20);
/// assert_eq!((view.width, view.height), (20, 20));
/// assert!(decode(&bytes, &DecodeLimits { max_pixels: 2_000, ..DecodeLimits::default() }).is_err());
/// # Ok::<(), pixels::PixelError>(())
/// ```
///
/// # Errors
/// [`PixelError::TooLarge`] above `limits`, [`PixelError::Unsupported`] for other formats and for 12-
/// and 16-bit, lossless and arithmetic JPEGs, [`PixelError::Broken`] for damaged bytes.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb, PixelError> {
    let encoded = bytes.len() as u64;
    if encoded > limits.max_bytes {
        return Err(PixelError::TooLarge { unit: "encoded bytes", found: encoded, limit: limits.max_bytes });
    }
    let format = Format::of(bytes)?;
    let (width, height) = format.dimensions(bytes)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        return Err(PixelError::TooLarge { unit: "pixels", found: pixels, limit: limits.max_pixels });
    }
    rgb::check_size(width, height)?;
    let mut data = Vec::new();
    match format {
        Format::Jpeg => jpeg::decode_into(bytes, &mut data)?,
        Format::Png => png::decode_into(bytes, pixels, &mut data)?,
        Format::Raster(raster) => raster.decode_into(bytes, pixels, &mut data)?,
    }
    Rgb::new(width, height, data)
}

/// Width and height in pixels, from the header alone.
///
/// # Errors
/// As [`decode`], without the limits.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), PixelError> {
    Format::of(bytes)?.dimensions(bytes)
}

enum Format {
    Jpeg,
    Png,
    Raster(Raster),
}

impl Format {
    fn of(bytes: &[u8]) -> Result<Self, PixelError> {
        const KNOWN_OTHERS: [(&[u8], &str); 2] = [(b"GIF8", "GIF"), (b"\0\0\0\x0cjP", "JPEG 2000")];
        if bytes.starts_with(&[0xff, 0xd8]) {
            return Ok(Self::Jpeg);
        }
        if bytes.starts_with(png::SIGNATURE) {
            return Ok(Self::Png);
        }
        if let Some(raster) = Raster::of(bytes) {
            return Ok(Self::Raster(raster));
        }
        for (magic, name) in KNOWN_OTHERS {
            if bytes.starts_with(magic) {
                return Err(PixelError::unsupported(format!("{name} format")));
            }
        }
        let head = &bytes[..bytes.len().min(8)];
        Err(PixelError::broken(format!(
            "{} bytes beginning with {head:02x?} are neither JPEG, PNG, TIFF, BMP nor WebP",
            bytes.len()
        )))
    }

    fn dimensions(&self, bytes: &[u8]) -> Result<(u32, u32), PixelError> {
        let (width, height) = match self {
            Self::Jpeg => jpeg::Frame::read(bytes)?.dimensions(),
            Self::Png => png::dimensions(bytes)?,
            Self::Raster(raster) => raster.dimensions(bytes)?,
        };
        if width == 0 || height == 0 {
            return Err(PixelError::broken(format!("the header says {width} x {height} pixels")));
        }
        Ok((width, height))
    }
}
