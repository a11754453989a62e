//! The weighted triplet loss (Eq. 11).

use candle_core::{D, Device, Tensor};
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
/// nearest, of equally near ones the first. It is chosen from detached scores: the gradient flows to the row, its own
/// column and that negative only. A row without any negative contributes nothing. Features are L2-normalised, so
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
    let mut is_negative_bn = negatives(batch);
    let columns = batch.keys.valid_n.len();
    for ((is_negative, share), row) in
        is_negative_bn.chunks_exact_mut(columns).zip(&mut share_b).zip(batch.rows.clone())
    {
        if !is_negative.contains(&true) {
            (*share, is_negative[row]) = (0.0, true);
        }
    }
    let hardest_b = hardest(&nearness_bn, &is_negative_bn)?;
    let negative_bd = candidate_nd.index_select(&hardest_b, 0)?;
    let cost_b = (own_b - distance(&anchor_bd, &negative_bd, settings.distance)?)?.affine(1.0, settings.margin)?;
    let share_b = beside(&cost_b, &share_b)?;
    Ok((lost(&cost_b)? * share_b)?.sum_all()?)
}

/// What is above zero: a mask instead of `relu`, whose slope at 0 is 1 in candle and 0 elsewhere.
fn lost(cost: &Tensor) -> Result<Tensor> {
    Ok((cost * cost.detach().gt(0f64)?.to_dtype(cost.dtype())?)?)
}

/// Whether a column is a negative of a row of this rank `[B, N]`.
fn negatives(batch: &DomainBatch) -> Vec<bool> {
    let columns = batch.keys.valid_n.len();
    let of_row = |row| (0..columns).map(move |column| batch.keys.is_negative(row, column));
    batch.rows.clone().flat_map(of_row).collect()
}

/// Each row's share, in equal parts on its negatives `[B, N]`.
fn mean_of_negatives(batch: &DomainBatch, share_b: &[f64]) -> Vec<f64> {
    let is_negative_bn = negatives(batch);
    let of_row = |(is_negative, share): (&[bool], &f64)| {
        let part = share / is_negative.iter().filter(|&&is| is).count().max(1) as f64;
        is_negative.iter().map(|&is| if is { part } else { 0.0 }).collect::<Vec<_>>()
    };
    is_negative_bn.chunks_exact(batch.keys.valid_n.len()).zip(share_b).flat_map(of_row).collect()
}

/// Of each row the first of the nearest negatives `[B]`, without a look at the numbers from the host.
fn hardest(nearness_bn: &Tensor, is_negative_bn: &[bool]) -> Result<Tensor> {
    let (shape, device) = (nearness_bn.dims2()?, nearness_bn.device());
    let is_negative: Vec<u8> = is_negative_bn.iter().map(|&is| u8::from(is)).collect();
    let is_negative_bn = Tensor::from_vec(is_negative, shape, &Device::Cpu)?.to_device(device)?;
    let none_bn = (nearness_bn.zeros_like()? + f64::NEG_INFINITY)?;
    let nearness_bn = is_negative_bn.where_cond(nearness_bn, &none_bn)?;
    let is_nearest_bn = nearness_bn.broadcast_ge(&nearness_bn.max_keepdim(D::Minus1)?)?;
    let place_bn = Tensor::arange(0, shape.1 as u32, device)?.broadcast_as(shape)?.contiguous()?;
    // a column that is there also where every number is NaN
    let last_bn = Tensor::full(shape.1 as u32 - 1, shape, device)?;
    Ok(is_nearest_bn.where_cond(&place_bn, &last_bn)?.min(D::Minus1)?)
}

/// Falls with the distance of rows and columns `[B, N]`.
fn nearness(anchor_bd: &Tensor, candidate_nd: &Tensor, distance: Distance) -> Result<Tensor> {
    let product_bn = anchor_bd.matmul(&candidate_nd.t()?)?;
    match distance {
        Distance::Cosine => Ok(product_bn),
        // -|a - c|² without |a|², which all columns of a row share.
        Distance::Euclidean => Ok((product_bn * 2.0)?.broadcast_sub(&candidate_nd.sqr()?.sum(D::Minus1)?)?),
    }
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
        let near = Tensor::new(&[[0.1f32, 0.9, 0.5, 0.5]; 4], &Device::Cpu).unwrap();
        let negative = [[true; 4], [true, false, true, true], [false, false, false, true], [true, false, false, false]];
        let found = |near: &Tensor| hardest(near, negative.as_flattened()).unwrap().to_vec1::<u32>().unwrap();
        assert_eq!(found(&near), [1, 2, 3, 0]);
        let unknown = (near * f64::NAN).unwrap();
        assert!(found(&unknown).iter().all(|&column| column < 4));
    }
}
