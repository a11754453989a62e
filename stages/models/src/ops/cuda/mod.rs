//! Operations on GPUs with kernels of ours and ways back that are worked out by hand.
//!
//! candle keeps every intermediate result of a composition until the way back: for one attention of a ViT-L/14 that is a
//! gigabyte. Here a node keeps its arguments, and computes again what it needs.

mod heads;
mod launch;
mod node;
mod softmax;

mod activation;
mod attention;
mod block;
mod layer_norm;
mod linear;
mod masks;
mod parameters;
mod positions;
mod window_attention;

pub(super) use activation::ActivationOp;
pub(super) use attention::AttentionOp;
pub(super) use block::BlockOp;
pub(super) use launch::applies;
pub(super) use layer_norm::LayerNormOp;
pub(super) use linear::LinearOp;
pub(crate) use masks::{add_bias, attend_to_places, attend_to_tokens, biased_norm_gelu, knows_decoder, upscaled_masks};
pub(super) use node::apply;
pub use parameters::{AdamWParameter, AdamWStep, adamw, move_averages, norm};
pub(super) use positions::PositionsOp;
pub(super) use softmax::softmax;
pub(super) use window_attention::WindowAttentionOp;
