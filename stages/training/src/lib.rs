//! Ingredients of learning: sample order, losses, optimiser, schedule, checkpoint, recall, objectives and the training loop.
//!
//! Must never see arrow, a store, an async runtime or a socket: data comes as host buffers, ranks as a trait.

pub mod adapt;
pub mod batch;
mod buckets;
pub mod checkpoint;
pub mod communicator;
pub mod contrastive;
pub mod error;
pub mod gradients;
mod host;
pub mod loss;
pub mod objective;
pub mod optimiser;
pub mod order;
pub mod recall;
pub mod schedule;
pub mod trainer;

pub use error::{Error, Result};
