//! The loss of one batch.

use candle_core::{DType, Device, Tensor};
use models::clip::Clip;
use models::ops::l2_normalise;

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
) -> Result<BatchLoss> {
    check(batch, clip.config().vision.image_size)?;
    let rows = batch.rows();
    let scale = clip.logit_scale();
    let (device, dtype) = (scale.device().clone(), scale.dtype());
    let image_bd = l2_normalise(&clip.encode_image(&pixels(
        clip,
        &batch.pixel_values_bchw,
        rows,
        &device,
    )?)?)?;
    let length = batch.input_ids_bl.len() / rows;
    let input_ids_bl = Tensor::from_slice(&batch.input_ids_bl, (rows, length), &device)?;
    let text_bd = l2_normalise(&clip.encode_text(&input_ids_bl)?)?;
    // Losses of half-precision networks are computed in f32.
    let loss_dtype = if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let contrasted = |image_bd: &Tensor, valid: &[bool]| -> Result<Tensor> {
        let keys = PairKeys {
            image_n: &batch.image_keys,
            caption_n: &batch.caption_keys,
            valid_n: valid,
        };
        let label_smoothing = if let Loss::InfoNce { label_smoothing } = loss {
            label_smoothing
        } else {
            0.0
        };
        let contrast = Contrast::new(&keys, 0..rows, label_smoothing, loss_dtype, &device)?;
        let features = Features {
            image_bd,
            text_bd: &text_bd,
            image_nd: image_bd,
            text_nd: &text_bd,
        };
        match loss {
            Loss::InfoNce { .. } => info_nce(&features, &scale, &contrast),
            Loss::Hinge { margin } => hinge(&features, margin, &contrast),
        }
    };
    let image_text = contrasted(&image_bd, &batch.valid)?;
    let segment_text = match &batch.segments {
        Some(segments) if !segments.row_of_segment.is_empty() => {
            let SegmentBatch {
                pixel_values_schw,
                row_of_segment,
                weights,
            } = segments;
            let pixels_schw = pixels(
                segment_tower,
                pixel_values_schw,
                row_of_segment.len(),
                &device,
            )?;
            let phi_sd = segment_tower.encode_image(&pixels_schw)?;
            let pooled = segment_embedding(&phi_sd, row_of_segment, weights, rows)?;
            let valid: Vec<bool> = pooled
                .present_b
                .iter()
                .zip(&batch.valid)
                .map(|(&a, &b)| a && b)
                .collect();
            valid
                .contains(&true)
                .then(|| contrasted(&pooled.embedding_bd, &valid))
                .transpose()?
        }
        _ => None,
    };
    let total = match &segment_text {
        Some(segment_text) => (&image_text + segment_text)?,
        None => image_text.clone(),
    };
    Ok(BatchLoss {
        total,
        image_text,
        segment_text,
    })
}

fn pixels(clip: &Clip, values: &[f32], images: usize, device: &Device) -> Result<Tensor> {
    let side = clip.config().vision.image_size;
    Ok(Tensor::from_slice(values, (images, 3, side, side), device)?)
}

fn check(batch: &PairBatch, side: usize) -> Result<()> {
    let rows = batch.rows();
    let image = 3 * side * side;
    let mut lengths = vec![
        (
            "pixel_values_bchw",
            batch.pixel_values_bchw.len(),
            rows * image,
        ),
        ("caption_keys", batch.caption_keys.len(), rows),
        ("valid", batch.valid.len(), rows),
    ];
    if let Some(segments) = &batch.segments {
        let count = segments.row_of_segment.len();
        lengths.push((
            "pixel_values_schw",
            segments.pixel_values_schw.len(),
            count * image,
        ));
        lengths.push(("segment weights", segments.weights.len(), count));
    }
    for (what, found, expected) in lengths {
        if found != expected {
            let problem = format!(
                "has {found} values, {rows} rows of {side} x {side} pixels need {expected}"
            );
            return Err(Error::argument(what, problem));
        }
    }
    if rows == 0 || batch.input_ids_bl.is_empty() || !batch.input_ids_bl.len().is_multiple_of(rows)
    {
        let problem = format!(
            "has {} values for {rows} rows: needs as many ids in every row",
            batch.input_ids_bl.len()
        );
        return Err(Error::argument("input_ids_bl", problem));
    }
    Ok(())
}
