//! What engines are told: batch scripts, objects and drivers that start the workers of a run, as plain data made from plain
//! data. Nothing here asks a cluster or a store for anything.

pub mod cluster;
pub mod job;
pub mod kubernetes;
mod memory;
pub mod profile;
pub mod ray;
pub mod simulate;
pub mod slurm;
pub mod yaml;

pub use cluster::ClusterShape;
pub use job::{ADAPT, Job, Run, SWEPT, SWEPT_BOOTSTRAP, VARIANT, Work, step_like, swept_words};
pub use profile::Profile;
