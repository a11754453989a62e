//! Choices that a spec names and an engine follows: one type for both.
//!
//! The serialised words and field names are those of the specs, and part of what identifies rows and trainings.

mod model;
mod pixels;
mod training;

pub use model::{Activation, Preset};
pub use pixels::{Augmentation, Background, Canvas, Felzenszwalb};
pub use training::{Protocol, SegmentTower};
