//! Ingredients of learning: sample order, losses, optimiser, schedule, checkpoint, recall, and the pre-training loop.
//!
//! Must never see arrow, a store, an async runtime or a socket: data comes as host buffers, ranks later as a trait.

pub mod adapt;
pub mod batch;
pub mod checkpoint;
pub mod communicator;
pub mod error;
pub mod loss;
pub mod optimiser;
pub mod order;
pub mod pretrain;
pub mod recall;
pub mod schedule;

pub use error::{Error, Result};
