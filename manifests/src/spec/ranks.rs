//! The ranks that train together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;

/// What carries tensors from rank to rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// NCCL where the model is on a GPU, else TCP.
    #[default]
    Auto,
    /// Over sockets, on any device.
    Tcp,
    /// Between NVIDIA GPUs.
    Nccl,
}

/// No number of a training depends on these, beyond rounding: the batch is that of all ranks together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RanksSpec {
    /// Processes that `run` starts on this machine for a training; a cluster sets RANK and WORLD_SIZE instead.
    pub processes: usize,
    /// What carries tensors.
    pub backend: Backend,
    /// Seconds after which a rank that does not come is given up, and the training with it.
    pub timeout_seconds: u64,
    /// Gradients that travel in one message.
    pub bucket_mib: usize,
    /// Each rank keeps its part of the optimiser's moments and master weights instead of all of them, for one more
    /// message of the network's size in every step.
    pub shard_optimiser: bool,
}

impl RanksSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("ranks");
        of.count("processes", self.processes, 1024);
        of.count("timeout_seconds", self.timeout_seconds, 7 * 86_400);
        of.count("bucket_mib", self.bucket_mib, 1 << 16);
    }
}

impl Default for RanksSpec {
    fn default() -> Self {
        Self { processes: 1, backend: Backend::Auto, timeout_seconds: 600, bucket_mib: 25, shard_optimiser: false }
    }
}
