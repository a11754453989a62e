//! The command line.

mod analyse_commands;
mod arguments;
mod build_commands;
mod cluster_commands;
mod command;
mod engine_runs;
mod export_commands;
mod fits;
mod init_commands;
mod install_commands;
mod numbers;
mod render_commands;
mod report_commands;
mod review_commands;
mod run_commands;
mod schema;
mod search_commands;
mod serve_commands;
mod several;
mod several_commands;
mod several_looks;
mod simulate_commands;
mod submit_commands;
mod submit_warnings;
mod tags_commands;
mod told;
mod train_commands;
mod upkeep_commands;
mod zero_shot_commands;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::CommandFactory;
use training::recall::BothWays;

pub use command::Cli;
use command::Command;
use several::Whole;

/// The seven figures of a line, chance beside mR. Scripts look for `mR` at its beginning.
fn figures(both: &BothWays) -> String {
    let [i1, i5, i10, t1, t5, t10, _] = both.figures();
    format!("{} i2t {i1:.2}/{i5:.2}/{i10:.2} t2i {t1:.2}/{t5:.2}/{t10:.2}", both.in_words())
}

/// Refuses a place that a report could not be written to, before anything is computed for it.
fn check_page(path: Option<&Path>) -> Result<()> {
    Ok(path.map_or(Ok(()), crate::output::check_page)?)
}

/// Writes a report where the command line says.
fn write_page(path: &Path, page: &str) -> Result<()> {
    crate::output::write_page(path, page)?;
    // not among the output, which a script may read
    crate::aside!("report: {}", path.display());
    Ok(())
}

/// Set by Ctrl-C and by SIGTERM, of which a second one ends the process at once, and by the end of a launcher.
fn stop_flag() -> Arc<AtomicBool> {
    stop_flag_saying("rows in flight are finished and published first")
}

fn stop_flag_saying(what: &'static str) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    crate::launch::stop_with_launcher(stop.clone());
    let flag = stop.clone();
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        while let Ok(signal) = wait_for_signal().await {
            match first {
                // one stop may be told twice: by a scheduler to all processes, and by the script that started this one
                Some(at) if signal == Told::Terminate && at.elapsed() < ONE_STOP => {}
                Some(_) => std::process::exit(143),
                None => {
                    first = Some(Instant::now());
                    if !flag.swap(true, Ordering::Relaxed) && !crate::launch::launched() {
                        crate::aside!("\nstopping: {what}; press Ctrl-C again to quit at once");
                    }
                }
            }
        }
    });
    stop
}

/// What this process was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Interrupt,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Terminate,
}

/// Signals to terminate that come closer are one.
const ONE_STOP: Duration = Duration::from_secs(3);

#[cfg(unix)]
async fn wait_for_signal() -> std::io::Result<Told> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| Told::Interrupt),
        _ = term.recv() => Ok(Told::Terminate),
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() -> std::io::Result<Told> {
    tokio::signal::ctrl_c().await.map(|()| Told::Interrupt)
}

/// Runs a command.
///
/// # Errors
/// Whatever ends the command; [`code`](crate::exit::code) gives its exit code.
pub async fn main(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Plan { spec, options, cluster, rates, price, json } => {
            let asked = cluster.map(|shape| simulate_commands::question(shape, &rates, &price));
            build_commands::plan(&spec, options, asked, json).await
        }
        Command::Simulate { spec, args } => simulate_commands::simulate(&spec, args).await,
        Command::Run { spec, options, steps, metrics, json: _ } => {
            metrics.serve().await?;
            build_commands::run(&spec, options, steps).await
        }
        Command::Drive { spec, options, steps, experiment, engine, metrics } => {
            metrics.serve().await?;
            cluster_commands::drive(&spec, &options, (&steps, &experiment), &engine).await
        }
        Command::Worker { spec, share, metrics } => {
            metrics.serve().await?;
            cluster_commands::worker(spec.read()?, &share).await
        }
        Command::Submit { specs, set, steps, failed, experiment, cluster } => {
            submit_commands::submit_all(&specs, &set.set, (&steps, &failed, &experiment), &cluster).await
        }
        Command::Render { spec, until, experiment, cluster, trainjob, output } => {
            let whole = Whole::read(&spec.spec, &spec.set.set, &experiment)?;
            render_commands::render(&whole, (until, experiment.options()), &cluster, trainjob, output.as_deref())
        }
        Command::Retry { spec, errors, shard, stage } => {
            run_commands::retry(&Whole::of(&spec)?, errors, shard, stage.as_deref()).await
        }
        Command::Cancel { spec, run, now } => run_commands::cancel(&Whole::of(&spec)?, run.as_deref(), now).await,
        Command::Logs { spec, args } => run_commands::logs(&Whole::of(&spec)?, &args).await,
        Command::Status { spec, runs: true, watch, json } => run_commands::runs(&Whole::of(&spec)?, watch, json).await,
        Command::Status { spec, json, .. } => build_commands::status(&spec, json).await,
        Command::Explain { spec, what } => build_commands::explain(&spec, &what.join(" ")).await,
        Command::Diff { spec, since, examples, json } => build_commands::diff(&spec, &since, examples, json).await,
        Command::Report { specs, set, search, output } => {
            report_commands::report(&specs, &set.set, &search, &output).await
        }
        Command::Evaluate { specs, set, zero_shot, json, .. } if !zero_shot.models.is_empty() => {
            zero_shot_commands::evaluate(&specs, &set.set, &zero_shot, json).await
        }
        Command::Evaluate { specs, set, report, search, json, .. } => {
            report_commands::evaluate(&specs, &set.set, (report, &search), json).await
        }
        Command::Review { args } => review_commands::review(*args).await,
        Command::Tags { what } => tags_commands::tags(what).await,
        Command::Accept { spec, step, write, by, json } => {
            build_commands::accept(&spec, &step, (write, by), json).await
        }
        Command::Search { args } => search_commands::search(*args).await,
        Command::Serve { args } => serve_commands::serve(*args).await,
        Command::Export { spec, args } => export_commands::export(spec.read()?, &args).await,
        Command::Verify { spec, repair, json } => upkeep_commands::verify(spec.read()?, repair, json).await,
        Command::Gc { spec, delete, keep_days, json } => {
            upkeep_commands::gc(spec.read()?, delete, keep_days, json).await
        }
        Command::Train { spec, training, of_run, retrain, swept } => {
            let swept = swept.as_deref().map(crate::sweep::Moves::of_word).transpose()?;
            train_commands::train(spec.read()?, &training, &of_run, (retrain, swept)).await
        }
        Command::Adapt { pair, of_run, whole, json } => {
            train_commands::adapt(&pair.pair, &pair.set.set, &of_run, whole, json).await
        }
        Command::Ablate { pairs, set, jobs, report, json } => {
            train_commands::ablate(&pairs, &set.set, jobs, report, json).await
        }
        Command::Sweep { spec, over, report, json } => {
            train_commands::sweep(&spec.spec, &spec.set.set, &over, report, json).await
        }
        Command::SingleDomain { specs, set, report, json } => {
            train_commands::single_domain(&specs, &set.set, report, json).await
        }
        Command::Doctor { spec, set, engine, profile, json } => {
            build_commands::doctor(spec, &set.set, profile.as_deref().map(|path| (engine, path)), json).await
        }
        Command::Weights { spec, fetch, json } => build_commands::weights(spec.read()?, fetch, json).await,
        Command::Spec { spec } => {
            crate::say!("{}", spec.read()?.to_toml().trim_end());
            Ok(())
        }
        Command::Schema { of } => {
            crate::say!("{}", serde_json::to_string_pretty(&of.schema())?);
            Ok(())
        }
        Command::Init { args } => init_commands::init(args),
        Command::Analyse { args } => analyse_commands::analyse(*args).await,
        Command::Man { out } => install_commands::man(&out),
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
    use clap::Parser;

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
