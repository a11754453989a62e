//! Principal components: the two directions in which vectors differ most. Pure.

/// Rounds of the power iteration; by then directions whose variances differ by a twentieth are apart.
const ROUNDS: usize = 120;

/// Two directions through the middle of some vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
    /// Share of the variance along each axis.
    pub shares: [f64; 2],
}

impl Plane {
    /// The plane of the largest variance; vectors of another width than the first are left out. The same vectors in the
    /// same order give the same plane, and an axis points where its largest number is positive.
    pub fn through(vectors: &[Vec<f32>]) -> Self {
        let width = vectors.first().map_or(0, Vec::len);
        let vectors: Vec<&Vec<f32>> = vectors.iter().filter(|vector| vector.len() == width).collect();
        let count = vectors.len().max(1) as f64;
        let mut mean = vec![0.0; width];
        for vector in &vectors {
            mean.iter_mut().zip(*vector).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        mean.iter_mut().for_each(|sum| *sum /= count);
        let centred: Vec<Vec<f64>> = vectors.iter().map(|vector| minus(vector, &mean)).collect();
        let total: f64 = centred.iter().map(|vector| dot(vector, vector)).sum();
        let first = axis(&centred, width, None);
        let second = axis(&centred, width, Some(&first));
        let share = |axis: &[f64]| match total > 0.0 {
            true => centred.iter().map(|vector| dot(vector, axis).powi(2)).sum::<f64>() / total,
            false => 0.0,
        };
        let shares = [share(&first), share(&second)];
        Self { mean, axes: [first, second], shares }
    }

    /// Where a vector lies in the plane.
    pub fn place(&self, vector: &[f32]) -> [f32; 2] {
        let centred = minus(vector, &self.mean);
        [0, 1].map(|axis| dot(&centred, &self.axes[axis]) as f32)
    }
}

/// The direction of the largest variance, at a right angle to another one: vectors that are multiplied by the covariance
/// again and again turn towards it.
fn axis(centred: &[Vec<f64>], width: usize, other: Option<&Vec<f64>>) -> Vec<f64> {
    // no direction of data is at a right angle to this one but by intent
    let mut axis: Vec<f64> = (0..width).map(|at| 1.0 + (at as f64 * 0.754_877_666).fract()).collect();
    for _ in 0..ROUNDS {
        let mut turned = vec![0.0; width];
        for vector in centred {
            let along = dot(vector, &axis);
            turned.iter_mut().zip(vector).for_each(|(sum, value)| *sum += along * value);
        }
        if let Some(other) = other {
            let along = dot(&turned, other);
            turned.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
        let length = dot(&turned, &turned).sqrt();
        if length <= f64::MIN_POSITIVE {
            return vec![0.0; width];
        }
        turned.iter_mut().for_each(|value| *value /= length);
        axis = turned;
    }
    let largest =
        axis.iter().copied().fold(0.0, |largest: f64, value| if value.abs() > largest.abs() { value } else { largest });
    if largest < 0.0 {
        axis.iter_mut().for_each(|value| *value = -*value);
    }
    axis
}

fn minus(vector: &[f32], mean: &[f64]) -> Vec<f64> {
    vector.iter().zip(mean).map(|(value, mean)| f64::from(*value) - mean).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flat cloud in five dimensions: long along one direction, shorter along another, thin along the rest.
    fn cloud() -> Vec<Vec<f32>> {
        let wave = |at: usize, step: f64| (at as f64 * step).sin() as f32;
        let point = |at: usize| {
            let (long, short, thin) = (9.0 * wave(at, 1.3), 3.0 * wave(at, 2.1), 0.1 * wave(at, 3.7));
            vec![5.0 + 0.6 * long, 0.8 * long, short, thin, 1.0]
        };
        (0..400).map(point).collect()
    }

    #[test]
    fn the_plane_lies_along_the_cloud() {
        let plane = Plane::through(&cloud());
        for (axis, expected) in plane.axes.iter().zip([[0.6, 0.8, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]) {
            assert!(axis.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.02), "{axis:?}");
        }
        assert!(dot(&plane.axes[0], &plane.axes[1]).abs() < 1e-9);
        assert!(plane.shares[0] > 0.85 && (plane.shares[0] + plane.shares[1] - 1.0).abs() < 0.01, "{:?}", plane.shares);
        let [x, y] = plane.place(&[5.0 + 0.6, 0.8, 2.0, 0.0, 1.0]);
        assert!((x - 1.0).abs() < 0.3 && (y - 2.0).abs() < 0.3, "{x} {y}");
    }

    #[test]
    fn what_has_no_extent_lies_in_the_middle() {
        for vectors in [Vec::new(), vec![vec![1.0, 2.0]], vec![vec![1.0, 2.0]; 3], vec![vec![]; 2]] {
            let plane = Plane::through(&vectors);
            assert_eq!(plane.shares, [0.0; 2]);
            assert_eq!(vectors.first().map_or([0.0; 2], |vector| plane.place(vector)), [0.0; 2]);
        }
    }
}
