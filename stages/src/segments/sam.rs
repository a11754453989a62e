//! Segment Anything as a segmenter: masks of everything in an image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use manifests::spec::SamSpec;
use models::ModelError;
use models::sam::Sam;
use models::sam::generator::{MaskGenerator, MaskGeneratorSettings, MaskRecord};
use pixels::Rgb;

use super::{NAME, Quality, SAM_WEIGHTS, Segment};
use crate::device::{dtype, opening_error};
use crate::stage::{StageContext, StageError};

pub(super) struct MaskEverything {
    sam: Sam,
    device: Device,
    settings: MaskGeneratorSettings,
    images_per_batch: usize,
    timeout: Duration,
    stop: Arc<AtomicBool>,
}

/// The settings of a spec, in the generator's words: a field that is new in either must be named here.
fn settings(spec: &SamSpec) -> MaskGeneratorSettings {
    let SamSpec {
        weights: _,
        timeout_seconds: _,
        points_per_side,
        pred_iou_thresh,
        stability_score_thresh,
        stability_score_offset,
        box_nms_thresh,
        crop_n_layers,
        crop_nms_thresh,
        crop_overlap_ratio,
        crop_n_points_downscale_factor,
        min_mask_region_area,
        points_per_batch,
        images_per_batch,
    } = *spec;
    MaskGeneratorSettings {
        points_per_side: Some(points_per_side),
        point_grids: None,
        points_per_batch,
        pred_iou_thresh,
        stability_score_thresh,
        stability_score_offset,
        box_nms_thresh,
        crop_n_layers,
        crop_nms_thresh,
        crop_overlap_ratio,
        crop_n_points_downscale_factor,
        min_mask_region_area,
        crops_per_batch: images_per_batch,
    }
}

impl MaskEverything {
    pub(super) fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        let weights = context.weights(NAME, SAM_WEIGHTS)?;
        let spec = &context.spec.segment.sam;
        let device = context.device(NAME)?;
        let sam = Sam::load(weights, &device, dtype(context.spec))
            .map_err(|e| opening_error(NAME, &device, format!("segment.sam: {e}"), &e))?;
        Ok(Self {
            sam,
            device,
            settings: settings(spec),
            images_per_batch: spec.images_per_batch,
            timeout: Duration::from_secs(spec.timeout_seconds),
            stop: context.stop.clone(),
        })
    }

    /// Segments of each image. An image that fails or takes too long fails alone: what went wrong with a batch is
    /// tried again image by image.
    pub(super) fn cut(&self, images: &[Rgb]) -> Result<Vec<Result<Vec<Segment>, String>>, StageError> {
        let mut cuts = Vec::with_capacity(images.len());
        for batch in images.chunks(self.images_per_batch) {
            match self.generate(batch)? {
                Ok(found) => cuts.extend(found.into_iter().map(Ok)),
                Err(why) if batch.len() == 1 => cuts.push(Err(why)),
                Err(_) => {
                    for image in batch {
                        cuts.push(self.generate(std::slice::from_ref(image))?.map(|mut found| found.remove(0)));
                    }
                }
            }
        }
        Ok(cuts)
    }

    /// The outer error ends the stage, the inner one belongs to the images.
    fn generate(&self, images: &[Rgb]) -> Result<Result<Vec<Vec<Segment>>, String>, StageError> {
        let deadline = Instant::now() + self.timeout * images.len() as u32;
        let stopped = || self.stop.load(Ordering::Relaxed);
        let should_stop = || stopped() || Instant::now() > deadline;
        let found = MaskGenerator::new(&self.sam, self.settings.clone())
            .and_then(|generator| generator.generate(images, &should_stop));
        match found {
            Ok(found) => Ok(Ok(found.into_iter().map(|m| m.into_iter().map(segment).collect()).collect())),
            Err(ModelError::Stopped) if stopped() => Err(StageError::Stopped),
            Err(ModelError::Stopped) => Ok(Err(format!(
                "took longer than segment.sam.timeout_seconds = {}; raise it and run with --retry-errors",
                self.timeout.as_secs()
            ))),
            Err(error) => {
                crate::device::check_alive(NAME, &self.device)?;
                Ok(Err(error.to_string()))
            }
        }
    }
}

fn segment(record: MaskRecord) -> Segment {
    Segment {
        bbox_xywh: record.segmentation.bbox_xywh(),
        area_px: record.area_px,
        quality: Some(Quality {
            predicted_iou: record.predicted_iou,
            stability_score: record.stability_score,
            point_xy: record.point_xy.map(|x| x as f32),
        }),
        rle: record.segmentation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spec_has_the_generators_defaults() {
        assert_eq!(settings(&SamSpec::default()), MaskGeneratorSettings::default());
    }

    /// What a spec lets through, the generator can follow.
    #[test]
    fn the_bounds_of_a_spec_are_the_generators() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        for set in [
            "{ points_per_side = 1024, crop_n_layers = 6, points_per_batch = 4096, images_per_batch = 4096 }",
            "{ crop_n_points_downscale_factor = 4096, crop_overlap_ratio = 0.0, pred_iou_thresh = 0.0 }",
            "{ points_per_side = 1, stability_score_offset = 100.0, box_nms_thresh = 1.0, crop_nms_thresh = 0.0 }",
        ] {
            let spec = manifests::BuildSpec::parse(text, "t", &[format!("segment.sam={set}")]).unwrap();
            settings(&spec.segment.sam).validate().unwrap();
        }
    }
}
