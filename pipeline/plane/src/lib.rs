//! Vectors of many numbers as points of a plane.

mod pca;

pub use pca::Plane;
