//! The loss of one batch.

use candle_core::{DType, Device, Tensor};
use models::clip::Clip;
use models::ops::{Dropout, l2_normalise};

use super::Loss;
use crate::batch::{PairBatch, SegmentBatch};
use crate::error::{Error, Result};
use crate::loss::{Contrast, Features, PairKeys, hinge, info_nce, segment_embedding};

/// The parts of a batch's loss.
pub(super) struct BatchLoss {
    /// Their sum, to be differentiated.
    pub(super) total: Tensor,
    pub(super) image_text: Tensor,
    /// Absent when no row has segments.
    pub(super) segment_text: Option<Tensor>,
}

/// Loss of image and text, plus that of segments and text (Eq. 4) with `segment_tower`'s features.
pub(super) fn batch_loss(
    clip: &Clip,
    segment_tower: &Clip,
    batch: &PairBatch,
    loss: Loss,
    dropout: Option<&Dropout>,
) -> Result<BatchLoss> {
    check(batch, clip.config().vision.image_size)?;
    let image_bd = l2_normalise(&encode_images(clip, batch, dropout)?)?;
    let text_bd = l2_normalise(&encode_captions(clip, batch, dropout)?)?;
    let contrasted =
        |image_bd: &Tensor, valid: &[bool]| contrast(image_bd, &text_bd, &clip.logit_scale(), batch, valid, loss);
    let image_text = contrasted(&image_bd, &batch.valid)?;
    let segment_text = match &batch.segments {
        Some(segments) if !segments.row_of_segment.is_empty() => {
            // a frozen tower learns nothing that would have to be made robust
            let dropout = dropout.filter(|_| segment_tower.logit_scale().track_op());
            let phi_sd = encode(segment_tower, &segments.pixel_values_schw, dropout)?;
            let (rows, weights) = (&segments.row_of_segment, &segments.weights);
            let pooled = segment_embedding(&phi_sd, rows, weights, batch.rows())?;
            let present = pooled.present_b.iter().zip(&batch.valid);
            let valid: Vec<bool> = present.map(|(&a, &b)| a && b).collect();
            let any = valid.contains(&true);
            any.then(|| contrasted(&pooled.embedding_bd, &valid)).transpose()?
        }
        _ => None,
    };
    let total = match &segment_text {
        Some(segment_text) => (&image_text + segment_text)?,
        None => image_text.clone(),
    };
    Ok(BatchLoss { total, image_text, segment_text })
}

fn contrast(
    image_bd: &Tensor,
    text_bd: &Tensor,
    logit_scale: &Tensor,
    batch: &PairBatch,
    valid: &[bool],
    loss: Loss,
) -> Result<Tensor> {
    let keys = PairKeys { image_n: &batch.image_keys, caption_n: &batch.caption_keys, valid_n: valid };
    let features = Features { image_bd, text_bd, image_nd: image_bd, text_nd: text_bd };
    // Losses of half-precision networks are computed in f32.
    let dtype = match logit_scale.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    let contrast = |label_smoothing: f64| {
        let device = logit_scale.device();
        Contrast::new(&keys, 0..batch.rows(), label_smoothing, dtype, device)
    };
    match loss {
        Loss::InfoNce { label_smoothing } => info_nce(&features, logit_scale, &contrast(label_smoothing)?),
        Loss::Hinge { margin } => hinge(&features, margin, &contrast(0.0)?),
    }
}

/// Image embeddings of all rows, from one pass over each image.
fn encode_images(clip: &Clip, batch: &PairBatch, dropout: Option<&Dropout>) -> Result<Tensor> {
    let embedding = encode(clip, &batch.pixel_values_bchw, dropout)?;
    match &batch.image_of_row {
        None => Ok(embedding),
        Some(rows) => {
            let rows = Tensor::from_slice(rows, rows.len(), embedding.device())?;
            Ok(embedding.index_select(&rows, 0)?)
        }
    }
}

fn encode_captions(clip: &Clip, batch: &PairBatch, dropout: Option<&Dropout>) -> Result<Tensor> {
    let shape = (batch.rows(), batch.input_ids_bl.len() / batch.rows());
    let input_ids_bl = Tensor::from_slice(&batch.input_ids_bl, shape, &device(clip))?;
    Ok(clip.encode_text_with(&input_ids_bl, dropout)?)
}

/// Embeds as many images as `pixel_values` holds.
fn encode(clip: &Clip, pixel_values: &[f32], dropout: Option<&Dropout>) -> Result<Tensor> {
    let side = clip.config().vision.image_size;
    let shape = (pixel_values.len() / (3 * side * side), 3, side, side);
    Ok(clip.encode_image_with(&Tensor::from_slice(pixel_values, shape, &device(clip))?, dropout)?)
}

fn device(clip: &Clip) -> Device {
    clip.logit_scale().device().clone()
}

fn check(batch: &PairBatch, side: usize) -> Result<()> {
    let rows = batch.rows();
    let image = 3 * side * side;
    let images = match &batch.image_of_row {
        None => rows,
        Some(image_of_row) => image_of_row.iter().max().map_or(0, |&i| i as usize + 1),
    };
    let indices = batch.image_of_row.as_ref().map_or(rows, Vec::len);
    let no_segments = SegmentBatch::default();
    let segments = batch.segments.as_ref().unwrap_or(&no_segments);
    let count = segments.row_of_segment.len();
    for (what, found, expected) in [
        ("pixel_values_bchw", batch.pixel_values_bchw.len(), images * image),
        ("image_of_row", indices, rows),
        ("caption_keys", batch.caption_keys.len(), rows),
        ("valid", batch.valid.len(), rows),
        ("pixel_values_schw", segments.pixel_values_schw.len(), count * image),
        ("segment weights", segments.weights.len(), count),
    ] {
        if found != expected {
            let problem = format!(
                "has {found} values; {rows} rows, {images} images and {count} segments \
                 of {side} x {side} pixels need {expected}"
            );
            return Err(Error::argument(what, problem));
        }
    }
    let ids = batch.input_ids_bl.len();
    if rows == 0 || ids == 0 || !ids.is_multiple_of(rows) {
        let problem = format!("has {ids} values for {rows} rows: needs as many ids in every row");
        return Err(Error::argument("input_ids_bl", problem));
    }
    Ok(())
}
