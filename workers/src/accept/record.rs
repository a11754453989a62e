//! Who let rows stand as they are, and when: beside the tables, for people. Nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};

use manifests::{Digest, Reason, paths};
use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::stores::WorkStore;

/// Who accepts rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// As they call themselves.
    pub author: String,
    /// Milliseconds since 1970.
    pub millis: u64,
}

/// What somebody accepted at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Who, and when.
    pub by: By,
    /// Rows that stand, by what had made them stale.
    pub rows: BTreeMap<Reason, u64>,
}

impl Acceptance {
    /// Rows that stand.
    pub fn count(&self) -> u64 {
        self.rows.values().fold(0, |sum, rows| sum.saturating_add(*rows))
    }

    /// What had made them stale, in words.
    pub fn reasons(&self) -> String {
        self.rows.keys().map(|reason| reason.words()).collect::<Vec<_>>().join(", ")
    }
}

/// Recipes under which rows of a shard stand, by image id.
pub(super) type Recipes = BTreeMap<String, Digest>;

/// Writes down the rows of a shard, before they are committed.
pub(super) async fn write_rows(
    work: &WorkStore,
    (country, stage): (&str, &str),
    (by, shard): (&By, u32),
    recipes: &Recipes,
) -> Result<(), WorkerError> {
    work.put_sealed(&paths::accepted_rows(country, stage, by.millis, shard), recipes).await
}

/// Takes back what was written down of the rows of a shard that was not committed: somebody else may have computed them.
pub(super) async fn forget_rows(
    work: &WorkStore,
    (country, stage): (&str, &str),
    by: &By,
    shard: u32,
) -> Result<(), WorkerError> {
    work.delete(&paths::accepted_rows(country, stage, by.millis, shard)).await
}

/// Writes down what was accepted, once it is committed: without this the rows' own lists say nothing.
pub(super) async fn write(
    work: &WorkStore,
    (country, stage): (&str, &str),
    acceptance: &Acceptance,
) -> Result<(), WorkerError> {
    work.put_sealed(&paths::accepted(country, stage, acceptance.by.millis), acceptance).await
}

/// Acceptances of a stage that are looked at, the newest.
const MOST: usize = 64;

/// What was accepted of a stage, the newest first.
///
/// # Errors
/// A store that does not answer. A record that cannot be read is as good as none.
pub async fn acceptances(work: &WorkStore, country: &str, stage: &str) -> Result<Vec<Acceptance>, WorkerError> {
    let folder = paths::acceptances(country, stage);
    let mut names: Vec<u64> = work
        .list(&folder)
        .await?
        .iter()
        .filter_map(|name| name.strip_suffix(".json").filter(|name| !name.contains('/'))?.parse().ok())
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mut all = Vec::new();
    for millis in names.into_iter().take(MOST) {
        let acceptance = work.get_sealed::<Acceptance>(&paths::accepted(country, stage, millis)).await?;
        all.extend(acceptance.filter(|acceptance| acceptance.by.millis == millis));
    }
    Ok(all)
}

/// Recipes under which rows of a shard were accepted, each with its image.
pub(crate) async fn recipes_of(
    work: &WorkStore,
    (country, stage): (&str, &str),
    acceptances: &[Acceptance],
    shard: u32,
) -> Result<BTreeSet<(String, Digest)>, WorkerError> {
    let mut accepted = BTreeSet::new();
    for acceptance in acceptances {
        let path = paths::accepted_rows(country, stage, acceptance.by.millis, shard);
        accepted.extend(work.get_sealed::<Recipes>(&path).await?.unwrap_or_default());
    }
    Ok(accepted)
}

/// Who let the row of an image stand under the recipe that it has; `None`: nobody, it was computed.
///
/// # Errors
/// As [`acceptances`].
pub async fn accepted_by(
    work: &WorkStore,
    (country, stage): (&str, &str),
    (image_id, shard): (&str, u32),
    recipe: &str,
) -> Result<Option<By>, WorkerError> {
    for acceptance in acceptances(work, country, stage).await? {
        let path = paths::accepted_rows(country, stage, acceptance.by.millis, shard);
        let recipes = work.get_sealed::<Recipes>(&path).await?.unwrap_or_default();
        if recipes.get(image_id).is_some_and(|accepted| accepted == recipe) {
            return Ok(Some(acceptance.by));
        }
    }
    Ok(None)
}
