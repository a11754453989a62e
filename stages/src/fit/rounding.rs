//! Learning rates whose steps half precision rounds away.

use candle_core::DType;

/// Size of a usual weight of a transformer, whose matrices are drawn with this deviation.
const USUAL: f64 = 0.02;

/// Says so before a training begins of which little would be left. `rate` and `precision` name the settings.
pub(crate) fn warn_of_rounding(dtype: DType, (rate, learning_rate): (&str, f64), steps: usize, precision: &str) {
    if let Some(why) = rounded_away(dtype, learning_rate, steps) {
        tracing::warn!("{rate} = {learning_rate:e} {why}; set {precision} = \"tf32\" or \"f32\", or raise the rate");
    }
}

/// Why most of what is learnt does not reach the weights; `None`: it does. Masters are in single precision, but the network
/// that is validated and kept is not. A step is about the learning rate, and steps that do not all point one way come as
/// far as the root of their number.
fn rounded_away(dtype: DType, learning_rate: f64, steps: usize) -> Option<String> {
    let digits = match dtype {
        DType::BF16 => 8,
        DType::F16 => 11,
        _ => return None,
    };
    let half_a_cell = USUAL * 2f64.powi(-digits - 1);
    let moved = learning_rate * (steps as f64).sqrt();
    (moved < half_a_cell).then(|| {
        format!(
            "moves a weight by about {moved:.0e} in {steps} steps, and {} rounds changes of weights of {USUAL} below \
             {half_a_cell:.0e} away",
            dtype.as_str()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_adaptation_is_rounded_away_in_bf16_and_its_training_is_not() {
        let why = rounded_away(DType::BF16, 1e-7, 2880).unwrap();
        assert_eq!(
            why,
            "moves a weight by about 5e-6 in 2880 steps, and bf16 rounds changes of weights of 0.02 below 4e-5 away"
        );
        assert_eq!(rounded_away(DType::BF16, 1e-5, 11_000), None);
        assert_eq!(rounded_away(DType::F32, 1e-7, 2880), None);
        assert!(rounded_away(DType::F16, 1e-8, 2880).is_some());
    }
}
