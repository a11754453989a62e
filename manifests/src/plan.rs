//! Plans and markers: the objects through which workers agree on what is to be done and what is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::digest::{self, Digest};
use crate::recipe::Reason;

/// One Parquet file of a table: the rows of one shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartFile {
    pub shard: u32,
    /// Path below the table's folder.
    pub path: String,
    pub size_bytes: u64,
    pub rows: u64,
}

/// A table at one version, seen through one country: the files that hold its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTable {
    pub artifact: Artifact,
    /// Delta version; `None` while the table does not exist.
    pub version: Option<u64>,
    pub parts: Vec<PartFile>,
}

impl PinnedTable {
    /// Identity of the content: the names of the files. They are unique per attempt, and a commit
    /// of another country changes the version but not this.
    pub fn digest(&self) -> Digest {
        let mut paths: Vec<&[u8]> = self.parts.iter().map(|p| p.path.as_bytes()).collect();
        paths.sort_unstable();
        digest::of_parts(paths)
    }

    pub fn part(&self, shard: u32) -> Option<&PartFile> {
        self.parts.iter().find(|p| p.shard == shard)
    }

    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|p| p.rows).sum()
    }
}

/// What a stage has to do in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    pub shard: u32,
    /// Rows that stand and are copied.
    pub kept: u64,
    /// Rows to compute or delete, by reason.
    pub changes: BTreeMap<Reason, u64>,
}

impl ShardPlan {
    pub fn computed(&self) -> u64 {
        self.changes.iter().filter(|(reason, _)| **reason != Reason::Deleted).map(|(_, rows)| rows).sum()
    }

    pub fn is_stale(&self) -> bool {
        self.changes.values().any(|&rows| rows > 0)
    }
}

/// The work of one stage for one country at pinned input versions. Stored by put-if-absent under
/// its [`Plan::key`]: every worker that looks at the same versions arrives at the same plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub stage: String,
    pub stage_version: u32,
    pub country: String,
    pub shards: u32,
    pub output: PinnedTable,
    pub inputs: Vec<PinnedTable>,
    /// Digests of the inputs that are not tables (the source listing, the split assignment).
    pub virtual_inputs: BTreeMap<String, Digest>,
    pub model: Digest,
    pub parameters: String,
    pub retry_errors: bool,
    /// Only the shards that have something to do.
    pub stale: Vec<ShardPlan>,
    pub kept_rows: u64,
}

impl Plan {
    /// Content address: a function of what goes in, not of what was counted.
    pub fn key(&self) -> Digest {
        digest::of_value(&serde_json::json!({
            "stage": self.stage,
            "stage_version": self.stage_version,
            "country": self.country,
            "shards": self.shards,
            "output": self.output.digest(),
            "inputs": self.inputs.iter().map(|t| (t.artifact.name(), t.digest())).collect::<BTreeMap<_, _>>(),
            "virtual_inputs": self.virtual_inputs,
            "model": self.model,
            "parameters": self.parameters,
            "retry_errors": self.retry_errors,
        }))
    }

    pub fn input(&self, artifact: Artifact) -> Option<&PinnedTable> {
        self.inputs.iter().find(|t| t.artifact == artifact)
    }

    /// Rows to compute over all shards.
    pub fn computed(&self) -> u64 {
        self.stale.iter().map(ShardPlan::computed).sum()
    }

    /// Rows by reason over all shards.
    pub fn reasons(&self) -> BTreeMap<Reason, u64> {
        let mut total = BTreeMap::new();
        for shard in &self.stale {
            for (reason, rows) in &shard.changes {
                *total.entry(*reason).or_default() += rows;
            }
        }
        total
    }
}

/// The moment a shard is done: written by put-if-absent after the part file. Whoever comes second
/// finds it there; the loser's file is an orphan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    pub shard: u32,
    /// `None`: no row is left in the shard.
    pub part: Option<PartFile>,
    pub computed: u64,
    pub kept: u64,
    pub deleted: u64,
    pub errors: u64,
    /// Seconds spent in fetch, compute and publish.
    pub seconds: f64,
}
