//! Builds that are killed, paused, overtaken and cut off, and whether they come to the right end.
//!
//! A *trial* is one story on a work store of its own: workers that are disturbed, then a run that is not, then the
//! question whether the store holds what an undisturbed build from the same source would hold, row for row.

pub mod dice;
pub mod figures;
pub mod image;
pub mod journal;
pub mod oracle;
pub mod power;
pub mod proxy;
pub mod scenarios;
pub mod shim;
pub mod trial;
pub mod worker;

/// What went wrong in a trial, in words.
pub type Outcome = Result<(), String>;
