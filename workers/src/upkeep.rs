//! Maintenance of a work store: verification, repair and garbage collection.

pub mod gc;
pub mod verify;
