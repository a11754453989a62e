//! One embedding for the segments of each image.

use candle_core::{DType, Device, Tensor};
use models::ops::l2_normalise;

use crate::error::{Error, Result};

/// Segment embeddings of a batch.
#[derive(Clone, Debug)]
pub struct SegmentEmbedding {
    /// L2-normalised `[B, D]`; zero for rows without segments.
    pub embedding_bd: Tensor,
    /// Whether the row takes part in the segment loss `[B]`.
    pub present_b: Vec<bool>,
}

/// Weighted mean of segment features, Eq. 4: E = Σ w φ / Σ w on L2-normalised φ, renormalised.
///
/// `phi_sd` are the features of all segments of the batch `[S, D]`, `row_of_segment` `[S]` the row of each, `weights`
/// `[S]` its score against the caption; no gradient reaches the weights. A segment unlike the caption weighs nothing: a
/// negative weight would push it away from its own caption, and one that nearly cancels another blows both up. Rows
/// without a segment of a weight above 0 are absent.
///
/// # Errors
/// Lengths that differ, a segment of a row outside the batch, a weight that is not finite.
pub fn segment_embedding(
    phi_sd: &Tensor,
    row_of_segment: &[u32],
    weights: &[f32],
    rows: usize,
) -> Result<SegmentEmbedding> {
    let segments = row_of_segment.len();
    let (found, dim) = phi_sd.dims2()?;
    if found != segments || weights.len() != segments {
        let problem = format!("{found} features, {segments} rows, {} weights: lengths must agree", weights.len());
        return Err(Error::argument("segments", problem));
    }
    let counted = |weight: f32| f64::from(weight.max(0.0));
    let mut sums = vec![0f64; rows];
    for (segment, (&row, &weight)) in row_of_segment.iter().zip(weights).enumerate() {
        if row as usize >= rows || !weight.is_finite() {
            let problem = format!("segment {segment} has weight {weight} and row {row} of {rows}");
            return Err(Error::argument("segments", problem));
        }
        sums[row as usize] += counted(weight);
    }
    let present_b: Vec<bool> = sums.iter().map(|&sum| sum > 0.0).collect();
    if segments == 0 {
        let embedding_bd = Tensor::zeros((rows, dim), phi_sd.dtype(), phi_sd.device())?;
        return Ok(SegmentEmbedding { embedding_bd, present_b });
    }
    let mut pooling = vec![0f64; rows * segments];
    for (segment, (&row, &weight)) in row_of_segment.iter().zip(weights).enumerate() {
        let row = row as usize;
        if present_b[row] {
            pooling[row * segments + segment] = counted(weight) / sums[row];
        }
    }
    // Cast before the transfer: not every accelerator holds f64.
    let dtype = if phi_sd.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let pooling_bs = Tensor::from_vec(pooling, (rows, segments), &Device::Cpu)?.to_dtype(dtype)?;
    let pooling_bs = pooling_bs.to_device(phi_sd.device())?;
    let mean_bd = pooling_bs.matmul(&l2_normalise(&phi_sd.to_dtype(dtype)?)?)?;
    Ok(SegmentEmbedding { embedding_bd: l2_normalise(&mean_bd)?.to_dtype(phi_sd.dtype())?, present_b })
}
