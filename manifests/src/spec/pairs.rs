//! Which pairs of images and captions a training leaves out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;

/// `[pretrain.pairs]`: pairs that a training leaves out, by a table that knows nothing of thresholds: moving one computes no
/// vector. All of them are off. Only rows of the train split are looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairsSpec {
    /// Share of the images whose captions fit them least, by the CLIP that scores segments (`score.clip`); 0: none.
    pub drop_least_similar: f64,
    /// Of images that look alike the one whose caption fits best stays.
    pub drop_near_duplicates: bool,
    /// Bits in which perceptual hashes of images that look alike may differ, of 64.
    pub near_duplicate_bits: u32,
    /// Least cosine of the vectors, by the CLIP that scores segments, of images that are alike, of which the one whose caption fits
    /// best stays; 0: they are not compared.
    pub near_duplicate_cosine: f64,
    /// Images with one and the same caption that stay, those that it fits best; 0: all.
    pub max_images_per_caption: usize,
    /// Least share of the tags' words that a generated caption mentions; 0: any.
    pub min_tag_coverage: f64,
    /// Largest share of the things a caption names that no tag of its image names, for the caption with most of them; 1: any.
    pub max_untagged_share: f64,
}

impl Default for PairsSpec {
    fn default() -> Self {
        Self {
            drop_least_similar: 0.0,
            drop_near_duplicates: false,
            near_duplicate_bits: 4,
            near_duplicate_cosine: 0.0,
            max_images_per_caption: 0,
            min_tag_coverage: 0.0,
            max_untagged_share: 1.0,
        }
    }
}

impl PairsSpec {
    /// Is anything left out?
    pub fn is_on(&self) -> bool {
        self.drop_least_similar > 0.0
            || self.drop_near_duplicates
            || self.max_images_per_caption > 0
            || self.near_duplicate_cosine > 0.0
            || self.min_tag_coverage > 0.0
            || self.max_untagged_share < 1.0
    }

    pub(super) fn check(&self, scoring_clip: &str, problems: &mut Problems) {
        let mut of = problems.section("pretrain.pairs");
        of.part("drop_least_similar", self.drop_least_similar, "0 drops none");
        of.within("near_duplicate_bits", self.near_duplicate_bits, 0..=16, "0 finds equal hashes alone");
        of.within("max_images_per_caption", self.max_images_per_caption, 0..=1_000_000, "0 keeps all");
        of.share("near_duplicate_cosine", self.near_duplicate_cosine);
        of.share("min_tag_coverage", self.min_tag_coverage);
        of.share("max_untagged_share", self.max_untagged_share);
        if self.is_on() && scoring_clip == "none" {
            problems.add(
                "pretrain.pairs leaves out what fits least, and score.clip = \"none\" says nothing of that: set score.clip = \
                 \"bootstrap\", or a checkpoint",
            );
        }
    }
}
