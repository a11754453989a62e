//! How the model is trained.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    InfoNce,
    Hinge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    Cosine,
    /// ×0.3 every ten epochs.
    Step,
    Constant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentTower {
    Shared,
    Frozen,
    Separate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainSpec {
    pub seed: u64,
    pub epochs: usize,
    pub batch: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_share: f64,
    pub schedule: ScheduleKind,
    pub max_grad_norm: f64,
    pub loss: LossKind,
    pub margin: f64,
    pub segment_tower: SegmentTower,
    /// Segments per image that enter the loss, drawn anew each epoch; 0: no segment loss.
    pub segments_per_image: usize,
    /// Decay of the weights' moving average that is validated and kept as best; 0: off.
    pub ema_decay: f64,
    pub label_smoothing: f64,
    /// Captions of an image that enter a batch, where it has several; its pixels are encoded once.
    pub captions_per_image: usize,
    /// Share of the towers' activations that each step drops; for small data.
    pub dropout: f64,
    /// Share of caption words left out during training.
    pub word_dropout: f64,
    pub augment: AugmentSpec,
    /// Row groups shuffled together: bounds the loader's memory.
    pub shuffle_window_row_groups: usize,
    /// Batches prepared ahead of the step.
    pub prefetch_batches: usize,
    pub checkpoint_every_steps: usize,
    /// Checkpoints to continue from that are kept, the latest included.
    pub keep_checkpoints: usize,
    /// Pieces that a rank's batch is cut into: less memory, one more pass of the towers, the same gradient.
    pub micro_batches: usize,
    /// Keep only what goes from block to block, and run each block again on the way back: for large towers.
    pub recompute_activations: bool,
    /// Epochs without a better validation recall before training stops; 0: never.
    pub patience_epochs: usize,
    /// Share of changed rows above which a finished training is run again.
    pub retrain_above: f64,
}

impl Default for PretrainSpec {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 15,
            batch: 64,
            learning_rate: 1e-3,
            weight_decay: 0.1,
            warmup_share: 0.1,
            schedule: ScheduleKind::Cosine,
            max_grad_norm: 1.0,
            loss: LossKind::InfoNce,
            margin: 0.2,
            segment_tower: SegmentTower::Shared,
            segments_per_image: 1,
            ema_decay: 0.0,
            label_smoothing: 0.0,
            captions_per_image: 1,
            dropout: 0.0,
            word_dropout: 0.0,
            augment: AugmentSpec::default(),
            shuffle_window_row_groups: 32,
            prefetch_batches: 2,
            checkpoint_every_steps: 200,
            keep_checkpoints: 1,
            micro_batches: 1,
            recompute_activations: false,
            patience_epochs: 0,
            retrain_above: 0.05,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentSpec {
    /// Least and greatest share of the area that a random crop keeps.
    pub crop_scale: [f32; 2],
    pub flips: bool,
    /// Overhead images have no upright: quarter turns are free data.
    pub quarter_turns: bool,
    pub colour_jitter: f32,
}

impl Default for AugmentSpec {
    fn default() -> Self {
        Self { crop_scale: [0.5, 1.0], flips: true, quarter_turns: true, colour_jitter: 0.2 }
    }
}
