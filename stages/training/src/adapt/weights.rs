//! How much each chosen source counts.

use super::{Similarity, WeightsOf};

/// Sums that differ by less than this share are equal: scaling their rounding noise to [0, 1] would silence a source.
const EQUAL: f64 = 1e-12;

/// W_vec of Eq. 10, from W2 (the similarity of the chosen sources).
///
/// [`WeightsOf::Source`]: the sums over targets, min-max scaled to [0, 1], times n / sum `[S]`; the least similar source
/// has weight 0. [`WeightsOf::Target`]: the sums over sources, min-max scaled, divided by their sum `[T]`; they count by
/// position, row r of either domain by weight r. [`WeightsOf::Uniform`]: ones `[S]`.
/// Equal sums count as ones before the last scaling, so the result is always finite.
pub fn sample_weights(w2: &Similarity, of: WeightsOf) -> Vec<f64> {
    match of {
        WeightsOf::Source => scaled(w2.sums_over_targets(), w2.sources() as f64),
        WeightsOf::Target => scaled(w2.sums_over_sources(), 1.0),
        WeightsOf::Uniform => vec![1.0; w2.sources()],
    }
}

/// Min-max scaling, then scaling to the sum `total`.
fn scaled(sums: Vec<f64>, total: f64) -> Vec<f64> {
    let (lowest, highest) =
        sums.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let spread = highest - lowest;
    // At least one of the scaled sums is 1, so their sum is positive.
    let unit: Vec<f64> = if spread > EQUAL * lowest.abs().max(highest.abs()).max(1.0) {
        sums.iter().map(|x| (x - lowest) / spread).collect()
    } else {
        vec![1.0; sums.len()]
    };
    let sum: f64 = unit.iter().sum();
    unit.iter().map(|x| x * (total / sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::aggregate;
    use super::*;

    fn similarity(angles: &[f32]) -> Similarity {
        let at = |angle: f32| [angle.cos(), angle.sin()];
        let sources: Vec<f32> = angles.iter().flat_map(|&angle| at(angle)).collect();
        let targets = [at(0.0), at(0.2)].concat();
        let sources = aggregate(&sources, &sources, 2).unwrap();
        Similarity::new(&aggregate(&targets, &targets, 2).unwrap(), &sources).unwrap()
    }

    #[test]
    fn weights_rise_with_similarity_from_zero_and_sum_to_their_number() {
        let weights = sample_weights(&similarity(&[0.5, 0.1, 2.0, 1.0]), WeightsOf::Source);
        assert!((weights.iter().sum::<f64>() - 4.0).abs() < 1e-12);
        assert_eq!(weights[2], 0.0);
        assert!(weights[1] > weights[0] && weights[0] > weights[3] && weights[3] > 0.0, "{weights:?}");
        let by_target = sample_weights(&similarity(&[0.5, 0.1, 2.0, 1.0]), WeightsOf::Target);
        assert_eq!(by_target, [0.0, 1.0], "the second target lies nearer to the sources");
        assert_eq!(sample_weights(&similarity(&[0.5, 0.1, 2.0]), WeightsOf::Uniform), [1.0; 3]);
    }

    #[test]
    fn equal_sums_weigh_one() {
        assert_eq!(sample_weights(&similarity(&[0.7, 0.7, 0.7]), WeightsOf::Source), [1.0; 3]);
        assert_eq!(sample_weights(&similarity(&[0.7]), WeightsOf::Source), [1.0]);
        assert_eq!(scaled(vec![5.0, 5.0, 5.0, 5.0], 1.0), [0.25; 4]);
        assert_eq!(scaled(vec![1.0, 1.0 + 2e-16, 1.0], 3.0), [1.0; 3], "rounding noise is no difference");
        assert_eq!(scaled(vec![0.0, 0.0], 2.0), [1.0; 2]);
        assert_eq!(scaled(vec![-3.0, -1.0], 2.0), [0.0, 2.0]);
    }
}
