//! The decoder's sizes and weights as its kernels read them, and what prompts on one image share.

use super::{Attention, Layer};
use crate::Result;
use crate::ops::linear::linear_forward;
use crate::ops::matrix::{Matrix, MatrixMut, Threads, Write, multiply};
use crate::ops::real::{Real, sum_of, vectorised};
use crate::sam::prompt_encoder::floats;
use crate::sam::source;

/// Sizes of the decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// N
    pub(super) positions: usize,
    /// D
    pub(super) width: usize,
    /// Width of the attention between tokens and image.
    pub(super) inner: usize,
    pub(super) heads: usize,
}

impl Shape {
    /// 1 / sqrt(width of a head)
    pub(super) fn scale(&self) -> f32 {
        ((self.inner / self.heads) as f32).powf(-0.5)
    }
}

/// What prompts on one image have in common: the image with the embedding of "no mask", and its projections in the
/// first layer.
#[derive(Clone, Debug)]
pub(super) struct ImageSide {
    /// `[N, D]`
    pub(super) keys: Vec<f32>,
    /// `[N, D / 2]` each: keys and values for the tokens, queries towards the tokens.
    pub(super) projected_keys: Vec<f32>,
    pub(super) projected_values: Vec<f32>,
    pub(super) projected_queries: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Dense {
    /// `[O, I]`
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) inputs: usize,
}

#[derive(Debug)]
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f64,
}

#[derive(Debug)]
pub(super) struct AttentionWeights {
    pub(super) q: Dense,
    pub(super) k: Dense,
    pub(super) v: Dense,
    pub(super) out: Dense,
    pub(super) heads: usize,
}

#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) self_attention: AttentionWeights,
    pub(super) norm_1: Norm,
    pub(super) token_to_image: AttentionWeights,
    pub(super) norm_2: Norm,
    pub(super) mlp: [Dense; 2],
    pub(super) norm_3: Norm,
    pub(super) image_to_token: AttentionWeights,
    pub(super) norm_4: Norm,
}

impl Dense {
    pub(super) fn new(dense: &source::Dense) -> Result<Self> {
        let inputs = dense.weight_oi.dim(1)?;
        Ok(Self { weight: floats(&dense.weight_oi)?, bias: floats(&dense.bias_o)?, inputs })
    }

    /// `x [rows, I]` to `[rows, O]`, on all threads.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        linear_forward(x, &self.weight, Some(&self.bias), x.len() / self.inputs, self.inputs, self.bias.len())
    }

    /// The same into `out`, on this thread.
    pub(super) fn apply_into(&self, x: &[f32], out: &mut [f32]) {
        let (rows, outputs) = (x.len() / self.inputs, self.bias.len());
        out.chunks_exact_mut(outputs).for_each(|out| out.copy_from_slice(&self.bias));
        multiply(
            MatrixMut::new(out, rows, outputs),
            Write::Add,
            Matrix::new(x, rows, self.inputs),
            Matrix::new(&self.weight, outputs, self.inputs).t(),
            1.0,
            Threads::One,
        );
    }
}

impl Norm {
    pub(super) fn new(norm: &source::Norm) -> Result<Self> {
        Ok(Self { weight: floats(&norm.weight_d)?, bias: floats(&norm.bias_d)?, epsilon: norm.epsilon })
    }

    /// Normalises every row in place.
    pub(super) fn apply(&self, x: &mut [f32]) {
        let width = self.weight.len();
        vectorised(
            #[inline(always)]
            || {
                for row in x.chunks_exact_mut(width) {
                    let mean = sum_of(row, |x| x) / width as f32;
                    let variance = sum_of(row, |x| (x - mean) * (x - mean)) / width as f32;
                    let rstd = 1.0 / (variance + self.epsilon as f32).sqrt();
                    for ((x, &weight), &bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                        *x = Real::mul_add((*x - mean) * rstd, weight, bias);
                    }
                }
            },
        );
    }
}

impl AttentionWeights {
    pub(super) fn new(attention: &Attention) -> Result<Self> {
        Ok(Self {
            q: Dense::new(&attention.q)?,
            k: Dense::new(&attention.k)?,
            v: Dense::new(&attention.v)?,
            out: Dense::new(&attention.out)?,
            heads: attention.heads,
        })
    }
}

impl LayerWeights {
    pub(super) fn new(layer: &Layer) -> Result<Self> {
        let [first, second] = &layer.mlp;
        Ok(Self {
            self_attention: AttentionWeights::new(&layer.self_attention)?,
            norm_1: Norm::new(&layer.norm_1)?,
            token_to_image: AttentionWeights::new(&layer.token_to_image)?,
            norm_2: Norm::new(&layer.norm_2)?,
            mlp: [Dense::new(first)?, Dense::new(second)?],
            norm_3: Norm::new(&layer.norm_3)?,
            image_to_token: AttentionWeights::new(&layer.image_to_token)?,
            norm_4: Norm::new(&layer.norm_4)?,
        })
    }
}

pub(super) fn all<A, B>(items: &[A], new: impl Fn(&A) -> Result<B>) -> Result<Vec<B>> {
    items.iter().map(new).collect()
}

pub(super) fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
