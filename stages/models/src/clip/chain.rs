//! A tower with its input, as a chain of pieces.
//!
//! A training step that keeps only what goes from piece to piece can run each piece again on its way back: the
//! memory of one block instead of all (activation checkpointing, Chen et al. 2016).

use super::text::TextInput;
use super::weights::{TextWeights, VisionWeights};
use crate::Result;
use crate::ops::{Activation, Dropout};
use candle_core::Tensor;

/// One tower, ready to run on one input.
pub struct Chain<'a> {
    tower: Tower<'a>,
    dropout: Option<&'a Dropout>,
}

pub(super) enum Tower<'a> {
    Image { weights: &'a VisionWeights, kind: Activation, pixels_bchw: Tensor },
    Text { weights: &'a TextWeights, input: TextInput },
}

impl<'a> Chain<'a> {
    pub(super) fn new(tower: Tower<'a>, dropout: Option<&'a Dropout>) -> Self {
        Self { tower, dropout }
    }

    /// Number of pieces: the embedding of pixels or ids, then each block, the last one with pooling and projection.
    pub fn pieces(&self) -> usize {
        match &self.tower {
            Tower::Image { weights, .. } => weights.pieces(),
            Tower::Text { weights, .. } => weights.pieces(),
        }
    }

    /// Piece `index` on what the piece before gave; the first takes nothing.
    pub fn piece(&self, index: usize, x: Option<&Tensor>) -> Result<Tensor> {
        Ok(match (&self.tower, x) {
            (Tower::Image { weights, kind, pixels_bchw }, None) => weights.embed(pixels_bchw, *kind, self.dropout)?,
            (Tower::Text { weights, input }, None) => weights.embed(input, self.dropout)?,
            (Tower::Image { weights, .. }, Some(x)) => weights.piece(index, x, self.dropout)?,
            (Tower::Text { weights, input }, Some(x)) => weights.piece(index, x, input, self.dropout)?,
        })
    }

    /// The whole tower `[B, E]`, not normalised in length.
    pub fn run(&self) -> Result<Tensor> {
        (1..self.pieces()).try_fold(self.piece(0, None)?, |x, index| self.piece(index, Some(&x)))
    }
}
