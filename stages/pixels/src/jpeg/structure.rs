//! The markers of a JPEG file (ITU-T T.81, annex B), without decoding anything.

use crate::PixelError;

const START_OF_SCAN: u8 = 0xda;
pub(crate) const END_OF_IMAGE: u8 = 0xd9;

/// The frame header: size and coding of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    width: u16,
    height: u16,
    components: u8,
    progressive: bool,
}

impl Frame {
    /// Reads the markers up to the frame header.
    ///
    /// # Errors
    /// [`PixelError::Unsupported`] for anything but 8-bit Huffman-coded baseline, extended sequential
    /// and progressive frames; [`PixelError::Broken`] if there is none.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, PixelError> {
        let mut markers = Markers::after_start_of_image(bytes);
        while let Some(Segment { marker, payload }) = markers.next()? {
            match marker {
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    return Self::parse(marker, payload);
                }
                START_OF_SCAN | END_OF_IMAGE => break,
                _ => {}
            }
        }
        Err(PixelError::broken("jpeg without a frame header"))
    }

    /// Width and height in pixels.
    pub(crate) fn dimensions(&self) -> (u32, u32) {
        (self.width.into(), self.height.into())
    }

    fn parse(marker: u8, payload: &[u8]) -> Result<Self, PixelError> {
        let coding = match marker {
            0xc0..=0xc2 => None,
            0xc3 => Some("lossless"),
            0xc5..=0xc7 => Some("hierarchical"),
            _ => Some("arithmetic-coded"),
        };
        if let Some(coding) = coding {
            return Err(PixelError::unsupported(format!("{coding} jpeg")));
        }
        let &[bits, height_high, height_low, width_high, width_low, components, ..] = payload else {
            return Err(PixelError::broken("jpeg frame header is cut short"));
        };
        if bits != 8 {
            return Err(PixelError::unsupported(format!("jpeg with {bits} bits a channel")));
        }
        if !matches!(components, 1 | 3 | 4) {
            return Err(PixelError::unsupported(format!("jpeg with {components} colour components")));
        }
        Ok(Self {
            width: u16::from_be_bytes([width_high, width_low]),
            height: u16::from_be_bytes([height_high, height_low]),
            components,
            progressive: marker == 0xc2,
        })
    }
}

/// An image whose markers are in order.
pub(crate) struct Image {
    pub(crate) frame: Frame,
    /// A progressive image of a single scan: shades of whole blocks only.
    pub(crate) only_first_scan: bool,
    /// Where the end-of-image marker and the fill bytes before it begin.
    pub(crate) end: usize,
}

/// Walks the whole file: the first image must reach its end marker, and if it is sequential, its
/// scans must code each component once. Anything after the end marker (a gain map, padding) is left.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<Image, PixelError> {
    let frame = Frame::read(bytes)?;
    let mut markers = Markers::after_start_of_image(bytes);
    let (mut scans, mut components_coded) = (0u32, 0u32);
    while let Some(Segment { marker, payload }) = markers.next()? {
        match marker {
            START_OF_SCAN => {
                scans += 1;
                components_coded += u32::from(payload.first().copied().unwrap_or(0));
            }
            END_OF_IMAGE => {
                let expected = u32::from(frame.components);
                let complete =
                    if frame.progressive { components_coded >= expected } else { components_coded == expected };
                if !complete {
                    return Err(PixelError::broken(format!(
                        "jpeg scans code {components_coded} components, the frame has {expected}"
                    )));
                }
                // A data byte of 0xff has a zero behind it, so these are the marker's own.
                let marker_bytes = bytes[..markers.position].iter().rev();
                let end = markers.position - marker_bytes.take_while(|&&byte| byte == 0xff).count();
                return Ok(Image { frame, only_first_scan: frame.progressive && scans == 1, end });
            }
            _ => {}
        }
    }
    Err(PixelError::broken(format!("jpeg is truncated: no end-of-image marker in {} bytes", bytes.len())))
}

struct Segment<'a> {
    marker: u8,
    payload: &'a [u8],
}

/// Iterates over marker segments; entropy-coded data and stray bytes between them are skipped.
struct Markers<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Markers<'a> {
    fn after_start_of_image(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 2 }
    }

    /// The next marker with its payload; `None` at the end of the bytes.
    fn next(&mut self) -> Result<Option<Segment<'a>>, PixelError> {
        loop {
            let rest = self.bytes.get(self.position..).unwrap_or_default();
            let Some(offset) = memchr::memchr(0xff, rest) else {
                return Ok(None);
            };
            self.position += offset + 1;
            let Some(&marker) = self.bytes.get(self.position) else {
                return Ok(None);
            };
            match marker {
                // A fill byte: the marker is still to come.
                0xff => {}
                // A stuffed byte, or a marker without payload (temporary, restart, start of image).
                0x00 | 0x01 | 0xd0..=0xd8 => self.position += 1,
                END_OF_IMAGE => {
                    return Ok(Some(Segment { marker, payload: &[] }));
                }
                _ => return self.segment(marker).map(Some),
            }
        }
    }

    fn segment(&mut self, marker: u8) -> Result<Segment<'a>, PixelError> {
        let cut_short = || PixelError::broken(format!("jpeg segment {marker:02x} is cut short"));
        let body = &self.bytes[self.position + 1..];
        let &[high, low, ..] = body else {
            return Err(cut_short());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = body.get(2..length).ok_or_else(cut_short)?;
        self.position += 1 + length;
        Ok(Segment { marker, payload })
    }
}
