//! Arguments that several commands take.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use engines::profile::{LEASE_SECONDS, MOST_LEASE_SECONDS};
use manifests::BuildSpec;
use manifests::spec::MOST_SHARDS;

use super::numbers::within;

#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    #[arg(help = "Build spec, such as manifests/countries/finland.toml")]
    pub(super) spec: PathBuf,
    #[command(flatten)]
    pub(super) set: SetArgs,
}

#[derive(Debug, Args)]
pub(super) struct PairArgs {
    #[arg(help = "Pair spec, such as manifests/pairs/finland_to_spain.toml")]
    pub(super) pair: PathBuf,
    #[command(flatten)]
    pub(super) set: SetArgs,
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[arg(
        long = "set",
        value_name = "SECTION.FIELD=VALUE",
        help = "Override a field of the spec; paths start at the current folder"
    )]
    pub(super) set: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub(super) struct RunArgs {
    #[arg(long, help = "Retry rows that failed before")]
    pub(super) retry_errors: bool,
    #[arg(long, help = "Train again even if a finished training is up to date")]
    pub(super) retrain: bool,
}

/// How far a build is run.
#[derive(Debug, Default, Args)]
pub(super) struct StepArgs {
    #[arg(long, help = "Run even if more than half of the rows are no longer in the source, and remove them")]
    pub(super) accept_removals: bool,
    #[arg(long, value_name = "STEP", help = "Stop after this step, such as `images` or `pretrain`")]
    pub(super) until: Option<String>,
}

/// What is gone on without.
#[derive(Debug, Default, Args)]
pub(super) struct FailedArgs {
    #[arg(
        long,
        default_value_t = 0,
        value_parser = within("a whole number", 0..=MOST_SHARDS),
        allow_negative_numbers = true,
        help = "Go on without so many shards of a stage, if they cannot be made"
    )]
    pub(super) allow_failed: u32,
}

/// How long silence is no loss.
#[derive(Debug, Args)]
pub(super) struct LeaseArgs {
    #[arg(
        long,
        default_value_t = LEASE_SECONDS,
        value_parser = within("a whole number of seconds", 1..=MOST_LEASE_SECONDS),
        allow_negative_numbers = true,
        help = "How long a worker that is not heard of keeps its shards"
    )]
    pub(super) lease_seconds: u64,
}

/// What starts workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum EngineName {
    /// Processes of this machine
    Processes,
    /// A Slurm cluster
    Slurm,
    /// A Kubernetes cluster, by way of kubectl
    Kubernetes,
    /// A Ray cluster, by way of its Jobs API
    Ray,
}

impl EngineName {
    /// As it is written on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Slurm => "slurm",
            Self::Kubernetes => "kubernetes",
            Self::Ray => "ray",
        }
    }
}

/// A cluster.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    #[arg(long, value_enum, help = "What starts workers")]
    pub(super) engine: EngineName,
    #[arg(long, value_name = "FILE", help = "Profile of the cluster, such as deploy/profile.toml")]
    pub(super) profile: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT",
        value_parser = metrics_address,
        help = "Serve figures for Prometheus; on this machine alone unless an address is named, and port 0 is any"
    )]
    metrics: Option<SocketAddr>,
}

fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.trim_start_matches(':').parse().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    port.or_else(|_| text.parse()).map_err(|_| "it must be a port, or an address and a port as 0.0.0.0:9400".to_owned())
}

impl MetricsArgs {
    /// Serves figures, if that is asked for, until the process ends.
    pub(super) async fn serve(&self) -> Result<()> {
        if let Some(address) = self.metrics {
            let served = workers::metrics::serve(address).await?;
            crate::aside!("metrics: http://{served}/metrics");
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct EngineArgs {
    #[arg(long, value_enum, default_value = "processes", help = "What starts workers")]
    pub(super) engine: EngineName,
    #[arg(long, value_name = "FILE", help = "Profile of the cluster, such as deploy/profile.toml")]
    pub(super) profile: Option<PathBuf>,
    #[arg(long, value_name = "ID", value_parser = run_name, help = "Name of the run; otherwise it follows from the spec. One that is named leaves records, also by processes")]
    pub(super) run: Option<String>,
    #[arg(
        long,
        default_value_t = 2,
        value_parser = within("a whole number", 1..=MOST_WORKERS),
        allow_negative_numbers = true,
        help = "Workers at once, of all tasks together, if they are processes; a profile says it of a cluster"
    )]
    pub(super) workers: u32,
    #[command(flatten)]
    pub(super) lease: LeaseArgs,
    #[command(flatten)]
    pub(super) failed: FailedArgs,
}

#[derive(Debug, Args)]
pub(super) struct ShareArgs {
    #[arg(long, help = "Name of the stage")]
    pub(super) stage: String,
    #[arg(long, help = "Key of the plan")]
    pub(super) plan: String,
    #[arg(long, value_name = "ID", value_parser = run_name, help = "Name of the run, in whose records its end is written down")]
    pub(super) run: Option<String>,
    #[arg(long, help = "Number of this worker, from 0; otherwise the engine's variable says")]
    pub(super) index: Option<u32>,
    #[arg(long, help = "Number of workers; otherwise URBANCROSS_COUNT says")]
    pub(super) count: Option<u32>,
    #[arg(
        long,
        help = "Leave when no shard is to be had, rather than when the plan is closed: others have work for its place"
    )]
    pub(super) leave: bool,
    #[command(flatten)]
    pub(super) lease: LeaseArgs,
}

/// Whose words are shown.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[arg(long, value_name = "ID", value_parser = run_name, help = "Of one run alone")]
    pub(super) run: Option<String>,
    #[arg(long, value_name = "STEP", help = "Of one stage or training alone")]
    pub(super) step: Option<String>,
    #[arg(long, value_name = "N", help = "Of one worker or rank alone")]
    pub(super) worker: Option<u32>,
    #[arg(long, help = "Only errors and warnings")]
    pub(super) errors: bool,
    #[arg(long, help = "Go on with what is said from now on")]
    pub(super) follow: bool,
}

impl LogsArgs {
    /// Whether the words of a process are wanted, by the name of their object: `captions-3.log`.
    pub(super) fn wants(&self, name: &str) -> bool {
        let Some((step, process)) = name.trim_end_matches(".log").rsplit_once('-') else { return false };
        let is_of_step = self.step.as_deref().is_none_or(|wanted| wanted == step);
        is_of_step && self.worker.is_none_or(|wanted| wanted.to_string() == process)
    }
}

/// Which try of a training by an engine a rank belongs to.
#[derive(Debug, Args)]
pub(super) struct TryArgs {
    #[arg(long, value_name = "ID", value_parser = run_name, help = "Name of the run, in whose records the rank's end is written down")]
    pub(super) run: Option<String>,
    #[arg(long, value_name = "N", requires = "run", help = "Which try of the run it is")]
    pub(super) attempt: Option<u32>,
}

/// Names of runs become names of jobs and objects.
pub(super) fn run_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match !text.is_empty() && text.len() <= 16 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("it must be 1 to 16 small letters, digits and hyphens".to_owned()),
    }
}

/// More workers than shards never have anything to do.
const MOST_WORKERS: u32 = MOST_SHARDS;

impl SpecArgs {
    pub(super) fn read(&self) -> Result<BuildSpec> {
        Ok(BuildSpec::read(&self.spec, &self.set.set)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_served_on_this_machine_unless_an_address_is_named() {
        let address = |text: &str| metrics_address(text).unwrap().to_string();
        assert_eq!([address("0"), address(":9400")], ["127.0.0.1:0", "127.0.0.1:9400"]);
        assert_eq!([address("0.0.0.0:9400"), address("[::1]:1")], ["0.0.0.0:9400", "[::1]:1"]);
        for wrong in ["", "x", "65536", "-1", "host:1", "1.2.3.4"] {
            assert!(metrics_address(wrong).unwrap_err().contains("0.0.0.0:9400"), "{wrong}");
        }
    }
}
