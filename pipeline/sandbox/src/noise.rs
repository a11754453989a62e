//! Value noise on three scales, computed once for a tile.

/// Noise fields over the pixels of a tile, each value in [-1, 1].
pub struct Noise {
    /// From pixel to pixel.
    pub grain: Vec<f32>,
    /// Patches of a few scene units.
    pub mottle: Vec<f32>,
    /// Slow change over the tile.
    pub drift: Vec<f32>,
}

impl Noise {
    /// Fields of `width` x `height` pixels at `scale` pixels per scene unit.
    pub fn new(seed: u64, width: usize, height: usize, scale: f32) -> Noise {
        let fine = lattice(seed ^ 2, width, height, 2.2 * scale);
        let coarse = lattice(seed ^ 3, width, height, 6.0 * scale);
        Noise {
            grain: (0..width * height)
                .map(|index| signed(hash(seed ^ 1, (index % width) as u64, (index / width) as u64)))
                .collect(),
            mottle: fine.iter().zip(coarse).map(|(a, b)| 0.5 * a + 0.5 * b).collect(),
            drift: lattice(seed ^ 4, width, height, 24.0 * scale),
        }
    }
}

/// A well-mixed hash of a lattice point (the finaliser of SplitMix64).
pub fn hash(seed: u64, x: u64, y: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(x.wrapping_mul(0xBF58_476D_1CE4_E5B9))
        .wrapping_add(y.wrapping_mul(0x94D0_49BB_1331_11EB));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The top bits of a hash as a number in [-1, 1).
pub fn signed(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Smooth interpolation between random values on a square lattice of `spacing` pixels.
fn lattice(seed: u64, width: usize, height: usize, spacing: f32) -> Vec<f32> {
    let spacing = spacing.max(1.0);
    let columns = (width as f32 / spacing) as usize + 2;
    let rows = (height as f32 / spacing) as usize + 2;
    let knots: Vec<f32> = (0..columns * rows)
        .map(|index| signed(hash(seed, (index % columns) as u64, (index / columns) as u64)))
        .collect();
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let along_x: Vec<(usize, f32)> = (0..width)
        .map(|x| {
            let place = x as f32 / spacing;
            (place as usize, ease(place.fract()))
        })
        .collect();
    let mut field = Vec::with_capacity(width * height);
    for y in 0..height {
        let place = y as f32 / spacing;
        let (row, v) = (place as usize, ease(place.fract()));
        let (upper, lower) = (&knots[row * columns..], &knots[(row + 1) * columns..]);
        for &(column, u) in &along_x {
            let top = upper[column] + (upper[column + 1] - upper[column]) * u;
            let bottom = lower[column] + (lower[column + 1] - lower[column]) * u;
            field.push(top + (bottom - top) * v);
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_the_tile_stay_in_range_and_vary() {
        let noise = Noise::new(7, 61, 43, 1.6);
        for field in [&noise.grain, &noise.mottle, &noise.drift] {
            assert_eq!(field.len(), 61 * 43);
            assert!(field.iter().all(|value| (-1.0..=1.0).contains(value)));
            let mean = field.iter().sum::<f32>() / field.len() as f32;
            assert!(field.iter().any(|value| (value - mean).abs() > 0.1));
        }
    }
}
