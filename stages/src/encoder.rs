//! Vectors of rows at hand: for validation during training, and for one country's model on
//! another country's images, neither of which are kept in a table.

use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use pixels::{DecodeLimits, Rgb};
use rayon::prelude::*;

use crate::evaluate::EvaluatedRow;
use crate::image_embeddings::{encode_views, mean_direction};
use crate::stage::StageError;
use crate::text_embeddings::encode_texts;
use crate::train_rows::TrainRow;

/// Images encoded at once.
const VIEWS_PER_BATCH: usize = 64;

/// A model with what it takes to show it images and captions.
pub struct Encoder<'a, N> {
    /// Named in errors.
    pub stage: &'static str,
    /// Embeds images and captions.
    pub network: &'a N,
    /// The network's vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// Largest images that are decoded.
    pub limits: DecodeLimits,
    /// Mean over the eight orientations of an image.
    pub average_over_turns: bool,
}

impl<N: DualEncoder> Encoder<'_, N> {
    /// Embeds images and captions of rows.
    ///
    /// # Errors
    /// [`StageError::Compute`] with the image that cannot be decoded, or if the network fails or gives what is not
    /// finite; [`StageError::Unreachable`] if its device computes nothing more.
    pub fn encode(&self, rows: Vec<TrainRow>) -> Result<Vec<EvaluatedRow>, StageError> {
        let images = encode_images(self.stage, self.network, &self.limits, &rows, self.average_over_turns)?;
        let texts: Vec<&str> = rows.iter().flat_map(|r| &r.captions).map(String::as_str).collect();
        let mut texts = encode_texts(self.stage, self.network, self.tokenizer, &texts)?.into_iter();
        Ok(rows
            .into_iter()
            .zip(images)
            .map(|(row, embedding)| EvaluatedRow {
                embedding,
                captions: row.captions.into_iter().zip(texts.by_ref()).collect(),
                image_id: row.image_id,
                bytes_digest: row.bytes_digest,
            })
            .collect())
    }
}

/// One L2-normalised vector for the picture of each row; `turned`: the mean over its eight orientations.
///
/// # Errors
/// As [`Encoder::encode`].
pub(crate) fn encode_images<N: DualEncoder>(
    stage: &'static str,
    network: &N,
    limits: &DecodeLimits,
    rows: &[TrainRow],
    turned: bool,
) -> Result<Vec<Vec<f32>>, StageError> {
    let side = network.preprocessing().side_px as u32;
    let views: Vec<Vec<Rgb>> = rows
        .par_iter()
        .map(|row| {
            let rgb = pixels::decode(&row.bytes, limits).map_err(|e| format!("image {}: {e}", row.image_id))?;
            let view = pixels::clip_view(&rgb, side);
            Ok(if turned { pixels::augment::orientations(&view) } else { vec![view] })
        })
        .collect::<Result<_, String>>()
        .map_err(|why| StageError::Compute { stage, why })?;
    let flat: Vec<&Rgb> = views.iter().flatten().collect();
    let mut encoded = Vec::with_capacity(flat.len());
    for batch in flat.chunks(VIEWS_PER_BATCH) {
        encoded.extend(encode_views(stage, network, batch)?);
    }
    let mut encoded = encoded.into_iter();
    Ok(views.iter().map(|views| mean_direction(encoded.by_ref().take(views.len()).collect())).collect())
}
