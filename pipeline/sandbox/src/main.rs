//! `urbancross-sandbox`: makes a world of three small countries, or edits the tags of one.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use sandbox::{MOST_TILES, SandboxError, Settings};

/// Makes a sandbox world: three small countries in SkyScript's layout.
#[derive(Debug, Parser)]
#[command(name = "urbancross-sandbox", version, arg_required_else_help = true, allow_negative_numbers = true)]
struct Cli {
    #[arg(help = "Folder of the world")]
    out: PathBuf,
    #[arg(
        long,
        default_value_t = Settings::default().tiles_per_country as u64,
        value_parser = clap::value_parser!(u64).range(1..=MOST_TILES as u64),
        help = "Tiles per country"
    )]
    tiles: u64,
    #[arg(long, default_value_t = 0, help = "Seed of the world, or of the edit")]
    seed: u64,
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = share,
        help = "Edit the tags of this share of an existing world instead"
    )]
    edit_tags: Option<f64>,
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = share,
        conflicts_with = "edit_tags",
        help = "Edit the map around this share of an existing world's images instead: one more diff in its replication"
    )]
    edit_map: Option<f64>,
    #[arg(long, help = "Replace an existing world", conflicts_with_all = ["edit_tags", "edit_map"])]
    force: bool,
}

fn share(text: &str) -> Result<f64, &'static str> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or("it must be a share between 0.0 and 1.0")
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let lines = match (cli.edit_tags, cli.edit_map) {
        (Some(share), _) => edit(&cli.out, share, cli.seed),
        (None, Some(share)) => edit_map(&cli.out, share, cli.seed),
        (None, None) => generate(&cli),
    };
    match lines {
        Ok(lines) => said(&lines),
        Err(error) => {
            aside(&format!("error: {error}\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn edit(world: &Path, share: f64, seed: u64) -> Result<Vec<String>, SandboxError> {
    let mut lines = sandbox::edit_tags(world, share, seed)?;
    lines.insert(0, format!("edited the tags of {}", images(lines.len())));
    Ok(lines)
}

fn edit_map(world: &Path, share: f64, seed: u64) -> Result<Vec<String>, SandboxError> {
    let edits = sandbox::edit_map(world, share, seed)?;
    let mut lines = edits.images;
    let extract = edits.extract.display();
    lines.insert(0, format!("diff {}: edited the map of {}; {extract}", edits.sequence, images(lines.len())));
    Ok(lines)
}

fn generate(cli: &Cli) -> Result<Vec<String>, SandboxError> {
    if cli.force {
        sandbox::check_replaceable(&cli.out)?;
    } else {
        sandbox::check_absent(&cli.out)?;
    }
    let settings = Settings { tiles_per_country: cli.tiles as usize, seed: cli.seed, ..Settings::default() };
    let terminal = std::io::stderr().is_terminal();
    let summary = sandbox::generate(&cli.out, &settings, &mut |done, total| {
        if terminal {
            aside(&format!("\r{done}/{total} tiles"));
        }
    })?;
    if terminal {
        aside("\n");
    }
    Ok(vec![format!("{} in {}", images(summary.images), cli.out.display())])
}

fn images(count: usize) -> String {
    if count == 1 { "1 image".into() } else { format!("{count} images") }
}

/// Writes the output. A reader who has gone is no error; a full disk is `EX_IOERR`: only the words are lost.
fn said(lines: &[String]) -> ExitCode {
    match writeln!(std::io::stdout(), "{}", lines.join("\n")) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            aside(&format!("error: standard output cannot be written: {error}\n"));
            ExitCode::from(74)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes what is not output. That nobody hears it changes nothing.
fn aside(text: &str) {
    let mut stderr = std::io::stderr();
    _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
