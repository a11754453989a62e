//! Scores that are changed by looking at all queries at once. Such figures are transductive: a system that is asked one
//! question at a time does not reach them, so they stand in columns of their own.
//!
//! | module | what it does |
//! |---|---|
//! | [`Multivariate`] | GaLR's rerank: place, share of the column, and place seen from the other side |
//! | [`DualSoftmax`] | each score times its softmax over the row and over the column |
//! | [`Reciprocal`] | how much the neighbours of both sides have in common (Zhong et al. 2017, between modalities) |

mod asked;
mod dual_softmax;
mod multivariate;
mod reciprocal;
mod top;

pub use dual_softmax::DualSoftmax;
pub use multivariate::{Multivariate, MultivariateSettings};
pub use reciprocal::{Reciprocal, ReciprocalSettings};

#[cfg(test)]
mod tests;
