//! A hash that images which look alike share.

use crate::{Filter, Rgb, resize};

/// Columns of brightness that are compared, one with the next.
const WIDTH: u32 = 9;
const HEIGHT: u32 = 8;

/// The difference hash (Krawetz's dHash): whether each of 8 × 8 points is brighter than its right neighbour, by Rec. 601
/// luma, row by row from the highest bit. Scaling, compression and brightness move few bits; mirroring and turning move
/// many.
pub fn perceptual_hash(rgb: &Rgb) -> u64 {
    let small = resize(rgb, WIDTH, HEIGHT, Filter::Bilinear);
    let luma = |pixel: &[u8]| 299 * u32::from(pixel[0]) + 587 * u32::from(pixel[1]) + 114 * u32::from(pixel[2]);
    let rows = small.data.chunks_exact(3 * WIDTH as usize);
    rows.flat_map(|row| {
        let row: Vec<u32> = row.chunks_exact(3).map(luma).collect();
        row.windows(2).map(|pair| pair[0] > pair[1]).collect::<Vec<_>>()
    })
    .fold(0, |hash, bit| hash << 1 | u64::from(bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeLimits, decode, encode_jpeg};

    fn image(width: u32, height: u32, of: impl Fn(f32, f32) -> f32) -> Rgb {
        let (w, h) = (width as f32, height as f32);
        let at = |i: u32| ((i % width) as f32 / w, (i / width) as f32 / h);
        let data = (0..width * height).flat_map(|i| {
            let (x, y) = at(i);
            let value = (255.0 * of(x, y)).clamp(0.0, 255.0) as u8;
            [value, value / 2, 255 - value]
        });
        Rgb::new(width, height, data.collect()).unwrap()
    }

    fn waves(x: f32, y: f32) -> f32 {
        0.5 + 0.3 * (9.0 * x + 2.0 * y).sin() + 0.2 * (5.0 * y - 3.0 * x).cos()
    }

    #[test]
    fn what_looks_alike_has_nearly_one_hash() {
        let one = image(200, 160, waves);
        let hash = perceptual_hash(&one);
        let compressed = decode(&encode_jpeg(&one, 40), &DecodeLimits::default()).unwrap();
        let brighter = image(200, 160, |x, y| 0.8 * waves(x, y) + 0.1);
        for (what, like) in [("jpeg", compressed), ("small", image(100, 80, waves)), ("bright", brighter)] {
            let bits = (hash ^ perceptual_hash(&like)).count_ones();
            assert!(bits <= 4, "{what}: {bits} bits");
        }
        let mirrored = image(200, 160, |x, y| waves(1.0 - x, y));
        assert!((hash ^ perceptual_hash(&mirrored)).count_ones() > 12);
    }

    #[test]
    fn bits_are_rows_from_the_top() {
        // brighter to the left everywhere; flat images have no bit
        assert_eq!(perceptual_hash(&image(90, 80, |x, _| 1.0 - x)), u64::MAX);
        assert_eq!(perceptual_hash(&Rgb::new(3, 3, vec![7; 27]).unwrap()), 0);
        let grey = |left: u8, right: u8| {
            let row: Vec<u8> = (0..18).flat_map(|x| [if x < 9 { left } else { right }; 3]).collect();
            Rgb::new(18, 16, row.repeat(16)).unwrap()
        };
        assert!(perceptual_hash(&grey(200, 10)) != 0 && perceptual_hash(&grey(10, 200)) == 0);
    }
}
