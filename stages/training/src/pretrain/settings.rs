//! What a pre-training run is made of.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::optimiser::AdamWSettings;
use crate::schedule::Schedule;

/// Everything that the numbers of a run depend on, besides the model and the data. A checkpoint continues only under
/// the settings it was written with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Epochs.
    pub epochs: usize,
    /// Base learning rate.
    pub learning_rate: f64,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// The optimiser's settings.
    pub optimiser: AdamWSettings,
    /// The contrastive loss, of images and of segments.
    pub loss: Loss,
    /// Which network embeds segments.
    pub segment_tower: SegmentTower,
    /// Decay per step of a moving average of the weights, which is then validated and kept as the best; 0 = off.
    pub ema_decay: f64,
    /// Share of the towers' activations that each step drops; 0 = off.
    pub dropout: f64,
    /// Seed of what is random in a step.
    pub seed: u64,
    /// Epochs without a better validation after which the run ends; 0 = never.
    pub patience: usize,
    /// Names the data and their order, so that a checkpoint is not continued on others.
    pub data: String,
}

impl Default for Settings {
    /// The paper's fine-tuning (lr 1e-5, 0.3 every 10 of 15 epochs) with InfoNCE.
    fn default() -> Self {
        Self {
            epochs: 15,
            learning_rate: 1e-5,
            schedule: Schedule::StepDecay { factor: 0.3, every_epochs: 10 },
            optimiser: AdamWSettings::default(),
            loss: Loss::InfoNce { label_smoothing: 0.0 },
            segment_tower: SegmentTower::Shared,
            ema_decay: 0.0,
            dropout: 0.0,
            seed: 0,
            patience: 0,
            data: String::new(),
        }
    }
}

/// The contrastive loss. Pairs with an equal image or caption are never negatives of one another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Symmetric InfoNCE with a learnable temperature.
    InfoNce {
        /// Share of the target spread over all compared columns.
        label_smoothing: f64,
    },
    /// The released code's: margin over all negatives, summed.
    Hinge {
        /// The margin (0.2).
        margin: f64,
    },
}

/// Which network embeds segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentTower {
    /// The image tower itself.
    #[default]
    Shared,
    /// The image tower as it was before training.
    Frozen,
    /// A copy of the image tower that is trained on segments alone.
    Separate,
}

/// How often a run saves and how far it reads ahead; no number depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Steps between checkpoints within an epoch; 0 = only at the ends of epochs.
    pub checkpoint_every_steps: usize,
    /// Batches made ahead of their step.
    pub prefetch_batches: usize,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { checkpoint_every_steps: 0, prefetch_batches: 2 }
    }
}

impl Settings {
    /// Refuses values that no run can mean.
    ///
    /// # Errors
    /// The first such value.
    pub fn check(&self) -> Result<()> {
        self.schedule.check()?;
        let refuse = |what, problem: String| Err(Error::argument(what, problem));
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse("learning_rate", format!("is {}, needs a positive number", self.learning_rate));
        }
        if !(0.0..1.0).contains(&self.ema_decay) {
            return refuse("ema_decay", format!("is {}, needs 0 <= decay < 1", self.ema_decay));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("dropout", format!("is {}, needs 0 <= share < 1", self.dropout));
        }
        match self.loss {
            Loss::InfoNce { label_smoothing } if !(0.0..1.0).contains(&label_smoothing) => {
                refuse("label_smoothing", format!("is {label_smoothing}, needs 0 <= share < 1"))
            }
            Loss::Hinge { margin } if !(margin.is_finite() && margin >= 0.0) => {
                refuse("margin", format!("is {margin}, needs a number not below 0"))
            }
            _ => Ok(()),
        }
    }
}
