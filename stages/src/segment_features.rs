//! Stage `segment_features`: CLIP vectors of the candidate segments. No caption is read, so a
//! geo-tag edit never touches this table.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, Int32Array, RecordBatch};
use half::f16;
use manifests::spec::ScoreSpec;
use manifests::{Artifact, BuildSpec};
use models::dual_encoder::DualEncoder;
use pixels::mask::Rle;
use pixels::view::{View, segment_view};
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::device::note_precision;
use crate::image_embeddings::encode_views;
use crate::images::limits;
use crate::network::{Network, load_network};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "segment_features";

/// Segment views encoded at once: bounds the memory of a row with many candidates.
pub const VIEWS_PER_BATCH: usize = 64;

pub(crate) fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] },
            Input {
                artifact: Artifact::Segments,
                digests: &["segments_digest"],
                columns: &["width", "height", "segments"],
            },
        ],
        output: Artifact::SegmentFeatures,
        source: None,
        model: ModelUse::Scoring,
        told: None,
        recipe_digest: Some("features_digest"),
        parameters,
        open: |context| {
            Ok(Box::new(EncodeSegments {
                limits: limits(context.spec),
                network: load_network(NAME, context)?,
                score: context.spec.score.clone(),
            }))
        },
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let score = &spec.score;
    let mut value = serde_json::json!({
        "min_area_share": score.min_area_share,
        "max_candidates": score.max_candidates,
        "canvas": score.canvas,
        "crop_margin": score.crop_margin,
        "background": score.background,
    });
    note_precision(&mut value, spec);
    value
}

/// Indices of the segments worth scoring: at least `min_area_share` of the image (Eq. 1, T_a), the
/// largest `max_candidates`, in order of falling area (ties: the earlier segment first).
pub fn candidates(areas_px: &[i64], image_area_px: i64, score: &ScoreSpec) -> Vec<usize> {
    let least = score.min_area_share * image_area_px as f64;
    let mut chosen: Vec<usize> = (0..areas_px.len()).filter(|&i| areas_px[i] as f64 >= least).collect();
    chosen.sort_by_key(|&i| (std::cmp::Reverse(areas_px[i]), i));
    chosen.truncate(score.max_candidates);
    chosen
}

/// How a segment is shown to CLIP.
pub fn view_of(score: &ScoreSpec) -> View {
    View { canvas: score.canvas, margin: score.crop_margin, background: score.background }
}

/// Whether a network of this input side sees anything of a segment. What it does not see is absent: a blank picture
/// would be learnt as if it were the segment.
pub(crate) fn is_seen(rle: &Rle, score: &ScoreSpec, side: u32) -> bool {
    pixels::view::is_seen(rle, view_of(score), side)
}

/// The segments of one row: masks and areas.
pub struct RowSegments {
    /// Of the image, in pixels.
    pub width: u32,
    /// Of the image, in pixels.
    pub height: u32,
    /// Masks as COCO's compressed strings, largest segment first.
    pub rles: Vec<String>,
    /// Pixels of each mask.
    pub areas_px: Vec<i64>,
}

impl RowSegments {
    /// Reads row `row` of the segments table.
    ///
    /// # Errors
    /// [`TableError::Column`] if the batch is no segments table.
    pub fn read(columns: &Columns<'_>, row: usize) -> Result<RowSegments, TableError> {
        let items: RecordBatch = columns.structs("segments", row)?;
        let inner = Columns::new(Artifact::Segments, &items);
        let rles = inner.text("rle")?;
        Ok(RowSegments {
            width: columns.int32("width")?.value(row).max(0) as u32,
            height: columns.int32("height")?.value(row).max(0) as u32,
            rles: (0..rles.len()).map(|i| rles.value(i).to_owned()).collect(),
            areas_px: inner.int64("area_px")?.values().to_vec(),
        })
    }

    /// The mask of a segment.
    ///
    /// # Errors
    /// A segment that there is not; which string does not decode, and why.
    pub fn mask(&self, segment: usize) -> Result<Rle, String> {
        let rle = self
            .rles
            .get(segment)
            .ok_or_else(|| format!("segment {segment} has a score, and the image has {} segments", self.rles.len()))?;
        Rle::from_coco_string(rle, self.height, self.width).map_err(|e| format!("mask of segment {segment}: {e}"))
    }

    /// Indices of the segments that are worth a score, by size and number.
    pub fn candidates(&self, score: &ScoreSpec) -> Vec<usize> {
        candidates(&self.areas_px, i64::from(self.width) * i64::from(self.height), score)
    }
}

struct EncodeSegments {
    limits: DecodeLimits,
    network: Network,
    score: ScoreSpec,
}

/// The vectors of one row's candidates.
struct Encoded {
    segments: Vec<usize>,
    vectors: Vec<Vec<f32>>,
}

/// The views of one row's candidates.
pub(crate) struct Views {
    pub(crate) segments: Vec<usize>,
    pub(crate) views: Vec<Rgb>,
}

impl Views {
    /// Candidates of an image as a CLIP of this input side sees them.
    pub(crate) fn of(rgb: &Rgb, segments: &RowSegments, score: &ScoreSpec, side: u32) -> Result<Views, String> {
        let shown = view_of(score);
        let chosen = segments.candidates(score);
        let views = chosen
            .iter()
            .map(|&i| {
                let view = segment_view(rgb, &segments.mask(i)?, shown).map_err(|e| e.to_string())?;
                Ok(pixels::clip_view(&view, side))
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Views { segments: chosen, views })
    }
}

impl EncodeSegments {
    fn views(&self, bytes: &[u8], segments: &RowSegments) -> Result<Views, String> {
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        Views::of(&rgb, segments, &self.score, self.network.preprocessing().side_px as u32)
    }
}

impl Transform for EncodeSegments {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let bytes =
            Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]).binary("bytes").map_err(table_error)?;
        let columns = Columns::new(Artifact::Segments, &rows.tables[&Artifact::Segments]);
        let segments = (0..rows.len())
            .map(|row| RowSegments::read(&columns, row))
            .collect::<Result<Vec<_>, _>>()
            .map_err(table_error)?;

        // a few rows at a time, so that the views of a call never lie in memory together
        let mut made: Vec<Result<Encoded, String>> = Vec::with_capacity(rows.len());
        for start in (0..rows.len()).step_by(8) {
            let end = (start + 8).min(rows.len());
            let views: Vec<_> =
                (start..end).into_par_iter().map(|row| self.views(bytes.value(row), &segments[row])).collect();
            let flat: Vec<&Rgb> = views.iter().flatten().flat_map(|v| &v.views).collect();
            let mut vectors = Vec::with_capacity(flat.len());
            for batch in flat.chunks(VIEWS_PER_BATCH) {
                vectors.extend(encode_views(NAME, &self.network, batch)?);
            }
            let mut vectors = vectors.into_iter();
            for row in views {
                made.push(row.map(|v| Encoded {
                    vectors: vectors.by_ref().take(v.views.len()).collect(),
                    segments: v.segments,
                }));
            }
        }
        content(&made).map_err(table_error)
    }
}

fn content(made: &[Result<Encoded, String>]) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = made.iter().map(|m| m.as_ref().ok().map(|e| e.segments.len())).collect();
    let segments = made.iter().flatten().flat_map(|e| e.segments.iter().map(|&i| i as i32));
    let vectors = made.iter().flatten().flat_map(|e| e.vectors.iter().map(|v| half_bytes(v)));
    let features = table::struct_lists(
        Artifact::SegmentFeatures,
        "features",
        &lengths,
        vec![Arc::new(Int32Array::from_iter_values(segments)), Arc::new(BinaryArray::from_iter_values(vectors))],
    )?;
    let digests = table::texts(made.iter().map(|_| None::<String>));
    Ok(MapOutput {
        outcomes: Outcome::of(made),
        content: table::content(Artifact::SegmentFeatures, vec![features, digests])?,
    })
}

pub(crate) fn half_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// Reads a stored vector.
pub fn from_half_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_large_and_few() {
        let score = ScoreSpec { min_area_share: 0.1, max_candidates: 2, ..ScoreSpec::default() };
        assert_eq!(candidates(&[50, 5, 300, 50, 10], 100, &score), [2, 0]);
        // 0.2 as a share leaves at most four segments
        let score = ScoreSpec { min_area_share: 0.2, ..ScoreSpec::default() };
        assert_eq!(candidates(&[25, 25, 25, 20, 5], 100, &score), [0, 1, 2, 3]);
        assert!(candidates(&[], 100, &score).is_empty());
    }

    #[test]
    fn vectors_survive_half_precision() {
        let vector = [0.5, -0.25, 0.123];
        let back = from_half_bytes(&half_bytes(&vector));
        assert!(vector.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-3));
    }
}
