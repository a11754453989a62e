//! Learning rate as a pure function of the step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate moves over a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The base rate throughout, once it has risen to it.
    Constant {
        /// Steps of the linear rise.
        #[serde(default, skip_serializing_if = "is_zero")]
        warmup_steps: usize,
    },
    /// Linear rise to the base rate, then half a cosine down to zero (open_clip's `cosine_lr`).
    WarmupCosine {
        /// Steps of the rise.
        warmup_steps: usize,
    },
    /// The base rate times `factor` after every `every_epochs` epochs (the paper: 0.3 every 10).
    StepDecay {
        /// Factor of each decay, in (0, 1].
        factor: f64,
        /// Epochs between decays.
        every_epochs: usize,
        /// Steps of the linear rise.
        #[serde(default, skip_serializing_if = "is_zero")]
        warmup_steps: usize,
    },
}

/// No rise leaves no trace, so that checkpoints from before the field go on.
fn is_zero(steps: &usize) -> bool {
    *steps == 0
}

/// Length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLength {
    /// Epochs.
    pub epochs: usize,
    /// Steps of every epoch.
    pub steps_per_epoch: usize,
}

impl RunLength {
    /// Steps of the whole run.
    pub fn steps(self) -> usize {
        self.epochs * self.steps_per_epoch
    }
}

impl Schedule {
    /// Learning rate of `step`, counted from 0 over the whole run.
    pub fn learning_rate(&self, base: f64, step: usize, length: RunLength) -> f64 {
        let risen = |warmup_steps: usize| {
            if step < warmup_steps { base * (step + 1) as f64 / warmup_steps as f64 } else { base }
        };
        match *self {
            Self::Constant { warmup_steps } => risen(warmup_steps),
            Self::WarmupCosine { warmup_steps } if step < warmup_steps => risen(warmup_steps),
            Self::WarmupCosine { warmup_steps } => {
                let falling = length.steps().saturating_sub(warmup_steps).max(1);
                let progress = ((step - warmup_steps) as f64 / falling as f64).min(1.0);
                base * 0.5 * (1.0 + (PI * progress).cos())
            }
            Self::StepDecay { factor, every_epochs, warmup_steps } => {
                let epoch = step / length.steps_per_epoch.max(1);
                risen(warmup_steps) * factor.powi((epoch / every_epochs.max(1)) as i32)
            }
        }
    }

    /// Refuses values that no run can mean.
    ///
    /// # Errors
    /// A decay factor outside (0, 1] or a period of 0 epochs.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::StepDecay { factor, every_epochs, .. } if !(factor > 0.0 && factor <= 1.0) || every_epochs == 0 => {
                let problem =
                    format!("factor {factor} every {every_epochs} epochs: needs 0 < factor <= 1 and at least 1 epoch");
                Err(Error::argument("schedule", problem))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: RunLength = RunLength { epochs: 30, steps_per_epoch: 10 };

    #[test]
    fn warm_up_rises_linearly_and_the_cosine_falls_to_zero() {
        let schedule = Schedule::WarmupCosine { warmup_steps: 100 };
        let rate = |step| schedule.learning_rate(2.0, step, LENGTH);
        assert_eq!(rate(0), 0.02);
        assert_eq!(rate(99), 2.0);
        assert_eq!(rate(100), 2.0);
        assert!((rate(200) - 1.0).abs() < 1e-12, "half way down the cosine");
        assert!(rate(299) > 0.0 && rate(299) < 1e-3);
        assert_eq!(rate(1000), 0.0, "steps beyond the run do not rise again");
    }

    #[test]
    fn step_decay_follows_the_paper() {
        let schedule = Schedule::StepDecay { factor: 0.3, every_epochs: 10, warmup_steps: 0 };
        let rate = |epoch: usize| schedule.learning_rate(1e-5, epoch * 10, LENGTH);
        assert_eq!(rate(9), 1e-5);
        assert!((rate(10) - 3e-6).abs() < 1e-18);
        assert!((rate(29) - 9e-7).abs() < 1e-18);
        assert!(Schedule::StepDecay { factor: 0.0, every_epochs: 1, warmup_steps: 0 }.check().is_err());
    }

    #[test]
    fn every_schedule_warms_up() {
        for schedule in [
            Schedule::Constant { warmup_steps: 20 },
            Schedule::StepDecay { factor: 0.3, every_epochs: 10, warmup_steps: 20 },
            Schedule::WarmupCosine { warmup_steps: 20 },
        ] {
            let rates = [0, 9, 19, 20].map(|step| schedule.learning_rate(1.0, step, LENGTH));
            assert_eq!(rates, [0.05, 0.5, 1.0, 1.0], "{schedule:?}");
        }
    }

    #[test]
    fn what_does_not_warm_up_is_written_as_it_was_before_it_could() {
        for (schedule, text) in [
            (Schedule::Constant { warmup_steps: 0 }, r#"{"kind":"constant"}"#),
            (
                Schedule::StepDecay { factor: 0.5, every_epochs: 10, warmup_steps: 0 },
                r#"{"kind":"step_decay","factor":0.5,"every_epochs":10}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&schedule).unwrap(), text);
            assert_eq!(serde_json::from_str::<Schedule>(text).unwrap(), schedule);
        }
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_only_rises() {
        let schedule = Schedule::WarmupCosine { warmup_steps: 1000 };
        assert!((schedule.learning_rate(1.0, 299, LENGTH) - 0.3).abs() < 1e-12);
    }
}
