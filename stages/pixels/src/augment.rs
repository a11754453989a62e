//! Random views of a tile for training.

use choices::Augmentation;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::resample::{Crop, resize_crop};
use crate::{Filter, Rgb};

/// Least and greatest width / height of a crop: torchvision's.
const RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

/// A random view of `rgb`, `side` x `side` pixels: torchvision's `RandomResizedCrop` (bicubic,
/// antialiased), then the flips, turns and colour changes that are switched on.
///
/// The same generator state gives the same view. Settings that make no sense do no harm: the crop falls back to the
/// middle of the image.
pub fn augment(rgb: &Rgb, side: u32, settings: &Augmentation, rng: &mut ChaCha8Rng) -> Rgb {
    let [least, greatest] = settings.crop_scale;
    let crop = random_crop(rgb, (least, greatest), RATIO, rng);
    let mut view = resize_crop(rgb, crop, side, side, Filter::Bicubic);
    if settings.flips && rng.random() {
        flip_horizontal(&mut view);
    }
    if settings.flips && rng.random() {
        flip_vertical(&mut view);
    }
    if settings.quarter_turns {
        let turns = rng.random_range(0..4);
        if turns % 2 == 1 {
            view = quarter_turn(&view);
        }
        if turns >= 2 {
            // two quarter turns more
            view.pixels_mut().reverse();
        }
    }
    if settings.colour_jitter > 0.0 {
        jitter_colours(&mut view, settings.colour_jitter, rng);
    }
    view
}

/// `RandomResizedCrop.get_params` of torchvision: ten attempts at a crop of random area and aspect
/// (logarithmically uniform), then the largest middle crop whose aspect is allowed.
fn random_crop(rgb: &Rgb, scale: (f32, f32), ratio: (f32, f32), rng: &mut ChaCha8Rng) -> Crop {
    const ATTEMPTS: usize = 10;
    let (width, height) = (f64::from(rgb.width), f64::from(rgb.height));
    let (least_ratio, greatest_ratio) = (f64::from(ratio.0), f64::from(ratio.1));
    let log_ratio = (least_ratio.ln(), greatest_ratio.ln());
    let scale = (f64::from(scale.0), f64::from(scale.1));
    for _ in 0..ATTEMPTS {
        let area = width * height * uniform(scale, rng);
        let ratio = uniform(log_ratio, rng).exp();
        // Casts saturate and make 0 of NaN, which no crop has.
        let crop_width = (area * ratio).sqrt().round_ties_even() as u32;
        let crop_height = (area / ratio).sqrt().round_ties_even() as u32;
        if (1..=rgb.width).contains(&crop_width) && (1..=rgb.height).contains(&crop_height) {
            return Crop {
                top: rng.random_range(0..=rgb.height - crop_height),
                left: rng.random_range(0..=rgb.width - crop_width),
                width: crop_width,
                height: crop_height,
            };
        }
    }
    let ratio = width / height;
    let (crop_width, crop_height) = if ratio < least_ratio {
        (width, (width / least_ratio).round_ties_even())
    } else if ratio > greatest_ratio {
        ((height * greatest_ratio).round_ties_even(), height)
    } else {
        (width, height)
    };
    let crop_width = (crop_width as u32).clamp(1, rgb.width);
    let crop_height = (crop_height as u32).clamp(1, rgb.height);
    Crop {
        left: (rgb.width - crop_width) / 2,
        top: (rgb.height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// Uniform between the two ends; unlike a generator's range it takes any two numbers.
fn uniform((least, greatest): (f64, f64), rng: &mut ChaCha8Rng) -> f64 {
    least + (greatest - least) * rng.random::<f64>()
}

/// The eight orientations of a picture: four quarter turns of it and of its mirror image. The first
/// is the picture itself.
pub fn orientations(rgb: &Rgb) -> Vec<Rgb> {
    let mut mirrored = rgb.clone();
    flip_horizontal(&mut mirrored);
    let mut all = Vec::with_capacity(8);
    for mut picture in [rgb.clone(), mirrored] {
        for _ in 0..3 {
            let turned = quarter_turn(&picture);
            all.push(std::mem::replace(&mut picture, turned));
        }
        all.push(picture);
    }
    all
}

fn flip_horizontal(rgb: &mut Rgb) {
    let width = rgb.width as usize;
    for row in rgb.pixels_mut().chunks_exact_mut(width) {
        row.reverse();
    }
}

fn flip_vertical(rgb: &mut Rgb) {
    // Reversing everything turns by 180 degrees; reversing each row again leaves the vertical flip.
    rgb.pixels_mut().reverse();
    flip_horizontal(rgb);
}

/// Turns by 90 degrees counter-clockwise.
fn quarter_turn(rgb: &Rgb) -> Rgb {
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    let mut turned = Rgb::filled(rgb.height, rgb.width, [0; 3]);
    let rows = turned.pixels_mut().chunks_exact_mut(height);
    for (row, column) in rows.zip((0..width).rev()) {
        for (target, y) in row.iter_mut().zip(0..height) {
            *target = rgb.pixels()[y * width + column];
        }
    }
    turned
}

/// torchvision's `ColorJitter(strength, strength, strength)` in the fixed order brightness, contrast,
/// saturation: each is a blend with black, with the mean grey, with the grey picture.
fn jitter_colours(rgb: &mut Rgb, strength: f32, rng: &mut ChaCha8Rng) {
    let strength = f64::from(strength);
    let range = ((1.0 - strength).max(0.0), 1.0 + strength);
    let [brightness, contrast, saturation] = std::array::from_fn(|_| uniform(range, rng) as f32);
    // what does not depend on the pixel's other channels is looked up
    let brighter: [u8; 256] = std::array::from_fn(|value| blend(value as u8, 0.0, brightness));
    let mut sums = [0; 3];
    for pixel in rgb.pixels() {
        sums[0] += u64::from(brighter[usize::from(pixel[0])]);
        sums[1] += u64::from(brighter[usize::from(pixel[1])]);
        sums[2] += u64::from(brighter[usize::from(pixel[2])]);
    }
    let count = rgb.pixels().len() as f64;
    let mean = grey(sums.map(|sum| (sum as f64 / count) as f32));
    let even: [f32; 256] = std::array::from_fn(|value| f32::from(blend(brighter[value], mean, contrast)));
    let (whole, rest) = rgb.pixels_mut().as_chunks_mut();
    whole.iter_mut().for_each(|pixels| saturate(pixels, &even, saturation));
    let mut padded = [[0; 3]; SATURATED_AT_ONCE];
    padded[..rest.len()].copy_from_slice(rest);
    saturate(&mut padded, &even, saturation);
    rest.copy_from_slice(&padded[..rest.len()]);
}

/// Pixels whose channels are taken apart, blended side by side and put together again: loops over arrays of known
/// length become vector instructions, loops over triples do not.
const SATURATED_AT_ONCE: usize = 64;

/// Looks the values of pixels up in `even` and blends them with their grey.
fn saturate(pixels: &mut [[u8; 3]; SATURATED_AT_ONCE], even: &[f32; 256], saturation: f32) {
    let [mut red, mut green, mut blue] = [[0f32; SATURATED_AT_ONCE]; 3];
    for (pixel, ((red, green), blue)) in pixels.iter().zip(red.iter_mut().zip(&mut green).zip(&mut blue)) {
        [*red, *green, *blue] = [even[usize::from(pixel[0])], even[usize::from(pixel[1])], even[usize::from(pixel[2])]];
    }
    let mut greys = [0f32; SATURATED_AT_ONCE];
    for (mixed, ((&red, &green), &blue)) in greys.iter_mut().zip(red.iter().zip(&green).zip(&blue)) {
        *mixed = grey([red, green, blue]) * (1.0 - saturation) + 0.5;
    }
    let mut blended = [[0u8; SATURATED_AT_ONCE]; 3];
    for (blended, plane) in blended.iter_mut().zip([&red, &green, &blue]) {
        for (blended, (even, grey)) in blended.iter_mut().zip(plane.iter().zip(&greys)) {
            #[expect(clippy::manual_clamp, reason = "`clamp` keeps what is no number, `max` makes 0 of it")]
            let value = (even * saturation + grey).max(0.0).min(255.0);
            // SAFETY: a number from 0 to 255. A checked cast is done value by value.
            *blended = unsafe { value.to_int_unchecked::<i32>() } as u8;
        }
    }
    let [red, green, blue] = &blended;
    for (pixel, ((&red, &green), &blue)) in pixels.iter_mut().zip(red.iter().zip(green).zip(blue)) {
        *pixel = [red, green, blue];
    }
}

/// `value * weight + other * (1 - weight)`, rounded and saturating.
fn blend(value: u8, other: f32, weight: f32) -> u8 {
    // The cast cuts off, and makes 0 of what is below: `round` would be a call for each value.
    (f32::from(value) * weight + other * (1.0 - weight) + 0.5) as u8
}

/// Luma of ITU-R BT.601, as Pillow's and torchvision's grey.
fn grey([red, green, blue]: [f32; 3]) -> f32 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn numbered(width: u32, height: u32) -> Rgb {
        let data = (0..width * height).flat_map(|index| [index as u8, (index >> 8) as u8, 50]).collect();
        Rgb::new(width, height, data).unwrap()
    }

    fn reds(rgb: &Rgb) -> Vec<u8> {
        rgb.pixels().iter().map(|pixel| pixel[0]).collect()
    }

    /// The blends one after the other, as torchvision has them.
    const NOTHING: Augmentation =
        Augmentation { crop_scale: [1.0, 1.0], flips: false, quarter_turns: false, colour_jitter: 0.0 };

    #[test]
    fn colours_change_as_by_three_blends() {
        let mut picture = numbered(40, 30);
        let mut expected = picture.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let weights: [f32; 3] = std::array::from_fn(|_| uniform((0.6, 1.4), &mut rng) as f32);
        let blended = |rgb: &mut Rgb, weight: f32, other: &dyn Fn([f32; 3]) -> f32| {
            for pixel in rgb.pixels_mut() {
                let other = other(pixel.map(f32::from)) * (1.0 - weight);
                *pixel = pixel.map(|value| (f32::from(value) * weight + other).round() as u8);
            }
        };
        blended(&mut expected, weights[0], &|_| 0.0);
        let mean = expected.pixels().iter().map(|p| f64::from(grey(p.map(f32::from)))).sum::<f64>()
            / expected.pixels().len() as f64;
        blended(&mut expected, weights[1], &|_| mean as f32);
        blended(&mut expected, weights[2], &grey);
        jitter_colours(&mut picture, 0.4, &mut ChaCha8Rng::seed_from_u64(11));
        assert_eq!(picture, expected);
    }

    #[test]
    fn the_wildest_colours_are_colours() {
        let mut picture = numbered(33, 3);
        for seed in 0..20 {
            jitter_colours(&mut picture, f32::MAX, &mut ChaCha8Rng::seed_from_u64(seed));
        }
        assert!(picture.pixels().iter().flatten().all(|value| [0, 255].contains(value)));
    }

    #[test]
    fn flips_and_turns() {
        let original = numbered(3, 2); // 0 1 2 / 3 4 5
        let mut flipped = original.clone();
        flip_horizontal(&mut flipped);
        assert_eq!(reds(&flipped), [2, 1, 0, 5, 4, 3]);
        let mut flipped = original.clone();
        flip_vertical(&mut flipped);
        assert_eq!(reds(&flipped), [3, 4, 5, 0, 1, 2]);
        let turned = quarter_turn(&original);
        assert_eq!((turned.width, turned.height), (2, 3));
        assert_eq!(reds(&turned), [2, 5, 1, 4, 0, 3]);
        let twice = quarter_turn(&quarter_turn(&turned));
        assert_eq!(quarter_turn(&twice), original);
    }

    #[test]
    fn crops_have_the_asked_area_and_ratio_and_lie_inside() {
        let rgb = numbered(200, 120);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2_000 {
            let crop = random_crop(&rgb, (0.3, 0.5), (0.8, 1.5), &mut rng);
            assert!(crop.left + crop.width <= 200 && crop.top + crop.height <= 120);
            let area = f64::from(crop.width * crop.height) / (200.0 * 120.0);
            assert!((0.29..0.51).contains(&area), "{crop:?}");
            let ratio = f64::from(crop.width) / f64::from(crop.height);
            assert!((0.79..1.52).contains(&ratio), "{crop:?}");
            seen.insert((crop.left, crop.top, crop.width, crop.height));
        }
        assert!(seen.len() > 1_900);
    }

    #[test]
    fn impossible_crops_fall_back_to_the_middle() {
        // A ribbon: no crop of half its area has a ratio below two.
        let rgb = numbered(400, 10);
        let crop = random_crop(&rgb, (0.5, 1.0), (0.5, 2.0), &mut ChaCha8Rng::seed_from_u64(0));
        let middle = Crop { left: 190, top: 0, width: 20, height: 10 };
        assert_eq!(crop, middle);
    }

    #[test]
    fn the_whole_image_with_everything_off_is_a_plain_resize() {
        let rgb = numbered(64, 64);
        let view = augment(&rgb, 32, &NOTHING, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(view, crate::resize(&rgb, 32, 32, Filter::Bicubic));
    }

    #[test]
    fn the_generator_alone_decides() {
        let rgb = numbered(50, 40);
        let settings = Augmentation { crop_scale: [0.2, 1.0], colour_jitter: 0.4, ..Augmentation::default() };
        let view = |seed| augment(&rgb, 16, &settings, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(view(7), view(7));
        assert_ne!(view(7), view(8));
    }

    #[test]
    fn jitter_blends_towards_black_mean_and_grey() {
        assert_eq!([100, 50, 200].map(|value| blend(value, 0.0, 0.5)), [50, 25, 100]);
        let grey = grey([100.0, 50.0, 200.0]);
        assert_eq!([100, 50, 200].map(|value| blend(value, grey, 0.0)), [82, 82, 82]);
        assert_eq!([82, 18, 0].map(|value| blend(value, 0.0, 9.0)), [255, 162, 0]);
        assert_eq!(blend(10, 200.0, 1.2), 0, "what is below black is black");
    }

    #[test]
    fn senseless_settings_do_no_harm() {
        let rgb = numbered(5, 5);
        for (side, bad) in [
            (0, NOTHING),
            (8, Augmentation { crop_scale: [0.0, 1.0], ..NOTHING }),
            (8, Augmentation { crop_scale: [0.5, 1.5], ..NOTHING }),
            (8, Augmentation { crop_scale: [f32::NAN, 1.0], ..NOTHING }),
            (8, Augmentation { colour_jitter: -1.0, ..NOTHING }),
        ] {
            let view = augment(&rgb, side, &bad, &mut ChaCha8Rng::seed_from_u64(0));
            assert_eq!(view.width, side.max(1));
        }
        for ratio in [(2.0, 1.0), (f32::NAN, f32::NAN)] {
            let crop = random_crop(&rgb, (0.5, 1.0), ratio, &mut ChaCha8Rng::seed_from_u64(0));
            assert!(crop.width >= 1 && crop.left + crop.width <= 5, "{crop:?}");
        }
    }
}
