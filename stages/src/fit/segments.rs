//! What a network makes of segments while it learns: for a few validation images how like each of their segments is to the
//! caption, epoch by epoch. Nothing is learnt from it.

use manifests::spec::ScoreSpec;
use models::dual_encoder::DualEncoder;
use pixels::mask::Rle;
use pixels::view::segment_view;
use pixels::{DecodeLimits, Rgb};
use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::image_embeddings::encode_views;
use crate::segment_features::{is_seen, view_of};
use crate::segment_scores::cosine;
use crate::stage::StageError;
use crate::text_embeddings::encode_texts;
use crate::train_rows::{TrainRow, TrainRows};

/// Images that are watched, and segments of each.
const IMAGES: usize = 6;
const SEGMENTS: usize = 6;
/// Row groups that are looked through for them.
const GROUPS: usize = 4;
/// Letters of a caption that are kept.
const CAPTION_CHARS: usize = 200;

/// Segments of one image by the network of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenSegments {
    /// Stem of the image's name.
    pub image_id: String,
    /// The beginning of its first caption.
    pub caption: String,
    /// Weight of each segment in the tables, the largest first: what the loss counts it by, in every epoch.
    pub weights: Vec<f32>,
    /// Cosine of each with the caption.
    pub cosines: Vec<f32>,
}

/// Images that are watched, made ready.
pub(super) struct Watched(Vec<(SeenSegments, String, Vec<Rgb>)>);

impl Watched {
    /// The first images that have segments to compare.
    pub(super) fn choose(
        rows: &mut dyn TrainRows,
        score: &ScoreSpec,
        limits: &DecodeLimits,
        side_px: u32,
    ) -> Result<Watched, String> {
        let filled: Vec<usize> = (0..rows.groups().len()).filter(|&group| rows.groups()[group] > 0).collect();
        let mut watched = Vec::new();
        for group in filled.into_iter().take(GROUPS) {
            let read = rows.read(group).map_err(|e| e.to_string())?;
            let has_several = |row: &&TrainRow| shown(row, score, side_px).count() > 1;
            for row in read.iter().filter(has_several).filter(|row| !row.captions.is_empty()) {
                if watched.len() < IMAGES {
                    watched.push(prepared(row, score, limits, side_px)?);
                }
            }
        }
        Ok(Watched(watched))
    }

    /// What a network makes of them.
    pub(super) fn look<N: DualEncoder>(&self, encoder: &Encoder<'_, N>) -> Result<Vec<SeenSegments>, StageError> {
        let texts: Vec<&str> = self.0.iter().map(|(_, caption, _)| caption.as_str()).collect();
        let texts = encode_texts(encoder.stage, encoder.network, encoder.tokenizer, &texts)?;
        let mut seen = Vec::with_capacity(self.0.len());
        for ((row, _, views), text) in self.0.iter().zip(&texts) {
            let vectors = encode_views(encoder.stage, encoder.network, &views.iter().collect::<Vec<_>>())?;
            let cosines = vectors.iter().map(|vector| cosine(vector, text)).collect();
            seen.push(SeenSegments { cosines, ..row.clone() });
        }
        Ok(seen)
    }
}

/// The segments of which the network sees something.
fn shown<'a>(row: &'a TrainRow, score: &'a ScoreSpec, side_px: u32) -> impl Iterator<Item = &'a (Rle, f32)> {
    row.segments.iter().filter(move |(rle, _)| is_seen(rle, score, side_px))
}

fn prepared(
    row: &TrainRow,
    score: &ScoreSpec,
    limits: &DecodeLimits,
    side_px: u32,
) -> Result<(SeenSegments, String, Vec<Rgb>), String> {
    let named = |e: String| format!("image {}: {e}", row.image_id);
    let rgb = pixels::decode(&row.bytes, limits).map_err(|e| named(e.to_string()))?;
    let mut segments: Vec<_> = shown(row, score, side_px).collect();
    segments.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    segments.truncate(SEGMENTS);
    let view = |rle| segment_view(&rgb, rle, view_of(score)).map(|view| pixels::clip_view(&view, side_px));
    let views = segments.iter().map(|(rle, _)| view(rle)).collect::<Result<Vec<_>, _>>();
    let caption = row.captions.first().cloned().unwrap_or_default();
    let seen = SeenSegments {
        image_id: row.image_id.clone(),
        caption: caption.chars().take(CAPTION_CHARS).collect(),
        weights: segments.iter().map(|(_, weight)| *weight).collect(),
        cosines: Vec::new(),
    };
    Ok((seen, caption, views.map_err(|e| named(e.to_string()))?))
}
