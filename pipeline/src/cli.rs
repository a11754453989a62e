//! The command line.

mod learning;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand};
use manifests::BuildSpec;
use stages::evaluate::Evaluation;

use workers::WorkerError;

use crate::build::Build;
use crate::progress::Progress;
use crate::run::{Quarantined, RunOptions};

/// Prepares satellite image–text data (SkyScript archives or captioned folders), trains a CLIP
/// retrieval model on it and evaluates it. Everything is resumable: run the same command again.
#[derive(Debug, Parser)]
#[command(name = "urbancross", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  urbancross sandbox world                          make three small countries to try things on
  urbancross plan manifests/sandbox.toml            what would run, how many rows, and why
  urbancross run manifests/sandbox.toml             run it; again after Ctrl-C, a crash or an edit
  urbancross explain manifests/sandbox.toml IMAGE   why a row is as it is

Exit codes: 0 done, 65 permanent error, 75 try again, 143 stopped.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a run would do: rows per stage, and why
    Plan {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Run a build; what is done stays done
    Run {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[arg(long, value_name = "STEP", help = "End after this step, such as `images` or `pretrain`")]
        until: Option<String>,
    },
    /// Show what the work store holds, without reading the source
    Status {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Say why an image, a shard (`shard 3`) or a stage is as it is
    Explain {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "Image id, `shard N`, or a stage", required = true, num_args = 1..=2)]
        what: Vec<String>,
    },
    /// Write the report of one or several builds as one HTML file
    Report {
        #[arg(required = true, help = "Build specs")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, short, default_value = "report.html", help = "Where the page goes")]
        output: PathBuf,
    },
    /// Evaluate every build's model on every build's test images, and report
    Evaluate {
        #[arg(required = true, help = "Build specs")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, short, help = "Also write a report of all of them here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Run one training of a build as one of several ranks; a launcher sets RANK and WORLD_SIZE, or Slurm does
    Train {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "bootstrap or pretrain", default_value = "pretrain")]
        training: String,
        #[arg(long, help = "Train again although a finished training stands")]
        retrain: bool,
    },
    /// Adapt the model of one country to another, and test it there; may be one of several ranks
    Adapt {
        #[command(flatten)]
        pair: PairArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Adapt with each part of the method left out, over several seeds: the paper's Table 2
    Ablate {
        #[arg(required = true, help = "Pair specs")]
        pairs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Train a finished build under other settings, one setting moved at a time: the paper's Figure 5
    Sweep {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, required = true, value_name = "FIELD=VALUES", help = "Such as pretrain.learning_rate=1e-4,1e-3")]
        over: Vec<String>,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Train finished builds with and without segments, and test both: the paper's Table 1
    SingleDomain {
        #[arg(required = true, help = "Build specs")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Look whether this machine and a build's stores are fit
    Doctor {
        #[arg(help = "Build spec whose stores are probed")]
        spec: Option<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// List the weights that a build names, with their digests, and fetch them
    Weights {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Bring what is not here, and verify what is against the lock")]
        fetch: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Make a sandbox world: three small countries in SkyScript's layout, and their build specs
    Sandbox {
        #[arg(help = "Folder of the world")]
        out: PathBuf,
        #[arg(long, default_value_t = sandbox::Settings::default().tiles_per_country, help = "Tiles per country")]
        tiles: usize,
        #[arg(long, default_value_t = 0)]
        seed: u64,
        #[arg(long, value_name = "SHARE", help = "Edit the tags of this share of an existing world instead")]
        edit_tags: Option<f64>,
    },
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
struct SpecArgs {
    #[arg(help = "Build spec, such as manifests/countries/finland.toml")]
    spec: PathBuf,
    #[command(flatten)]
    set: SetArgs,
}

#[derive(Debug, Args)]
struct PairArgs {
    #[arg(help = "Pair spec, such as manifests/pairs/finland_to_spain.toml")]
    pair: PathBuf,
    #[command(flatten)]
    set: SetArgs,
}

#[derive(Debug, Args)]
struct SetArgs {
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE", help = "Override a field of the spec")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[arg(long, help = "Try rows again that failed before")]
    retry_errors: bool,
    #[arg(long, help = "Train again although a finished training stands")]
    retrain: bool,
}

impl SpecArgs {
    fn read(&self) -> Result<BuildSpec> {
        Ok(BuildSpec::read(&self.spec, &self.set.set)?)
    }
}

/// Set by Ctrl-C and by SIGTERM, of which a second one ends the process at once, and by the end of a launcher.
fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    crate::launch::stop_with_launcher(stop.clone());
    let flag = stop.clone();
    tokio::spawn(async move {
        loop {
            if wait_for_signal().await.is_err() {
                return;
            }
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(143);
            }
            eprintln!("\nstopping: rows in flight are finished and published; once more to end at once");
        }
    });
    stop
}

#[cfg(unix)]
async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = term.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Runs a command.
pub async fn main(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Plan { spec, options, json } => {
            let mut build = Build::open(spec.read()?, stop_flag()).await?;
            let lines = crate::plan::preview(&mut build, options.retry_errors, options.retrain).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&lines)?);
            } else {
                print_plan(&lines);
            }
            Ok(())
        }
        Command::Run { spec, options, until } => run(spec.read()?, options, until).await,
        Command::Status { spec, json } => {
            let build = Build::open_work(spec.read()?, stop_flag()).await?;
            let lines = crate::status::status(&build).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&lines)?);
                return Ok(());
            }
            println!("{:18} {:>10} {:>8} {:>8} {:>9}  state", "step", "rows", "errors", "version", "seconds");
            for line in lines {
                let version = line.version.map_or(String::new(), |v| v.to_string());
                let seconds = line.seconds.map_or(String::new(), |s| format!("{s:.1}"));
                println!(
                    "{:18} {:>10} {:>8} {version:>8} {seconds:>9}  {}",
                    line.step, line.rows, line.errors, line.state
                );
            }
            Ok(())
        }
        Command::Explain { spec, what } => {
            let mut build = Build::open(spec.read()?, stop_flag()).await?;
            for line in crate::explain::explain(&mut build, &what.join(" ")).await? {
                println!("{line}");
            }
            Ok(())
        }
        Command::Report { specs, set, output } => {
            let builds = open_all(&specs, &set.set).await?;
            write_report(&builds, &[], &output).await
        }
        Command::Evaluate { specs, set, report, json } => evaluate(&specs, &set.set, report, json).await,
        Command::Train { spec, training, retrain } => learning::train(spec.read()?, &training, retrain).await,
        Command::Adapt { pair, json } => learning::adapt(&pair.pair, &pair.set.set, json).await,
        Command::Ablate { pairs, set, report, json } => learning::ablate(&pairs, &set.set, report, json).await,
        Command::Sweep { spec, over, report, json } => {
            learning::sweep(&spec.spec, &spec.set.set, &over, report, json).await
        }
        Command::SingleDomain { specs, set, report, json } => {
            learning::single_domain(&specs, &set.set, report, json).await
        }
        Command::Doctor { spec, set, json } => doctor(spec, &set.set, json).await,
        Command::Weights { spec, fetch, json } => weights(&spec.read()?, fetch, json).await,
        Command::Sandbox { out, tiles, seed, edit_tags } => make_sandbox(&out, tiles, seed, edit_tags),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "urbancross", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn print_plan(lines: &[crate::plan::PlanLine]) {
    println!("{:18} {:>12} {:>10}  why", "step", "to compute", "stand");
    for line in lines {
        let rows = if line.exact || line.rows == 0 { line.rows.to_string() } else { format!("≤ {}", line.rows) };
        let mut why: Vec<String> = line.reasons.iter().map(|(r, n)| format!("{n} {}", r.words())).collect();
        if !line.note.is_empty() {
            why.push(line.note.clone());
        }
        println!("{:18} {rows:>12} {:>10}  {}", line.step, line.kept, why.join(", "));
    }
}

async fn run(spec: BuildSpec, options: RunArgs, until: Option<String>) -> Result<()> {
    if let Some(place) = workers::world::place()? {
        let (rank, world_size) = (place.rank, place.world_size);
        let why = format!(
            "a launcher started this process as rank {rank} of {world_size}, and a build is run by one: run it alone, \
             and its trainings by `urbancross train` as ranks"
        );
        return Err(WorkerError::Configuration(why).into());
    }
    let progress = Progress::new(false);
    let mut build = Build::open(spec, stop_flag()).await?;
    let options = RunOptions { retry_errors: options.retry_errors, retrain: options.retrain, until };
    let quarantined = crate::run::run(&mut build, &options, &progress).await?;
    print_quarantine(&quarantined);
    if options.until.is_some() {
        return Ok(());
    }
    let page = crate::page::make(std::slice::from_ref(&build), &[], &now()).await?;
    let path = manifests::paths::report(&build.spec.country);
    build.work.put(&path, page.into()).await?;
    if let Some(evaluation) = crate::evaluate::stored(&build).await? {
        print_recall(&[evaluation]);
    }
    println!("report: {}", shown(&build, &path));
    Ok(())
}

async fn weights(spec: &BuildSpec, fetch: bool, json: bool) -> Result<()> {
    let work = workers::stores::WorkStore::open(&spec.work.url, &spec.work.options)?;
    if fetch {
        workers::weights::fetch(&work, spec).await?;
    }
    let lines = workers::weights::lines(&work, spec).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    if lines.is_empty() {
        println!("this build names no weights: everything is trained from the data");
    }
    for line in lines {
        let locked = if line.locked { ", locked" } else { "" };
        println!("{} = {}: {}{locked}, {}", line.field, line.source, line.state, line.folder.display());
        for (name, pin) in &line.files {
            println!("  {}  {:>14} bytes  {name}", pin.sha256, pin.bytes);
        }
    }
    Ok(())
}

/// A place of the work store, as a path where it is one.
fn shown(build: &Build, path: &str) -> String {
    match build.work.local_folder() {
        Some(folder) => folder.join(path).display().to_string(),
        None => format!("{}{path}", build.work.url()),
    }
}

fn print_quarantine(quarantined: &[Quarantined]) {
    let rows: u64 = quarantined.iter().map(|q| q.rows).sum();
    println!("{rows} rows quarantined");
    for one in quarantined {
        println!("  {} in {}: {}", one.rows, one.stage, one.listing);
    }
}

async fn open_all(specs: &[PathBuf], set: &[String]) -> Result<Vec<Build>> {
    let stop = stop_flag();
    let mut builds = Vec::with_capacity(specs.len());
    for path in specs {
        builds.push(Build::open_work(BuildSpec::read(path, set)?, stop.clone()).await?);
    }
    Ok(builds)
}

async fn evaluate(specs: &[PathBuf], set: &[String], report: Option<PathBuf>, json: bool) -> Result<()> {
    let builds = open_all(specs, set).await?;
    let progress = Progress::new(json);
    let mut all = Vec::new();
    for model_of in &builds {
        for on in &builds {
            if model_of.spec.country == on.spec.country {
                all.extend(crate::evaluate::stored(on).await?);
            } else {
                progress.note(&format!("model of {} on {}", model_of.spec.country, on.spec.country));
                all.push(crate::evaluate::evaluate_across(model_of, on).await?);
            }
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print_recall(&all);
    }
    match report {
        None => Ok(()),
        Some(path) => write_report(&builds, &all, &path).await,
    }
}

async fn write_report(builds: &[Build], across: &[Evaluation], output: &PathBuf) -> Result<()> {
    let page = crate::page::make(builds, across, &now()).await?;
    std::fs::write(output, page).with_context(|| format!("cannot write {}", output.display()))?;
    println!("report: {}", output.display());
    Ok(())
}

/// The result table. One line per evaluation begins with `mR`, for scripts.
fn print_recall(all: &[Evaluation]) {
    for e in all {
        let r = &e.recall.exact.pessimistic;
        let home = if e.model_of == e.country { String::new() } else { format!(" by the model of {}", e.model_of) };
        println!(
            "mR {:.2} i2t {:.2}/{:.2}/{:.2} t2i {:.2}/{:.2}/{:.2} on {}{home}, {} images, {} captions{}",
            r.mean_recall,
            r.i2t.at_1,
            r.i2t.at_5,
            r.i2t.at_10,
            r.t2i.at_1,
            r.t2i.at_5,
            r.t2i.at_10,
            e.country,
            e.recall.image_gallery,
            e.recall.caption_gallery,
            if e.average_over_turns { ", averaged over turns" } else { "" },
        );
    }
}

async fn doctor(spec: Option<PathBuf>, set: &[String], json: bool) -> Result<()> {
    let spec = spec.map(|path| BuildSpec::read(&path, set)).transpose()?;
    let findings = crate::doctor::examine(spec.as_ref()).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            println!("{} {:14} {}", if finding.good { "ok  " } else { "BAD " }, finding.what, finding.detail);
        }
    }
    match findings.iter().filter(|f| !f.good).count() {
        0 => Ok(()),
        bad => Err(WorkerError::Configuration(format!("{bad} of {} findings are bad", findings.len())).into()),
    }
}

fn make_sandbox(out: &std::path::Path, tiles: usize, seed: u64, edit_tags: Option<f64>) -> Result<()> {
    if let Some(share) = edit_tags {
        let edited = sandbox::edit_tags(out, share, seed)?;
        println!("{} images have other tags now", edited.len());
        for image_id in edited {
            println!("{image_id}");
        }
        return Ok(());
    }
    let settings = sandbox::Settings { tiles_per_country: tiles, seed, ..sandbox::Settings::default() };
    let terminal = std::io::stderr().is_terminal();
    let summary = sandbox::generate(out, &settings, &mut |done, total| {
        if terminal {
            eprint!("\r{done}/{total} tiles");
        }
    })?;
    if terminal {
        eprintln!();
    }
    println!("{} images in {}", summary.images, out.display());
    Ok(())
}

/// The present day and time, in UTC.
fn now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days as i64);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

/// Date of a count of days since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(20_779), (2026, 11, 22));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
    }
}
