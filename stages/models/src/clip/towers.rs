//! The towers with their input, as chains of layers.

use super::text::TextInput;
use super::weights::{TextWeights, VisionWeights};
use crate::Result;
use crate::dual_encoder::{LayerOutput, Tower};
use crate::ops::{Activation, Dropout};
use candle_core::Tensor;

/// One tower, ready to run on one input: the embedding of pixels or ids, then each block, the last one with pooling and
/// projection.
pub(super) enum ClipTower<'a> {
    Image { weights: &'a VisionWeights, kind: Activation, pixels_bchw: Tensor, dropout: Option<&'a Dropout> },
    Text { weights: &'a TextWeights, input: TextInput, dropout: Option<&'a Dropout> },
}

impl ClipTower<'_> {
    /// The whole tower `[B, E]`, not normalised in length.
    pub(super) fn embed(&self) -> Result<Tensor> {
        (1..self.layers()).try_fold(self.one(0, None)?, |x, index| self.one(index, Some(&x)))
    }

    fn one(&self, index: usize, x: Option<&Tensor>) -> Result<Tensor> {
        Ok(match (self, x) {
            (Self::Image { weights, kind, pixels_bchw, dropout }, None) => {
                weights.embed(pixels_bchw, *kind, *dropout)?
            }
            (Self::Text { weights, input, dropout }, None) => weights.embed(input, *dropout)?,
            (Self::Image { weights, dropout, .. }, Some(x)) => weights.layer(index, x, *dropout)?,
            (Self::Text { weights, input, dropout }, Some(x)) => weights.layer(index, x, input, *dropout)?,
        })
    }
}

impl Tower for ClipTower<'_> {
    fn layers(&self) -> usize {
        match self {
            Self::Image { weights, .. } => weights.layers(),
            Self::Text { weights, .. } => weights.layers(),
        }
    }

    fn layer(&self, index: usize, input: &[Tensor]) -> Result<LayerOutput> {
        Ok(self.one(index, input.first())?.into())
    }
}
