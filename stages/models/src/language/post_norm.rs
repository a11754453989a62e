//! Pieces of frozen networks that normalise behind each sum, in BERT's order and with its names.

use super::projection::Projection;
use super::weights::Weights;
use crate::Result;
use crate::ops::inference::{Rows, residual_norm};
use crate::ops::{Activation, activation, layer_norm};
use candle_core::Tensor;

/// A layer norm.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    weight_d: Tensor,
    bias_d: Tensor,
    epsilon: f64,
}

impl Norm {
    pub(crate) fn new(weights: &Weights<'_>, width: usize, epsilon: f64) -> Result<Self> {
        Ok(Self { weight_d: weights.tensor("weight", &[width])?, bias_d: weights.tensor("bias", &[width])?, epsilon })
    }

    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, &self.weight_d, &self.bias_d, self.epsilon)
    }

    /// Of x + y.
    pub(crate) fn apply_to_sum(&self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        residual_norm(x, y, &self.weight_d, &self.bias_d, self.epsilon)
    }
}

/// Widths of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) epsilon: f64,
}

/// norm(x + dense(y)).
#[derive(Clone, Debug)]
pub(crate) struct Residual {
    dense: Projection,
    norm: Norm,
}

impl Residual {
    pub(crate) fn new(weights: &Weights<'_>, inputs: usize, widths: Widths) -> Result<Self> {
        Ok(Self {
            dense: weights.linear("dense", inputs, widths.hidden, true)?,
            norm: Norm::new(&weights.at("LayerNorm"), widths.hidden, widths.epsilon)?,
        })
    }

    pub(crate) fn apply(&self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        self.norm.apply_to_sum(x, &self.dense.forward(y, Rows::Many)?)
    }
}

/// norm(x + dense(gelu(dense(x)))).
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    intermediate: Projection,
    out: Residual,
}

impl FeedForward {
    /// `suffix` tells one feed-forward of a layer from another.
    pub(crate) fn new(layer: &Weights<'_>, suffix: &str, widths: Widths) -> Result<Self> {
        let intermediate = layer.at(format!("intermediate{suffix}"));
        Ok(Self {
            intermediate: intermediate.linear("dense", widths.hidden, widths.intermediate, true)?,
            out: Residual::new(&layer.at(format!("output{suffix}")), widths.intermediate, widths)?,
        })
    }

    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let hidden = activation(&self.intermediate.forward(x, Rows::Many)?, Activation::Gelu)?;
        self.out.apply(x, &hidden)
    }
}

/// Projections of queries, keys and values of one input, behind each other.
pub(crate) fn joint_projection(attention: &Weights<'_>, width: usize) -> Result<Projection> {
    attention.stacked(&[("query", width), ("key", width), ("value", width)], width, true)
}
