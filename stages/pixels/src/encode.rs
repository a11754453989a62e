use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::Rgb;

/// Encodes as baseline JPEG; `quality` is libjpeg's scale, clamped to 1..=100.
pub fn encode_jpeg(rgb: &Rgb, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100))
        .write_image(&rgb.data, rgb.width, rgb.height, ExtendedColorType::Rgb8)
        .expect("an image made by Rgb::new fits a JPEG, and memory takes any byte");
    bytes
}

/// Encodes as 8-bit RGB PNG, without loss.
pub fn encode_png(rgb: &Rgb) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&rgb.data, rgb.width, rgb.height, ExtendedColorType::Rgb8)
        .expect("an image made by Rgb::new fits a PNG, and memory takes any byte");
    bytes
}
