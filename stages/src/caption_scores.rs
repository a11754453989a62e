//! Stage `caption_scores`: how well captions fit their images, by a CLIP that the spec names. It reads captions and
//! changes none of them; those below a threshold are flagged here, never dropped.

use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array};
use manifests::spec::{CaptionScoreSpec, ScoreSpec};
use manifests::{Artifact, BuildSpec};
use pixels::mask::Rle;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::clip_scorer::{CLIP_FIELD, ClipScorer, clip_score};
use crate::device::arithmetic;
use crate::images::limits;
use crate::segment_features::{RowSegments, VIEWS_PER_BATCH, Views, is_seen};
use crate::segment_scores::cosine;
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};

const NAME: &str = "caption_scores";
/// Images whose views are in memory together.
const ROWS_AT_ONCE: usize = 8;

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 2,
        inputs: &[
            Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] },
            Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] },
            Input {
                artifact: Artifact::Segments,
                digests: &["segments_digest"],
                columns: &["width", "height", "segments"],
            },
        ],
        output: Artifact::CaptionScores,
        source: None,
        model: ModelUse::Named(&[CLIP_FIELD]),
        told: None,
        recipe_digest: Some("scores_digest"),
        parameters,
        open: |context| {
            Ok(Box::new(ScoreCaptions {
                judge: ClipScorer::open(NAME, context)?,
                limits: limits(context.spec),
                segments: context.spec.score.clone(),
                thresholds: context.spec.caption.score.clone(),
            }))
        },
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let (score, thresholds) = (&spec.score, &spec.caption.score);
    serde_json::json!({
        "min_similarity": score.min_similarity,
        "min_area_share": score.min_area_share,
        "max_candidates": score.max_candidates,
        "canvas": score.canvas,
        "crop_margin": score.crop_margin,
        "background": score.background,
        "min_clip_score": thresholds.min_clip_score,
        "min_perception_score": thresholds.min_perception_score,
        "precision": arithmetic(spec),
    })
}

/// Scores of one caption.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    clip_score: f32,
    /// Pieces of the caption that segments were compared with.
    phrases: usize,
    /// Share of the segmented area that a phrase explains; `None`: the CLIP sees no segment of the image.
    explained_share: Option<f32>,
}

impl Score {
    /// PerceptionScore, which is ours (UrbanVLP's formula is not published): half CLIPScore, at most 1, half the share
    /// of the segmented area whose best phrase has a cosine above T_s.
    fn perception_score(&self) -> Option<f32> {
        self.explained_share.map(|share| 0.5 * self.clip_score.min(1.0) + 0.5 * share)
    }
}

/// What is below its threshold, in words; `None`: nothing.
fn problem(scores: &[Score], thresholds: &CaptionScoreSpec) -> Option<String> {
    let mut problems = Vec::new();
    for (number, score) in scores.iter().enumerate() {
        if f64::from(score.clip_score) < thresholds.min_clip_score {
            problems.push(format!(
                "caption {number}: CLIPScore {:.3}, less than {}",
                score.clip_score, thresholds.min_clip_score
            ));
        }
        if let Some(perception) = score.perception_score()
            && f64::from(perception) < thresholds.min_perception_score
        {
            problems.push(format!(
                "caption {number}: PerceptionScore {perception:.3}, less than {}",
                thresholds.min_perception_score
            ));
        }
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

struct ScoreCaptions {
    judge: ClipScorer,
    limits: DecodeLimits,
    segments: ScoreSpec,
    thresholds: CaptionScoreSpec,
}

/// An image as the CLIP sees it: whole, and segment by segment.
struct Seen {
    whole: Rgb,
    views: Vec<Rgb>,
    masks: Vec<Rle>,
}

/// The same as vectors.
struct Encoded {
    whole: Vec<f32>,
    segments: Vec<Vec<f32>>,
    masks: Vec<Rle>,
}

impl ScoreCaptions {
    fn look(&self, bytes: &[u8], segments: &RowSegments) -> Result<Seen, String> {
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        let side = self.judge.side_px();
        let Views { segments: chosen, views } = Views::of(&rgb, segments, &self.segments, side)?;
        let masks = chosen.iter().map(|&i| segments.mask(i)).collect::<Result<Vec<_>, String>>()?;
        let seen = masks.into_iter().zip(views).filter(|(mask, _)| is_seen(mask, &self.segments, side));
        let (masks, views) = seen.unzip();
        Ok(Seen { whole: pixels::clip_view(&rgb, side), views, masks })
    }

    fn encode(&self, seen: Vec<Result<Seen, String>>) -> Result<Vec<Result<Encoded, String>>, StageError> {
        let flat: Vec<&Rgb> = seen.iter().flatten().flat_map(|s| [&s.whole].into_iter().chain(&s.views)).collect();
        let mut vectors = Vec::with_capacity(flat.len());
        for batch in flat.chunks(VIEWS_PER_BATCH) {
            vectors.extend(self.judge.images(batch)?);
        }
        let mut vectors = vectors.into_iter();
        let mut next = || vectors.next().unwrap_or_default();
        Ok(seen
            .into_iter()
            .map(|row| {
                row.map(|s| Encoded {
                    whole: next(),
                    segments: s.views.iter().map(|_| next()).collect(),
                    masks: s.masks,
                })
            })
            .collect())
    }

    /// Scores of each row's captions.
    fn score(&self, captions: &[Vec<String>], images: &[Result<Encoded, String>]) -> Result<Vec<Scored>, StageError> {
        let phrases: Vec<Vec<Vec<String>>> =
            captions.iter().map(|row| row.iter().map(|caption| wording::phrases(caption)).collect()).collect();
        let whole: Vec<&str> = captions.iter().flatten().map(String::as_str).collect();
        let pieces: Vec<&str> = phrases.iter().flatten().flatten().map(String::as_str).collect();
        let mut whole = self.judge.texts(&whole)?.into_iter();
        let mut pieces = self.judge.texts(&pieces)?.into_iter();
        let mut scored = Vec::with_capacity(captions.len());
        for (row, image) in phrases.iter().zip(images) {
            let texts: Vec<(Vec<f32>, Vec<Vec<f32>>)> = row
                .iter()
                .map(|phrases| (whole.next().unwrap_or_default(), pieces.by_ref().take(phrases.len()).collect()))
                .collect();
            scored.push(match image {
                Err(why) => Err(why.clone()),
                Ok(image) => texts.iter().map(|(caption, phrases)| self.one(image, caption, phrases)).collect(),
            });
        }
        Ok(scored)
    }

    fn one(&self, image: &Encoded, caption: &[f32], phrases: &[Vec<f32>]) -> Result<Score, String> {
        let best = |segment: &[f32]| phrases.iter().map(|p| cosine(segment, p)).fold(f32::NEG_INFINITY, f32::max);
        let explained: Vec<&Rle> = image
            .segments
            .iter()
            .zip(&image.masks)
            .filter(|(segment, _)| best(segment) > self.segments.min_similarity)
            .map(|(_, mask)| mask)
            .collect();
        let area = |masks: &[&Rle]| Rle::covered_px(masks).map_err(|e| e.to_string());
        let all = area(&image.masks.iter().collect::<Vec<_>>())?;
        let explained_share = if all > 0 { Some(area(&explained)? as f32 / all as f32) } else { None };
        Ok(Score { clip_score: clip_score(cosine(&image.whole, caption)), phrases: phrases.len(), explained_share })
    }
}

type Scored = Result<Vec<Score>, String>;

impl Transform for ScoreCaptions {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let columns = |artifact| Columns::new(artifact, &rows.tables[&artifact]);
        let captions = columns(Artifact::Captions).texts("captions").map_err(table_error)?;
        let images = columns(Artifact::Images);
        let bytes = images.binary("bytes").map_err(table_error)?;
        let segments = columns(Artifact::Segments);
        let segments = (0..rows.len())
            .map(|row| RowSegments::read(&segments, row))
            .collect::<Result<Vec<_>, _>>()
            .map_err(table_error)?;
        let mut scored = Vec::with_capacity(rows.len());
        for start in (0..rows.len()).step_by(ROWS_AT_ONCE) {
            let end = (start + ROWS_AT_ONCE).min(rows.len());
            let seen = (start..end).into_par_iter().map(|row| self.look(bytes.value(row), &segments[row])).collect();
            scored.extend(self.score(&captions[start..end], &self.encode(seen)?)?);
        }
        content(&scored, &self.thresholds).map_err(table_error)
    }
}

fn content(scored: &[Scored], thresholds: &CaptionScoreSpec) -> Result<MapOutput, TableError> {
    let lengths: Vec<_> = scored.iter().map(|row| row.as_ref().ok().map(Vec::len)).collect();
    let flat = || scored.iter().flatten().flatten();
    let lists = table::struct_lists(
        Artifact::CaptionScores,
        "scores",
        &lengths,
        vec![
            Arc::new(Float32Array::from_iter_values(flat().map(|s| s.clip_score))),
            Arc::new(Int32Array::from_iter_values(flat().map(|s| s.phrases as i32))),
            Arc::new(flat().map(|s| s.explained_share).collect::<Float32Array>()),
            Arc::new(flat().map(Score::perception_score).collect::<Float32Array>()),
        ],
    )?;
    let flagged = scored.iter().map(|row| row.as_ref().ok().and_then(|scores| problem(scores, thresholds)));
    let columns = vec![lists, table::texts(flagged), table::texts(scored.iter().map(|_| None::<String>))];
    Ok(MapOutput { outcomes: Outcome::of(scored), content: table::content(Artifact::CaptionScores, columns)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perception_is_half_similarity_half_explained_area() {
        let score = |clip_score, explained_share| Score { clip_score, phrases: 2, explained_share };
        assert_eq!(score(0.6, Some(0.5)).perception_score(), Some(0.55));
        assert_eq!(score(1.8, Some(1.0)).perception_score(), Some(1.0), "CLIPScore counts up to 1");
        assert_eq!(score(0.6, None).perception_score(), None, "nothing was segmented");
    }

    #[test]
    fn captions_below_a_threshold_are_named() {
        let thresholds = CaptionScoreSpec { clip: "x".into(), min_clip_score: 0.5, min_perception_score: 0.4 };
        let score = |clip_score, explained_share| Score { clip_score, phrases: 1, explained_share };
        assert_eq!(problem(&[score(0.5, Some(0.4)), score(0.7, None)], &thresholds), None);
        let why = problem(&[score(0.9, Some(1.0)), score(0.49, Some(0.1))], &thresholds).unwrap();
        assert!(why.contains("caption 1: CLIPScore 0.490, less than 0.5"), "{why}");
        assert!(why.contains("caption 1: PerceptionScore 0.295") && !why.contains("caption 0"), "{why}");
        assert_eq!(problem(&[], &thresholds), None);
    }
}
