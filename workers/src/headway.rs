//! How far stages are, from the store alone: the newest plan of each, and which of its shards have markers.

use std::collections::{BTreeMap, HashMap};

use manifests::{Plan, paths};

use crate::error::WorkerError;
use crate::stores::WorkStore;

/// Shards whose end tells the rate of now.
const RECENT: usize = 16;

/// How far a stage's newest plan is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headway {
    /// When it was planned, in seconds since 1970.
    pub planned: f64,
    /// Shards that have something to do.
    pub shards: u64,
    /// Of these, those that somebody has finished.
    pub done: u64,
    /// Rows that are left to make or to copy.
    pub rows_left: u64,
    /// Rows a second lately; `None`: nothing is finished yet.
    pub rows_per_second: Option<f64>,
}

/// Plans that were read: they never change.
#[derive(Default)]
pub struct Headways {
    known: HashMap<String, Known>,
}

/// What is kept of a plan: rows of its stale shards, by key.
type Known = HashMap<String, u64>;

impl Headways {
    /// Looks at the stages whose newest plan is younger than `since` says; `now` in seconds since 1970. Lists the country's
    /// plans, and the markers of each of these stages.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn look(
        &mut self,
        work: &WorkStore,
        country: &str,
        now: f64,
        since: impl Fn(&str) -> f64,
    ) -> Result<BTreeMap<String, Headway>, WorkerError> {
        let folder = format!("plans/{country}");
        let mut newest: BTreeMap<String, (f64, String)> = BTreeMap::new();
        for (name, meta) in work.list_metas(&folder).await? {
            let Some((stage, _)) = name.split_once('/') else { continue };
            let at = meta.last_modified.timestamp_millis() as f64 / 1000.0;
            if at > since(stage) && newest.get(stage).is_none_or(|(newest, _)| at > *newest) {
                newest.insert(stage.to_owned(), (at, format!("{folder}/{name}")));
            }
        }
        self.known.retain(|path, _| newest.values().any(|(_, kept)| kept == path));
        let mut headways = BTreeMap::new();
        for (stage, (planned, path)) in newest {
            let Some(shards) = self.shards_of(work, country, &path).await? else { continue };
            let markers = work.list_metas(&paths::markers(country, &stage)).await?;
            let ends = markers.iter().filter_map(|(name, meta)| {
                let rows = shards.get(name.strip_suffix(".json")?)?;
                Some((meta.last_modified.timestamp_millis() as f64 / 1000.0, *rows))
            });
            let mut ends: Vec<(f64, u64)> = ends.collect();
            ends.sort_by(|a, b| a.0.total_cmp(&b.0));
            let all: u64 = shards.values().fold(0, |sum, rows| sum.saturating_add(*rows));
            let headway = Headway {
                planned,
                shards: shards.len() as u64,
                done: ends.len() as u64,
                rows_left: all.saturating_sub(ends.iter().map(|(_, rows)| rows).sum()),
                rows_per_second: rate(&ends, planned, now),
            };
            headways.insert(stage, headway);
        }
        Ok(headways)
    }

    async fn shards_of(&mut self, work: &WorkStore, country: &str, path: &str) -> Result<Option<&Known>, WorkerError> {
        if !self.known.contains_key(path) {
            let plan = work.get_sealed::<Plan>(path).await?;
            let Some(plan) = plan.filter(|plan| plan.is_of(country)) else { return Ok(None) };
            let stale = plan.counts.stale.iter();
            let shards = stale.map(|shard| (plan.shard_key(shard.shard), shard.rows()));
            self.known.insert(path.to_owned(), shards.collect());
        }
        Ok(self.known.get(path))
    }
}

/// Rows a second of the shards that ended last, each with its time and rows, in order of time; a plan that was left for a
/// while and gone on with is as fast as it is now.
pub fn rate(ends: &[(f64, u64)], planned: f64, now: f64) -> Option<f64> {
    let recent = &ends[ends.len().saturating_sub(RECENT)..];
    let (began, rows) = match ends.len() > recent.len() {
        // since the one before
        true => (ends[ends.len() - recent.len() - 1].0, recent),
        false if recent.len() < 3 => (planned.min(recent.first()?.0), recent),
        false => (recent[0].0, &recent[1..]),
    };
    let seconds = now - began;
    let rows: u64 = rows.iter().map(|(_, rows)| rows).sum();
    (seconds > 0.0 && rows > 0).then(|| rows as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_now() {
        assert_eq!(rate(&[], 0.0, 10.0), None);
        assert_eq!(rate(&[(10.0, 100)], 0.0, 20.0), Some(5.0));
        // a run that was left for an hour
        let ends: Vec<(f64, u64)> = [(10.0, 50), (3600.0, 50), (3610.0, 50), (3620.0, 50)].into();
        assert_eq!(rate(&ends[1..], 0.0, 3620.0), Some(5.0));
        let many: Vec<(f64, u64)> = (0..40).map(|i| (f64::from(i), 7)).collect();
        assert_eq!(rate(&many, 0.0, 39.0), Some(7.0));
        assert_eq!(rate(&[(f64::NAN, 1)], 0.0, 1.0), Some(1.0));
    }
}
