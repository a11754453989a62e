//! What the camera and the archive do to a drawn tile: blur, haze, tint, noise, JPEG.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageError};

use crate::country::Sensor;
use crate::noise::hash;
use crate::scene::Colour;

/// JPEG quality of every tile.
const QUALITY: u8 = 88;

/// Takes the picture: `pixels` is row-major with `width` columns; the result is 8-bit RGB.
pub fn expose(pixels: &[Colour], width: usize, height: usize, sensor: &Sensor, seed: u64) -> Vec<u8> {
    let sigma = sensor.blur * width.min(height) as f32;
    let blurred = blur(pixels, width, height, sigma);
    let mut bytes = Vec::with_capacity(blurred.len() * 3);
    for (index, pixel) in blurred.iter().enumerate() {
        let grey = sensor.noise * gaussian(seed, index as u64);
        for (channel, &value) in pixel.iter().enumerate() {
            let value = (value - 128.0) * sensor.contrast + 128.0;
            let value = value * sensor.tint[channel];
            let value = value + (255.0 - value) * sensor.haze + grey;
            // The cast cuts off, and keeps to 0-255.
            bytes.push((value + 0.5) as u8);
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
    JpegEncoder::new_with_quality(&mut encoded, QUALITY).encode(bytes, width, height, ExtendedColorType::Rgb8)?;
    Ok(encoded)
}

/// Roughly normal: the sum of three uniform numbers, which has unit variance.
fn gaussian(seed: u64, index: u64) -> f32 {
    let bits = hash(seed, index, 0);
    let sum = (bits & 0x1f_ffff) + (bits >> 21 & 0x1f_ffff) + (bits >> 42 & 0x1f_ffff);
    sum as f32 / (1u32 << 20) as f32 - 3.0
}

/// Separable Gaussian blur, edges repeated.
fn blur(pixels: &[Colour], width: usize, height: usize, sigma: f32) -> Vec<Colour> {
    let radius = (sigma * 2.5).ceil() as isize;
    if radius == 0 {
        return pixels.to_vec();
    }
    let weights: Vec<f32> = (-radius..=radius).map(|offset| (-0.5 * (offset as f32 / sigma).powi(2)).exp()).collect();
    let total: f32 = weights.iter().sum();
    let weights: Vec<f32> = weights.iter().map(|weight| weight / total).collect();
    let clamped = |place: usize, offset: usize, limit: usize| {
        (place as isize + offset as isize - radius).clamp(0, limit as isize - 1) as usize
    };
    // Whole rows are added up, so that the compiler can use vectors.
    let mut down = vec![[0.0; 3]; pixels.len()];
    for (y, row) in down.chunks_exact_mut(width).enumerate() {
        for (offset, weight) in weights.iter().enumerate() {
            let from = clamped(y, offset, height) * width;
            add(row, &pixels[from..from + width], *weight);
        }
    }
    let mut both = vec![[0.0; 3]; pixels.len()];
    let mut padded = vec![[0.0; 3]; width + weights.len() - 1];
    for (row, blurred) in down.chunks_exact(width).zip(both.chunks_exact_mut(width)) {
        for (place, pixel) in padded.iter_mut().enumerate() {
            *pixel = row[clamped(0, place, width)];
        }
        for (offset, weight) in weights.iter().enumerate() {
            add(blurred, &padded[offset..offset + width], *weight);
        }
    }
    both
}

fn add(sum: &mut [Colour], pixels: &[Colour], weight: f32) {
    for (sum, pixel) in sum.iter_mut().zip(pixels) {
        for channel in 0..3 {
            sum[channel] += weight * pixel[channel];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_an_even_picture_and_spreads_a_point() {
        let even = vec![[90.0; 3]; 49];
        assert!(blur(&even, 7, 7, 0.8).iter().all(|pixel| (pixel[0] - 90.0).abs() < 1e-3));
        let mut point = vec![[0.0; 3]; 49];
        point[24] = [100.0; 3];
        let spread = blur(&point, 7, 7, 0.8);
        assert!(spread[24][0] < 60.0 && spread[25][0] > 5.0);
        assert!((spread[23][0] - spread[25][0]).abs() < 1e-3, "left as right");
        assert!((spread[17][0] - spread[25][0]).abs() < 1e-3, "up as right");
    }
}
