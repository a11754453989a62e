//! What an installation puts beside the program.

use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;
use workers::{WorkerError, durable};

use super::Cli;
use crate::say;

/// Writes man pages into a folder.
pub(super) fn man(out: &Path) -> Result<()> {
    durable::create_folder(out)?;
    // help on help is no page
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, out).map_err(|error| WorkerError::of_io(out, &error))?;
    say!("man pages: {}", out.display());
    Ok(())
}
