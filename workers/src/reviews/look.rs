//! One shard's captions with what a person has to know of them, from the tables.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use manifests::review::{PICTURE_INPUT, Review, TAGS_INPUT};
use manifests::{Artifact, Digest, recipe};
use stages::table::{Columns, TableError, option_text};

use super::tally::Tally;
use super::{ImageState, Looked, of_rows};
use crate::error::WorkerError;

/// The rows of a shard.
#[derive(Default)]
pub(super) struct ShardLook {
    /// Of every row of captions.
    pub(super) states: BTreeMap<String, ImageState>,
    /// Also of images that are not there now.
    pub(super) reviews: BTreeMap<String, Review>,
}

/// What is read of a table.
pub(super) fn columns(artifact: Artifact) -> &'static [&'static str] {
    match artifact {
        Artifact::CaptionReviews => {
            &["image_id", "decision", "captions", "captioner", "author", "decided_at", "inputs"]
        }
        Artifact::Captions => &["image_id", "status", "error", "inputs", "captioner", "captions", "flagged"],
        Artifact::Geotags => &["image_id", "status", "tags_digest", "center_tags", "surrounding_tags"],
        Artifact::Images => &["image_id", "status", "bytes_digest"],
        _ => &["image_id", "status", "flagged"],
    }
}

impl ShardLook {
    /// Adds what a table says; captions come before the tables that only say more of them.
    pub(super) fn add(&mut self, artifact: Artifact, rows: &RecordBatch) -> Result<(), WorkerError> {
        let broken = |e: TableError| WorkerError::Broken(e.to_string());
        match artifact {
            Artifact::CaptionReviews => self.reviews = of_rows(rows)?,
            Artifact::Captions => self.add_captions(rows).map_err(broken)?,
            other => self.add_more(other, rows).map_err(broken)?,
        }
        Ok(())
    }

    fn add_captions(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        let columns = Columns::new(Artifact::Captions, rows);
        let text = |name| columns.text(name);
        let (ids, status, error, inputs) = (text("image_id")?, text("status")?, text("error")?, text("inputs")?);
        let (captioner, flagged) = (text("captioner")?, text("flagged")?);
        for (row, captions) in columns.texts("captions")?.into_iter().enumerate() {
            let of = |column| option_text(column, row).map(str::to_owned);
            let inputs: BTreeMap<String, Digest> = serde_json::from_str(inputs.value(row)).unwrap_or_default();
            let mut state = ImageState { made_with: inputs.get(recipe::REVIEW_INPUT).cloned(), ..Default::default() };
            state.caption.status = status.value(row).to_owned();
            (state.caption.error, state.caption.flagged) = (of(error), of(flagged));
            (state.caption.captions, state.caption.captioner) = (captions, of(captioner).unwrap_or_default());
            self.states.insert(ids.value(row).to_owned(), state);
        }
        Ok(())
    }

    fn add_more(&mut self, artifact: Artifact, rows: &RecordBatch) -> Result<(), TableError> {
        let columns = Columns::new(artifact, rows);
        let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
        let more = columns_of_more(artifact).iter().map(|name| columns.text(name)).collect::<Result<Vec<_>, _>>()?;
        for row in (0..rows.num_rows()).filter(|&row| status.value(row) == "ok") {
            let Some(state) = self.states.get_mut(ids.value(row)) else { continue };
            let mut values = more.iter().map(|column| option_text(column, row).map(str::to_owned));
            let mut next = || values.next().flatten();
            match artifact {
                Artifact::Geotags => {
                    state.caption.inputs.extend(next().map(|digest| (TAGS_INPUT.to_owned(), digest)));
                    (state.center_tags, state.surrounding_tags) = (next(), next());
                }
                Artifact::Images => {
                    state.caption.inputs.extend(next().map(|digest| (PICTURE_INPUT.to_owned(), digest)));
                }
                _ => {
                    let score = next();
                    state.caption.flagged = state.caption.flagged.take().or(score);
                }
            }
        }
        Ok(())
    }

    /// How many of the shard wait, and how many were decided.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally { decided: self.reviews.len() as u64, ..Tally::default() };
        for (image_id, state) in &self.states {
            let review = self.reviews.get(image_id);
            if let Some((waits, _)) = state.caption.waits(review) {
                *tally.waiting.entry(waits).or_default() += 1;
            }
            tally.pending += u64::from(state.is_pending(review));
        }
        tally
    }

    /// An image as a person sees it.
    pub(super) fn looked(&self, image_id: &str, shard: u32) -> Option<Looked> {
        let state = self.states.get(image_id)?;
        let review = self.reviews.get(image_id);
        let (waits, why) = state.caption.waits(review).map_or((None, String::new()), |(waits, why)| (Some(waits), why));
        let (captions, captioner) = state.caption.words(review);
        Some(Looked {
            image_id: image_id.to_owned(),
            shard,
            waits,
            why,
            captions: captions.to_vec(),
            captioner: captioner.to_owned(),
            center_tags: state.center_tags.clone(),
            surrounding_tags: state.surrounding_tags.clone(),
            review: review.cloned(),
            pending: state.is_pending(review),
            token: state.caption.token(review),
        })
    }
}

/// What of a table is said beside captions.
fn columns_of_more(artifact: Artifact) -> &'static [&'static str] {
    &columns(artifact)[2..]
}
