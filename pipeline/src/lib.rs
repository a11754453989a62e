//! Plans and runs builds and adaptations, reports on them, and defines the command line.

pub mod ablate;
pub mod accept;
pub mod analyse;
pub mod build;
pub mod capacity;
pub mod cli;
mod clock;
pub mod diff;
pub mod doctor;
pub mod engine;
pub mod estimate;
pub mod evaluate;
pub mod exit;
pub mod explain;
pub mod export;
pub mod given;
pub mod init;
mod last_overrides;
mod launch;
pub mod left_out;
pub mod logs;
pub mod memory;
mod output;
mod own_folder;
pub mod page;
pub mod pair;
pub mod plan;
mod preflight;
pub mod preview;
pub mod progress;
pub mod review;
pub mod run;
pub mod run_options;
pub mod run_record;
pub mod run_status;
pub mod say;
pub mod search;
pub mod serve;
mod served;
mod settled;
mod settled_stages;
pub mod status;
pub mod sweep;
pub mod tags;
pub mod tasks;
mod terminal;
pub mod trainings;
pub mod worker;
pub mod zero_shot;

pub use launch::launched;

use std::sync::LazyLock;

/// This program's version, and the commit that it was built from where the builder said so (`URBANCROSS_COMMIT`).
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| match option_env!("URBANCROSS_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        _ => env!("CARGO_PKG_VERSION").to_owned(),
    });
    &VERSION
}

/// What is written beside results: this program, and the machine that it runs on.
fn made_by() -> String {
    format!("urbancross {} on {}", version(), workers::host())
}
