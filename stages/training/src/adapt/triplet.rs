//! The weighted triplet loss (Eq. 11).

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;

use super::domain::{beside, loss_dtype};
use super::{Directions, Distance, DomainBatch, Settings};
use crate::error::Result;

/// Distances shorter than this count as zero and have no gradient.
const SHORTEST: f64 = 1e-12;

/// Settings of the triplet loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Triplet {
    /// Margin alpha.
    pub margin: f64,
    /// Distance d.
    pub distance: Distance,
    /// Which side looks for negatives on the other.
    pub directions: Directions,
    /// Which of a row's negatives count.
    pub negatives: Negatives,
}

/// Which of a row's negatives count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// The nearest: the paper's.
    Hardest,
    /// All, by the mean of their costs.
    Mean,
}

impl Triplet {
    /// The loss at `progress`, the share of the run that is over.
    pub fn at(settings: &Settings, progress: f64) -> Self {
        let negatives = if progress < settings.hardest_from { Negatives::Mean } else { Negatives::Hardest };
        Self { margin: settings.margin, distance: settings.distance, directions: settings.directions, negatives }
    }
}

/// Sum over this rank's valid rows r of w_r max(0, alpha + d(r, own) - d(r, negative)), in one direction or both,
/// divided by the valid rows of all ranks. The negative is the hardest, or the cost is the mean over all.
///
/// Negatives are the gathered columns that are valid and share neither image nor caption with the row; the hardest is the
/// nearest, of equally near ones the first. It is chosen on the host from detached scores: the gradient flows to the row,
/// its own column and that negative only. A row without any negative contributes nothing. Features are L2-normalised, so
/// that their product is the cosine. `weights_n` `[N]` are of all gathered rows; without them each counts 1.
///
/// # Errors
/// Shapes that do not fit together, weights that are not finite.
pub fn triplet(batch: &DomainBatch, weights_n: Option<&[f64]>, settings: &Triplet) -> Result<Tensor> {
    batch.check("triplet features")?;
    let share_b = batch.shares(weights_n)?;
    let features = &batch.features;
    let by_image =
        one_direction(batch, features.image_bd, features.text_bd, features.text_nd, share_b.clone(), settings)?;
    match settings.directions {
        Directions::ImageToText => Ok(by_image),
        Directions::Both => {
            let by_text =
                one_direction(batch, features.text_bd, features.image_bd, features.image_nd, share_b, settings)?;
            Ok((by_image + by_text)?)
        }
    }
}

fn one_direction(
    batch: &DomainBatch,
    anchor_bd: &Tensor,
    own_bd: &Tensor,
    candidate_nd: &Tensor,
    mut share_b: Vec<f64>,
    settings: &Triplet,
) -> Result<Tensor> {
    let dtype = loss_dtype(anchor_bd);
    let (anchor_bd, own_bd) = (anchor_bd.to_dtype(dtype)?, own_bd.to_dtype(dtype)?);
    let candidate_nd = candidate_nd.to_dtype(dtype)?;
    let own_b = distance(&anchor_bd, &own_bd, settings.distance)?;
    if settings.negatives == Negatives::Mean {
        let between_bn = distances(&anchor_bd, &candidate_nd, settings.distance)?;
        let weight_bn = mean_of_negatives(batch, &share_b);
        let weight_bn = beside(&between_bn, &weight_bn)?.reshape(between_bn.shape())?;
        let cost_bn = own_b.unsqueeze(1)?.broadcast_sub(&between_bn)?.affine(1.0, settings.margin)?;
        return Ok((lost(&cost_bn)? * weight_bn)?.sum_all()?);
    }
    let nearness_bn = nearness(&anchor_bd.detach(), &candidate_nd.detach(), settings.distance)?;
    let mut hardest_b = Vec::with_capacity(share_b.len());
    for ((row, nearness_n), share) in batch.rows.clone().zip(&nearness_bn).zip(&mut share_b) {
        let negative = hardest(nearness_n, |column| batch.keys.is_negative(row, column));
        if negative.is_none() {
            *share = 0.0;
        }
        hardest_b.push(negative.unwrap_or(row) as u32);
    }
    let hardest_b = Tensor::from_slice(&hardest_b, hardest_b.len(), candidate_nd.device())?;
    let negative_bd = candidate_nd.index_select(&hardest_b, 0)?;
    let cost_b = (own_b - distance(&anchor_bd, &negative_bd, settings.distance)?)?.affine(1.0, settings.margin)?;
    let share_b = beside(&cost_b, &share_b)?;
    Ok((lost(&cost_b)? * share_b)?.sum_all()?)
}

/// What is above zero: a mask instead of `relu`, whose slope at 0 is 1 in candle and 0 elsewhere.
fn lost(cost: &Tensor) -> Result<Tensor> {
    Ok((cost * cost.detach().gt(0f64)?.to_dtype(cost.dtype())?)?)
}

/// Each row's share, in equal parts on its negatives `[B, N]`.
fn mean_of_negatives(batch: &DomainBatch, share_b: &[f64]) -> Vec<f64> {
    let columns = batch.keys.valid_n.len();
    let of_row = |(row, share): (usize, &f64)| {
        let is_negative: Vec<bool> = (0..columns).map(|column| batch.keys.is_negative(row, column)).collect();
        let part = share / is_negative.iter().filter(|&&is| is).count().max(1) as f64;
        is_negative.into_iter().map(move |is| if is { part } else { 0.0 })
    };
    batch.rows.clone().zip(share_b).flat_map(of_row).collect()
}

/// The first of the highest values among the negatives.
fn hardest(nearness_n: &[f64], is_negative: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (column, &near) in nearness_n.iter().enumerate() {
        if is_negative(column) && best.is_none_or(|(_, nearest)| near > nearest) {
            best = Some((column, near));
        }
    }
    best.map(|(column, _)| column)
}

/// Falls with the distance of rows and columns `[B, N]`, on the host.
fn nearness(anchor_bd: &Tensor, candidate_nd: &Tensor, distance: Distance) -> Result<Vec<Vec<f64>>> {
    let product_bn = anchor_bd.matmul(&candidate_nd.t()?)?;
    let nearness_bn = match distance {
        Distance::Cosine => product_bn,
        // -|a - c|² without |a|², which all columns of a row share.
        Distance::Euclidean => (product_bn * 2.0)?.broadcast_sub(&candidate_nd.sqr()?.sum(D::Minus1)?)?,
    };
    Ok(nearness_bn.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2()?)
}

/// Distance of each row of `a_bd` to the same row of `b_bd` `[B]`.
fn distance(a_bd: &Tensor, b_bd: &Tensor, distance: Distance) -> Result<Tensor> {
    match distance {
        Distance::Cosine => Ok((a_bd * b_bd)?.sum(D::Minus1)?.affine(-1.0, 1.0)?),
        Distance::Euclidean => root(&(a_bd - b_bd)?.sqr()?.sum(D::Minus1)?),
    }
}

/// Distance of each row of `a_bd` to each of `c_nd` `[B, N]`.
fn distances(a_bd: &Tensor, c_nd: &Tensor, distance: Distance) -> Result<Tensor> {
    match distance {
        Distance::Cosine => Ok(a_bd.matmul(&c_nd.t()?)?.affine(-1.0, 1.0)?),
        // not by |a|² + |c|² - 2 a c, which leaves nothing of a short distance
        Distance::Euclidean => root(&a_bd.unsqueeze(1)?.broadcast_sub(&c_nd.unsqueeze(0)?)?.sqr()?.sum(D::Minus1)?),
    }
}

/// The root, with slope 0 at 0.
fn root(squares: &Tensor) -> Result<Tensor> {
    let is_zero = squares.le(SHORTEST * SHORTEST)?;
    let kept = is_zero.eq(0u8)?.to_dtype(squares.dtype())?;
    Ok((is_zero.where_cond(&squares.ones_like()?, squares)?.sqrt()? * kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hardest_negatives_begin_at_their_share_of_the_run() {
        let at = |hardest_from, progress| {
            Triplet::at(&Settings { hardest_from, ..Settings::default() }, progress).negatives == Negatives::Hardest
        };
        assert!(at(0.0, 0.0) && at(0.25, 0.25) && at(0.25, 1.0));
        assert!(!at(0.25, 0.0) && !at(0.25, 0.249) && !at(1.0, 0.999));
    }

    #[test]
    fn the_first_of_the_nearest_negatives_is_taken() {
        let near = [0.1, 0.9, 0.5, 0.5];
        assert_eq!(hardest(&near, |_| true), Some(1));
        assert_eq!(hardest(&near, |column| column != 1), Some(2));
        assert_eq!(hardest(&near, |_| false), None);
    }
}
