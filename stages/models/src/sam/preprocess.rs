//! From images to the network's input.

use super::{PIXEL_MEAN, PIXEL_STD, Sam};
use crate::Result;
use candle_core::{Device, Tensor};
use pixels::{Filter, Rgb};
use rayon::prelude::*;
use std::borrow::Borrow;

/// Height and width of an image of `height` x `width` whose longest side becomes `side` pixels
/// (`ResizeLongestSide.get_preprocess_shape`); at least one pixel each.
pub fn resized_size(height: usize, width: usize, side: usize) -> (usize, usize) {
    let scale = side as f64 / height.max(width).max(1) as f64;
    let resized = |length: usize| ((length as f64 * scale + 0.5) as usize).clamp(1, side.max(1));
    (resized(height), resized(width))
}

impl Sam {
    /// The network's input `[B, 3, S, S]`: each image is resized (antialiased, bilinear) so that its longest side has S
    /// pixels, normalised, and filled up with zeros at the right or at the bottom.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if there is no memory.
    pub fn pixel_values<I: Borrow<Rgb> + Sync>(&self, images: &[I]) -> Result<Tensor> {
        let side = self.config.image_size;
        let mut values = vec![0f32; images.len() * 3 * side * side];
        values
            .par_chunks_mut(3 * side * side)
            .zip(images)
            .for_each(|(values, image)| write(image.borrow(), side, values));
        Ok(Tensor::from_vec(values, (images.len(), 3, side, side), &Device::Cpu)?)
    }
}

fn write(image: &Rgb, side: usize, values: &mut [f32]) {
    let (height, width) = resized_size(image.height as usize, image.width as usize, side);
    let resized = pixels::resize(image, width as u32, height as u32, Filter::Bilinear);
    for (channel, plane) in values.chunks_exact_mut(side * side).enumerate() {
        let (mean, deviation) = (PIXEL_MEAN[channel], PIXEL_STD[channel]);
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 - mean) / deviation);
        for (row, pixels) in plane.chunks_exact_mut(side).zip(resized.data.as_chunks::<3>().0.chunks_exact(width)) {
            for (value, pixel) in row.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_side_is_filled() {
        assert_eq!(resized_size(400, 400, 1024), (1024, 1024));
        assert_eq!(resized_size(150, 225, 1024), (683, 1024));
        assert_eq!(resized_size(301, 199, 1024), (1024, 677));
        assert_eq!(resized_size(1, 5000, 1024), (1, 1024));
    }

    #[test]
    fn pixels_are_normalised_and_the_rest_is_zero() {
        let image = Rgb::new(2, 1, vec![255, 0, 10, 0, 255, 20]).unwrap();
        let mut values = vec![0.0; 3 * 4];
        write(&image, 2, &mut values);
        let red = |value: f32| (value - 123.675) / 58.395;
        assert_eq!(values[..4], [red(255.0), red(0.0), 0.0, 0.0]);
        assert_eq!(values[8..], [(10.0 - 103.53) / 57.375, (20.0 - 103.53) / 57.375, 0.0, 0.0]);
    }
}
