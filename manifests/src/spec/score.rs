//! Which segments train the model.

use choices::{Background, Canvas};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;
use super::pretrain::MOST_EPOCHS;

/// Which segments train the model, and how they are weighed (paper Eq. 1–4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSpec {
    /// `none` (weights 1, no similarity threshold), `bootstrap` (a short image–text training
    /// first) or a checkpoint: a folder, or its file of weights with configuration and vocabulary beside it.
    pub clip: String,
    /// T_a: least share of the image's area.
    pub min_area_share: f64,
    /// Candidates kept by area before scoring.
    pub max_candidates: usize,
    /// T_s: segments must be more similar to the caption than this. One that is not more like it than 0 weighs nothing
    /// in Eq. 4.
    pub min_similarity: f32,
    /// Segments kept per image at most, the most similar ones; those that are not learnt from (`canvas`) count, too.
    pub max_segments: usize,
    /// What of a segment the model is shown, the middle square of it; a segment of which nothing lies there is not
    /// learnt from.
    pub canvas: Canvas,
    /// Margin around a cropped segment, as a share of its box.
    pub crop_margin: f32,
    /// Colour outside of the mask.
    pub background: Background,
    /// Epochs of the bootstrap training.
    pub bootstrap_epochs: usize,
}

impl ScoreSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("score");
        of.share("min_area_share", self.min_area_share);
        of.count("max_candidates", self.max_candidates, 100_000);
        let cosine = "it is a cosine; -1 keeps every segment, and those below 0 weigh nothing";
        of.within("min_similarity", self.min_similarity, -1.0..=1.0, cosine);
        of.count("max_segments", self.max_segments, 100_000);
        of.within("crop_margin", self.crop_margin, 0.0..=10.0, "it is a share of the box");
        of.count("bootstrap_epochs", self.bootstrap_epochs, MOST_EPOCHS);
    }
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self {
            clip: "none".into(),
            min_area_share: 0.005,
            max_candidates: 50,
            min_similarity: 0.2,
            max_segments: 6,
            canvas: Canvas::Full,
            crop_margin: 0.1,
            background: Background::White,
            bootstrap_epochs: 4,
        }
    }
}
