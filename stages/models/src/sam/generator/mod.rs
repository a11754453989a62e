//! Masks of everything in an image: `SamAutomaticMaskGenerator`.
//!
//! The image, and perhaps crops of it, are asked at a grid of points; masks of doubtful quality, unstable ones, those cut
//! off by a crop and duplicates are dropped.
//!
//! ```text
//! crops ─ embed ─ points ─ predict ─ quality ─ upscale, threshold ─ stability ─ crop edge ─ box NMS ┐
//!                                         records ◄─ small regions, NMS ◄─ NMS between crops ◄──────┘
//! ```

mod crops;
#[cfg(test)]
mod goldens;
mod interpolation;
mod nms;
mod regions;
mod settings;
mod threshold;

pub use crops::{CropBox, crop_boxes, point_grid};
pub use nms::{BoxXyxy, suppress};
pub use settings::MaskGeneratorSettings;

use super::preprocess::resized_size;
use super::{ImageEmbedding, LowResMask, MaskOutputs, Prompt, Sam};
use crate::{ModelError, Result};
use pixels::Rgb;
use pixels::mask::Rle;
use rayon::prelude::*;
use std::borrow::Cow;
use threshold::{Scratch, Thresholder};

/// A network that finds masks for points; [`Sam`] is one.
pub trait PointSegmenter: Sync {
    /// What it keeps of an image.
    type Embedding;

    /// Side of its input in pixels.
    fn input_side(&self) -> usize;

    /// Side of the masks that it predicts.
    fn mask_side(&self) -> usize;

    /// Embeds images of any size.
    ///
    /// # Errors
    /// A device that fails or has no room.
    fn embed(&self, images: &[Cow<'_, Rgb>]) -> Result<Vec<Self::Embedding>>;

    /// Masks for points, in pixels of the input, in the order of points and outputs. Masks whose predicted quality is
    /// not above `above_iou` are left out.
    ///
    /// # Errors
    /// A device that fails or has no room, a quality that is not finite.
    fn masks_at(
        &self,
        image: &Self::Embedding,
        points_xy: &[[f64; 2]],
        above_iou: Option<f32>,
    ) -> Result<Vec<LowResMask>>;
}

impl PointSegmenter for Sam {
    type Embedding = ImageEmbedding;

    fn input_side(&self) -> usize {
        self.config().image_size
    }

    fn mask_side(&self) -> usize {
        self.config().mask_side()
    }

    fn embed(&self, images: &[Cow<'_, Rgb>]) -> Result<Vec<ImageEmbedding>> {
        self.embed_images(&self.pixel_values(images)?)
    }

    fn masks_at(
        &self,
        image: &ImageEmbedding,
        points_xy: &[[f64; 2]],
        above_iou: Option<f32>,
    ) -> Result<Vec<LowResMask>> {
        let prompts: Vec<Prompt> = points_xy.iter().map(|xy| Prompt::point(xy.map(|x| x as f32))).collect();
        self.predict(image, &prompts, MaskOutputs::Multi, above_iou)
    }
}

/// One mask of an image; the fields are those of the reference's records.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskRecord {
    /// The mask; [`Rle::to_coco_string`] gives what pycocotools reads.
    pub segmentation: Rle,
    /// Pixels of the mask.
    pub area_px: u64,
    /// Left, top, width and height. As in the reference, width and height are those between the centres of the outermost
    /// pixels: one less than those of [`Rle::bbox_xywh`].
    pub bbox_xywh: [u32; 4],
    /// The network's own estimate of the mask's intersection over union with the object, about 0 to 1.
    pub predicted_iou: f32,
    /// The point that the network was asked at, in pixels of the image.
    pub point_xy: [f64; 2],
    /// Intersection over union of the mask cut at a higher and at a lower threshold.
    pub stability_score: f32,
    /// The crop that the mask was found in: left, top, width and height.
    pub crop_box_xywh: [u32; 4],
}

/// A mask on its way to a record.
#[derive(Clone, Debug)]
struct Candidate {
    rle: Rle,
    /// Of the whole image.
    box_xyxy: BoxXyxy,
    predicted_iou: f32,
    stability_score: f32,
    point_xy: [f64; 2],
    crop: CropBox,
}

/// Makes masks of everything in images.
pub struct MaskGenerator<'a, S> {
    segmenter: &'a S,
    settings: MaskGeneratorSettings,
    /// For each layer of crops.
    point_grids: Vec<Vec<[f64; 2]>>,
}

impl<'a, S: PointSegmenter> MaskGenerator<'a, S> {
    /// # Errors
    /// [`ModelError::Config`] for settings that cannot be followed.
    pub fn new(segmenter: &'a S, settings: MaskGeneratorSettings) -> Result<Self> {
        settings.validate()?;
        let point_grids = crops::point_grids(&settings)?;
        Ok(Self { segmenter, settings, point_grids })
    }

    /// The masks of each image, in the reference's order.
    ///
    /// `should_stop` is asked before every batch of crops and of points. Memory is bounded by one batch of crops in the
    /// encoder, one batch of points in the decoder, and the run lengths found so far.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] if `should_stop` said so; [`ModelError::Input`] for masks that are not finite; what the
    /// network fails with.
    pub fn generate(&self, images: &[Rgb], should_stop: &dyn Fn() -> bool) -> Result<Vec<Vec<MaskRecord>>> {
        let settings = &self.settings;
        let mut found: Vec<Vec<Candidate>> = vec![Vec::new(); images.len()];
        let crops: Vec<(usize, CropBox, usize)> = images
            .iter()
            .enumerate()
            .flat_map(|(index, image)| {
                let (height, width) = (image.height as usize, image.width as usize);
                let crops = crop_boxes(height, width, settings.crop_n_layers, settings.crop_overlap_ratio);
                crops.into_iter().map(move |(crop, layer)| (index, crop, layer))
            })
            .collect();
        for batch in crops.chunks(settings.crops_per_batch) {
            check(should_stop)?;
            let pixels = batch.iter().map(|&(index, crop, _)| cut(&images[index], crop)).collect::<Result<Vec<_>>>()?;
            let embeddings = self.segmenter.embed(&pixels)?;
            for (&(index, crop, layer), embedding) in batch.iter().zip(&embeddings) {
                let size = (images[index].height as usize, images[index].width as usize);
                let candidates = self.masks_of_crop(embedding, crop, &self.point_grids[layer], size, should_stop)?;
                found[index].extend(candidates);
            }
        }
        found.into_par_iter().map(|candidates| self.finish(candidates)).collect()
    }

    /// `_process_crop` of the reference.
    fn masks_of_crop(
        &self,
        embedding: &S::Embedding,
        crop: CropBox,
        grid: &[[f64; 2]],
        image_size: (usize, usize),
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Candidate>> {
        let settings = &self.settings;
        let input_side = self.segmenter.input_side();
        let offset = settings.stability_score_offset;
        let thresholder = Thresholder::new(self.segmenter.mask_side(), input_side, crop, image_size, offset);
        let (height, width) = (crop.height() as f64, crop.width() as f64);
        let (input_height, input_width) = resized_size(crop.height(), crop.width(), input_side);
        let scale = [input_width as f64 / width, input_height as f64 / height];
        let above_iou = (settings.pred_iou_thresh > 0.0).then_some(settings.pred_iou_thresh as f32);
        let mut candidates = Vec::new();
        for grid in grid.chunks(settings.points_per_batch) {
            check(should_stop)?;
            let points: Vec<[f64; 2]> = grid.iter().map(|[x, y]| [x * width, y * height]).collect();
            let inputs: Vec<[f64; 2]> = points.iter().map(|[x, y]| [x * scale[0], y * scale[1]]).collect();
            let masks = self.segmenter.masks_at(embedding, &inputs, above_iou)?;
            let logits = self.segmenter.mask_side().pow(2);
            if let Some(mask) = masks.iter().find(|mask| mask.prompt >= points.len() || mask.logits.len() != logits) {
                let (prompt, found) = (mask.prompt, mask.logits.len());
                return Err(ModelError::Input(format!("a mask of {found} logits for point {prompt}, {logits} wanted")));
            }
            let kept = masks.par_iter().map_init(Scratch::default, |scratch, mask| {
                let point = points[mask.prompt];
                self.candidate(mask, point, crop, image_size, &thresholder, scratch)
            });
            for candidate in kept.collect::<Vec<_>>() {
                candidates.extend(candidate?);
            }
        }
        let scores: Vec<f32> = candidates.iter().map(|candidate| candidate.predicted_iou).collect();
        Ok(keep(candidates, &scores, settings.box_nms_thresh))
    }

    /// What is left of a mask, if anything.
    fn candidate(
        &self,
        mask: &LowResMask,
        point: [f64; 2],
        crop: CropBox,
        (image_height, image_width): (usize, usize),
        thresholder: &Thresholder,
        scratch: &mut Scratch,
    ) -> Result<Option<Candidate>> {
        let settings = &self.settings;
        let has_quality = mask.predicted_iou > settings.pred_iou_thresh as f32;
        if settings.pred_iou_thresh > 0.0 && !has_quality {
            return Ok(None);
        }
        // such a mask would look empty; `all` may end early, and is slower for it
        if !mask.logits.iter().fold(true, |all, logit| all & logit.is_finite()) {
            let what = "a predicted mask is not finite; check the weights, or set a wider precision";
            return Err(ModelError::Input(what.to_owned()));
        }
        let found = thresholder.threshold(&mask.logits, scratch)?;
        // NaN, the stability of an empty mask, is not enough.
        let is_stable = found.stability_score >= settings.stability_score_thresh as f32;
        if settings.stability_score_thresh > 0.0 && !is_stable {
            return Ok(None);
        }
        let [left, top, right, bottom] = found.box_xyxy;
        let (x, y) = (crop.left as u32, crop.top as u32);
        let box_xyxy = [left + x, top + y, right + x, bottom + y];
        if is_cut_off(box_xyxy, crop, image_height, image_width) {
            return Ok(None);
        }
        Ok(Some(Candidate {
            rle: found.rle,
            box_xyxy,
            predicted_iou: mask.predicted_iou,
            stability_score: found.stability_score,
            point_xy: [point[0] + crop.left as f64, point[1] + crop.top as f64],
            crop,
        }))
    }

    /// From the masks of all crops of one image to its records.
    fn finish(&self, mut candidates: Vec<Candidate>) -> Result<Vec<MaskRecord>> {
        let settings = &self.settings;
        if settings.crop_n_layers > 0 {
            // Smaller crops saw more detail.
            let score = |candidate: &Candidate| 1.0 / (candidate.crop.width() * candidate.crop.height()) as f32;
            let scores: Vec<f32> = candidates.iter().map(score).collect();
            candidates = keep(candidates, &scores, settings.crop_nms_thresh);
        }
        if settings.min_mask_region_area > 0 {
            candidates = self.clean(candidates)?;
        }
        Ok(candidates.into_iter().map(Candidate::record).collect())
    }

    /// `postprocess_small_regions` of the reference.
    fn clean(&self, mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
        let mut scores = Vec::with_capacity(candidates.len());
        for candidate in &mut candidates {
            let (rle, changed) = regions::without_small_regions(&candidate.rle, self.settings.min_mask_region_area)?;
            if changed {
                candidate.box_xyxy = box_of(&rle);
                candidate.rle = rle;
            }
            // Masks that needed no cleaning suppress those that did.
            scores.push(if changed { 0.0 } else { 1.0 });
        }
        Ok(keep(candidates, &scores, self.settings.box_nms_thresh.max(self.settings.crop_nms_thresh)))
    }
}

impl Candidate {
    fn record(self) -> MaskRecord {
        let [left, top, right, bottom] = self.box_xyxy;
        let crop = &self.crop;
        MaskRecord {
            area_px: self.rle.area_px(),
            segmentation: self.rle,
            bbox_xywh: [left, top, right - left, bottom - top],
            predicted_iou: self.predicted_iou,
            point_xy: self.point_xy,
            stability_score: self.stability_score,
            crop_box_xywh: [crop.left, crop.top, crop.width(), crop.height()].map(|x| x as u32),
        }
    }
}

fn check(should_stop: &dyn Fn() -> bool) -> Result<()> {
    if should_stop() { Err(ModelError::Stopped) } else { Ok(()) }
}

/// The candidates that non-maximum suppression leaves, best first.
fn keep(candidates: Vec<Candidate>, scores: &[f32], iou_threshold: f64) -> Vec<Candidate> {
    let boxes: Vec<BoxXyxy> = candidates.iter().map(|candidate| candidate.box_xyxy).collect();
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    suppress(&boxes, scores, iou_threshold).into_iter().filter_map(|index| candidates[index].take()).collect()
}

/// Pixels from a crop's edge within which a mask counts as cut off by it.
const EDGE_PX: u32 = 20;

/// Whether a box, in the whole image, comes close to an edge of the crop that is no edge of the image
/// (`is_box_near_crop_edge`).
fn is_cut_off(box_xyxy: BoxXyxy, crop: CropBox, image_height: usize, image_width: usize) -> bool {
    let crop = [crop.left, crop.top, crop.right, crop.bottom];
    let image = [0, 0, image_width, image_height];
    let is_near = |a: u32, b: usize| a.abs_diff(b as u32) <= EDGE_PX;
    (0..4).any(|side| is_near(box_xyxy[side], crop[side]) && !is_near(box_xyxy[side], image[side]))
}

/// The box with its last row and column; zeros for an empty mask.
fn box_of(rle: &Rle) -> BoxXyxy {
    let [left, top, width, height] = rle.bbox_xywh();
    if width == 0 { [0; 4] } else { [left, top, left + width - 1, top + height - 1] }
}

/// The pixels of a crop.
fn cut(image: &Rgb, crop: CropBox) -> Result<Cow<'_, Rgb>> {
    let width = image.width as usize;
    if (crop.width(), crop.height()) == (width, image.height as usize) {
        return Ok(Cow::Borrowed(image));
    }
    let rows = image.data.chunks_exact(3 * width).skip(crop.top).take(crop.height());
    let data = rows.flat_map(|row| &row[3 * crop.left..3 * crop.right]).copied().collect();
    Ok(Cow::Owned(Rgb::new(crop.width() as u32, crop.height() as u32, data)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_edges_within_the_image_cut_off() {
        let crop = CropBox { left: 0, top: 100, right: 200, bottom: 300 };
        // The left edge of the crop is that of the image.
        assert!(!is_cut_off([0, 150, 100, 200], crop, 400, 400));
        assert!(is_cut_off([0, 120, 100, 200], crop, 400, 400));
        assert!(!is_cut_off([0, 121, 100, 279], crop, 400, 400));
        assert!(is_cut_off([0, 121, 100, 280], crop, 400, 400));
        assert!(is_cut_off([30, 150, 180, 200], crop, 400, 400));
        assert!(!is_cut_off([30, 150, 180, 200], crop, 400, 200));
    }

    /// A network that is sure of masks that are none.
    struct Undefined;

    impl PointSegmenter for Undefined {
        type Embedding = ();

        fn input_side(&self) -> usize {
            64
        }

        fn mask_side(&self) -> usize {
            16
        }

        fn embed(&self, images: &[Cow<'_, Rgb>]) -> Result<Vec<()>> {
            Ok(vec![(); images.len()])
        }

        fn masks_at(&self, _: &(), points_xy: &[[f64; 2]], _: Option<f32>) -> Result<Vec<LowResMask>> {
            let mask = |prompt| LowResMask { prompt, output: 0, predicted_iou: 0.95, logits: vec![f32::NAN; 256] };
            Ok((0..points_xy.len()).map(mask).collect())
        }
    }

    #[test]
    fn masks_that_are_not_finite_are_refused() {
        let settings = MaskGeneratorSettings { points_per_side: Some(2), ..MaskGeneratorSettings::default() };
        let image = Rgb::new(8, 8, vec![0; 192]).unwrap();
        let generator = MaskGenerator::new(&Undefined, settings).unwrap();
        let error = generator.generate(&[image], &|| false).unwrap_err().to_string();
        assert!(error.contains("mask is not finite"), "{error}");
    }

    #[test]
    fn crops_are_cut_out() {
        let image = Rgb::new(3, 2, (0..18).collect()).unwrap();
        let cut = |left, top, right, bottom| cut(&image, CropBox { left, top, right, bottom }).unwrap().data.clone();
        assert_eq!(cut(0, 0, 3, 2), image.data);
        assert_eq!(cut(1, 1, 3, 2), [12, 13, 14, 15, 16, 17]);
        assert_eq!(cut(0, 0, 1, 2), [0, 1, 2, 9, 10, 11]);
    }
}
