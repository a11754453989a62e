//! Counts over the tables of a country: splits, captions, tags.

use std::collections::BTreeMap;

use arrow::array::Array;
use manifests::Artifact;
use sources::split::DropReason;
use stages::train_rows::caption_key;
use workers::WorkerError;

use super::captions::CaptionQuality;
use super::tables::each;
use super::tally::{Distinct, Tally, Words};
use crate::build::Build;

/// Words and tags shown at most.
const SHOWN: usize = 60;

#[derive(Debug, Default)]
pub struct Statistics {
    pub images: u64,
    pub captions: u64,
    pub(super) distinct_captions: Distinct,
    pub segments: u64,
    /// Images of each split, and those that were dropped, by why.
    pub splits: BTreeMap<String, u64>,
    pub dropped: BTreeMap<DropReason, u64>,
    /// Words of each caption.
    pub(super) caption_words: Tally,
    /// Most frequent words, with their counts.
    pub tags: Vec<(String, u64)>,
    pub dropped_tags: Vec<(String, u64)>,
}

/// Words that say nothing about an image.
const EMPTY_WORDS: [&str; 34] = [
    "a",
    "an",
    "the",
    "of",
    "and",
    "with",
    "by",
    "in",
    "on",
    "is",
    "are",
    "some",
    "surrounded",
    "image",
    "satellite",
    "two",
    "three",
    "four",
    "five",
    "several",
    "many",
    "there",
    "to",
    "near",
    "at",
    "it",
    "its",
    "from",
    "next",
    "this",
    "which",
    "around",
    "one",
    "aerial",
];

pub async fn gather(build: &Build, quality: &mut CaptionQuality) -> Result<Statistics, WorkerError> {
    let mut s = Statistics::default();
    each(build, Artifact::Images, &["status"], |columns| {
        s.images += columns.text("status")?.iter().filter(|v| *v == Some("ok")).count() as u64;
        Ok(())
    })
    .await?;
    each(build, Artifact::Splits, &["split", "split_reason"], |columns| {
        for split in columns.text("split")?.iter().flatten() {
            *s.splits.entry(split.to_owned()).or_default() += 1;
        }
        for reason in columns.text("split_reason")?.iter().flatten().filter_map(DropReason::parse) {
            *s.dropped.entry(reason).or_default() += 1;
        }
        Ok(())
    })
    .await?;
    let (mut words, mut dropped) = (Words::default(), Words::default());
    each(build, Artifact::Captions, &["captions", "dropped_tags", "quality", "flagged"], |columns| {
        for caption in columns.texts("captions")?.iter().flatten() {
            s.captions += 1;
            s.distinct_captions.add(caption_key(caption));
            let normalised = wording::normalise_caption(caption);
            s.caption_words.add(normalised.split_whitespace().count() as f64);
            normalised.split_whitespace().filter(|w| !EMPTY_WORDS.contains(w)).for_each(|word| words.add(word));
        }
        columns.texts("dropped_tags")?.iter().flatten().for_each(|tag| dropped.add(tag));
        quality.add_captions(columns)
    })
    .await?;
    each(build, Artifact::Segments, &["segments"], |columns| {
        let list = columns.list("segments")?;
        s.segments += (0..list.len()).filter(|&i| !list.is_null(i)).map(|i| list.value_length(i) as u64).sum::<u64>();
        Ok(())
    })
    .await?;
    s.tags = words.most_frequent(SHOWN);
    s.dropped_tags = dropped.most_frequent(SHOWN);
    Ok(s)
}
