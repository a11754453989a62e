//! The rule of a commit: it takes effect only against the state that its plan read.
//!
//! A table has at most one live part for a shard. A worker pins the live parts of its output first (the *bases*) and
//! reads everything that it computes from afterwards, so that its rows are at least as new as those it replaces. Its
//! commit then names, shard by shard, the base and the part that takes its place, and holds only where the base is
//! still live. Parts have names of their own and never change, so a name says everything about the rows.

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::digest::{self, Digest};
use crate::part::PartFile;

/// One shard of a commit: the part that the plan read, and the one that takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Name of the part that was live when the output was pinned; `None`: the shard had none yet.
    pub base: Option<String>,
    /// A shard whose rows have all left gets a part without rows: only a shard that never had one has none, so that
    /// `base: None` cannot come true again.
    pub part: PartFile,
}

/// What a commit does with one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The base is live: the part takes its place.
    Apply,
    /// The part itself is live: an earlier try of the same commit was applied.
    AlreadyLive,
    /// Something else is live: whoever planned this plans again.
    Overtaken,
}

/// Judges one shard of a commit against the part that is live now.
pub fn verdict(live: Option<&str>, base: Option<&str>, part: &str) -> Verdict {
    if live == Some(part) {
        Verdict::AlreadyLive
    } else if live == base {
        Verdict::Apply
    } else {
        Verdict::Overtaken
    }
}

/// Everything that decides what becomes of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState<'a> {
    /// Name of the stage.
    pub stage: &'a str,
    /// Rises when the same inputs would give different rows.
    pub stage_version: u32,
    /// The country that the shard belongs to.
    pub country: &'a str,
    /// Number of the shard, from 0.
    pub shard: u32,
    /// Digest of the model's weights and configuration; empty for stages without one.
    pub model: &'a str,
    /// Canonical JSON of the stage's parameters.
    pub parameters: &'a str,
    /// Whether rows that failed are computed again.
    pub retry_errors: bool,
    /// Live part of the output.
    pub base: Option<&'a str>,
    /// Live part of each table that is read, and slice of what is no table, in order of declaration.
    pub inputs: Vec<(Artifact, Option<&'a str>)>,
}

impl ShardState<'_> {
    /// The shard's key: two workers with the same key have the same work, and either's part serves both. An edit
    /// elsewhere does not change it.
    pub fn key(&self) -> Digest {
        let inputs: Vec<_> = self.inputs.iter().map(|(artifact, part)| (artifact.name(), part)).collect();
        digest::of_value(&(
            (self.stage, self.stage_version, self.country, self.shard),
            (self.model, self.parameters, self.retry_errors),
            (self.base, inputs),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_holds_only_against_its_base() {
        assert_eq!(verdict(None, None, "a"), Verdict::Apply);
        assert_eq!(verdict(Some("a"), Some("a"), "b"), Verdict::Apply);
        assert_eq!(verdict(Some("b"), Some("a"), "b"), Verdict::AlreadyLive, "the answer to a put was lost");
        assert_eq!(verdict(Some("c"), Some("a"), "b"), Verdict::Overtaken);
        assert_eq!(verdict(Some("c"), None, "b"), Verdict::Overtaken);
        assert_eq!(verdict(None, Some("a"), "b"), Verdict::Overtaken, "others deleted the base");
    }

    #[test]
    fn a_shards_key_follows_what_the_shard_reads_and_nothing_else() {
        let state = ShardState {
            stage: "captions",
            stage_version: 1,
            country: "finland",
            shard: 3,
            model: "m",
            parameters: "{}",
            retry_errors: false,
            base: Some("old"),
            inputs: vec![(Artifact::Geotags, Some("tags"))],
        };
        let key = state.key();
        assert_eq!(state.clone().key(), key);
        let changes: [&dyn Fn(&mut ShardState<'_>); 7] = [
            &|s| s.stage_version = 2,
            &|s| s.country = "spain",
            &|s| s.shard = 4,
            &|s| s.model = "n",
            &|s| s.retry_errors = true,
            &|s| s.base = None,
            &|s| s.inputs[0].1 = Some("other tags"),
        ];
        for change in changes {
            let mut other = state.clone();
            change(&mut other);
            assert_ne!(other.key(), key, "{other:?}");
        }
    }
}
