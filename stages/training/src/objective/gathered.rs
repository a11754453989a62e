//! The embeddings of all ranks, as leaves of a graph of their own.

use std::ops::Range;

use candle_core::{Tensor, Var};

/// The global batch as every rank sees it, N = W B rows in rank order. An [`Objective`](super::Objective)
/// differentiates its loss with respect to the leaves.
pub struct Gathered {
    /// Image embeddings, L2-normalised, in f32 or f64: a leaf `[N, D]`.
    pub image_nd: Var,
    /// Caption embeddings, likewise `[N, D]`.
    pub text_nd: Var,
    /// Segment embeddings, where they are learnt from.
    pub segments: Option<GatheredSegments>,
    /// The vectors of tokens, where the objective wants them.
    pub tokens: Option<GatheredTokens>,
    /// The learnable logarithm of the logit scale, a leaf.
    pub logit_scale: Tensor,
    /// This rank's rows.
    pub rows: Range<usize>,
    /// Equal for byte-equal images `[N]`.
    pub image_keys_n: Vec<u64>,
    /// Equal for captions with equal normalised text `[N]`.
    pub caption_keys_n: Vec<u64>,
    /// Whether the row takes part `[N]`.
    pub valid_n: Vec<bool>,
    /// Whether the row is of the target domain `[N]`; false where there is one domain.
    pub target_n: Vec<bool>,
    /// How much the row counts `[N]`; 1 where all count alike.
    pub weight_n: Vec<f64>,
}

/// Segment embeddings of the global batch.
pub struct GatheredSegments {
    /// L2-normalised, zero for rows without segments: a leaf `[N, D]`.
    pub segment_nd: Var,
    /// Whether the row has segments `[N]`.
    pub present_n: Vec<bool>,
}

/// Tokens of the global batch, in f32 or f64, not normalised: leaves.
pub struct GatheredTokens {
    /// Of the images `[N, L, D]`.
    pub image_nld: Option<Var>,
    /// Of the captions `[N, L, D]`.
    pub text_nld: Option<Var>,
    /// Of the captions with other ids in some places `[N, L, D]`.
    pub masked_nld: Option<Var>,
    /// Ids of the captions `[N, L]`.
    pub input_ids_nl: Vec<u32>,
    /// Which of them are of the text, and which are padding `[N, L]`.
    pub is_token_nl: Vec<bool>,
}
