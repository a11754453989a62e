//! Arguments that several commands take.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
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

/// What starts workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum EngineName {
    /// Processes of this machine
    Processes,
    /// A Slurm cluster
    Slurm,
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
pub(super) struct EngineArgs {
    #[arg(long, value_enum, default_value = "processes", help = "What starts workers")]
    pub(super) engine: EngineName,
    #[arg(long, value_name = "FILE", help = "Profile of the cluster, such as deploy/profile.toml")]
    pub(super) profile: Option<PathBuf>,
    #[arg(long, value_name = "ID", help = "Name of the run; otherwise it follows from the spec")]
    pub(super) run: Option<String>,
    #[arg(
        long,
        default_value_t = 2,
        value_parser = within("a whole number", 1..=MOST_WORKERS),
        allow_negative_numbers = true,
        help = "Workers of each stage, if they are processes; a profile says it of a cluster"
    )]
    pub(super) workers: u32,
    #[arg(
        long,
        default_value_t = 60,
        value_parser = within("a whole number of seconds", 1..=MOST_LEASE_SECONDS),
        allow_negative_numbers = true,
        help = "How long a worker that is not heard of keeps its shards"
    )]
    pub(super) lease_seconds: u64,
    #[arg(
        long,
        default_value_t = 0,
        value_parser = within("a whole number", 0..=MOST_SHARDS),
        allow_negative_numbers = true,
        help = "Go on without so many shards of a stage, if they cannot be made"
    )]
    pub(super) allow_failed: u32,
}

#[derive(Debug, Args)]
pub(super) struct ShareArgs {
    #[arg(long, help = "Name of the stage")]
    pub(super) stage: String,
    #[arg(long, help = "Key of the plan")]
    pub(super) plan: String,
    #[arg(long, value_name = "ID", help = "Name of the run, in whose records its end is written down")]
    pub(super) run: Option<String>,
    #[arg(long, help = "Number of this worker, from 0; otherwise the engine's variable says")]
    pub(super) index: Option<u32>,
    #[arg(long, help = "Number of workers; otherwise URBANCROSS_COUNT says")]
    pub(super) count: Option<u32>,
    #[arg(
        long,
        default_value_t = 60,
        value_parser = within("a whole number of seconds", 1..=MOST_LEASE_SECONDS),
        allow_negative_numbers = true,
        help = "How long a worker that is not heard of keeps its shards"
    )]
    pub(super) lease_seconds: u64,
}

/// Which try of a training by an engine a rank belongs to.
#[derive(Debug, Args)]
pub(super) struct TryArgs {
    #[arg(long, value_name = "ID", help = "Name of the run, in whose records the rank's end is written down")]
    pub(super) run: Option<String>,
    #[arg(long, value_name = "N", requires = "run", help = "Which try of the run it is")]
    pub(super) attempt: Option<u32>,
}

/// More workers than shards never have anything to do.
const MOST_WORKERS: u32 = MOST_SHARDS;

/// A day: whoever waits longer for a dead worker waits for nothing.
const MOST_LEASE_SECONDS: u64 = 86_400;

impl SpecArgs {
    pub(super) fn read(&self) -> Result<BuildSpec> {
        Ok(BuildSpec::read(&self.spec, &self.set.set)?)
    }
}
