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
async fn sequence_of(
    source: &SourceStore,
    state: &State,
    newest: ReplicationState,
    stop: &AtomicBool,
) -> Result<u64, WorkerError> {
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
    if newest.timestamp <= moment {
        return Ok(newest.sequence);
    }
    // moments rise with the numbers, and what is kept no more lies before what is: halves, down to the first later one
    let least = newest.sequence.saturating_sub(MOST_DIFFS);
    let (mut low, mut later) = (least, newest.sequence);
    while low < later {
        if stop.load(Ordering::Relaxed) {
            return Err(WorkerError::Stopped);
        }
        let middle = low + (later - low) / 2;
        match state_at(source, &state_path(middle)).await? {
            Some(at) if at.timestamp > moment => later = middle,
            _ => low = middle + 1,
        }
    }
    if later == least && least > 0 {
        return Err(WorkerError::Configuration(format!(
            "the extract shows {}, more than {MOST_DIFFS} diffs ago: take a newer extract",
            Moment(moment)
        )));
    }
    if let Some(last) = later.checked_sub(1)
        && state_at(source, &state_path(last)).await?.is_some()
    {
        return Ok(last);
    }
    Err(WorkerError::Configuration(format!(
        "the extract shows {}, and the diffs of {} begin later, with {later}: take a newer extract",
        Moment(moment),
        source.url()
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
    let first = sequence_of(source, state, newest, stop).await?;
    state.sequence = Some(first);
    if first > newest.sequence {
        return Err(WorkerError::Configuration(format!(
            "the tags are at diff {first}, and {} ends with {}: it is another series (minutes, hours and days are numbered \
             apart), or older",
            source.url(),
            newest.sequence
        )));
    }
    // numbers of other diffs may go on from it by chance
    let same = if first == newest.sequence { Some(newest) } else { state_at(source, &state_path(first)).await? };
    if let Some((same, shown)) = same.zip(state.timestamp).filter(|(same, shown)| same.timestamp > *shown) {
        return Err(WorkerError::Configuration(format!(
            "the tags are at diff {first} and show {}, and diff {first} of {} ends at {}: it is of another region or of \
             another series (minutes, hours and days are numbered apart); name the diffs that belong to the extract",
            Moment(shown),
            source.url(),
            Moment(same.timestamp)
        )));
    }
    if newest.sequence - first > MOST_DIFFS {
        // of another series no extract is new enough
        if let Some(next) = state_at(source, &state_path(first + 1)).await? {
            state.check_next(next).map_err(osm_error)?;
        }
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

#[cfg(test)]
mod tests {
    use manifests::spec::StoreOptions;
    use osm::moment_of;

    use super::*;

    /// What is said of the diffs with these numbers and moments to tags at `number` that show `moment`.
    async fn refused((number, moment): (u64, &str), diffs: &[(u64, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (sequence, moment) in diffs {
            let text = ReplicationState { sequence: *sequence, timestamp: moment_of(moment).unwrap() }.text();
            let path = folder.path().join(state_path(*sequence));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &text).unwrap();
            std::fs::write(folder.path().join("state.txt"), &text).unwrap();
        }
        let source = SourceStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
        let mut state = State::default();
        (state.sequence, state.timestamp) = (Some(number), moment_of(moment));
        let applied = apply(&source, &mut state, Until(None), &AtomicBool::new(false), &|_| ()).await;
        let error = applied.err().unwrap();
        assert_eq!(error.exit_code(), 65, "{error}");
        error.to_string()
    }

    #[tokio::test]
    async fn diffs_of_another_series_are_named_though_their_numbers_follow() {
        let tags = (4_300, "2026-01-01T21:20:00Z");
        let region = [(4_300, "2026-01-11T21:20:00Z"), (4_301, "2026-01-12T21:20:00Z")];
        for ends in [1, 2] {
            let why = refused(tags, &region[..ends]).await;
            assert!(why.contains("another region") && why.contains("2026-01-11T21:20:00Z"), "{why}");
        }
        let (old, next) = ("2013-03-01T00:00:00Z", "2013-03-01T01:00:00Z");
        let hours = [(4_300, old), (4_301, next), (110_000, "2026-01-02T00:00:00Z")];
        let why = refused(tags, &hours).await;
        assert!(why.contains("another series") && !why.contains("newer extract"), "{why}");
        // of the same series there are too many
        let why = refused((4_300, old), &hours).await;
        assert!(why.contains("105700 diffs follow diff 4300: read a newer extract"), "{why}");
    }
}
