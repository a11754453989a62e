use crate::Rgb;

/// Mean of CLIP's training images, by channel, on the scale 0..1 (OpenAI, open_clip, Hugging Face).
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Standard deviation of CLIP's training images, by channel, on the scale 0..1.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Writes `(value / 255 - mean) / std` to `out_chw`, `[3, height, width]`.
///
/// # Panics
/// If `out_chw` is not `3 * width * height` long.
pub fn normalise_into(rgb: &Rgb, mean: &[f32; 3], std: &[f32; 3], out_chw: &mut [f32]) {
    write_planes(rgb.pixels(), &Tables::new(mean, std), out_chw);
}

/// The same of interleaved pixels alone, as [`Rgb::data`] has them.
///
/// # Panics
/// If `out_chw` is not as long as whole pixels of `data` are.
pub fn normalise_bytes_into(data: &[u8], mean: &[f32; 3], std: &[f32; 3], out_chw: &mut [f32]) {
    write_planes(data.as_chunks().0, &Tables::new(mean, std), out_chw);
}

/// The 256 possible results of each channel: exact, and quicker than two divisions a value.
pub(crate) struct Tables([[f32; 256]; 3]);

impl Tables {
    pub(crate) fn new(mean: &[f32; 3], std: &[f32; 3]) -> Self {
        Self(std::array::from_fn(|channel| {
            std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel])
        }))
    }
}

/// Interleaved pixels to normalised planes.
///
/// # Panics
/// If `out_chw` is not three times as long as `pixels`.
pub(crate) fn write_planes(pixels: &[[u8; 3]], tables: &Tables, out_chw: &mut [f32]) {
    assert_eq!(out_chw.len(), 3 * pixels.len(), "a normalised image needs three values a pixel");
    let (red, rest) = out_chw.split_at_mut(pixels.len());
    let (green, blue) = rest.split_at_mut(pixels.len());
    let [red_of, green_of, blue_of] = &tables.0;
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        *red = red_of[usize::from(pixel[0])];
        *green = green_of[usize::from(pixel[1])];
        *blue = blue_of[usize::from(pixel[2])];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_follow_the_formula() {
        let rgb = Rgb::new(2, 1, vec![0, 128, 255, 17, 3, 90]).unwrap();
        let mut out = [f32::NAN; 6];
        normalise_into(&rgb, &CLIP_MEAN, &CLIP_STD, &mut out);
        let mut of_bytes = [f32::NAN; 6];
        normalise_bytes_into(&rgb.data, &CLIP_MEAN, &CLIP_STD, &mut of_bytes);
        assert_eq!(of_bytes, out);
        let expected = |value: f32, channel: usize| (value / 255.0 - CLIP_MEAN[channel]) / CLIP_STD[channel];
        assert_eq!(
            out,
            [
                expected(0.0, 0),
                expected(17.0, 0),
                expected(128.0, 1),
                expected(3.0, 1),
                expected(255.0, 2),
                expected(90.0, 2)
            ]
        );
        // (0 / 255 - 0.48145466) / 0.26862954
        assert!((out[0] - -1.792_262_6).abs() < 1e-6);
    }
}
