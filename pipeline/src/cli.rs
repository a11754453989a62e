//! The command line.

mod arguments;
mod build_commands;
mod cluster_commands;
mod numbers;
mod report_commands;
mod schema;
mod train_commands;
mod upkeep_commands;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use training::recall::BothWays;
use workers::WorkerError;

use arguments::{ClusterArgs, EngineArgs, PairArgs, RunArgs, SetArgs, ShareArgs, SpecArgs, TryArgs};
use numbers::within;

/// Prepares satellite image–text data (SkyScript archives or captioned folders), trains a CLIP
/// retrieval model on it and evaluates it. Everything is resumable: run the same command again.
#[derive(Debug, Parser)]
#[command(name = "urbancross", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  urbancross-sandbox world                          make three small countries to try things on
  urbancross plan manifests/sandbox.toml            what would run, how many rows, and why
  urbancross run manifests/sandbox.toml             run it; again after Ctrl-C, a crash or an edit
  urbancross explain manifests/sandbox.toml IMAGE   why a row is as it is

Exit codes: 0 done, 2 wrong usage, 65 permanent error, 74 output not written, 75 try again, 143 stopped.";

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
        #[arg(long, help = "Run even if more than half of the rows are no longer in the source, and remove them")]
        accept_removals: bool,
        #[arg(long, value_name = "STEP", help = "Stop after this step, such as `images` or `pretrain`")]
        until: Option<String>,
    },
    /// Run a build by several workers; may be killed, and started as often as one likes
    Drive {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[arg(long, help = "Run even if more than half of the rows are no longer in the source, and remove them")]
        accept_removals: bool,
        #[arg(long, value_name = "STEP", help = "Stop after this step, such as `images` or `pretrain`")]
        until: Option<String>,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// Map shards of a plan beside other workers; an engine starts it, and it returns when the plan is closed
    Worker {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        share: ShareArgs,
    },
    /// Give a build to a cluster: its drivers plan, start workers and publish until all is done
    Submit {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[arg(long, value_name = "STEP", help = "Stop after this step, such as `images` or `pretrain`")]
        until: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Write what a cluster would be given, without one
    Render {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, value_name = "STEP", help = "As of `submit`")]
        until: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[arg(long, short, value_name = "DIR", help = "Folder for the files; otherwise they are printed")]
        output: Option<PathBuf>,
    },
    /// Open shards again that are closed as failed
    Retry {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "All of them")]
        errors: bool,
        #[arg(long, value_name = "N", conflicts_with = "errors", help = "Those of one number")]
        shard: Option<u32>,
        #[arg(long, value_name = "STAGE", help = "Of one stage alone")]
        stage: Option<String>,
    },
    /// End the runs of a build on clusters; what is done stays done
    Cancel {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, value_name = "ID", help = "One run alone")]
        run: Option<String>,
        #[arg(long, help = "Kill; otherwise workers leave what they have begun for others")]
        now: bool,
    },
    /// Show what the work store holds, without reading the source
    Status {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Explain the state of an image, a shard (`shard 3`) or a stage
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
        #[arg(long, short, default_value = "report.html", help = "Output file")]
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
    /// Read every file of a build's tables and compare it with its checksums
    Verify {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Remove faulty files from the tables; the next run recomputes their rows")]
        repair: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Delete what a build no longer needs: old parts, hints, checkpoints and log entries
    Gc {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Delete; without this, only list what would be deleted")]
        delete: bool,
        #[arg(
            long,
            value_name = "DAYS",
            default_value_t = 7.0,
            value_parser = within("a number of days", 0.0..=upkeep_commands::MOST_KEEP_DAYS),
            allow_negative_numbers = true,
            help = "Keep everything younger than this"
        )]
        keep_days: f64,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Run one training of a build as one of several ranks; a launcher sets RANK and WORLD_SIZE, or Slurm does
    Train {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "bootstrap or pretrain", default_value = "pretrain")]
        training: String,
        #[command(flatten)]
        of_run: TryArgs,
        #[arg(long, help = "Train again even if a finished training is up to date")]
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
        #[arg(
            long,
            default_value_t = 1,
            value_parser = within("a whole number", 1..=MOST_JOBS),
            allow_negative_numbers = true,
            help = "Adaptations to run at once, each in its own process with its share of the cores"
        )]
        jobs: usize,
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
    /// Check that this machine and a build's stores can be used
    Doctor {
        #[arg(help = "Build spec whose stores are checked")]
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
        #[arg(long, help = "Fetch what is missing, and verify the rest against the lock")]
        fetch: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Print a build spec with `--set` and all defaults
    Spec {
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Print the JSON Schema of build or pair specs, for editors
    Schema {
        #[arg(help = "Which spec", default_value = "build")]
        of: schema::Kind,
    },
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

/// More adaptations at once than any machine has cores.
const MOST_JOBS: usize = 4096;

/// The seven figures of a line, chance beside mR. Scripts look for `mR` at its beginning.
fn figures(both: &BothWays) -> String {
    let [i1, i5, i10, t1, t5, t10, _] = both.figures();
    format!("{} i2t {i1:.2}/{i5:.2}/{i10:.2} t2i {t1:.2}/{t5:.2}/{t10:.2}", both.in_words())
}

/// Writes a report where the command line says.
fn write_page(path: &Path, page: &str) -> Result<()> {
    std::fs::write(path, page).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => WorkerError::Configuration(format!("{}: no such folder", path.display())),
        _ => WorkerError::of_io(path, &error),
    })?;
    // not among the output, which a script may read
    crate::aside!("report: {}", path.display());
    Ok(())
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
            if !crate::launch::launched() {
                crate::aside!(
                    "\nstopping: rows in flight are finished and published first; press Ctrl-C again to quit at once"
                );
            }
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
///
/// # Errors
/// Whatever ends the command; [`code`](crate::exit::code) gives its exit code.
pub async fn main(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Plan { spec, options, json } => build_commands::plan(&spec, options, json).await,
        Command::Run { spec, options, accept_removals, until } => {
            build_commands::run(&spec, options, accept_removals, until).await
        }
        Command::Drive { spec, options, accept_removals, until, engine } => {
            cluster_commands::drive(&spec, options, accept_removals, until, &engine).await
        }
        Command::Worker { spec, share } => cluster_commands::worker(spec.read()?, &share).await,
        Command::Submit { spec, options, until, cluster } => {
            cluster_commands::submit(&spec, options, until, &cluster).await
        }
        Command::Render { spec, until, cluster, output } => {
            cluster_commands::render(&spec.read()?, until, &cluster, output.as_deref())
        }
        Command::Retry { spec, errors, shard, stage } => {
            cluster_commands::retry(spec.read()?, errors, shard, stage.as_deref()).await
        }
        Command::Cancel { spec, run, now } => cluster_commands::cancel(spec.read()?, run, now).await,
        Command::Status { spec, json } => build_commands::status(&spec, json).await,
        Command::Explain { spec, what } => build_commands::explain(&spec, &what.join(" ")).await,
        Command::Report { specs, set, output } => report_commands::report(&specs, &set.set, &output).await,
        Command::Evaluate { specs, set, report, json } => {
            report_commands::evaluate(&specs, &set.set, report, json).await
        }
        Command::Verify { spec, repair, json } => upkeep_commands::verify(spec.read()?, repair, json).await,
        Command::Gc { spec, delete, keep_days, json } => {
            upkeep_commands::gc(spec.read()?, delete, keep_days, json).await
        }
        Command::Train { spec, training, of_run, retrain } => {
            train_commands::train(spec.read()?, &training, &of_run, retrain).await
        }
        Command::Adapt { pair, json } => train_commands::adapt(&pair.pair, &pair.set.set, json).await,
        Command::Ablate { pairs, set, jobs, report, json } => {
            train_commands::ablate(&pairs, &set.set, jobs, report, json).await
        }
        Command::Sweep { spec, over, report, json } => {
            train_commands::sweep(&spec.spec, &spec.set.set, &over, report, json).await
        }
        Command::SingleDomain { specs, set, report, json } => {
            train_commands::single_domain(&specs, &set.set, report, json).await
        }
        Command::Doctor { spec, set, json } => build_commands::doctor(spec, &set.set, json).await,
        Command::Weights { spec, fetch, json } => build_commands::weights(&spec.read()?, fetch, json).await,
        Command::Spec { spec } => {
            crate::say!("{}", spec.read()?.to_toml().trim_end());
            Ok(())
        }
        Command::Schema { of } => {
            crate::say!("{}", serde_json::to_string_pretty(&of.schema())?);
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "urbancross", &mut script);
            crate::say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// A number that is refused is refused for what it is: not as an option that nobody knows.
    #[test]
    fn every_number_has_bounds_in_words() {
        let number = "0 or 1, as it happens";
        let mut numbers = 0;
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let default =
                    arg.get_default_values().iter().any(|value| value.to_string_lossy().parse::<f64>().is_ok());
                if !default {
                    continue;
                }
                numbers += 1;
                let option = format!("--{}", arg.get_long().expect("an option"));
                for wrong in ["-1", "-0.5", "1e400", number] {
                    let said = Cli::try_parse_from(["urbancross", command.get_name(), "x", &option, wrong]);
                    let said = said.expect_err(wrong).to_string();
                    assert!(said.contains("it must be a ") && said.contains(" between "), "{said}");
                }
            }
        }
        assert!(numbers >= 2, "{numbers}");
    }
}
