//! What a training is made of, and how it is carried out.

use choices::SegmentTower;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::optimiser::AdamWSettings;
use crate::schedule::Schedule;

/// Everything that the numbers of a run depend on, besides the model, the data and the objective. A checkpoint
/// continues only under the settings it was written with.
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
    /// Which network embeds segments.
    pub segment_tower: SegmentTower,
    /// Decay per step of a moving average of the weights, which is then validated and kept as the best; 0 = off.
    pub ema_decay: f64,
    /// Share of the towers' activations that each step drops; 0 = off.
    pub dropout: f64,
    /// Rows of the global batch that layers which look across rows normalise together, by place; 0 = all of them. With two
    /// domains a rank's rows of both stand together, so that groups depend on the number of ranks unless there is one.
    #[serde(skip_serializing_if = "is_zero")]
    pub norm_group: usize,
    /// Seed of what is random in a step.
    pub seed: u64,
    /// Epochs without a better validation after which the run ends; 0 = never.
    pub patience: usize,
    /// Names the data and their order, so that a checkpoint is not continued on others.
    pub data: String,
}

/// The default leaves no trace, so that checkpoints from before the field go on.
fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl Default for Settings {
    /// The paper's fine-tuning: lr 1e-5, 0.3 every 10 of 15 epochs.
    fn default() -> Self {
        Self {
            epochs: 15,
            learning_rate: 1e-5,
            schedule: Schedule::StepDecay { factor: 0.3, every_epochs: 10, warmup_steps: 0 },
            optimiser: AdamWSettings::default(),
            segment_tower: SegmentTower::Shared,
            ema_decay: 0.0,
            dropout: 0.0,
            norm_group: 0,
            seed: 0,
            patience: 0,
            data: String::new(),
        }
    }
}

/// How a run is carried out. No number depends on it, beyond the rounding of sums in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Steps between checkpoints within an epoch; 0 = only at the ends of epochs.
    pub checkpoint_every_steps: usize,
    /// Checkpoints to continue from that are kept, the latest included.
    pub keep_last: usize,
    /// Batches made ahead of their step.
    pub prefetch_batches: usize,
    /// Pieces that a rank's batch is cut into: the memory of one piece, the loss of the whole batch, one more pass of
    /// the towers.
    pub micro_batches: usize,
    /// Keep only what goes from block to block and run each block again on the way back.
    pub recompute: bool,
    /// Bytes of gradients that ranks add up in one message.
    pub bucket_bytes: usize,
    /// Each rank keeps its part of the optimiser's moments and master weights only, moves those parameters and sends
    /// them to the others: the memory of one part, a message as large as the network in every step.
    pub shard_optimiser: bool,
    /// Steps whose losses and norms are fetched from the device together; 0 = as suits it: one by one from host memory. A
    /// norm that is not finite then ends the run so much later, but before anything is validated or saved; several ranks
    /// look at `stop` as often.
    pub look_every_steps: usize,
    /// Measure the phases of each step, for which the device is waited for after each of them.
    pub time_phases: bool,
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            checkpoint_every_steps: 0,
            keep_last: 1,
            prefetch_batches: 2,
            micro_batches: 1,
            recompute: false,
            bucket_bytes: 25 << 20,
            shard_optimiser: false,
            look_every_steps: 0,
            time_phases: false,
        }
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
        Ok(())
    }
}
