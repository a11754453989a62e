//! What the camera and the archive do to a drawn tile: blur, haze, tint, noise, JPEG.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageError};

use crate::country::Sensor;
use crate::noise::{hash, signed};
use crate::scene::Colour;

/// JPEG quality of every tile.
const QUALITY: u8 = 88;

/// Takes the picture: `pixels` is row-major with `width` columns; the result is 8-bit RGB.
pub fn expose(
    pixels: &[Colour],
    width: usize,
    height: usize,
    sensor: &Sensor,
    seed: u64,
) -> Vec<u8> {
    let sigma = sensor.blur * width.min(height) as f32;
    let blurred = blur(pixels, width, height, sigma);
    let mut bytes = Vec::with_capacity(blurred.len() * 3);
    for (index, pixel) in blurred.iter().enumerate() {
        let grey = sensor.noise * gaussian(seed, index as u64);
        for (channel, &value) in pixel.iter().enumerate() {
            let value = (value - 128.0) * sensor.contrast + 128.0;
            let value = value * sensor.tint[channel];
            let value = value + (255.0 - value) * sensor.haze + grey;
            bytes.push(value.clamp(0.0, 255.0).round() as u8);
        }
    }
    bytes
}

/// Encodes 8-bit RGB as JPEG.
///
/// # Errors
/// The encoder's, for a size that does not fit the bytes.
pub fn jpeg(bytes: &[u8], width: u32, height: u32) -> Result<Vec<u8>, ImageError> {
    let mut encoded = Vec::new();
    JpegEncoder::new_with_quality(&mut encoded, QUALITY).encode(
        bytes,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(encoded)
}

/// Roughly normal: the sum of three uniform numbers, scaled to unit variance.
fn gaussian(seed: u64, index: u64) -> f32 {
    (0..3).map(|draw| signed(hash(seed, index, draw))).sum()
}

/// Separable Gaussian blur, edges repeated.
fn blur(pixels: &[Colour], width: usize, height: usize, sigma: f32) -> Vec<Colour> {
    let radius = (sigma * 2.5).ceil() as isize;
    if radius == 0 {
        return pixels.to_vec();
    }
    let weights: Vec<f32> = (-radius..=radius)
        .map(|offset| (-0.5 * (offset as f32 / sigma).powi(2)).exp())
        .collect();
    let total: f32 = weights.iter().sum();
    let pass = |source: &[Colour], across: bool| -> Vec<Colour> {
        let mut result = Vec::with_capacity(source.len());
        for y in 0..height {
            for x in 0..width {
                let mut sum = [0.0; 3];
                for (weight, offset) in weights.iter().zip(-radius..=radius) {
                    let (x, y) = if across {
                        (
                            (x as isize + offset).clamp(0, width as isize - 1) as usize,
                            y,
                        )
                    } else {
                        (
                            x,
                            (y as isize + offset).clamp(0, height as isize - 1) as usize,
                        )
                    };
                    let pixel = source[y * width + x];
                    for channel in 0..3 {
                        sum[channel] += weight * pixel[channel];
                    }
                }
                result.push(sum.map(|value| value / total));
            }
        }
        result
    };
    pass(&pass(pixels, true), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_an_even_picture_and_spreads_a_point() {
        let even = vec![[90.0; 3]; 49];
        assert!(
            blur(&even, 7, 7, 0.8)
                .iter()
                .all(|pixel| (pixel[0] - 90.0).abs() < 1e-3)
        );
        let mut point = vec![[0.0; 3]; 49];
        point[24] = [100.0; 3];
        let spread = blur(&point, 7, 7, 0.8);
        assert!(spread[24][0] < 60.0 && spread[25][0] > 5.0);
    }
}
