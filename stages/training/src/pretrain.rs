//! Pre-training: contrast of images with captions, and of their segments with captions (UrbanCross, stage 2).

mod events;
mod settings;
mod step;
mod trainer;

pub use events::{EpochEnd, Event, Progress, Summary};
pub use settings::{Cadence, Loss, SegmentTower, Settings};
pub use trainer::Trainer;

#[cfg(test)]
mod tests;
