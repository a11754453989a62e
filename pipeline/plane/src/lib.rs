//! Vectors of many numbers as points of a plane.

mod nearest;
mod pca;
mod tsne;

pub use pca::Plane;
pub use tsne::neighbours;
