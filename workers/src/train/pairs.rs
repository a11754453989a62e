//! What is known of the pairs of a training, read from tables.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;
use manifests::plan::PinnedTable;
use manifests::spec::PairsSpec;
use manifests::{Artifact, PartFile};
use stages::pair_quality::sift::{Pair, Why, sift};
use stages::table::{Columns, TableError};
use stages::train_rows::caption_key;

use super::broken;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Pairs of the train split that a training leaves out, by image id; about 100 bytes of memory a pair while they are found.
///
/// # Errors
/// [`WorkerError::Broken`] for a part that is not there or cannot be read; a store that does not answer.
pub async fn left_out(
    work: &WorkStore,
    inputs: &[PinnedTable],
    spec: &PairsSpec,
) -> Result<BTreeMap<String, Why>, WorkerError> {
    if !spec.is_on() {
        return Ok(BTreeMap::new());
    }
    let table = |artifact: Artifact| {
        let found = inputs.iter().find(|table| table.artifact == artifact);
        found.ok_or_else(|| WorkerError::Broken(format!("pretrain.pairs: the training reads no {}", artifact.name())))
    };
    let (quality, splits, captions) =
        (table(Artifact::PairQuality)?, table(Artifact::Splits)?, table(Artifact::Captions)?);
    let mut shards = Vec::new();
    for captions in &captions.parts {
        let shard = captions.shard;
        let Some(splits) = splits.part(shard) else { continue };
        let Some(quality) = quality.part(shard) else {
            return Err(WorkerError::Broken(format!(
                "pretrain.pairs: shard {shard} of pair_quality is not there; `urbancross run` makes it"
            )));
        };
        shards.push([(Artifact::PairQuality, quality), (Artifact::Splits, splits), (Artifact::Captions, captions)]);
    }
    let mut pairs = Vec::new();
    for shard in &shards {
        pairs.extend(read(work, shard).await?);
    }
    Ok(sift(&pairs, spec))
}

async fn read(work: &WorkStore, shard: &[(Artifact, &PartFile); 3]) -> Result<Vec<Pair>, WorkerError> {
    let columns: [&[&str]; 3] =
        [&["image_id", "status", "hash", "similarities"], &["image_id", "split"], &["image_id", "captions", "quality"]];
    let mut batches = Vec::new();
    for ((artifact, part), columns) in shard.iter().zip(columns) {
        batches.push(PartReader::open(work, *artifact, part).await?.read(columns).await?);
    }
    of_shard(&batches[0], &batches[1], &batches[2]).map_err(broken)
}

fn of_shard(quality: &RecordBatch, splits: &RecordBatch, captions: &RecordBatch) -> Result<Vec<Pair>, TableError> {
    let splits = Columns::new(Artifact::Splits, splits);
    let (ids, split) = (splits.text("image_id")?, splits.text("split")?);
    let learnt: HashSet<&str> =
        ids.iter().zip(split.iter()).filter(|(_, split)| *split == Some("train")).filter_map(|(id, _)| id).collect();
    let captions = Columns::new(Artifact::Captions, captions);
    let (ids, texts) = (captions.text("image_id")?, captions.texts("captions")?);
    let mut said = BTreeMap::new();
    for (row, texts) in texts.iter().enumerate() {
        let items = captions.structs("quality", row)?;
        let coverage = captions.inner(&items).float32("tag_coverage")?.iter().flatten().reduce(f32::min);
        let keys: Vec<u64> = texts.iter().map(|text| caption_key(text)).collect();
        said.insert(ids.value(row), (keys, coverage));
    }
    let batch = quality;
    let quality = Columns::new(Artifact::PairQuality, batch);
    let (ids, status, hashes) = (quality.text("image_id")?, quality.text("status")?, quality.text("hash")?);
    let similarities = quality.vectors("similarities")?;
    let mut rows = Vec::new();
    for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok" && learnt.contains(ids.value(row))) {
        let Some((caption_keys, tag_coverage)) = said.remove(ids.value(row)) else { continue };
        // an image without a caption is none to learn from
        let Some(similarity) = similarities[row].iter().copied().reduce(f32::max) else { continue };
        rows.push(Pair {
            image_id: ids.value(row).to_owned(),
            hash: u64::from_str_radix(hashes.value(row), 16).unwrap_or_default(),
            similarity,
            caption_keys,
            tag_coverage,
        });
    }
    Ok(rows)
}

/// How many for each reason, in words; empty: none.
pub fn in_words(left_out: &BTreeMap<String, Why>) -> String {
    let mut counts = BTreeMap::<Why, usize>::new();
    left_out.values().for_each(|why| *counts.entry(*why).or_default() += 1);
    counts.iter().map(|(why, count)| format!("{count} ({})", why.words())).collect::<Vec<_>>().join(", ")
}
