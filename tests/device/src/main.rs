//! The device check as a program: what a machine with a GPU makes of kernels, networks and trainings.

use std::process::ExitCode;

use clap::Parser;

/// As in the program that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    device_check::Cli::parse().run()
}
