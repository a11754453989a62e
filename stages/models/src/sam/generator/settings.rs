use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};

/// Settings of the automatic mask generator, with the names and defaults of `SamAutomaticMaskGenerator`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskGeneratorSettings {
    /// The whole image is asked at this many points along each side. `None` with `point_grids` only.
    pub points_per_side: Option<usize>,
    /// Points of one's own for the whole image and for each layer of crops, x and y in [0, 1].
    pub point_grids: Option<Vec<Vec<[f64; 2]>>>,
    /// Points that the network answers at a time.
    pub points_per_batch: usize,
    /// Masks are kept whose predicted quality is above this; 0 keeps all.
    pub pred_iou_thresh: f64,
    /// Masks are kept whose stability is at least this; 0 keeps all.
    pub stability_score_thresh: f64,
    /// Stability compares the masks at this far above and below the threshold of the logits.
    pub stability_score_offset: f64,
    /// Boxes of one crop that overlap by more (intersection over union) count as duplicates.
    pub box_nms_thresh: f64,
    /// Layer i looks at 4^i overlapping crops; 0 looks at the whole image only.
    pub crop_n_layers: usize,
    /// As `box_nms_thresh`, between crops.
    pub crop_nms_thresh: f64,
    /// Overlap of the crops of the first layer as a part of the image's short side; half of it in each further layer.
    pub crop_overlap_ratio: f64,
    /// Points along each side are divided by this in each further layer.
    pub crop_n_points_downscale_factor: usize,
    /// Holes and islands smaller than this many pixels are removed; 0 leaves masks alone.
    pub min_mask_region_area: usize,
    /// Crops, of one or of several images, that are embedded at a time. Not known to the reference.
    pub crops_per_batch: usize,
}

impl Default for MaskGeneratorSettings {
    fn default() -> Self {
        Self {
            points_per_side: Some(32),
            point_grids: None,
            points_per_batch: 64,
            pred_iou_thresh: 0.88,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            min_mask_region_area: 0,
            crops_per_batch: 4,
        }
    }
}

/// More layers would be more than 4^6 crops.
const MAX_CROP_LAYERS: usize = 6;
const MAX_POINTS_PER_SIDE: usize = 1024;
const MAX_BATCH: usize = 4096;

impl MaskGeneratorSettings {
    /// Whether these settings can be followed.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the setting that cannot.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(ModelError::Config(format!("mask generator: {what}")));
        if self.points_per_side.is_some() == self.point_grids.is_some() {
            return refuse("exactly one of points_per_side and point_grids is wanted".to_owned());
        }
        if let Some(points) = self.points_per_side
            && !(1..=MAX_POINTS_PER_SIDE).contains(&points)
        {
            return refuse(format!("points_per_side {points} is not between 1 and {MAX_POINTS_PER_SIDE}"));
        }
        if self.crop_n_layers > MAX_CROP_LAYERS {
            return refuse(format!("crop_n_layers {} is more than {MAX_CROP_LAYERS}", self.crop_n_layers));
        }
        if let Some(grids) = &self.point_grids {
            if grids.len() != self.crop_n_layers + 1 {
                return refuse(format!("{} point_grids for {} layers of crops", grids.len(), self.crop_n_layers));
            }
            if grids.iter().flatten().flatten().any(|x| !(0.0..=1.0).contains(x)) {
                return refuse("a point of point_grids lies outside of 0 to 1".to_owned());
            }
        }
        for (name, value) in [
            ("points_per_batch", self.points_per_batch),
            ("crops_per_batch", self.crops_per_batch),
            ("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor),
        ] {
            if !(1..=MAX_BATCH).contains(&value) {
                return refuse(format!("{name} {value} is not between 1 and {MAX_BATCH}"));
            }
        }
        for (name, value) in [
            ("pred_iou_thresh", self.pred_iou_thresh),
            ("stability_score_thresh", self.stability_score_thresh),
            ("stability_score_offset", self.stability_score_offset),
            ("box_nms_thresh", self.box_nms_thresh),
            ("crop_nms_thresh", self.crop_nms_thresh),
        ] {
            if !value.is_finite() {
                return refuse(format!("{name} is {value}"));
            }
        }
        if !(0.0..1.0).contains(&self.crop_overlap_ratio) {
            return refuse(format!("crop_overlap_ratio {} is not in [0, 1)", self.crop_overlap_ratio));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_followed_are_named() {
        MaskGeneratorSettings::default().validate().unwrap();
        let message = |change: &dyn Fn(&mut MaskGeneratorSettings)| {
            let mut settings = MaskGeneratorSettings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(message(&|s| s.points_per_side = None).contains("exactly one"));
        assert!(message(&|s| s.point_grids = Some(vec![vec![]])).contains("exactly one"));
        assert!(message(&|s| s.points_per_batch = 0).contains("points_per_batch 0"));
        assert!(message(&|s| s.crop_n_layers = 7).contains("crop_n_layers 7"));
        assert!(message(&|s| s.box_nms_thresh = f64::NAN).contains("box_nms_thresh"));
        assert!(message(&|s| s.crop_overlap_ratio = 1.0).contains("crop_overlap_ratio"));
        let grids = |grids: Vec<Vec<[f64; 2]>>| {
            message(&|s| {
                s.points_per_side = None;
                s.point_grids = Some(grids.clone());
            })
        };
        assert!(grids(vec![vec![], vec![]]).contains("2 point_grids"));
        assert!(grids(vec![vec![[0.5, 1.5]]]).contains("outside"));
    }
}
