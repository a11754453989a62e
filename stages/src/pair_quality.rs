//! Stage `pair_quality`: what tells noisy pairs of images and captions apart, without any threshold. What becomes of it is
//! decided where a training begins.

pub mod alike;
pub mod sift;

use std::sync::Arc;

use arrow::array::{BinaryArray, Float32Array, Int32Array, StringArray};
use arrow::record_batch::RecordBatch;
use manifests::Artifact;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::captioners::ImageTags;
use crate::device::note_precision;
use crate::image_embeddings::encode_views;
use crate::images::limits;
use crate::network::{Network, load_network};
use crate::segment_features::{VIEWS_PER_BATCH, half_bytes};
use crate::segment_scores::cosine;
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};
use crate::text_embeddings::{encode_texts, load_tokenizer};
use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use wording::{Grounding, grounding};

const NAME: &str = "pair_quality";

pub(crate) fn stage() -> Stage {
    Stage {
        name: NAME,
        // 2: vectors, and what captions name beside the tags
        version: 2,
        inputs: &[
            Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] },
            Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] },
            Input { artifact: Artifact::Geotags, digests: &["tags_digest"], columns: &ImageTags::COLUMNS },
        ],
        output: Artifact::PairQuality,
        source: None,
        model: ModelUse::Scoring,
        told: None,
        recipe_digest: Some("quality_digest"),
        parameters: |spec| {
            let mut value = serde_json::json!({});
            note_precision(&mut value, spec);
            value
        },
        open: |context| {
            Ok(Box::new(LookAtPairs {
                limits: limits(context.spec),
                network: load_network(NAME, context)?,
                tokenizer: load_tokenizer(NAME, context)?,
            }))
        },
    }
}

struct LookAtPairs {
    limits: DecodeLimits,
    network: Network,
    tokenizer: Tokenizer,
}

impl LookAtPairs {
    fn look(&self, bytes: &[u8]) -> Result<(u64, Rgb), String> {
        let rgb = pixels::decode(bytes, &self.limits).map_err(|e| e.to_string())?;
        let view = pixels::clip_view(&rgb, self.network.preprocessing().side_px as u32);
        Ok((pixels::perceptual_hash(&rgb), view))
    }
}

impl Transform for LookAtPairs {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let bytes =
            Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]).binary("bytes").map_err(table_error)?;
        let captions = Columns::new(Artifact::Captions, &rows.tables[&Artifact::Captions]);
        let captions = captions.texts("captions").map_err(table_error)?;
        let seen: Vec<Result<(u64, Rgb), String>> =
            (0..rows.len()).into_par_iter().map(|row| self.look(bytes.value(row))).collect();
        let views: Vec<&Rgb> = seen.iter().flatten().map(|(_, view)| view).collect();
        let mut images = Vec::with_capacity(views.len());
        for batch in views.chunks(VIEWS_PER_BATCH) {
            images.extend(encode_views(NAME, &self.network, batch)?);
        }
        let texts: Vec<&str> = captions.iter().flatten().map(String::as_str).collect();
        let mut texts = encode_texts(NAME, &self.network, &self.tokenizer, &texts)?.into_iter();
        let mut images = images.into_iter();
        let grounded = grounded(rows, &captions).map_err(table_error)?;
        let looked: Vec<Option<Looked>> = seen
            .iter()
            .zip(&captions)
            .zip(grounded)
            .map(|((seen, captions), grounded)| {
                let texts: Vec<Vec<f32>> = texts.by_ref().take(captions.len()).collect();
                let (hash, _) = seen.as_ref().ok()?;
                let image = images.next()?;
                let similarities = texts.iter().map(|text| cosine(&image, text)).collect();
                Some(Looked { hash: *hash, similarities, vector: half_bytes(&image), grounded })
            })
            .collect();
        let content = content(&looked).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&seen), content })
    }
}

/// What each row's captions name, held against its tags. Tags that cannot be read are none.
fn grounded(rows: &InputRows, captions: &[Vec<String>]) -> Result<Vec<Vec<Grounding>>, TableError> {
    let of_row = |(tags, captions): (ImageTags<'_>, &Vec<String>)| {
        let (center, surrounding) = tags.all().unwrap_or_default();
        captions.iter().map(|caption| grounding(caption, &center, &surrounding)).collect()
    };
    let tags = ImageTags::read(rows, &[])?;
    Ok(tags.into_par_iter().zip(captions).map(of_row).collect())
}

/// What is known of an image that could be decoded.
struct Looked {
    hash: u64,
    similarities: Vec<f32>,
    vector: Vec<u8>,
    grounded: Vec<Grounding>,
}

fn content(looked: &[Option<Looked>]) -> Result<RecordBatch, TableError> {
    let similarities: Vec<_> = looked.iter().map(|row| row.as_ref().map(|row| row.similarities.clone())).collect();
    let lengths: Vec<_> = looked.iter().map(|row| row.as_ref().map(|row| row.grounded.len())).collect();
    let all = || looked.iter().flatten().flat_map(|row| &row.grounded);
    let grounding = table::struct_lists(
        Artifact::PairQuality,
        "grounding",
        &lengths,
        vec![
            Arc::new(Int32Array::from_iter_values(all().map(|of| of.named as i32))),
            Arc::new(all().map(|of| of.hallucination().map(|share| share as f32)).collect::<Float32Array>()),
            Arc::new(StringArray::from_iter_values(all().map(|of| of.untagged.join(", ")))),
        ],
    )?;
    let vectors: BinaryArray = looked.iter().map(|row| row.as_ref().map(|row| row.vector.as_slice())).collect();
    let columns = vec![
        table::texts(looked.iter().map(|row| row.as_ref().map(|row| format!("{:016x}", row.hash)))),
        table::float_lists(&similarities)?,
        Arc::new(vectors),
        grounding,
        table::texts(looked.iter().map(|_| None::<String>)),
    ];
    table::content(Artifact::PairQuality, columns)
}
