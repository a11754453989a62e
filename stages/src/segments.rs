//! Stage `segments`: masks of an image, kept as run lengths and boxes. Which of them are used is
//! decided later, so that no change of a threshold or of a caption ever cuts an image again.

mod sam;

use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array, Int64Array, StringArray};
use choices::Felzenszwalb;
use manifests::spec::Segmenter;
use manifests::{Artifact, BuildSpec, digest};
use pixels::felzenszwalb;
use pixels::mask::Rle;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::device::arithmetic;
use crate::images::limits;
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "segments";
/// Field of the spec that names SAM's weights.
const SAM_WEIGHTS: &str = "segment.sam.weights";
/// Images whose pixels lie in memory at once.
const IMAGES_AT_ONCE: usize = 32;

pub fn stage(spec: &BuildSpec) -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] }],
        output: Artifact::Segments,
        source: None,
        model: match spec.segment.segmenter {
            Segmenter::Sam => ModelUse::Named(&[SAM_WEIGHTS]),
            Segmenter::Felzenszwalb | Segmenter::None => ModelUse::None,
        },
        told: None,
        recipe_digest: None,
        parameters,
        open,
    }
}

/// What changes masks: batch sizes and time-outs do not.
fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let segment = &spec.segment;
    match segment.segmenter {
        Segmenter::None => serde_json::json!({ "segmenter": "none" }),
        Segmenter::Felzenszwalb => serde_json::json!({ "segmenter": "felzenszwalb", "settings": segment.felzenszwalb }),
        Segmenter::Sam => {
            let mut settings = serde_json::json!(segment.sam);
            if let Some(map) = settings.as_object_mut() {
                for field in ["weights", "points_per_batch", "images_per_batch", "timeout_seconds"] {
                    map.remove(field);
                }
            }
            serde_json::json!({ "segmenter": "sam", "settings": settings, "precision": arithmetic(spec) })
        }
    }
}

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    let segment = &context.spec.segment;
    let cutter = match segment.segmenter {
        Segmenter::None => Cutter::None,
        Segmenter::Felzenszwalb => Cutter::Felzenszwalb(segment.felzenszwalb),
        Segmenter::Sam => Cutter::Sam(Box::new(sam::MaskEverything::open(context)?)),
    };
    Ok(Box::new(CutSegments { limits: limits(context.spec), cutter }))
}

/// One segment of an image.
#[derive(Debug, Clone, PartialEq)]
struct Segment {
    rle: Rle,
    /// The tight box of the mask, whatever made it: x, y, width, height.
    bbox_xywh: [u32; 4],
    area_px: u64,
    /// SAM's own opinion; a graph-based segment has none.
    quality: Option<Quality>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Quality {
    predicted_iou: f32,
    stability_score: f32,
    /// The point that the mask was asked for, in pixels.
    point_xy: [f32; 2],
}

enum Cutter {
    /// Every image gets an empty list.
    None,
    Felzenszwalb(Felzenszwalb),
    Sam(Box<sam::MaskEverything>),
}

impl Cutter {
    fn cut(&self, images: &[Rgb]) -> Result<Vec<Result<Vec<Segment>, String>>, StageError> {
        match self {
            Cutter::None => Ok(images.iter().map(|_| Ok(Vec::new())).collect()),
            Cutter::Felzenszwalb(settings) => Ok(images.par_iter().map(|rgb| Ok(graph_based(rgb, settings))).collect()),
            Cutter::Sam(sam) => sam.cut(images),
        }
    }
}

fn graph_based(rgb: &Rgb, settings: &Felzenszwalb) -> Vec<Segment> {
    let found = felzenszwalb::segment(rgb, settings).into_iter();
    found.map(|s| Segment { rle: s.rle, bbox_xywh: s.bbox_xywh, area_px: s.area_px, quality: None }).collect()
}

struct CutSegments {
    limits: DecodeLimits,
    cutter: Cutter,
}

/// The segments of one image.
struct Cut {
    width: i32,
    height: i32,
    segments: Vec<Segment>,
    digest: String,
}

impl Cut {
    fn new(width: u32, height: u32, segments: Vec<Segment>) -> Self {
        // of the masks, which are integers: equal masks give equal digests whatever made them
        let masks: Vec<String> = segments.iter().map(|s| s.rle.to_coco_string()).collect();
        let digest = digest::of_parts(masks.iter().map(String::as_bytes));
        Self { width: width as i32, height: height as i32, segments, digest }
    }
}

impl CutSegments {
    /// Segments of a few images, in their order.
    fn cut(&self, images: &[&[u8]]) -> Result<Vec<Result<Cut, String>>, StageError> {
        if matches!(self.cutter, Cutter::None) {
            let empty = |bytes: &&[u8]| {
                let (width, height) = pixels::dimensions(bytes).map_err(|e| e.to_string())?;
                Ok(Cut::new(width, height, Vec::new()))
            };
            return Ok(images.iter().map(empty).collect());
        }
        let decoded: Vec<Result<Rgb, String>> =
            images.par_iter().map(|bytes| pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())).collect();
        let mut sides = Vec::with_capacity(images.len());
        let mut whole = Vec::with_capacity(images.len());
        for rgb in decoded {
            sides.push(rgb.as_ref().map(|rgb| (rgb.width, rgb.height)).map_err(Clone::clone));
            whole.extend(rgb.ok());
        }
        let mut cuts = self.cutter.cut(&whole)?.into_iter();
        Ok(sides
            .into_iter()
            .map(|sides| {
                let (width, height) = sides?;
                let segments = cuts.next().unwrap_or_else(|| Err("the segmenter gave no answer".into()))?;
                Ok(Cut::new(width, height, segments))
            })
            .collect())
    }
}

impl Transform for CutSegments {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let bytes =
            Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]).binary("bytes").map_err(table_error)?;
        let encoded: Vec<&[u8]> = (0..rows.len()).map(|row| bytes.value(row)).collect();
        let mut cuts: Vec<Result<Cut, String>> = Vec::with_capacity(rows.len());
        for few in encoded.chunks(IMAGES_AT_ONCE) {
            cuts.extend(self.cut(few)?);
        }
        let content = content(&cuts).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&cuts), content })
    }
}

fn content(cuts: &[Result<Cut, String>]) -> Result<arrow::record_batch::RecordBatch, TableError> {
    let good: Vec<Option<&Cut>> = cuts.iter().map(|c| c.as_ref().ok()).collect();
    table::content(
        Artifact::Segments,
        vec![
            table::int32s(good.iter().map(|c| c.map(|c| c.width))),
            table::int32s(good.iter().map(|c| c.map(|c| c.height))),
            segment_lists(&good)?,
            table::texts(good.iter().map(|c| c.map(|c| c.digest.as_str()))),
        ],
    )
}

fn segment_lists(cuts: &[Option<&Cut>]) -> Result<arrow::array::ArrayRef, TableError> {
    let lengths: Vec<_> = cuts.iter().map(|c| c.map(|c| c.segments.len())).collect();
    let all: Vec<&Segment> = cuts.iter().flatten().flat_map(|c| &c.segments).collect();
    let int = |of: fn(&Segment) -> u32| Arc::new(Int32Array::from_iter_values(all.iter().map(|s| of(s) as i32))) as _;
    let quality = |of: fn(&Quality) -> f32| {
        Arc::new(Float32Array::from_iter(all.iter().map(|s| s.quality.as_ref().map(of)))) as _
    };
    table::struct_lists(
        Artifact::Segments,
        "segments",
        &lengths,
        vec![
            Arc::new(StringArray::from_iter_values(all.iter().map(|s| s.rle.to_coco_string()))),
            int(|s| s.bbox_xywh[0]),
            int(|s| s.bbox_xywh[1]),
            int(|s| s.bbox_xywh[2]),
            int(|s| s.bbox_xywh[3]),
            Arc::new(Int64Array::from_iter_values(all.iter().map(|s| s.area_px as i64))),
            quality(|q| q.predicted_iou),
            quality(|q| q.stability_score),
            quality(|q| q.point_xy[0]),
            quality(|q| q.point_xy[1]),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters_with(set: &[&str]) -> serde_json::Value {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[segment]\nsegmenter = \"sam\"\n\
                    [segment.sam]\nweights = \"x\"\n";
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        parameters(&BuildSpec::parse(text, "t", &set).unwrap())
    }

    #[test]
    fn only_what_changes_masks_is_a_parameter_of_sam() {
        let base = parameters_with(&[]);
        for same in [
            "segment.sam.weights=elsewhere",
            "segment.sam.points_per_batch=7",
            "segment.sam.images_per_batch=1",
            "segment.sam.timeout_seconds=1",
            "segment.felzenszwalb.scale=1.0",
            "score.min_area_share=0.2",
            "score.min_similarity=0.9",
            "score.max_segments=1",
            "score.max_candidates=1",
        ] {
            assert_eq!(base, parameters_with(&[same]), "{same}");
        }
        for other in ["segment.sam.points_per_side=8", "segment.sam.crop_n_layers=1", "model.precision=bf16"] {
            assert_ne!(base, parameters_with(&[other]), "{other}");
        }
    }

    #[test]
    fn a_broken_image_fails_alone() {
        let side = 24;
        let pixels_u8 = (0..side * side).flat_map(|i| if i % side < side / 2 { [250; 3] } else { [5; 3] }).collect();
        let png = pixels::encode_png(&Rgb::new(side, side, pixels_u8).unwrap());
        let stage = CutSegments {
            limits: DecodeLimits::default(),
            cutter: Cutter::Felzenszwalb(Felzenszwalb { scale: 50.0, sigma_px: 0.0, min_size_px: 20 }),
        };
        let cuts = stage.cut(&[&png, b"no image", &png]).unwrap();
        assert!(cuts[1].is_err());
        let (first, last) = (cuts[0].as_ref().unwrap(), cuts[2].as_ref().unwrap());
        assert_eq!((first.segments.len(), first.width), (2, side as i32));
        assert_eq!(first.digest, last.digest);
    }
}
