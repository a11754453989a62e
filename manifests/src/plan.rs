//! Plans and markers: the objects through which workers agree on what is to be done and what is done.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::commit::ShardState;
use crate::digest::{self, Digest};
use crate::part::{MOST_ROWS, PartFile};
use crate::recipe::Reason;
use crate::spec::{DeviceKind, MOST_SHARDS};

/// A table at one version, seen through one country: the files that hold its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTable {
    /// Which table, or which slices of what is none.
    pub artifact: Artifact,
    /// Delta version; `None` while the table does not exist.
    pub version: Option<u64>,
    /// At most one for each shard, in order of shard.
    pub parts: Vec<PartFile>,
    /// Shards whose part is gone from the store or has not the size that was committed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost: BTreeSet<u32>,
}

impl PinnedTable {
    /// Identity of the content: the names of the files. They are unique per attempt, and a commit
    /// of another country changes the version but not this.
    pub fn digest(&self) -> Digest {
        let mut paths: Vec<&[u8]> = self.parts.iter().map(|p| p.path.as_bytes()).collect();
        paths.sort_unstable();
        digest::of_parts(paths)
    }

    /// A table of which nothing is live.
    pub fn empty(artifact: Artifact) -> Self {
        Self { artifact, version: None, parts: Vec::new(), lost: BTreeSet::new() }
    }

    /// The part of a shard, if there is one and it can be read.
    pub fn part(&self, shard: u32) -> Option<&PartFile> {
        self.live(shard).filter(|part| !self.lost.contains(&part.shard))
    }

    /// Name of a shard's live part, lost or not.
    pub fn part_name(&self, shard: u32) -> Option<&str> {
        self.live(shard).map(|part| part.path.as_str())
    }

    /// Parts lie in order of shard.
    fn live(&self, shard: u32) -> Option<&PartFile> {
        self.parts.binary_search_by_key(&shard, |p| p.shard).ok().map(|at| &self.parts[at])
    }

    /// Rows in all its parts.
    pub fn rows(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.rows))
    }
}

/// What a stage has to do in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// Number of the shard, from 0.
    pub shard: u32,
    /// Rows that stand and are copied.
    pub kept: u64,
    /// Rows that are copied under a new recipe: what changed of their inputs changes nothing of theirs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// Rows to compute or delete, by reason.
    pub changes: BTreeMap<Reason, u64>,
}

impl ShardPlan {
    /// Rows to compute; those that leave are not among them.
    pub fn computed(&self) -> u64 {
        self.changes.iter().filter(|(reason, _)| **reason != Reason::Deleted).map(|(_, rows)| rows).sum()
    }

    /// Whether there is anything to do.
    pub fn is_stale(&self) -> bool {
        self.carried > 0 || self.changes.values().any(|&rows| rows > 0)
    }

    /// Rows that it has when it is done.
    pub fn rows(&self) -> u64 {
        self.computed() + self.kept + self.carried
    }
}

fn is_zero(rows: &u64) -> bool {
    *rows == 0
}

/// The work of one stage for one country, at the live parts of its tables: all that a worker has to know beside the
/// spec. Stored under its [`Plan::key`], so that nobody counts it twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the stage.
    pub stage: String,
    /// Rises when the same inputs would give different rows.
    pub stage_version: u32,
    /// The country that is built.
    pub country: String,
    /// Number of shards of the country; those without work included.
    pub shards: u32,
    /// Pinned before anything that is read.
    pub output: PinnedTable,
    /// Tables, and slices of what is none, in order of declaration.
    pub inputs: Vec<PinnedTable>,
    /// Digest of the model's weights and configuration; empty for stages without one.
    pub model: Digest,
    /// Canonical JSON of the stage's parameters.
    pub parameters: String,
    /// Whether rows that failed are computed again.
    pub retry_errors: bool,
    /// Rows to compute, to keep and to delete.
    pub counts: PlanCounts,
}

/// What a plan found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCounts {
    /// Only the shards that have something to do.
    pub stale: Vec<ShardPlan>,
    /// Rows of the other shards.
    pub kept_rows: u64,
}

impl PlanCounts {
    /// Whether a plan of so many shards can have found this: each shard once, and rows that can be counted.
    pub fn is_of(&self, shards: u32) -> bool {
        let distinct: BTreeSet<u32> = self.stale.iter().map(|plan| plan.shard).collect();
        let rows = self.stale.iter().flat_map(|plan| plan.changes.values().chain([&plan.kept, &plan.carried]));
        distinct.len() == self.stale.len()
            && distinct.last().is_none_or(|last| *last < shards)
            && rows.chain([&self.kept_rows]).fold(0, |sum: u64, rows| sum.saturating_add(*rows)) <= MOST_ROWS
    }
}

/// Rows of a country's table by status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowStatuses {
    /// Rows that were made.
    pub ok: u64,
    /// Rows that could not be made.
    pub errors: u64,
    /// Rows that are left out on purpose.
    pub excluded: u64,
    /// The first failed row, with its reason.
    #[serde(default)]
    pub first_error: Option<String>,
    /// The first row that is left out on purpose, with its reason. Not written where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_excluded: Option<String>,
    /// Digest of the source's problems that the quarantine file lists beside failed rows.
    pub problems: Digest,
}

impl Plan {
    /// Whether this can be a plan of that country: what is read back from a store may say anything.
    pub fn is_of(&self, country: &str) -> bool {
        let is_sound = |table: &PinnedTable| {
            let shards: BTreeSet<u32> = table.parts.iter().map(|part| part.shard).collect();
            let rising = shards.len() == table.parts.len() && table.parts.is_sorted_by_key(|part| part.shard);
            rising && table.parts.iter().all(|part| part.shard < self.shards && part.is_of(country, part.shard))
        };
        self.country == country
            && (1..=MOST_SHARDS).contains(&self.shards)
            && self.inputs.iter().chain([&self.output]).all(is_sound)
            && self.counts.is_of(self.shards)
    }

    /// Key of one shard's work.
    pub fn shard_key(&self, shard: u32) -> Digest {
        ShardState {
            stage: &self.stage,
            stage_version: self.stage_version,
            country: &self.country,
            shard,
            model: &self.model,
            parameters: &self.parameters,
            retry_errors: self.retry_errors,
            base: self.output.part_name(shard),
            inputs: self
                .inputs
                .iter()
                .map(|table| (table.artifact, table.part_name(shard)))
                .filter(|(artifact, part)| part.is_some() || !artifact.is_sparse())
                .collect(),
        }
        .key()
    }

    /// Content address: a function of what goes in, not of what was counted.
    pub fn key(&self) -> Digest {
        let shards: Vec<Digest> = (0..self.shards).map(|shard| self.shard_key(shard)).collect();
        digest::of_parts(shards.iter().map(String::as_bytes))
    }

    /// The pinned table of an input; `None` if the stage does not read it.
    pub fn input(&self, artifact: Artifact) -> Option<&PinnedTable> {
        self.inputs.iter().find(|t| t.artifact == artifact)
    }

    /// Rows that stand, over all shards.
    pub fn kept(&self) -> u64 {
        self.counts.kept_rows + self.counts.stale.iter().map(|s| s.kept).sum::<u64>()
    }

    /// Rows that stand under a new recipe, over all shards.
    pub fn carried(&self) -> u64 {
        self.counts.stale.iter().map(|s| s.carried).sum()
    }

    /// Rows to compute over all shards.
    pub fn computed(&self) -> u64 {
        self.counts.stale.iter().map(ShardPlan::computed).sum()
    }

    /// Rows by reason over all shards.
    pub fn reasons(&self) -> BTreeMap<Reason, u64> {
        let mut total = BTreeMap::new();
        for shard in &self.counts.stale {
            for (reason, rows) in &shard.changes {
                *total.entry(*reason).or_default() += rows;
            }
        }
        total
    }
}

/// Says which part finished a shard's work. A hint, put if absent under the shard's key: it saves work, and whatever it
/// says is checked before it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    /// The part that was written.
    pub part: PartFile,
    /// Rows that were computed, errors included.
    pub computed: u64,
    /// Those of them that another worker had made and put aside: `phases`, `usage` and `device` say nothing of these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taken_over: u64,
    /// Rows that were copied from the part before.
    pub kept: u64,
    /// Rows that were copied under a new recipe. Not written if there are none, as earlier programs knew none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carried: u64,
    /// Rows that left.
    pub deleted: u64,
    /// Rows that could not be made.
    pub errors: u64,
    /// Seconds from its beginning to its end, beside other shards of its worker.
    pub seconds: f64,
    /// What of them went where. Nothing in markers of earlier programs, and then nothing is written: their seals hold.
    #[serde(default, skip_serializing_if = "Phases::is_unknown")]
    pub phases: Phases,
    /// What a server was asked for; not written where none was.
    #[serde(default, skip_serializing_if = "Usage::is_none")]
    pub usage: Usage,
    /// What computed its rows, which tells for whom `phases` hold. `None`, and not written, in markers of earlier programs,
    /// where nothing was computed, and where devices of several kinds did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceKind>,
    /// Digest of all settings that decide how fast rows are made, weights included: `phases` and `usage` hold for these. Empty, and not
    /// written, in markers of earlier programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings: Digest,
}

/// What a server of texts was asked for, and what it counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Answers that came, usable or not.
    pub requests: u64,
    /// Tokens of prompts and images.
    pub tokens_in: u64,
    /// Tokens of answers.
    pub tokens_out: u64,
}

impl Usage {
    /// Whether nobody was asked.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Usage {
    /// Servers may claim any number.
    fn add_assign(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens_in = self.tokens_in.saturating_add(other.tokens_in);
        self.tokens_out = self.tokens_out.saturating_add(other.tokens_out);
    }
}

/// Seconds of a shard by what it was about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    /// For the device, while it computed other shards, and for the store before the first row.
    pub wait: f64,
    /// Rows of inputs and source bytes.
    pub fetch: f64,
    /// The stage's own function on its device.
    pub map: f64,
    /// The part.
    pub publish: f64,
}

impl Phases {
    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Each with its name.
    pub fn named(&self) -> [(&'static str, f64); 4] {
        [("wait", self.wait), ("fetch", self.fetch), ("map", self.map), ("publish", self.publish)]
    }
}

impl Marker {
    /// Whether this can be the marker of that shard of a country.
    pub fn is_of(&self, country: &str, shard: u32) -> bool {
        let counted = [self.computed, self.kept, self.carried, self.deleted, self.errors];
        self.part.is_of(country, shard) && counted.iter().all(|rows| *rows <= MOST_ROWS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(shard: u32, path: &str) -> PartFile {
        PartFile { shard, path: path.to_owned(), size_bytes: 1, rows: 5 }
    }

    #[test]
    fn a_marker_of_something_else_is_none() {
        let of = |part, computed| Marker {
            part,
            computed,
            taken_over: 0,
            kept: 0,
            carried: 0,
            deleted: 0,
            errors: 0,
            seconds: 0.1,
            phases: Phases::default(),
            usage: Usage::default(),
            device: None,
            settings: String::new(),
        };
        let sound = part(3, "country=x/part-00003-a.parquet");
        assert!(of(sound.clone(), 5).is_of("x", 3));
        assert!(!of(sound.clone(), 5).is_of("x", 4) && !of(sound.clone(), 5).is_of("y", 3));
        assert!(!of(sound.clone(), u64::MAX).is_of("x", 3));
        assert!(!of(PartFile { rows: u64::MAX, ..sound }, 5).is_of("x", 3));
        assert!(!of(part(3, "country=x/part-00004-a.parquet"), 5).is_of("x", 3));
        assert!(!of(part(u32::MAX, "country=x/part-4294967295-a.parquet"), 5).is_of("x", u32::MAX));
    }

    /// A seal is of the bytes that a marker becomes when it is written again.
    #[test]
    fn a_marker_without_phases_stays_as_it_was_written() {
        let before = r#"{"part":{"shard":1,"path":"p","size_bytes":1,"rows":5},"computed":5,"kept":0,"deleted":0,"errors":0,"seconds":0.1}"#;
        let read: Marker = serde_json::from_str(before).unwrap();
        assert_eq!((read.phases, read.usage, read.device), (Phases::default(), Usage::default(), None));
        assert_eq!(serde_json::to_string(&read).unwrap(), before);
    }

    /// Stores that were built before there were reviews keep their keys.
    #[test]
    fn a_shard_without_reviews_has_the_key_that_it_always_had() {
        let table = |artifact| PinnedTable::empty(artifact);
        let part = |shard: u32| PartFile { shard, path: crate::paths::part("x", shard, "a"), size_bytes: 1, rows: 1 };
        let before = Plan {
            stage: "captions".into(),
            stage_version: 2,
            country: "x".into(),
            shards: 2,
            output: table(Artifact::Captions),
            inputs: vec![table(Artifact::Geotags)],
            model: String::new(),
            parameters: "{}".into(),
            retry_errors: false,
            counts: PlanCounts::default(),
        };
        let reviews = PinnedTable { parts: vec![part(1)], ..table(Artifact::CaptionReviews) };
        let after = Plan { inputs: vec![table(Artifact::Geotags), reviews], ..before.clone() };
        assert_eq!(after.shard_key(0), before.shard_key(0));
        assert_ne!(after.shard_key(1), before.shard_key(1));
    }

    #[test]
    fn counts_that_no_plan_finds_are_none() {
        let shard = |shard, kept| ShardPlan { shard, kept, carried: 0, changes: BTreeMap::from([(Reason::New, 1)]) };
        let counts = |stale: &[ShardPlan]| PlanCounts { stale: stale.to_vec(), kept_rows: 7 };
        assert!(counts(&[]).is_of(1) && counts(&[shard(1, 2), shard(0, 1)]).is_of(2));
        assert!(!counts(&[shard(2, 1)]).is_of(2), "beyond the last shard");
        assert!(!counts(&[shard(1, 1), shard(1, 1)]).is_of(2), "a shard twice");
        assert!(!counts(&[shard(0, u64::MAX)]).is_of(2), "more rows than can be counted");
        let changes = BTreeMap::from([(Reason::New, 1u64 << 60)]);
        assert!(!counts(&[ShardPlan { changes, ..shard(0, 0) }]).is_of(2), "more rows than can be weighed");
    }
}
