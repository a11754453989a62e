//! Stage `segments`: masks of an image, kept as run lengths and boxes. Which of them are used is
//! decided later, so that no change of a threshold or of a caption ever cuts an image again.

use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array, Int64Array, StringArray};
use manifests::build::Segmenter;
use manifests::{Artifact, BuildSpec, digest};
use pixels::DecodeLimits;
use pixels::felzenszwalb::{self, Segment, Settings};
use rayon::prelude::*;

use crate::images::limits;
use crate::stage::{Input, InputRows, Map, MapOutput, ModelUse, Outcome, Stage, StageError};
use crate::table::{self, Columns, TableError};

const NAME: &str = "segments";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] }],
        output: Artifact::Segments,
        source: None,
        model: ModelUse::None,
        recipe_digest: None,
        parameters,
        open: |opening| {
            let spec = &opening.spec.segment.felzenszwalb;
            let chosen = opening.spec.segment.segmenter == Segmenter::Felzenszwalb;
            let settings = chosen.then_some(Settings {
                scale: spec.scale,
                sigma: spec.sigma_px,
                min_size_px: spec.min_size_px,
            });
            Ok(Box::new(CutSegments { limits: limits(opening.spec), settings }))
        },
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    match spec.segment.segmenter {
        Segmenter::None => serde_json::json!({ "segmenter": "none" }),
        _ => serde_json::json!(spec.segment),
    }
}

struct CutSegments {
    limits: DecodeLimits,
    /// `None`: every image gets an empty list.
    settings: Option<Settings>,
}

struct Cut {
    width: i32,
    height: i32,
    segments: Vec<Segment>,
    digest: String,
}

impl CutSegments {
    fn cut(&self, bytes: &[u8]) -> Result<Cut, String> {
        let Some(settings) = &self.settings else {
            let (width, height) = pixels::dimensions(bytes).map_err(|e| e.to_string())?;
            let digest = digest::of_bytes(b"");
            return Ok(Cut { width: width as i32, height: height as i32, segments: Vec::new(), digest });
        };
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        let segments = felzenszwalb::segment(&rgb, settings);
        let digest = digest_of(&segments);
        Ok(Cut { width: rgb.width as i32, height: rgb.height as i32, segments, digest })
    }
}

/// Digest of the masks. They are integers: equal masks give equal digests whatever made them.
fn digest_of(segments: &[Segment]) -> String {
    let masks: Vec<String> = segments.iter().map(|s| s.rle.to_coco_string()).collect();
    digest::of_parts(masks.iter().map(String::as_bytes))
}

impl Map for CutSegments {
    fn map(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        self.map_table(rows).map_err(|source| StageError::Table { stage: NAME, source })
    }
}

impl CutSegments {
    fn map_table(&self, rows: &InputRows) -> Result<MapOutput, TableError> {
        let bytes = Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]).binary("bytes")?;
        let cuts: Vec<Result<Cut, String>> =
            (0..rows.len()).into_par_iter().map(|row| self.cut(bytes.value(row))).collect();
        let good: Vec<Option<&Cut>> = cuts.iter().map(|c| c.as_ref().ok()).collect();
        let content = table::content(
            Artifact::Segments,
            vec![
                table::int32s(good.iter().map(|c| c.map(|c| c.width))),
                table::int32s(good.iter().map(|c| c.map(|c| c.height))),
                segment_lists(&good)?,
                table::texts(good.iter().map(|c| c.map(|c| c.digest.as_str()))),
            ],
        )?;
        Ok(MapOutput { outcomes: Outcome::of(&cuts), content })
    }
}

fn segment_lists(cuts: &[Option<&Cut>]) -> Result<arrow::array::ArrayRef, TableError> {
    let lengths: Vec<_> = cuts.iter().map(|c| c.map(|c| c.segments.len())).collect();
    let all: Vec<&Segment> = cuts.iter().flatten().flat_map(|c| &c.segments).collect();
    let int = |of: fn(&Segment) -> u32| Arc::new(Int32Array::from_iter_values(all.iter().map(|s| of(s) as i32))) as _;
    // scores and points are SAM's: a graph-based segment has none
    let unknown = || Arc::new(Float32Array::from_iter(all.iter().map(|_| None::<f32>))) as _;
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
            unknown(),
            unknown(),
            unknown(),
            unknown(),
        ],
    )
}
