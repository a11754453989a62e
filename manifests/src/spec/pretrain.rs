//! How the model is trained.

use choices::{Augmentation, SegmentTower};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Problems, Section};
use super::pairs::PairsSpec;

/// What pre-training minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// CLIP's.
    InfoNce,
    /// A margin between the pair and each negative.
    Hinge,
}

/// How the learning rate moves after warm-up, which all of them have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// To 0 at the end, along a cosine.
    Cosine,
    /// ×0.3 every ten epochs.
    Step,
    /// Not at all.
    Constant,
}

/// `[pretrain]`: how the network is trained on images and captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainSpec {
    /// Seed of first weights, data order and augmentation.
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of a step, of all ranks together.
    pub batch: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// Share of the steps in which the learning rate rises from 0.
    pub warmup_share: f64,
    /// How the learning rate falls afterwards.
    pub schedule: ScheduleKind,
    /// Gradients with a larger norm are scaled down to it; 0: none are.
    pub max_grad_norm: f64,
    /// The contrastive loss.
    pub loss: LossKind,
    /// Margin of the hinge loss.
    pub margin: f64,
    /// Which image tower embeds segments.
    pub segment_tower: SegmentTower,
    /// Segments per image that enter the loss, drawn anew each epoch; 0: no segment loss.
    pub segments_per_image: usize,
    /// Decay of the weights' moving average that is validated and kept as best; 0: off.
    pub ema_decay: f64,
    /// Share of the target probability that is spread over all pairs of the batch.
    pub label_smoothing: f64,
    /// Captions of an image that enter a batch, where it has several; its pixels are encoded once.
    pub captions_per_image: usize,
    /// Share of the towers' activations that each step drops; for small data.
    pub dropout: f64,
    /// Share of caption words left out during training.
    pub word_dropout: f64,
    /// Random changes of training images.
    pub augment: Augmentation,
    /// Row groups shuffled together: bounds the loader's memory.
    pub shuffle_window_row_groups: usize,
    /// Batches prepared ahead of the step.
    pub prefetch_batches: usize,
    /// Steps between checkpoints within an epoch; 0: only at the ends of epochs.
    pub checkpoint_every_steps: usize,
    /// Checkpoints to continue from that are kept, the latest included.
    pub keep_checkpoints: usize,
    /// Pieces that a rank's batch is cut into, which need not be of one size: less memory, one more pass of the towers,
    /// the same gradient.
    pub micro_batches: usize,
    /// Keep only what goes from block to block, and run each block again on the way back: for large towers.
    pub recompute_activations: bool,
    /// Measure how long data, towers, ranks and optimiser take, and tell it after each epoch and in the curve; a GPU is
    /// waited for after each of them, which costs some speed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub time_phases: bool,
    /// Epochs without a better validation recall before training stops; 0: never.
    pub patience_epochs: usize,
    /// Share of changed rows above which a finished training is run again.
    pub retrain_above: f64,
    /// Pairs that are left out.
    pub pairs: PairsSpec,
}

impl PretrainSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("pretrain");
        of.count("epochs", self.epochs, MOST_EPOCHS);
        of.batch("batch", self.batch);
        of.rate("learning_rate", self.learning_rate);
        of.within("weight_decay", self.weight_decay, 0.0..=MOST_WEIGHT_DECAY, "0 is none");
        of.part("warmup_share", self.warmup_share, "0 warms nothing up, 0.1 a tenth of the steps");
        of.within("max_grad_norm", self.max_grad_norm, 0.0..=MOST_GRAD_NORM, "0 clips nothing");
        of.within("margin", self.margin, 0.0..=2.0, "cosines differ by 2 at most");
        of.within("segments_per_image", self.segments_per_image, 0..=1000, "0 learns from no segment");
        of.part("ema_decay", self.ema_decay, "0 keeps no average");
        of.part("label_smoothing", self.label_smoothing, "0 smooths nothing");
        of.count("captions_per_image", self.captions_per_image, 1000);
        of.part("dropout", self.dropout, "0 drops nothing");
        of.part("word_dropout", self.word_dropout, "0 drops nothing");
        check_augmentation(&self.augment, &mut of);
        of.count("shuffle_window_row_groups", self.shuffle_window_row_groups, 1 << 20);
        of.count("prefetch_batches", self.prefetch_batches, 1024);
        of.count("keep_checkpoints", self.keep_checkpoints, 10_000);
        of.count("micro_batches", self.micro_batches, self.batch.max(1));
        of.share("retrain_above", self.retrain_above);
    }
}

/// A longer training is a slip of the hand.
pub(crate) const MOST_EPOCHS: usize = 1_000_000;
pub(crate) const MOST_WEIGHT_DECAY: f64 = 100.0;
pub(crate) const MOST_GRAD_NORM: f64 = 1e6;

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
            segments_per_image: 6,
            ema_decay: 0.0,
            label_smoothing: 0.0,
            captions_per_image: 1,
            dropout: 0.0,
            word_dropout: 0.0,
            augment: Augmentation::default(),
            shuffle_window_row_groups: 32,
            prefetch_batches: 2,
            checkpoint_every_steps: 200,
            keep_checkpoints: 1,
            micro_batches: 1,
            recompute_activations: false,
            time_phases: false,
            patience_epochs: 0,
            retrain_above: 0.05,
            pairs: PairsSpec::default(),
        }
    }
}

/// `of` is the section of the training.
pub(crate) fn check_augmentation(augment: &Augmentation, of: &mut Section<'_>) {
    let [least, most] = augment.crop_scale;
    if !(least > 0.0 && least <= most && most <= 1.0) {
        let why = "it must be a least and a greatest share of the area, 0 < least <= greatest <= 1; [1.0, 1.0] crops \
                   nothing";
        of.refuse("augment.crop_scale", augment.crop_scale, why);
    }
    of.within("augment.colour_jitter", augment.colour_jitter, 0.0..=1.0, "0 leaves colours alone");
}
