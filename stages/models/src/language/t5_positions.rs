//! T5's relative positions: a learnt bias per head for each of a few buckets of distances.

use super::config::T5Config;
use crate::ops::inference::DistanceBias;

/// Whether keys behind the query have buckets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Encoder: both ways.
    Both,
    /// Decoder: keys up to the query.
    Back,
}

/// The bucket of a distance, key less query (`T5Attention._relative_position_bucket`): near ones each have their own,
/// far ones share by the logarithm.
fn bucket(distance: isize, buckets: usize, max_distance: usize, sight: Sight) -> usize {
    let (first, buckets, steps) = match sight {
        Sight::Both => (if distance > 0 { buckets / 2 } else { 0 }, buckets / 2, distance.unsigned_abs()),
        Sight::Back => (0, buckets, distance.min(0).unsigned_abs()),
    };
    let exact = buckets / 2;
    if steps < exact {
        return first + steps;
    }
    // In f32 and truncated, as the reference does it.
    let ratio = (steps as f32 / exact as f32).ln() / ((max_distance as f64 / exact as f64).ln() as f32);
    first + (exact + (ratio * (buckets - exact) as f32) as usize).min(buckets - 1)
}

/// Biases for all distances within `reach` positions; `table_nh` is `[buckets, heads]`, row by row.
pub(super) fn distance_bias(config: &T5Config, table_nh: &[f32], reach: usize, sight: Sight) -> DistanceBias {
    let (buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
    let reach = reach.max(1);
    let of = |distance| bucket(distance, buckets, config.relative_attention_max_distance, sight);
    let buckets: Vec<usize> = (1 - reach as isize..reach as isize).map(of).collect();
    let values = (0..heads).flat_map(|head| buckets.iter().map(move |bucket| table_nh[bucket * heads + head]));
    DistanceBias { values_hn: values.collect(), reach }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_reference() {
        // T5Attention._relative_position_bucket(torch.tensor([...]), sight, 32, 128)
        let distances = [-200, -128, -64, -20, -9, -8, -7, -1, 0, 1, 7, 8, 9, 20, 64, 128, 200];
        let both = distances.map(|d| bucket(d, 32, 128, Sight::Both));
        assert_eq!(both, [15, 15, 14, 10, 8, 8, 7, 1, 0, 17, 23, 24, 24, 26, 30, 31, 31]);
        let back = distances.map(|d| bucket(d, 32, 128, Sight::Back));
        assert_eq!(back, [31, 31, 26, 17, 9, 8, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_bias_is_found_by_head_and_distance() {
        let config = T5Config {
            num_heads: 2,
            relative_attention_num_buckets: 4,
            relative_attention_max_distance: 8,
            ..T5Config::default()
        };
        let table: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let bias = distance_bias(&config, &table, 2, Sight::Both);
        // Distances -1, 0, 1 lie in buckets 1, 0, 3.
        assert_eq!(bias.values_hn, [2.0, 0.0, 6.0, 3.0, 1.0, 7.0]);
    }
}
