//! Tags from OpenStreetMap: an extract or diffs in, rows of `tag_refreshes` out, which the geo-tags prefer to what came with
//! the images.
//!
//! What diffs need is a state ([`osm::State`]). Its bytes are put first, then a record that names them and the parts that it
//! belongs to, and last one commit brings in the changed parts of all shards together with the number of the record. So rows
//! and state go forward together or not at all, and whoever repeats a refresh finds it done.

mod boxes;
mod diffs;
mod foretold;
mod record;
mod rows;
mod write;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use manifests::spec::OsmSpec;
use manifests::words::count;
use manifests::{Artifact, BuildSpec};
use osm::{Boxes, Moment, OsmError, State, SubjectKind};
use serde::Serialize;

use crate::error::WorkerError;
use crate::stores::{SourceStore, WorkStore};
use crate::tables::Tables;
use boxes::Known;
pub use diffs::Until;
pub use foretold::Foretold;
pub use osm::moment_of;
use record::Base;

/// Examples that are shown of changed images.
const MOST_EXAMPLES: usize = 5;

/// Ways of an extract that has relations, if it is whole.
const MANY_WAYS: u64 = 10_000;

/// Where the tags come from.
pub enum Origins<'a> {
    /// An extract, and the number of the last diff in it, where it does not say that itself.
    Extract(&'a Path, Option<u64>),
    /// A folder of diffs, up to a moment.
    Diffs(&'a SourceStore, Until),
}

/// What a refresh has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Refreshment {
    /// Images of the country that have a box, or had one when they were left out.
    pub images: usize,
    /// Of these, those that were looked at: all with an extract, those that diffs touch otherwise.
    pub looked_at: usize,
    /// Images whose tags are others than before.
    pub changed: usize,
    /// Of these, those that are left out from now on: what they were taken for is gone.
    pub gone: usize,
    /// Of these, those that were left out and are back, as what they were taken for is.
    pub back: usize,
    /// Of these, those that were left out and whose box is not known: the next run makes them, an extract judges them.
    pub unjudged: usize,
    /// Some of the changed images.
    pub examples: Vec<String>,
    /// Images whose box does not lie within the extract: their tags stay.
    pub outside: usize,
    /// Images that need an extract: what came near is not kept, or they are new, or have another box. Their tags stay.
    pub unclear: usize,
    /// Some of these, with the reason.
    pub unclear_examples: Vec<String>,
    /// Diffs that were applied.
    pub diffs: u64,
    /// Diffs that are there and lie after the moment up to which they were wanted.
    pub waiting: u64,
    /// Objects that the extract, or the diffs, told of.
    pub objects: u64,
    /// Bytes of the state.
    pub state_bytes: u64,
    /// What the tags show: number of the last diff and its moment.
    pub moment: String,
    /// Whether anything was written.
    pub written: bool,
    /// Whether a stop came before all diffs were applied.
    pub stopped: bool,
}

impl Refreshment {
    /// How many images have other tags, for people.
    pub fn in_words(&self) -> String {
        let verb = if self.changed == 1 { "has" } else { "have" };
        format!("{} of {} {verb} other tags", self.changed, count(self.images, "image"))
    }
}

/// Refreshes the tags of a country.
pub struct Refresher<'a> {
    work: &'a WorkStore,
    tables: &'a Tables,
    spec: &'a BuildSpec,
    stop: Arc<AtomicBool>,
    say: &'a (dyn Fn(&str) + Sync),
}

/// A state with what it says of some images.
struct Found {
    state: State,
    /// Of the images that it says something new of, in order.
    numbers: Vec<u32>,
    /// Images that are left out, and of which it knows no box: their rows are taken out.
    lost: BTreeSet<String>,
    origin: &'static str,
    done: Refreshment,
}

pub(crate) fn osm_error(error: OsmError) -> WorkerError {
    match error {
        OsmError::Io { path, cause } if cause.kind() == std::io::ErrorKind::Interrupted => {
            tracing::debug!(path = %path.display(), "stopped");
            WorkerError::Stopped
        }
        OsmError::Io { path, cause } => WorkerError::of_io(&path, &cause),
        OsmError::Sequence(why) => WorkerError::Configuration(why),
        other => WorkerError::Broken(other.to_string()),
    }
}

impl<'a> Refresher<'a> {
    /// Of a build. Nothing is asked of the store yet.
    pub fn new(
        (work, tables): (&'a WorkStore, &'a Tables),
        spec: &'a BuildSpec,
        stop: Arc<AtomicBool>,
        say: &'a (dyn Fn(&str) + Sync),
    ) -> Self {
        Self { work, tables, spec, stop, say }
    }

    fn osm(&self) -> &OsmSpec {
        &self.spec.source.osm
    }

    /// Finds the tags, and writes those that are others than before. `accept_share`: how many rows may change.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a build without boxes, diffs that do not follow, an extract that is older than what
    /// is there, and more changes than are accepted; [`WorkerError::Broken`] for files that cannot be read;
    /// [`WorkerError::Conflict`] if another refresh came first; [`WorkerError::Stopped`].
    pub async fn refresh(&self, from: Origins<'_>, accept_share: Option<f64>) -> Result<Refreshment, WorkerError> {
        // what will be replaced is pinned before anything is read that it is judged by
        let base = Base::pin(self.work, self.tables, &self.spec.country).await?;
        let known = boxes::known(self.work, self.tables, self.spec, &base).await?;
        match self.find(from, &base, &known).await? {
            Ok(found) => self.write(&base, &known, found, accept_share).await,
            Err(nothing) => Ok(nothing),
        }
    }

    /// Finds the tags and writes nothing: what a refresh would do, and how many rows of which table a run would make again
    /// afterwards. Nothing is refused for being too much: that is told by [`Foretold::share`].
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh), but those of writing.
    pub async fn foretell(&self, from: Origins<'_>) -> Result<Foretold, WorkerError> {
        let base = Base::pin(self.work, self.tables, &self.spec.country).await?;
        let known = boxes::known(self.work, self.tables, self.spec, &base).await?;
        match self.find(from, &base, &known).await? {
            Ok(mut found) => {
                let writes = self.judge(&known, &mut found);
                self.foretold(&known, found, writes).await
            }
            Err(nothing) => Ok(Foretold { done: nothing, ..Foretold::default() }),
        }
    }

    /// What the source says of the images; `Err`: no diff follows.
    async fn find(
        &self,
        from: Origins<'_>,
        base: &Base,
        known: &Known,
    ) -> Result<Result<Found, Refreshment>, WorkerError> {
        match from {
            Origins::Extract(path, sequence) => self.extract(path, sequence, base, known).await.map(Ok),
            Origins::Diffs(source, until) => self.diffs(source, until, base, known).await,
        }
    }

    async fn extract(
        &self,
        path: &Path,
        sequence: Option<u64>,
        base: &Base,
        known: &Known,
    ) -> Result<Found, WorkerError> {
        let boxes = Boxes::of(known.images.clone(), self.osm().margin_meters);
        (self.say)(&format!("reading {} for {}", path.display(), count(boxes.all().len(), "image")));
        let (path, stop) = (path.to_owned(), self.stop.clone());
        let read = tokio::task::spawn_blocking(move || {
            osm::read_extract(&path, boxes, &std::env::temp_dir(), &|| stop.load(Ordering::Relaxed))
        });
        let read = read.await.map_err(|e| WorkerError::Panicked(format!("reading the extract: {e}")))?;
        let mut read = read.map_err(osm_error)?;
        let mut kinds = (0..known.images.len() as u32).filter_map(|number| known.images.subject(number));
        if read.objects[1] == 0 && kinds.any(|(kind, _)| matches!(kind, SubjectKind::Way | SubjectKind::Area)) {
            return Err(WorkerError::Broken(
                "the extract holds no way, and images were taken for some: it is cut, or of another place; download it again"
                    .into(),
            ));
        }
        if read.objects[2] == 0 && read.objects[1] > MANY_WAYS {
            (self.say)(&format!(
                "warning: the extract holds {} and no relation, and relations come last: unless it was made without them, it is \
                 cut; a .osm.pbf does not say where it ends, so compare its size or checksum with its publisher's",
                count(read.objects[1], "way")
            ));
        }
        let state = &mut read.state;
        state.sequence = state.sequence.or(sequence);
        // where the record is lost, the rows know: what came after the newest of their moments changed none of them
        let shown = base.timestamp().max(known.newest_row);
        if let Some((before, now)) = shown.zip(state.timestamp).filter(|(before, now)| now < before) {
            return Err(WorkerError::Configuration(format!(
                "the extract shows {}, and the tags are at {} already: take a newer extract",
                Moment(now),
                Moment(before)
            )));
        }
        if state.timestamp.is_none() && shown.is_some() {
            (self.say)("warning: the extract does not say which moment it shows, so it may be older than the tags");
        }
        let done = Refreshment {
            images: known.images.len(),
            outside: read.outside.len(),
            objects: read.objects.iter().sum(),
            ..Refreshment::default()
        };
        let numbers = (0..read.state.boxes().all().len() as u32).collect();
        Ok(Found { state: read.state, numbers, lost: BTreeSet::new(), origin: "extract", done })
    }

    async fn diffs(
        &self,
        source: &SourceStore,
        until: Until,
        base: &Base,
        known: &Known,
    ) -> Result<Result<Found, Refreshment>, WorkerError> {
        let Some(mut state) = base.state(self.work).await? else {
            return Err(WorkerError::Configuration(format!(
                "{} has no tags from OpenStreetMap yet: begin with an extract, `urbancross tags refresh SPEC --osm FILE`",
                self.spec.country
            )));
        };
        let applied = diffs::apply(source, &mut state, until, &self.stop, self.say).await?;
        let mut done = Refreshment {
            images: known.images.len(),
            diffs: applied.diffs,
            objects: applied.objects,
            stopped: applied.stopped,
            waiting: applied.waiting,
            moment: state.moment(),
            ..Refreshment::default()
        };
        let in_state = state.boxes().all();
        let mut finder = in_state.finder();
        for (number, id) in (0..).zip(known.images.ids()) {
            let why = match finder.find(id) {
                None => "it is not in the extract that was read",
                Some(at) if in_state.rect(at) != known.images.rect(number) => {
                    "its box is another than when the extract was read"
                }
                Some(_) => continue,
            };
            done.unclear += 1;
            if done.unclear <= MOST_EXAMPLES {
                done.unclear_examples.push(format!("{id}: {why}"));
            }
        }
        if applied.diffs == 0 {
            return Ok(Err(done));
        }
        let numbers = applied.touched.into_iter().collect();
        Ok(Ok(Found { state, numbers, lost: BTreeSet::new(), origin: "diff", done }))
    }
}

/// Seconds since 1970, as a moment in UTC.
pub fn words_of(seconds: i64) -> String {
    Moment(seconds).to_string()
}

/// What the tags of a country show by now; `None`: they came with the images.
///
/// # Errors
/// A store that does not answer.
pub async fn moment(work: &WorkStore, tables: &Tables, country: &str) -> Result<Option<String>, WorkerError> {
    let base = Base::pin(work, tables, country).await?;
    Ok(base.record.map(|record| record.moment))
}

/// Paths of what a country's present state lies in; `gc` keeps them.
pub(crate) async fn live_objects(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
) -> Result<BTreeSet<String>, WorkerError> {
    record::live_objects(work, tables, country).await
}

/// As [`Artifact::name`]; for messages.
pub(crate) fn table() -> &'static str {
    Artifact::TagRefreshes.name()
}
