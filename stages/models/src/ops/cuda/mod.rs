//! Operations on GPUs with kernels of ours and ways back that are worked out by hand.
//!
//! candle keeps every intermediate result of a composition until the way back: for one attention of a ViT-L/14 that is a
//! gigabyte. Here a node keeps its arguments, and computes again what it needs.

mod launch;
mod node;

mod activation;
mod attention;
mod block;
mod layer_norm;
mod linear;

pub(super) use activation::ActivationOp;
pub(super) use attention::AttentionOp;
pub(super) use block::BlockOp;
pub use launch::{AdamWStep, adamw};
pub(super) use launch::{Softmax, applies, softmax};
pub(super) use layer_norm::LayerNormOp;
pub(super) use linear::LinearOp;
pub(super) use node::apply;
