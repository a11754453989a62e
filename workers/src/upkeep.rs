//! Looking after a work store: what is wrong in it, and what nobody needs any more.

pub mod gc;
pub mod verify;
