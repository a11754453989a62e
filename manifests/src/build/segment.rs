//! How images are cut into segments.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segmenter {
    /// Graph-based segmentation (Felzenszwalb and Huttenlocher 2004; no weights).
    Felzenszwalb,
    None,
    Sam,
}

/// How images are cut into segments; only the settings of the chosen segmenter count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentSpec {
    pub segmenter: Segmenter,
    pub felzenszwalb: FelzenszwalbSpec,
    pub sam: SamSpec,
}

impl Default for SegmentSpec {
    fn default() -> Self {
        Self { segmenter: Segmenter::Felzenszwalb, felzenszwalb: FelzenszwalbSpec::default(), sam: SamSpec::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FelzenszwalbSpec {
    /// Felzenszwalb's k: larger values give larger segments.
    pub scale: f32,
    /// Gaussian smoothing before, in pixels.
    pub sigma_px: f32,
    /// Smaller segments are merged into a neighbour.
    pub min_size_px: u32,
}

impl Default for FelzenszwalbSpec {
    fn default() -> Self {
        Self { scale: 300.0, sigma_px: 0.8, min_size_px: 60 }
    }
}

/// Segment Anything's automatic mask generator, with the reference's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamSpec {
    /// `sam_vit_{b,l,h}_*.pth`, `mobile_sam.pt`, or a folder in Hugging Face's layout: here, in a store or on the hub.
    pub weights: String,
    pub points_per_side: usize,
    pub pred_iou_thresh: f64,
    pub stability_score_thresh: f64,
    pub stability_score_offset: f64,
    pub box_nms_thresh: f64,
    pub crop_n_layers: usize,
    pub crop_nms_thresh: f64,
    pub crop_overlap_ratio: f64,
    pub crop_n_points_downscale_factor: usize,
    pub min_mask_region_area: usize,
    /// Points that the decoder answers at a time: memory, not masks.
    pub points_per_batch: usize,
    /// Images embedded at a time: memory, not masks.
    pub images_per_batch: usize,
    /// An image that takes longer becomes a failed row.
    pub timeout_seconds: u64,
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
