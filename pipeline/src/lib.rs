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
pub mod launch;
pub mod memory;
pub mod page;
pub mod pair;
pub mod plan;
pub mod preflight;
pub mod preview;
pub mod progress;
pub mod remembered;
pub mod run;
pub mod run_options;
pub mod say;
pub mod settled;
pub mod status;
pub mod sweep;
pub mod trainings;
