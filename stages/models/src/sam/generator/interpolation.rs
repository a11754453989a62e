//! Two bilinear interpolations as one.

/// For each pixel of one axis of the result, the weights of a few consecutive low-resolution values.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    /// Weights for each pixel.
    pub(super) count: usize,
    /// The first value of each pixel.
    pub(super) starts: Vec<usize>,
    /// `[pixels, count]`
    pub(super) weights: Vec<f32>,
}

/// Two values and their weights.
type Pair = [(usize, f64); 2];

/// `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` along one axis: what pixel `index` of
/// `to` is made of.
fn interpolate(index: usize, from: usize, to: usize) -> Pair {
    // In f32, like PyTorch: the weights are then the same bits.
    let scale = from as f32 / to as f32;
    let place = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
    let first = (place as usize).min(from - 1);
    let weight = (place - first as f32).clamp(0.0, 1.0);
    [(first, f64::from(1.0 - weight)), ((first + 1).min(from - 1), f64::from(weight))]
}

impl Taps {
    /// From `low` values to `input` pixels, of which the first `kept` go to `output` pixels
    /// (`Sam.postprocess_masks`). No argument is zero, and `kept` is at most `input`.
    pub(super) fn new(low: usize, input: usize, kept: usize, output: usize) -> Self {
        let mixes: Vec<Vec<(usize, f64)>> = (0..output)
            .map(|pixel| {
                let mut mix: Vec<(usize, f64)> = Vec::new();
                for (middle, outer) in interpolate(pixel, kept, output) {
                    for (value, inner) in interpolate(middle, low, input) {
                        match mix.iter_mut().find(|(other, _)| *other == value) {
                            Some((_, weight)) => *weight += outer * inner,
                            None => mix.push((value, outer * inner)),
                        }
                    }
                }
                // Values without weight would widen all pixels.
                mix.retain(|&(_, weight)| weight > 0.0);
                mix
            })
            .collect();
        let ends = |mix: &[(usize, f64)]| {
            mix.iter().fold((usize::MAX, 0), |(first, last), &(value, _)| (first.min(value), last.max(value)))
        };
        let count = mixes.iter().map(|mix| ends(mix)).map(|(first, last)| last + 1 - first).max().unwrap_or(1);
        let mut taps = Self { count, starts: Vec::with_capacity(output), weights: vec![0.0; output * count] };
        for (mix, weights) in mixes.iter().zip(taps.weights.chunks_exact_mut(count)) {
            let start = ends(mix).0.min(low - count);
            for &(value, weight) in mix {
                weights[value - start] = weight as f32;
            }
            taps.starts.push(start);
        }
        taps
    }

    /// Start and weights of each pixel.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.starts.iter().copied().zip(self.weights.chunks_exact(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(taps: &Taps, values: &[f32]) -> Vec<f32> {
        taps.iter().map(|(start, weights)| weights.iter().zip(&values[start..]).map(|(w, v)| w * v).sum()).collect()
    }

    #[test]
    fn one_step_is_that_of_torch() {
        // >>> F.interpolate(torch.tensor([[[[1., 5., 2.]]]]), (1, 6), mode="bilinear")
        let taps = Taps::new(3, 6, 6, 6);
        assert_eq!(apply(&taps, &[1.0, 5.0, 2.0]), [1.0, 2.0, 4.0, 4.25, 2.75, 2.0]);
        assert_eq!(apply(&Taps::new(3, 3, 3, 3), &[1.0, 5.0, 2.0]), [1.0, 5.0, 2.0]);
    }

    #[test]
    fn two_steps_are_one_after_the_other() {
        let values: Vec<f32> = (0..16).map(|i| ((i * 7) % 11) as f32 - 4.0).collect();
        for (input, kept, output) in [(64, 64, 25), (64, 43, 15), (64, 41, 100), (64, 1, 3), (32, 32, 64)] {
            let first = apply(&Taps::new(16, input, input, input), &values);
            let second = apply(&Taps::new(kept, kept, kept, output), &first[..kept]);
            let both = apply(&Taps::new(16, input, kept, output), &values);
            assert_eq!(both.len(), output);
            for (a, b) in both.iter().zip(&second) {
                assert!((a - b).abs() < 1e-5, "{input} {kept} {output}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_pixel_needs_few_values() {
        assert!(Taps::new(256, 1024, 1024, 400).count <= 3);
        assert!(Taps::new(256, 1024, 683, 150).count <= 3);
        assert_eq!(Taps::new(1, 4, 4, 9).count, 1);
    }
}
