//! Arguments that several commands take.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use manifests::BuildSpec;

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

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[arg(long, help = "Retry rows that failed before")]
    pub(super) retry_errors: bool,
    #[arg(long, help = "Train again even if a finished training is up to date")]
    pub(super) retrain: bool,
}

impl SpecArgs {
    pub(super) fn read(&self) -> Result<BuildSpec> {
        Ok(BuildSpec::read(&self.spec, &self.set.set)?)
    }
}
