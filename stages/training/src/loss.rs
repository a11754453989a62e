//! Losses over pairs of embeddings.
//!
//! Written for one rank's rows against all gathered columns, divided by the global count of valid rows, so that the
//! losses of all ranks add up to the loss of one: with a single rank the rows are all rows.
//! Only operations with a backward pass in candle are used (`softmax_last_dim` and the fused layer norm have none).

mod contrast;
mod segments;

pub use contrast::{Contrast, Features, PairKeys, hinge, info_nce};
pub use segments::{SegmentEmbedding, segment_embedding};

#[cfg(test)]
mod tests;
