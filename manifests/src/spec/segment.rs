//! How images are cut into segments.

use choices::Felzenszwalb;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Problems, positive};

/// What cuts images into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Segmenter {
    /// Graph-based segmentation (Felzenszwalb and Huttenlocher 2004; no weights).
    Felzenszwalb,
    /// No segments.
    None,
    /// Segment Anything.
    Sam,
}

/// How images are cut into segments; only the settings of the chosen segmenter count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentSpec {
    /// Which segmenter.
    pub segmenter: Segmenter,
    /// Settings of `felzenszwalb`.
    pub felzenszwalb: Felzenszwalb,
    /// Settings of `sam`.
    pub sam: SamSpec,
}

impl Default for SegmentSpec {
    fn default() -> Self {
        Self { segmenter: Segmenter::Felzenszwalb, felzenszwalb: Felzenszwalb::default(), sam: SamSpec::default() }
    }
}

impl SegmentSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let Felzenszwalb { scale, sigma_px, .. } = self.felzenszwalb;
        let mut of = problems.section("segment.felzenszwalb");
        of.within("scale", f64::from(scale), positive(1e9), "larger values give larger segments");
        of.within("sigma_px", sigma_px, 0.0..=1000.0, "0 smooths nothing");
        self.sam.check(problems);
        if self.segmenter == Segmenter::Sam && self.sam.weights.is_empty() {
            problems.add(
                "segment.sam.weights is empty: name sam_vit_h_4b8939.pth, mobile_sam.pt, a folder, or a model on the \
                 hub such as facebook/sam-vit-base",
            );
        }
    }
}

/// Segment Anything's automatic mask generator, with the reference's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamSpec {
    /// `sam_vit_{b,l,h}_*.pth`, `mobile_sam.pt`, or a folder in Hugging Face's layout: here, in a store or on the hub.
    pub weights: String,
    /// Points along a side of the grid that prompts the decoder.
    pub points_per_side: usize,
    /// Least quality of a mask, as the decoder predicts it.
    pub pred_iou_thresh: f64,
    /// Least stability of a mask where its threshold moves by `stability_score_offset`.
    pub stability_score_thresh: f64,
    /// How far a mask's threshold moves to measure its stability.
    pub stability_score_offset: f64,
    /// Of two masks whose boxes overlap more (IoU) the worse one is dropped.
    pub box_nms_thresh: f64,
    /// Layers of crops that are segmented as well; layer i has 4^i crops.
    pub crop_n_layers: usize,
    /// The same as `box_nms_thresh`, between crops.
    pub crop_nms_thresh: f64,
    /// Overlap of crops, as a share of the image's short side.
    pub crop_overlap_ratio: f64,
    /// Each layer of crops has so many times fewer points along a side than the one before.
    pub crop_n_points_downscale_factor: usize,
    /// Smaller islands and holes of a mask are removed, in pixels; 0: none.
    pub min_mask_region_area: usize,
    /// Points that the decoder answers at a time: memory, not masks.
    pub points_per_batch: usize,
    /// Images embedded at a time: memory, not masks.
    pub images_per_batch: usize,
    /// An image that takes longer becomes a failed row.
    pub timeout_seconds: u64,
}

impl SamSpec {
    fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("segment.sam");
        of.count("points_per_side", self.points_per_side, 1024);
        of.within("pred_iou_thresh", self.pred_iou_thresh, 0.0..=1.0, "0 keeps all masks");
        of.within("stability_score_thresh", self.stability_score_thresh, 0.0..=1.0, "0 keeps all masks");
        of.within("stability_score_offset", self.stability_score_offset, 0.0..=100.0, "the reference's is 1");
        of.share("box_nms_thresh", self.box_nms_thresh);
        of.within("crop_n_layers", self.crop_n_layers, 0..=6, "layer i has 4^i crops; 0 looks at the whole image only");
        of.share("crop_nms_thresh", self.crop_nms_thresh);
        of.part("crop_overlap_ratio", self.crop_overlap_ratio, "it is a share of the image's short side");
        of.count("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor, 4096);
        of.within("min_mask_region_area", self.min_mask_region_area, 0..=1 << 32, "0 leaves masks alone");
        of.count("points_per_batch", self.points_per_batch, 4096);
        of.count("images_per_batch", self.images_per_batch, 4096);
        of.count("timeout_seconds", self.timeout_seconds, 7 * 86_400);
    }
}

impl Default for SamSpec {
    fn default() -> Self {
        Self {
            weights: String::new(),
            points_per_side: 32,
            pred_iou_thresh: 0.88,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            min_mask_region_area: 0,
            points_per_batch: 64,
            images_per_batch: 4,
            timeout_seconds: 600,
        }
    }
}
