//! Extracts and diffs as they come: real ones, random ones, hostile ones.

mod diffs;
mod hostile;
#[path = "../../../../pipeline/sandbox/src/extract/pbf.rs"]
mod pbf_writer;
mod planet;
mod real;
