//! Stage `segment_scores`: which segments of an image train the model, and with which weight
//! (paper Eq. 2–3).

use std::sync::Arc;

use arrow::array::{BooleanArray, Float32Array, Int32Array};
use manifests::spec::ScoreSpec;
use manifests::{Artifact, BuildSpec};
use models::tokenizer::Tokenizer;

use crate::device::note_precision;
use crate::network::{Network, load_network};
use crate::segment_features::{RowSegments, from_half_bytes};
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageContext, StageError, Transform};
use crate::table::{self, Columns, TableError};
use crate::text_embeddings::{encode_texts, load_tokenizer};

const NAME: &str = "segment_scores";

/// With a scoring model segments are compared with the caption; without one every candidate has
/// weight 1 and the largest are taken.
pub fn stage(spec: &BuildSpec) -> Stage {
    if spec.score.clip == "none" {
        Stage {
            name: NAME,
            version: 1,
            inputs: &[Input {
                artifact: Artifact::Segments,
                digests: &["segments_digest"],
                columns: &["width", "height", "segments"],
            }],
            output: Artifact::SegmentScores,
            source: None,
            model: ModelUse::None,
            told: None,
            recipe_digest: Some("scores_digest"),
            parameters: |spec| {
                let score = &spec.score;
                let mut parameters = serde_json::json!({
                    "clip": "none",
                    "min_area_share": score.min_area_share,
                    "max_segments": score.max_segments,
                });
                // left out at its default: rows that an earlier version made with it stand
                if score.max_candidates != ScoreSpec::default().max_candidates {
                    parameters["max_candidates"] = score.max_candidates.into();
                }
                parameters
            },
            open: |context| Ok(Box::new(TakeLargest { score: context.spec.score.clone() })),
        }
    } else {
        compared(
            (NAME, Artifact::SegmentScores),
            &[FEATURES, Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] }],
            |context| open(Artifact::Captions, context),
        )
    }
}

/// The same by the drafts of captions that are written twice.
pub(crate) fn draft_stage() -> Stage {
    compared(
        ("draft_scores", Artifact::DraftScores),
        &[FEATURES, Input { artifact: Artifact::DraftCaptions, digests: &["captions_digest"], columns: &["captions"] }],
        |context| open(Artifact::DraftCaptions, context),
    )
}

const FEATURES: Input =
    Input { artifact: Artifact::SegmentFeatures, digests: &["features_digest"], columns: &["features"] };

fn compared(
    (name, output): (&'static str, Artifact),
    inputs: &'static [Input],
    open: fn(&StageContext<'_>) -> Result<Box<dyn Transform>, StageError>,
) -> Stage {
    Stage {
        name,
        version: 2,
        inputs,
        output,
        source: None,
        model: ModelUse::Scoring,
        told: None,
        recipe_digest: Some("scores_digest"),
        parameters: |spec| {
            let mut value = serde_json::json!({
                "min_similarity": spec.score.min_similarity,
                "max_segments": spec.score.max_segments,
            });
            note_precision(&mut value, spec);
            value
        },
        open,
    }
}

fn open(captions: Artifact, context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    Ok(Box::new(CompareWithCaption {
        network: load_network(NAME, context)?,
        tokenizer: load_tokenizer(NAME, context)?,
        score: context.spec.score.clone(),
        captions,
    }))
}

/// One scored segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    pub segment: usize,
    /// cos(segment, caption); 1 without a scoring model.
    pub similarity: f32,
    pub selected: bool,
}

/// Eq. 3: segments more than `min_similarity` like the caption, the best `max_segments` of them.
/// Ties go to the earlier candidate, which is the larger.
pub fn select(similarities: &[(usize, f32)], min_similarity: f32, max_segments: usize) -> Vec<Score> {
    let mut order: Vec<usize> = (0..similarities.len()).filter(|&i| similarities[i].1 > min_similarity).collect();
    order.sort_by(|&a, &b| similarities[b].1.total_cmp(&similarities[a].1).then(a.cmp(&b)));
    order.truncate(max_segments);
    similarities
        .iter()
        .enumerate()
        .map(|(i, &(segment, similarity))| Score { segment, similarity, selected: order.contains(&i) })
        .collect()
}

struct TakeLargest {
    score: ScoreSpec,
}

impl Transform for TakeLargest {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let scored = || -> Result<MapOutput, TableError> {
            let columns = Columns::new(Artifact::Segments, &rows.tables[&Artifact::Segments]);
            let scores = (0..rows.len())
                .map(|row| {
                    let candidates = RowSegments::read(&columns, row)?.candidates(&self.score);
                    let even: Vec<_> = candidates.into_iter().map(|segment| (segment, 1.0)).collect();
                    Ok(select(&even, f32::NEG_INFINITY, self.score.max_segments))
                })
                .collect::<Result<Vec<_>, TableError>>()?;
            content(&scores)
        };
        scored().map_err(|source| StageError::Table { stage: NAME, source })
    }
}

struct CompareWithCaption {
    network: Network,
    tokenizer: Tokenizer,
    score: ScoreSpec,
    /// The table that has them.
    captions: Artifact,
}

impl Transform for CompareWithCaption {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let captions =
            Columns::new(self.captions, &rows.tables[&self.captions]).texts("captions").map_err(table_error)?;
        let flat: Vec<&str> = captions.iter().flatten().map(String::as_str).collect();
        let mut embedded = encode_texts(NAME, &self.network, &self.tokenizer, &flat)?.into_iter();
        let columns = Columns::new(Artifact::SegmentFeatures, &rows.tables[&Artifact::SegmentFeatures]);
        let mut scores = Vec::with_capacity(rows.len());
        for (row, captions) in captions.iter().enumerate() {
            let caption = mean(&embedded.by_ref().take(captions.len()).collect::<Vec<_>>());
            let features = columns.structs("features", row).map_err(table_error)?;
            let inner = columns.inner(&features);
            let segments = inner.int32("segment").map_err(table_error)?;
            let vectors = inner.binary("vector").map_err(table_error)?;
            let similarities: Vec<_> = (0..segments.len())
                .map(|i| (segments.value(i) as usize, cosine(&from_half_bytes(vectors.value(i)), &caption)))
                .collect();
            scores.push(select(&similarities, self.score.min_similarity, self.score.max_segments));
        }
        content(&scores).map_err(table_error)
    }
}

/// Mean of several captions' vectors: the caption side of Eq. 2 where an image has more than one.
fn mean(vectors: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for vector in vectors {
        for (total, x) in sum.iter_mut().zip(vector) {
            *total += x;
        }
    }
    sum
}

/// Eq. 2. Zero vectors are like nothing.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm > 0.0 { dot(a, b) / norm } else { 0.0 }
}

fn content(scores: &[Vec<Score>]) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = scores.iter().map(|s| Some(s.len())).collect();
    let flat = || scores.iter().flatten();
    let lists = table::struct_lists(
        Artifact::SegmentScores,
        "scores",
        &lengths,
        vec![
            Arc::new(Int32Array::from_iter_values(flat().map(|s| s.segment as i32))),
            Arc::new(Float32Array::from_iter_values(flat().map(|s| s.similarity))),
            Arc::new(BooleanArray::from_iter(flat().map(|s| Some(s.selected)))),
        ],
    )?;
    let digests = table::texts(scores.iter().map(|_| None::<String>));
    Ok(MapOutput {
        outcomes: vec![Outcome::Good; scores.len()],
        content: table::content(Artifact::SegmentScores, vec![lists, digests])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_selects_without_a_clip_is_part_of_the_recipe() {
        let of = |set: &[String]| {
            let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[score]\nclip = \"none\"\n";
            let spec = BuildSpec::parse(text, "t", set).unwrap();
            (stage(&spec).parameters)(&spec)
        };
        let base = serde_json::json!({ "clip": "none", "max_segments": 6, "min_area_share": 0.005 });
        assert_eq!(of(&[]), base, "rows of an earlier version stand");
        for field in ["max_candidates=3", "max_segments=3", "min_area_share=0.1"] {
            assert_ne!(of(&[format!("score.{field}")]), base, "{field}");
        }
    }

    #[test]
    fn selection_keeps_the_best_above_the_threshold() {
        let scores = select(&[(3, 0.1), (0, 0.5), (7, 0.3), (2, 0.5)], 0.2, 2);
        let selected: Vec<_> = scores.iter().filter(|s| s.selected).map(|s| s.segment).collect();
        assert_eq!(selected, [0, 2], "ties go to the earlier candidate");
        assert_eq!(scores.len(), 4, "scores of all candidates are kept");
        assert!(select(&[], 0.2, 6).is_empty());
        let at_the_threshold = select(&[(0, 0.2), (1, 0.2f32.next_up())], 0.2, 6);
        assert_eq!(at_the_threshold.iter().map(|s| s.selected).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn cosine_of_nothing_is_nothing() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert!((cosine(&[1.0, 1.0], &[2.0, 2.0]) - 1.0).abs() < 1e-6);
    }
}
