//! Plans and runs builds and adaptations, reports on them, and defines the command line.

pub mod ablate;
pub mod build;
pub mod cli;
mod clock;
pub mod doctor;
pub mod estimate;
pub mod evaluate;
pub mod exit;
pub mod explain;
mod last_overrides;
mod launch;
pub mod memory;
pub mod page;
pub mod pair;
pub mod plan;
mod preflight;
pub mod preview;
pub mod progress;
pub mod run;
pub mod run_options;
pub mod say;
mod settled;
mod settled_stages;
pub mod status;
pub mod sweep;
pub mod trainings;
