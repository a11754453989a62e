//! Stage `pair_quality`: what tells noisy pairs of images and captions apart, without any threshold. What becomes of it is
//! decided where a training begins.

pub mod sift;

use arrow::record_batch::RecordBatch;
use manifests::Artifact;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::device::note_precision;
use crate::image_embeddings::encode_views;
use crate::images::limits;
use crate::network::{Network, load_network};
use crate::segment_features::VIEWS_PER_BATCH;
use crate::segment_scores::cosine;
use crate::stage::{Input, InputRows, MapOutput, ModelUse, Outcome, Stage, StageError, Transform};
use crate::table::{self, Columns, TableError};
use crate::text_embeddings::{encode_texts, load_tokenizer};
use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;

const NAME: &str = "pair_quality";

pub(crate) fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] },
            Input { artifact: Artifact::Captions, digests: &["captions_digest"], columns: &["captions"] },
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
        let similarities: Vec<Option<Vec<f32>>> = seen
            .iter()
            .zip(&captions)
            .map(|(seen, captions)| {
                let texts: Vec<Vec<f32>> = texts.by_ref().take(captions.len()).collect();
                let image = seen.is_ok().then(|| images.next()).flatten()?;
                Some(texts.iter().map(|text| cosine(&image, text)).collect())
            })
            .collect();
        let content = content(&seen, &similarities).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&seen), content })
    }
}

fn content(seen: &[Result<(u64, Rgb), String>], similarities: &[Option<Vec<f32>>]) -> Result<RecordBatch, TableError> {
    let hashes = table::texts(seen.iter().map(|seen| seen.as_ref().ok().map(|(hash, _)| format!("{hash:016x}"))));
    let digests = table::texts(seen.iter().map(|_| None::<String>));
    table::content(Artifact::PairQuality, vec![hashes, table::float_lists(similarities)?, digests])
}
