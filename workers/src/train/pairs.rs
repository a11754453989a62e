//! What is known of the pairs of a training, read from tables.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;
use manifests::plan::PinnedTable;
use manifests::spec::PairsSpec;
use manifests::{Artifact, PartFile};
use stages::pair_quality::sift::{Pair, Why, fit, sift};
use stages::segment_features::from_half_bytes;
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
    // twice through the table, so that vectors of one shard at a time are in memory
    let mut means = Means::default();
    for shard in &shards {
        means.add(&read(work, shard).await?);
    }
    let mut pairs = Vec::new();
    for shard in &shards {
        pairs.extend(read(work, shard).await?.into_iter().filter_map(|row| means.pair(row)));
    }
    Ok(sift(&pairs, spec))
}

/// One image of the train split, with its captions.
struct Row {
    image_id: String,
    hash: u64,
    image: Vec<f32>,
    captions: Vec<Vec<f32>>,
    caption_keys: Vec<u64>,
    tag_coverage: Option<f32>,
}

/// Mean vectors, summed in the order of shards and rows.
#[derive(Default)]
struct Means {
    image: Vec<f64>,
    images: usize,
    caption: Vec<f64>,
    captions: usize,
}

impl Means {
    fn add(&mut self, rows: &[Row]) {
        fn sum(sum: &mut Vec<f64>, vector: &[f32]) {
            sum.resize(vector.len(), 0.0);
            sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for row in rows {
            sum(&mut self.image, &row.image);
            row.captions.iter().for_each(|caption| sum(&mut self.caption, caption));
            self.images += 1;
            self.captions += row.captions.len();
        }
    }

    fn pair(&self, row: Row) -> Option<Pair> {
        let mean = |sum: &[f64], count: usize| sum.iter().map(|sum| (sum / count as f64) as f32).collect::<Vec<f32>>();
        let (image, caption) = (mean(&self.image, self.images), mean(&self.caption, self.captions));
        let Row { image_id, hash, caption_keys, tag_coverage, .. } = row;
        let fit = row.captions.iter().map(|c| fit(&row.image, c, &image, &caption)).reduce(f32::max)?;
        Some(Pair { image_id, hash, fit, caption_keys, tag_coverage })
    }
}

async fn read(work: &WorkStore, shard: &[(Artifact, &PartFile); 3]) -> Result<Vec<Row>, WorkerError> {
    let columns: [&[&str]; 3] = [
        &["image_id", "status", "hash", "image_vector", "captions"],
        &["image_id", "split"],
        &["image_id", "captions", "quality"],
    ];
    let mut batches = Vec::new();
    for ((artifact, part), columns) in shard.iter().zip(columns) {
        batches.push(PartReader::open(work, *artifact, part).await?.read(columns).await?);
    }
    of_shard(&batches[0], &batches[1], &batches[2]).map_err(broken)
}

fn of_shard(quality: &RecordBatch, splits: &RecordBatch, captions: &RecordBatch) -> Result<Vec<Row>, TableError> {
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
    let images = quality.binary("image_vector")?;
    let mut rows = Vec::new();
    for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok" && learnt.contains(ids.value(row))) {
        let Some((caption_keys, tag_coverage)) = said.remove(ids.value(row)) else { continue };
        let items = quality.structs("captions", row)?;
        let vectors = quality.inner(&items).binary("vector")?.iter().flatten().map(from_half_bytes).collect();
        rows.push(Row {
            image_id: ids.value(row).to_owned(),
            hash: u64::from_str_radix(hashes.value(row), 16).unwrap_or_default(),
            image: from_half_bytes(images.value(row)),
            captions: vectors,
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
