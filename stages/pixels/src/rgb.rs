use crate::PixelError;

/// Longest side of an [`Rgb`], in pixels: the longest that a JPEG can have.
pub const MAX_SIDE_PX: u32 = 65_535;

/// Most pixels of an [`Rgb`] or a mask, so that every pixel and edge index fits 32 bits.
pub const MAX_PIXELS: u64 = 1 << 28;

/// An 8-bit RGB image, interleaved, row-major: `data[3 * (y * width + x) + channel]`.
///
/// Make it with [`Rgb::new`]: the functions of this crate rely on `data` being `3 * width * height`
/// long and on neither side being zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `3 * width * height` bytes, row after row, red, green and blue of each pixel.
    pub data: Vec<u8>,
}

impl Rgb {
    /// Takes `data` as an image of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`PixelError::Shape`] if a side is zero or `data` is not `3 * width * height` long,
    /// [`PixelError::TooLarge`] above [`MAX_SIDE_PX`] or [`MAX_PIXELS`].
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, PixelError> {
        check_size(width, height)?;
        let expected = 3 * width as usize * height as usize;
        if data.len() != expected {
            return Err(PixelError::Shape {
                what: format!("{width} x {height} pixels need {expected} bytes, got {}", data.len()),
            });
        }
        Ok(Self { width, height, data })
    }

    /// An image of one colour. A side of zero becomes one.
    pub(crate) fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let pixels = width as usize * height as usize;
        let data = if colour == [0; 3] { vec![0; 3 * pixels] } else { colour.repeat(pixels) };
        Self { width, height, data }
    }

    /// The pixels in row-major order.
    pub(crate) fn pixels(&self) -> &[[u8; 3]] {
        self.data.as_chunks().0
    }

    /// The pixels in row-major order, to write to.
    pub(crate) fn pixels_mut(&mut self) -> &mut [[u8; 3]] {
        self.data.as_chunks_mut().0
    }
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({} x {})", self.width, self.height)
    }
}

/// Refuses empty and oversized images.
pub(crate) fn check_size(width: u32, height: u32) -> Result<(), PixelError> {
    if width == 0 || height == 0 {
        return Err(PixelError::Shape { what: format!("an image of {width} x {height} pixels is empty") });
    }
    let side = width.max(height);
    if side > MAX_SIDE_PX {
        return Err(PixelError::TooLarge { unit: "pixels on a side", found: side.into(), limit: MAX_SIDE_PX.into() });
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(PixelError::TooLarge { unit: "pixels", found: pixels, limit: MAX_PIXELS });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_checks_length_and_size() {
        assert!(Rgb::new(2, 3, vec![0; 18]).is_ok());
        let short = Rgb::new(2, 3, vec![0; 17]).unwrap_err();
        assert_eq!(short.to_string(), "shape mismatch: 2 x 3 pixels need 18 bytes, got 17");
        assert!(matches!(Rgb::new(0, 3, vec![]), Err(PixelError::Shape { .. })));
        assert!(matches!(Rgb::new(65_536, 1, vec![]), Err(PixelError::TooLarge { .. })));
        assert!(matches!(Rgb::new(60_000, 60_000, vec![]), Err(PixelError::TooLarge { .. })));
    }
}
