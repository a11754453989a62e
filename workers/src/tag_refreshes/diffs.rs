//! Diffs from a replication folder, one after the other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use manifests::words::count;
use osm::{Diff, Moment, ReplicationState, State, diff_path, state_path};

use super::osm_error;
use crate::error::WorkerError;
use crate::stores::SourceStore;

/// Packed bytes of a diff. Those of a day on the planet have some 150 MB.
const MOST_DIFF_BYTES: u64 = 1 << 30;
const MOST_STATE_BYTES: u64 = 64 << 10;
/// Diffs of one refresh: of minutes this is a fortnight.
const MOST_DIFFS: u64 = 20_000;

/// The last diff that is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Until(pub Option<i64>);

#[derive(Default)]
pub(super) struct AppliedAll {
    pub(super) diffs: u64,
    pub(super) objects: u64,
    pub(super) touched: BTreeSet<u32>,
    pub(super) stopped: bool,
    /// Diffs that are there and lie after the moment that was asked for.
    pub(super) waiting: u64,
}

/// A publisher that does not answer is not the build's store: what was done there is no question here.
fn unanswered(source: &SourceStore, error: WorkerError) -> WorkerError {
    let (WorkerError::Transient(why) | WorkerError::Outdated(why)) = error else { return error };
    // of a chain of causes the last one says it
    let cause = why.rsplit(": ").next().unwrap_or(&why);
    WorkerError::Unanswered(format!(
        "the diffs of {} cannot be read: {cause}; look at the address and at the network, and the tags are as they were",
        source.url()
    ))
}

async fn get(source: &SourceStore, path: &str, most: u64) -> Result<Option<bytes::Bytes>, WorkerError> {
    let Some(meta) = source.head(path).await.map_err(|e| unanswered(source, e))? else { return Ok(None) };
    if meta.size > most {
        return Err(WorkerError::Broken(format!(
            "{}{path} has {} bytes, over the limit of {most}",
            source.url(),
            meta.size
        )));
    }
    let bytes = source.get_range(path, 0..meta.size, meta.e_tag.as_deref()).await;
    bytes.map(Some).map_err(|error| unanswered(source, error))
}

async fn state_at(source: &SourceStore, path: &str) -> Result<Option<ReplicationState>, WorkerError> {
    let Some(bytes) = get(source, path, MOST_STATE_BYTES).await? else { return Ok(None) };
    let state = ReplicationState::parse(&String::from_utf8_lossy(&bytes));
    state.map(Some).map_err(|error| WorkerError::Broken(format!("{}{path}: {error}", source.url())))
}

/// The last diff that is in a state: as its extract says, or by the extract's moment.
async fn sequence_of(source: &SourceStore, state: &State, newest: u64) -> Result<u64, WorkerError> {
    if let Some(sequence) = state.sequence {
        return Ok(sequence);
    }
    let Some(moment) = state.timestamp else {
        return Err(WorkerError::Configuration(
            "nobody knows which diffs the extract holds: it names no diff and no moment. Read it again with --sequence N, the \
             number that its publisher gives, such as in a state.txt beside it"
                .into(),
        ));
    };
    for sequence in (newest.saturating_sub(MOST_DIFFS)..=newest).rev() {
        match state_at(source, &state_path(sequence)).await? {
            Some(at) if at.timestamp <= moment => return Ok(sequence),
            Some(_) => {}
            None => {
                return Err(WorkerError::Configuration(format!(
                    "the extract shows {}, and the diffs of {} begin later, with {}: take a newer extract",
                    Moment(moment),
                    source.url(),
                    sequence + 1
                )));
            }
        }
    }
    Err(WorkerError::Configuration(format!(
        "the extract shows {}, more than {MOST_DIFFS} diffs ago: take a newer extract",
        Moment(moment)
    )))
}

/// Applies all diffs that follow a state, up to the newest or to a moment. One that is missing or does not follow is named,
/// and nothing of the refresh counts.
pub(super) async fn apply(
    source: &SourceStore,
    state: &mut State,
    until: Until,
    stop: &AtomicBool,
    say: &(dyn Fn(&str) + Sync),
) -> Result<AppliedAll, WorkerError> {
    source.required()?;
    let Some(newest) = state_at(source, "state.txt").await? else {
        return Err(WorkerError::Configuration(format!(
            "{}state.txt is not there: name the folder of a replication, such as .../replication/day/",
            source.url()
        )));
    };
    let first = sequence_of(source, state, newest.sequence).await?;
    state.sequence = Some(first);
    if first > newest.sequence {
        return Err(WorkerError::Configuration(format!(
            "the tags are at diff {first}, and {} ends with {}: it is another series (minutes, hours and days are numbered \
             apart), or older",
            source.url(),
            newest.sequence
        )));
    }
    if newest.sequence - first > MOST_DIFFS {
        return Err(WorkerError::Configuration(format!(
            "{} follow diff {first}: read a newer extract, which is faster",
            count(newest.sequence - first, "diff")
        )));
    }
    let mut all = AppliedAll::default();
    for sequence in first + 1..=newest.sequence {
        if stop.load(Ordering::Relaxed) {
            all.stopped = true;
            break;
        }
        let missing = |path: &str| {
            WorkerError::Configuration(format!(
                "{}{path} is not there, and later diffs are: without it they mean nothing; bring it, or read a newer extract",
                source.url()
            ))
        };
        let at = match state_at(source, &state_path(sequence)).await? {
            Some(at) => at,
            None if sequence == newest.sequence => newest,
            None => return Err(missing(&state_path(sequence))),
        };
        if at.sequence != sequence {
            let (path, says) = (state_path(sequence), at.sequence);
            return Err(WorkerError::Broken(format!("{}{path} says that it is of diff {says}", source.url())));
        }
        if until.0.is_some_and(|until| at.timestamp > until) {
            all.waiting = newest.sequence - sequence + 1;
            break;
        }
        state.check_next(at).map_err(osm_error)?;
        let path = diff_path(sequence);
        let bytes = get(source, &path, MOST_DIFF_BYTES).await?.ok_or_else(|| missing(&path))?;
        let whole = std::mem::take(state);
        let applied = tokio::task::spawn_blocking(move || {
            let mut state = whole;
            let applied = Diff::read(&bytes).and_then(|diff| state.apply_next(diff, at));
            (state, applied)
        });
        let applied = applied.await.map_err(|e| WorkerError::Panicked(format!("applying {path}: {e}")))?;
        *state = applied.0;
        let applied = applied.1.map_err(|error| WorkerError::Broken(format!("{}{path}: {error}", source.url())))?;
        all.diffs += 1;
        all.objects += applied.objects as u64;
        all.touched.extend(&applied.touched);
        say(&format!(
            "diff {sequence} ({}): {}, {} touched",
            Moment(at.timestamp),
            count(applied.objects, "object"),
            count(applied.touched.len(), "image")
        ));
    }
    Ok(all)
}
