//! Counts over the tables of a country: splits, captions, tags.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use manifests::Artifact;
use sources::split::DropReason;
use stages::table::{Columns, TableError};
use workers::WorkerError;
use workers::parts::PartReader;

use crate::build::Build;

/// Words and tags shown at most.
const SHOWN: usize = 60;

#[derive(Debug, Default)]
pub struct Statistics {
    pub images: u64,
    pub captions: u64,
    pub distinct_captions: u64,
    pub segments: u64,
    /// Images of each split, and those that were dropped, by why.
    pub splits: BTreeMap<String, u64>,
    pub dropped: BTreeMap<DropReason, u64>,
    /// Words of each caption.
    pub caption_words: Vec<f64>,
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

pub async fn gather(build: &Build) -> Result<Statistics, WorkerError> {
    let mut s = Statistics::default();
    let (mut words, mut dropped) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut distinct = std::collections::HashSet::new();
    let broken = |e: TableError| WorkerError::Broken(e.to_string());
    for batch in read(build, Artifact::Images, &["status"]).await? {
        let columns = Columns::new(Artifact::Images, &batch);
        s.images += columns.text("status").map_err(broken)?.iter().filter(|v| *v == Some("ok")).count() as u64;
    }
    for batch in read(build, Artifact::Splits, &["split", "split_reason"]).await? {
        let columns = Columns::new(Artifact::Splits, &batch);
        for split in columns.text("split").map_err(broken)?.iter().flatten() {
            *s.splits.entry(split.to_owned()).or_default() += 1;
        }
        for reason in columns.text("split_reason").map_err(broken)?.iter().flatten().filter_map(DropReason::parse) {
            *s.dropped.entry(reason).or_default() += 1;
        }
    }
    for batch in read(build, Artifact::Captions, &["captions", "dropped_tags"]).await? {
        let columns = Columns::new(Artifact::Captions, &batch);
        for caption in columns.texts("captions").map_err(broken)?.iter().flatten() {
            s.captions += 1;
            distinct.insert(stages::train_rows::caption_key(caption));
            let normalised = wording::normalise_caption(caption);
            s.caption_words.push(normalised.split_whitespace().count() as f64);
            for word in normalised.split_whitespace().filter(|w| !EMPTY_WORDS.contains(w)) {
                *words.entry(word.to_owned()).or_default() += 1;
            }
        }
        for tag in columns.texts("dropped_tags").map_err(broken)?.into_iter().flatten() {
            *dropped.entry(tag).or_default() += 1;
        }
    }
    for batch in read(build, Artifact::Segments, &["segments"]).await? {
        let columns = Columns::new(Artifact::Segments, &batch);
        let list = columns.list("segments").map_err(broken)?;
        s.segments += (0..list.len()).filter(|&i| !list.is_null(i)).map(|i| list.value_length(i) as u64).sum::<u64>();
    }
    s.distinct_captions = distinct.len() as u64;
    s.tags = most_frequent(words);
    s.dropped_tags = most_frequent(dropped);
    Ok(s)
}

fn most_frequent(counts: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(SHOWN);
    counts
}

pub(super) async fn read(build: &Build, artifact: Artifact, columns: &[&str]) -> Result<Vec<RecordBatch>, WorkerError> {
    let mut batches = Vec::new();
    for part in build.pin(artifact).await?.parts {
        batches.push(PartReader::open(&build.work, artifact, &part).await?.read(columns).await?);
    }
    Ok(batches)
}
