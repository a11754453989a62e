//! The state beside the table: which one belongs to the rows that are live.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use manifests::commit::Replacement;
use manifests::plan::PinnedTable;
use manifests::{Artifact, Digest, digest, paths};
use osm::{Images, OsmError, State};
use serde::{Deserialize, Serialize};

use super::{osm_error, table};
use crate::error::WorkerError;
use crate::stores::WorkStore;
use crate::tables::{Change, Mark, Tables};

/// What a commit of tags names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of the state's bytes.
    state: Digest,
    /// The parts that were live after the commit, by shard.
    parts: BTreeMap<u32, String>,
    /// Seconds since 1970.
    timestamp: Option<i64>,
    /// In words.
    pub(super) moment: String,
}

impl Record {
    /// A number for the log: positive, and of this record alone.
    fn mark(&self) -> i64 {
        let bits = u128::from_be_bytes(digest::bits(&digest::of_value(self)));
        (bits >> 65) as i64
    }
}

/// What a refresh goes on from.
pub(super) struct Base {
    country: String,
    pub(super) pinned: PinnedTable,
    mark: Option<i64>,
    pub(super) record: Option<Record>,
}

fn mark_name(country: &str) -> String {
    format!("urbancross/osm/{country}")
}

impl Base {
    /// The table, and what belongs to it.
    ///
    /// # Errors
    /// [`WorkerError::Conflict`] if another refresh ends at this moment: rows of one and the mark of the other do not
    /// go together; a store that does not answer.
    pub(super) async fn pin(work: &WorkStore, tables: &Tables, country: &str) -> Result<Base, WorkerError> {
        let name = mark_name(country);
        let before = tables.mark(Artifact::TagRefreshes, &name).await?;
        let pinned = tables.pin(Artifact::TagRefreshes, country, None).await?;
        let mark = tables.mark(Artifact::TagRefreshes, &name).await?;
        if mark != before {
            return Err(WorkerError::Conflict(format!("table {} of {country}", table())));
        }
        let record = match mark {
            None => None,
            Some(mark) => work.get_sealed::<Record>(&paths::tag_record(country, mark)).await?,
        };
        Ok(Base { country: country.to_owned(), pinned, mark, record })
    }

    /// The moment of the tags, seconds since 1970.
    pub(super) fn timestamp(&self) -> Option<i64> {
        self.record.as_ref().and_then(|record| record.timestamp)
    }

    /// Shards whose part is another than the last refresh left: a repair or another program came after it.
    pub(super) fn altered_shards(&self) -> BTreeSet<u32> {
        let Some(record) = &self.record else { return BTreeSet::new() };
        let shards = self.pinned.parts.iter().map(|part| part.shard).chain(record.parts.keys().copied());
        shards.filter(|shard| self.pinned.part_name(*shard) != record.parts.get(shard).map(String::as_str)).collect()
    }

    /// The state that belongs to the rows; `None`: nobody has read an extract yet.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] where the state is gone or damaged, or the rows are others than it belongs to: no
    /// later try helps.
    pub(super) async fn state(&self, work: &WorkStore) -> Result<Option<State>, WorkerError> {
        if !self.altered_shards().is_empty() {
            let what = format!("table {} was changed by another program or by a repair", table());
            return Err(WorkerError::Configuration(self.advised(&what)));
        }
        self.read(work, State::from_bytes).await.map_err(|error| match error {
            WorkerError::Broken(why) => WorkerError::Configuration(why),
            error => error,
        })
    }

    /// The images of the state, whatever became of the rows: boxes do not depend on them.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] where the state is gone.
    pub(super) async fn images(&self, work: &WorkStore) -> Result<Images, WorkerError> {
        Ok(self.read(work, State::images_of_bytes).await?.unwrap_or_default())
    }

    /// What is wrong, and what helps.
    fn advised(&self, what: &str) -> String {
        format!("{}: {what}; read an extract with `urbancross tags refresh SPEC --osm FILE`", self.country)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: &WorkStore,
        of: fn(&[u8]) -> Result<T, OsmError>,
    ) -> Result<Option<T>, WorkerError> {
        if self.mark.is_none() {
            return Ok(None);
        }
        let broken = |what: &str| WorkerError::Broken(self.advised(what));
        let record = self.record.as_ref().ok_or_else(|| broken("the record of its tags is gone or damaged"))?;
        let bytes = work.get(&paths::tag_state(&self.country, &record.state)).await?;
        let bytes = bytes.filter(|bytes| digest::of_bytes(bytes) == record.state);
        let bytes = bytes.ok_or_else(|| broken("the state that diffs are applied to is gone or damaged"))?;
        let read = tokio::task::spawn_blocking(move || of(&bytes));
        let read = read.await.map_err(|e| WorkerError::Panicked(format!("reading the state: {e}")))?;
        read.map(Some).map_err(osm_error)
    }

    /// Commits rows and state together; `false`: all of it was there before.
    ///
    /// # Errors
    /// [`WorkerError::Conflict`] if another refresh came first; a store that does not answer.
    pub(super) async fn commit(
        &self,
        work: &WorkStore,
        tables: &Tables,
        state: &State,
        bytes: Vec<u8>,
        replacements: Vec<Replacement>,
    ) -> Result<bool, WorkerError> {
        let mut parts: BTreeMap<u32, String> =
            self.pinned.parts.iter().map(|part| (part.shard, part.path.clone())).collect();
        parts.extend(replacements.iter().map(|replacement| (replacement.part.shard, replacement.part.path.clone())));
        let record =
            Record { state: digest::of_bytes(&bytes), parts, timestamp: state.timestamp, moment: state.moment() };
        let mark = Mark { name: mark_name(&self.country), before: self.mark, after: record.mark() };
        if mark.before == Some(mark.after) {
            return Ok(false);
        }
        work.put(&paths::tag_state(&self.country, &record.state), Bytes::from(bytes)).await?;
        work.put_sealed(&paths::tag_record(&self.country, mark.after), &record).await?;
        let change = Change { artifact: Artifact::TagRefreshes, country: self.country.clone(), replacements };
        match tables.commit_marked(change, mark).await? {
            true => Ok(true),
            false => Err(WorkerError::Conflict(format!("table {} of {}", table(), self.country))),
        }
    }
}

/// Paths below the folder of a country's states that are in use.
pub(super) async fn live_objects(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
) -> Result<BTreeSet<String>, WorkerError> {
    let base = Base::pin(work, tables, country).await?;
    let record = base.mark.map(|mark| paths::tag_record(country, mark));
    let state = base.record.map(|record| paths::tag_state(country, &record.state));
    Ok(record.into_iter().chain(state).collect())
}
