//! Masks drawn over an image, for reports.

use crate::Rgb;
use crate::mask::Rle;

/// Tints each mask with its [`colour`] (`alpha` 0 invisible, 1 opaque) and draws its outline, one pixel wide, in the full
/// colour. Later masks hide earlier ones, and the picture shows through as much under many as under one; a mask of
/// another size than the image is left out.
pub fn overlay(rgb: &Rgb, masks: &[Rle], alpha: f32) -> Rgb {
    let alpha = if alpha.is_nan() { 0.0 } else { alpha.clamp(0.0, 1.0) };
    let mut drawn = rgb.clone();
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    for (index, rle) in masks.iter().enumerate() {
        if (rle.width, rle.height) != (rgb.width, rgb.height) {
            continue;
        }
        let colour = colour(index);
        let mask = rle.to_row_major();
        let set = |x: usize, y: usize| mask[y * width + x] != 0;
        let outline = |x: usize, y: usize| {
            (x > 0 && !set(x - 1, y))
                || (x + 1 < width && !set(x + 1, y))
                || (y > 0 && !set(x, y - 1))
                || (y + 1 < height && !set(x, y + 1))
        };
        for (position, pixel) in drawn.pixels_mut().iter_mut().enumerate() {
            let (x, y) = (position % width, position / width);
            if mask[position] == 0 {
                continue;
            }
            let opacity = if outline(x, y) { 1.0 } else { alpha };
            for ((value, below), colour) in pixel.iter_mut().zip(rgb.pixels()[position]).zip(colour) {
                let mixed = f32::from(below) * (1.0 - opacity) + f32::from(colour) * opacity;
                *value = mixed.round() as u8;
            }
        }
    }
    drawn
}

/// The colour of the mask at this place. Hues are a golden angle apart: any few neighbours in the sequence are far from each
/// other.
pub fn colour(index: usize) -> [u8; 3] {
    const GOLDEN_ANGLE_TURNS: f64 = 0.381_966_011_250_105;
    let hue = (index as f64 * GOLDEN_ANGLE_TURNS).fract() * 6.0;
    // Full saturation and value: each channel is a trapezium over the hue circle.
    [0.0, 2.0, 4.0].map(|peak: f64| {
        let distance = (hue - peak).abs();
        let distance = distance.min(6.0 - distance);
        (255.0 * (2.0 - distance).clamp(0.0, 1.0)).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_is_tinted_and_the_outline_is_full() {
        let rgb = Rgb::new(5, 5, vec![100; 75]).unwrap();
        let mut bits = [0u8; 25];
        for y in 1..4 {
            for x in 1..4 {
                bits[5 * y + x] = 1;
            }
        }
        let rle = Rle::from_row_major(&bits, 5, 5).unwrap();
        let drawn = overlay(&rgb, &[rle], 0.5);
        assert_eq!(drawn.pixels()[0], [100; 3]);
        assert_eq!(drawn.pixels()[6], [255, 0, 0]);
        assert_eq!(drawn.pixels()[12], [178, 50, 50]);
    }

    #[test]
    fn the_picture_shows_through_many_masks_as_through_one() {
        let rgb = Rgb::new(5, 5, vec![100; 75]).unwrap();
        let whole = || Rle::from_row_major(&[1u8; 25], 5, 5).unwrap();
        let many = overlay(&rgb, &[whole(), whole(), whole()], 0.5);
        let expected = colour(2).map(|value| (50.0 + f32::from(value) / 2.0).round() as u8);
        assert_eq!(many.pixels()[12], expected);
    }

    #[test]
    fn masks_of_another_size_and_strange_alphas_change_nothing() {
        let rgb = Rgb::new(3, 3, vec![9; 27]).unwrap();
        let other = Rle::from_row_major(&[1u8; 4], 2, 2).unwrap();
        assert_eq!(overlay(&rgb, &[other], 0.5), rgb);
        let whole = Rle::from_row_major(&[1u8; 9], 3, 3).unwrap();
        assert_eq!(overlay(&rgb, &[whole], f32::NAN), rgb);
    }

    #[test]
    fn neighbouring_colours_are_far_apart() {
        for index in 0..50 {
            let (a, b) = (colour(index), colour(index + 1));
            let distance: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
            assert!(distance > 200, "{a:?} {b:?}");
        }
    }
}
