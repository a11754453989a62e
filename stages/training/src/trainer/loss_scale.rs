//! The factor that keeps small gradients alive in f16 (Micikevicius et al. 2018, "Mixed precision training", section 3.2).

use serde::{Deserialize, Serialize};

/// As `torch.amp.GradScaler` begins.
const FIRST: f64 = 65536.0;
/// Steps without an overflow after which it doubles, as there.
const DOUBLE_AFTER: u32 = 2000;
/// Beyond it an f32 sum of squares of scaled gradients could overflow.
const LARGEST: f64 = 16_777_216.0;

/// Factor of what towers in f16 carry back, and where it stands in its cycle. It halves when a gradient overflows (that
/// step is left out) and doubles when none has for long. Always a power of two, so that it rounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    factor: f64,
    /// Steps since it last changed.
    steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: FIRST, steps: 0 }
    }
}

impl LossScale {
    /// The factor.
    pub fn factor(self) -> f64 {
        self.factor
    }

    /// Whether steps can have led to it.
    ///
    /// # Errors
    /// What it is instead, in words.
    pub(crate) fn check(self) -> Result<(), String> {
        let Self { factor, steps } = self;
        if (1.0..=LARGEST).contains(&factor) && factor.log2().fract() == 0.0 && steps < DOUBLE_AFTER {
            return Ok(());
        }
        Err(format!("has a loss scale of {factor} after {steps} steps: needs a power of two from 1 to {LARGEST}"))
    }

    /// After a step that was taken.
    #[must_use]
    pub fn after_step(self) -> Self {
        if self.steps + 1 < DOUBLE_AFTER {
            return Self { steps: self.steps + 1, ..self };
        }
        Self { factor: (2.0 * self.factor).min(LARGEST), steps: 0 }
    }

    /// After a gradient that was not finite; `None`: it is not the factor's fault.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        (self.factor > 1.0).then_some(Self { factor: self.factor / 2.0, steps: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_long_and_halves_at_once_down_to_one() {
        let mut scale = LossScale::default();
        for _ in 0..DOUBLE_AFTER - 1 {
            scale = scale.after_step();
        }
        assert_eq!(scale.factor(), FIRST);
        assert_eq!(scale.after_step().factor(), 2.0 * FIRST);
        assert_eq!(scale.halved().unwrap(), LossScale { factor: FIRST / 2.0, steps: 0 });
        let halvings = std::iter::successors(Some(scale), |scale| scale.halved()).count();
        assert_eq!(halvings, 17, "from 2^16 to 1");
        let largest = (0..20 * DOUBLE_AFTER).fold(scale, |scale, _| scale.after_step());
        assert_eq!(largest.factor(), LARGEST);
        assert!([scale, largest, LossScale::default()].iter().all(|scale| scale.check().is_ok()));
    }
}
