//! Pre-training: contrast of images with captions, and of their segments with captions (UrbanCross, stage 2).

mod settings;
mod step;
mod trainer;

pub use settings::{Cadence, Loss, SegmentTower, Settings};
pub use trainer::{EpochEnd, Event, Progress, Summary, Trainer};

#[cfg(test)]
mod tests;
