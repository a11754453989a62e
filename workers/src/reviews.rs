//! What people decide about captions: what waits for them, and the commit of a decision.
//!
//! A decision follows the commit rule: the part of the reviews that it replaces is pinned first, everything that it is
//! judged by is read afterwards, and it holds only while that part is live. Whoever loses looks again; what somebody else
//! decided meanwhile about the same image is never overwritten unseen.

mod look;
mod past;
mod tally;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use futures::future::try_join_all;
use manifests::commit::Replacement;
use manifests::plan::PinnedTable;
use manifests::review::{Answer, Asked, CaptionState, Review, Waits, answer};
use manifests::{Artifact, BuildSpec, Digest, PartFile, shard_of};
use serde::Serialize;
use stages::reviews;
use stages::table::Columns;

use crate::backoff::Backoff;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::{PartReader, PartWriter};
use crate::stores::WorkStore;
use crate::tables::{Change, Tables};
use look::ShardLook;
pub(crate) use past::gone_back;
use tally::KnownTallies;
pub use tally::Tally;

/// Tries of a decision whose shard others change all the time.
const MOST_TRIES: usize = 20;

/// An image as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Which image.
    pub image_id: String,
    /// Where its rows lie.
    pub shard: u32,
    /// Why it waits for a person; `None`: it does not.
    pub waits: Option<Waits>,
    /// The same in words.
    pub why: String,
    /// The words that stand, or will once the build has run.
    pub captions: Vec<String>,
    /// Who wrote them.
    pub captioner: String,
    /// Tags of the object in the middle, as JSON.
    pub center_tags: Option<String>,
    /// Tags of those around, as JSON.
    pub surrounding_tags: Option<String>,
    /// What was decided last.
    pub review: Option<Review>,
    /// Whether that waits for the next run of the build.
    pub pending: bool,
    /// Identity of all this, which a decision names.
    pub token: Digest,
}

/// What waits, some of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// In order of shard and image.
    pub images: Vec<Looked>,
    /// The last image, to go on after; `None`: these are all.
    pub next: Option<String>,
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// It is in the table.
    Done,
    /// It was there before.
    Already,
    /// The image is another than its author saw, and nothing was written.
    Changed(Box<Looked>),
}

/// The reviews of one country.
#[derive(Clone)]
pub struct Reviews {
    work: WorkStore,
    tables: Tables,
    country: String,
    shards: u32,
    /// Whether the table of scores belongs to the build as its spec is now.
    scored: bool,
    at_once: usize,
    known: KnownTallies,
}

impl Reviews {
    /// Those of a build. Nothing is asked of the store yet.
    pub fn of(work: &WorkStore, tables: &Tables, spec: &BuildSpec) -> Self {
        Self {
            work: work.clone(),
            tables: tables.clone(),
            country: spec.country.clone(),
            shards: spec.work.shards,
            scored: !spec.caption.score.clip.is_empty(),
            at_once: spec.work.concurrency,
            known: KnownTallies::default(),
        }
    }

    /// Images that wait, for one reason or for any, from the one after `after` on; at most so many.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn queue(&self, only: Option<Waits>, after: Option<&str>, most: usize) -> Result<Queue, WorkerError> {
        let pins = Arc::new(self.pin().await?);
        let mut queue = Queue::default();
        let first = after.map_or(0, |after| shard_of(after, self.shards));
        let may_wait = |shard: &u32| self.known.of(&pins, *shard).is_none_or(|tally| tally.waits(only) > 0);
        let shards: Vec<u32> = (first..self.shards).filter(may_wait).collect();
        let looks = shards.into_iter().map(|shard| {
            let (reviews, pins) = (self.clone(), pins.clone());
            async move { Ok::<_, WorkerError>((shard, reviews.look_into(&pins, shard).await?)) }
        });
        let mut looks = in_order(looks, self.at_once, "captions that wait");
        while let Some((shard, look)) = looks.try_next().await? {
            for (image_id, state) in &look.states {
                let is_behind = after.is_none_or(|after| shard > first || image_id.as_str() > after);
                let waits = state.caption.waits(look.reviews.get(image_id)).map(|(waits, _)| waits);
                if !is_behind || waits.is_none_or(|waits| only.is_some_and(|only| only != waits)) {
                    continue;
                }
                if queue.images.len() == most {
                    queue.next = queue.images.last().map(|last| last.image_id.clone());
                    return Ok(queue);
                }
                queue.images.extend(look.looked(image_id, shard));
            }
        }
        Ok(queue)
    }

    /// How many wait, and how many were decided. Reads the small columns of all shards whose numbers are not known yet.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub async fn tally(&self) -> Result<Tally, WorkerError> {
        let pins = Arc::new(self.pin().await?);
        let mut tally = Tally { waiting: Waits::ALL.map(|waits| (waits, 0)).into(), ..Tally::default() };
        let mut unknown = Vec::new();
        for shard in 0..self.shards {
            match self.known.of(&pins, shard) {
                Some(known) => tally.add(known),
                None => unknown.push(shard),
            }
        }
        let of_shards = unknown.into_iter().map(|shard| {
            let (reviews, pins) = (self.clone(), pins.clone());
            async move { Ok::<_, WorkerError>(reviews.look_into(&pins, shard).await?.tally()) }
        });
        let mut of_shards = in_order(of_shards, self.at_once, "captions that wait");
        while let Some(of_shard) = of_shards.try_next().await? {
            tally.add(of_shard);
        }
        Ok(tally)
    }

    /// An image as it is now; `None`: there is no caption of it, nor a reason why not.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub async fn look(&self, image_id: &str) -> Result<Option<Looked>, WorkerError> {
        let shard = shard_of(image_id, self.shards);
        Ok(self.look_into(&self.pin().await?, shard).await?.looked(image_id, shard))
    }

    /// Decides about an image.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for an image that is not there and for a wish that makes no sense;
    /// [`WorkerError::Broken`] for parts that cannot be read; [`WorkerError::Transient`] if others change the shard all the
    /// time, or the store does not answer.
    pub async fn decide(&self, image_id: &str, asked: &Asked) -> Result<Decided, WorkerError> {
        let shard = shard_of(image_id, self.shards);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 0..MOST_TRIES {
            // the reviews are pinned before anything is read that the decision is judged by
            let pins = self.pin().await?;
            let base = pins.first().and_then(|reviews| reviews.part_name(shard)).map(str::to_owned);
            let look = self.look_into(&pins, shard).await?;
            let cannot = |why: String| WorkerError::Configuration(format!("{image_id}: {why}"));
            let Some(state) = look.states.get(image_id) else {
                return Err(cannot(format!(
                    "{} has no caption of it: its name is another, it was left out (`urbancross explain SPEC {image_id}` says \
                     why), or the build has not come to it",
                    self.country
                )));
            };
            let mut reviews = look.reviews.clone();
            match answer(asked, &state.caption, reviews.get(image_id)).map_err(cannot)? {
                Answer::Nothing => return Ok(Decided::Already),
                Answer::Changed => match look.looked(image_id, shard) {
                    Some(looked) => return Ok(Decided::Changed(Box::new(looked))),
                    None => continue,
                },
                Answer::Write(review) => reviews.insert(image_id.to_owned(), review),
                Answer::Remove => reviews.remove(image_id),
            };
            let part = write(&self.work, &self.country, shard, &reviews).await?;
            let replacements = vec![Replacement { base, part }];
            let change = Change { artifact: Artifact::CaptionReviews, country: self.country.clone(), replacements };
            if self.tables.commit(change).await?.overtaken.is_empty() {
                return Ok(Decided::Done);
            }
            tokio::time::sleep(backoff.next()).await;
        }
        Err(WorkerError::Transient(format!(
            "{image_id}: others changed the reviews of its shard {MOST_TRIES} times meanwhile"
        )))
    }

    /// The tables that are looked into; the reviews first.
    async fn pin(&self) -> Result<Vec<PinnedTable>, WorkerError> {
        let scores = self.scored.then_some(Artifact::CaptionScores);
        let tables = [Artifact::CaptionReviews, Artifact::Captions, Artifact::Geotags, Artifact::Images];
        let mut pins = Vec::new();
        for artifact in tables.into_iter().chain(scores) {
            pins.push(self.tables.pin(artifact, &self.country, None).await?);
        }
        Ok(pins)
    }

    async fn look_into(&self, pins: &[PinnedTable], shard: u32) -> Result<ShardLook, WorkerError> {
        let mut look = ShardLook::default();
        let rows = try_join_all(pins.iter().map(|table| self.rows(table, shard))).await?;
        for (table, rows) in pins.iter().zip(rows) {
            if let Some(rows) = rows {
                look.add(table.artifact, &rows)?;
            }
        }
        self.known.put(pins, shard, look.tally());
        Ok(look)
    }

    async fn rows(&self, table: &PinnedTable, shard: u32) -> Result<Option<RecordBatch>, WorkerError> {
        let Some(part) = table.part(shard) else { return Ok(None) };
        let reader = PartReader::open(&self.work, table.artifact, part).await?;
        reader.read(look::columns(table.artifact)).await.map(Some)
    }
}

/// Writes a part of the reviews; nothing is live yet.
async fn write(
    work: &WorkStore,
    country: &str,
    shard: u32,
    reviews: &BTreeMap<String, Review>,
) -> Result<PartFile, WorkerError> {
    let rows = reviews::batch(reviews).map_err(|e| WorkerError::Broken(e.to_string()))?;
    let mut writer = PartWriter::create(work, Artifact::CaptionReviews, country, shard)?;
    if rows.num_rows() > 0 {
        writer.write(&rows).await?;
    }
    writer.finish().await
}

/// The reviews of a part, by image.
///
/// # Errors
/// [`WorkerError::Broken`] for a row that says something else than we write.
fn of_rows(rows: &RecordBatch) -> Result<BTreeMap<String, Review>, WorkerError> {
    let broken = |why: String| WorkerError::Broken(format!("table {}: {why}", Artifact::CaptionReviews.name()));
    let columns = Columns::new(Artifact::CaptionReviews, rows);
    let ids = columns.text("image_id").map_err(|e| broken(e.to_string()))?;
    let mut reviews = BTreeMap::new();
    for (row, review) in reviews::read(rows).map_err(|e| broken(e.to_string()))?.into_iter().enumerate() {
        let id = ids.value(row);
        let review = review.unwrap_or_else(|| Err("it has no decision".into()));
        reviews.insert(id.to_owned(), review.map_err(|why| broken(format!("{id}: {why}")))?);
    }
    Ok(reviews)
}

/// What is known of an image's captions, beside what was decided.
#[derive(Debug, Default)]
struct ImageState {
    caption: CaptionState,
    /// Digest of the decision that the row was made with.
    made_with: Option<Digest>,
    center_tags: Option<String>,
    surrounding_tags: Option<String>,
}

impl ImageState {
    /// Is the row yet to be made with the decision, or without one that was taken back?
    fn is_pending(&self, review: Option<&Review>) -> bool {
        self.made_with != review.map(Review::digest)
    }
}
