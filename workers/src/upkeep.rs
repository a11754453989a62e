//! Maintenance of a work store: verification, repair and garbage collection.

pub mod gc;
mod under_way;
pub mod verify;
