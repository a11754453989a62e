//! What is known of the pairs of a training, read from tables, and which of them it leaves out.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::{Array, RecordBatch};
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::spec::PairsSpec;
use manifests::{Artifact, Digest, PartFile, digest, paths};
use stages::pair_quality::alike::Search;
use stages::pair_quality::sift::{LeftOut, Pair, Sieve, Untagged};
use stages::table::{Columns, TableError};
use stages::train_rows::caption_key;

use super::{LEFT_OUT_FILE, Members, TableRows, broken};
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Digest of what a run wrote down of the pairs that it leaves out, in its folder: it is there where the run leaves out none, too.
const DIGEST_FILE: &str = "left_out.digest";

/// Shards that are read at once.
const SHARDS_AT_ONCE: usize = 16;

/// Whether what is left fills a batch: nothing of a training has begun yet.
///
/// # Errors
/// [`WorkerError::Configuration`] with how many pairs were left out.
pub(super) fn check_rest((before, left): (usize, usize), batch: usize) -> Result<(), WorkerError> {
    if left >= batch || left == before {
        return Ok(());
    }
    Err(WorkerError::Configuration(format!(
        "[pretrain.pairs] leaves {} of {before} pairs of the train split out, and pretrain.batch = {batch} is more than the {left} that stay: \
         set looser thresholds, or a smaller batch",
        before - left
    )))
}

/// Pairs of the train split that a training leaves out, by image id; about 150 bytes of memory a pair while they are found, and
/// 300 MiB where vectors are compared.
///
/// # Errors
/// [`WorkerError::Broken`] for a part that is not there or cannot be read; a store that does not answer.
pub async fn left_out(
    work: &WorkStore,
    inputs: &[PinnedTable],
    spec: &PairsSpec,
) -> Result<BTreeMap<String, LeftOut>, WorkerError> {
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
            // pair_quality has no part where no image has a caption
            if !has_rows(work, inputs, shard).await? {
                continue;
            }
            return Err(WorkerError::Broken(format!(
                "pretrain.pairs: shard {shard} of pair_quality is not there; `urbancross run` makes it, and \
                 `urbancross retry SPEC --errors` opens it again where workers have closed it as failed"
            )));
        };
        shards.push([(Artifact::PairQuality, quality), (Artifact::Splits, splits), (Artifact::Captions, captions)]);
    }
    let mut pairs = Vec::new();
    let of_shards =
        shards.iter().map(|shard| read(work.clone(), shard.map(|(artifact, part)| (artifact, part.clone()))));
    let mut of_shards = in_order(of_shards, SHARDS_AT_ONCE, "pretrain.pairs");
    while let Some(of_shard) = of_shards.try_next().await? {
        pairs.extend(of_shard);
    }
    let mut sieve = tokio::task::block_in_place(|| Sieve::new(&pairs, spec));
    if spec.near_duplicate_cosine > 0.0 {
        let places: HashMap<&str, usize> = sieve.order().zip(0..).collect();
        let mut search = Search::new(places.len(), spec.near_duplicate_cosine);
        while search.is_open() {
            let opened = shards.iter().map(|[(_, quality), ..]| first_vectors(work.clone(), PartFile::clone(quality)));
            let mut opened = in_order(opened, SHARDS_AT_ONCE, "pretrain.pairs");
            while let Some((reader, first)) = opened.try_next().await? {
                let (mut read, mut row_group) = (first, 0);
                while let Some(batch) = read {
                    tokio::task::block_in_place(|| offer(&mut search, &places, &batch)).map_err(broken)?;
                    row_group += 1;
                    read = vectors(&reader, row_group).await?;
                }
            }
            tokio::task::block_in_place(|| search.end_pass());
        }
        sieve.leave_out_alike(&search.finish());
    }
    Ok(sieve.finish())
}

/// Whether a shard has rows of the train split to learn from.
async fn has_rows(work: &WorkStore, inputs: &[PinnedTable], shard: u32) -> Result<bool, WorkerError> {
    let of_shard: Vec<PinnedTable> = inputs
        .iter()
        .map(|table| PinnedTable {
            parts: table.part(shard).cloned().into_iter().collect(),
            ..PinnedTable::empty(table.artifact)
        })
        .collect();
    Ok(!TableRows::open(work, &of_shard, Members::Split("train")).await?.is_empty())
}

/// Opens a part of pair_quality and reads its first vectors: of most parts that is all.
async fn first_vectors(work: WorkStore, part: PartFile) -> Result<(PartReader, Option<RecordBatch>), WorkerError> {
    let reader = PartReader::open(&work, Artifact::PairQuality, &part).await?;
    let first = vectors(&reader, 0).await?;
    Ok((reader, first))
}

/// The vectors of a row group, if there is one of this number.
async fn vectors(reader: &PartReader, row_group: usize) -> Result<Option<RecordBatch>, WorkerError> {
    if row_group >= reader.row_groups().len() {
        return Ok(None);
    }
    reader.read_row_group(&["image_id", "vector"], row_group).await.map(Some)
}

/// Shows the vectors of a row group to a search.
fn offer(search: &mut Search, places: &HashMap<&str, usize>, batch: &RecordBatch) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::PairQuality, batch);
    let (ids, vectors) = (columns.text("image_id")?, columns.binary("vector")?);
    let rows = (0..batch.num_rows()).filter(|row| !vectors.is_null(*row));
    search.offer(rows.filter_map(|row| Some((*places.get(ids.value(row))?, vectors.value(row)))).collect());
    Ok(())
}

/// What a run leaves out, and why, by image id: as it was written down in the run's folder when the run began, or else as it is
/// found now. The key of a run stands for all that this follows from.
///
/// # Errors
/// As [`left_out`].
pub(crate) async fn of_run(
    (kept_in, run): (&WorkStore, &str),
    work: &WorkStore,
    inputs: &[PinnedTable],
    spec: &PairsSpec,
) -> Result<BTreeMap<String, String>, WorkerError> {
    if !spec.is_on() {
        return Ok(BTreeMap::new());
    }
    if let Some(digest) = kept_in.get_sealed::<Digest>(&format!("{run}/{DIGEST_FILE}")).await? {
        let why = written_in(kept_in, run).await?;
        if digest::of_value(&why) == digest {
            return Ok(why);
        }
    }
    let found = left_out(work, inputs, spec).await?;
    Ok(found.into_iter().map(|(image_id, out)| (image_id, out.in_words())).collect())
}

/// Writes down in a run's folder which pairs it leaves out.
pub(crate) async fn write(work: &WorkStore, run: &str, left_out: &BTreeMap<String, String>) -> Result<(), WorkerError> {
    if !left_out.is_empty() {
        work.put_json(&format!("{run}/{LEFT_OUT_FILE}"), left_out).await?;
    }
    work.put_sealed(&format!("{run}/{DIGEST_FILE}"), &digest::of_value(left_out)).await
}

/// What a run wrote down of the pairs that it left out: the reason of each, with its figure, by image id. None of a run that left
/// out none; what cannot be read is none, too. `of`: the country, or the pair of countries, and the name of the training.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn written(work: &WorkStore, of: (&str, &str), key: &str) -> Result<BTreeMap<String, String>, WorkerError> {
    written_in(work, &paths::training_run(of.0, of.1, key)).await
}

async fn written_in(work: &WorkStore, run: &str) -> Result<BTreeMap<String, String>, WorkerError> {
    let bytes = work.get(&format!("{run}/{LEFT_OUT_FILE}")).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

async fn read(work: WorkStore, shard: [(Artifact, PartFile); 3]) -> Result<Vec<Pair>, WorkerError> {
    let columns: [&[&str]; 3] = [
        &["image_id", "status", "hash", "similarities", "grounding"],
        &["image_id", "split"],
        &["image_id", "captions", "quality"],
    ];
    let mut batches = Vec::new();
    for ((artifact, part), columns) in shard.iter().zip(columns) {
        batches.push(PartReader::open(&work, *artifact, part).await?.read(columns).await?);
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
            untagged: untagged(&quality, row)?,
        });
    }
    Ok(rows)
}

/// Of the caption that names most beside the tags; `None`: there is nothing to hold captions against.
fn untagged(quality: &Columns<'_>, row: usize) -> Result<Option<Untagged>, TableError> {
    let items = quality.structs("grounding", row)?;
    let inner = quality.inner(&items);
    let (shares, things) = (inner.float32("untagged_share")?, inner.text("untagged")?);
    let known = (0..items.num_rows()).filter(|at| !shares.is_null(*at));
    let most = known.max_by(|a, b| shares.value(*a).total_cmp(&shares.value(*b)));
    Ok(most.map(|at| Untagged { share: shares.value(at), things: things.value(at).to_owned() }))
}

/// How many for each reason, in words; empty: none.
pub fn in_words<'a>(left_out: impl Iterator<Item = &'a str>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    // without its figure
    left_out.for_each(|why| *counts.entry(why.split(':').next().unwrap_or(why)).or_default() += 1);
    counts.iter().map(|(why, count)| format!("{count} ({why})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use arrow::array::new_null_array;
    use arrow::datatypes::DataType;
    use stages::table;

    use super::*;
    use crate::parts::PartWriter;

    /// A table with one row, in shard 0, that has this text in a column.
    async fn one_row(work: &WorkStore, artifact: Artifact, column: &str, text: &str) -> PinnedTable {
        let schema = table::schema(artifact);
        let columns = schema.fields().iter().map(|field| match field.data_type() {
            _ if field.name().as_str() == column => table::texts([Some(text)]),
            kind if field.is_nullable() => new_null_array(kind, 1),
            DataType::Int32 => table::int32s([Some(1)]),
            _ => table::texts([Some("a")]),
        });
        let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
        let mut writer = PartWriter::create(work, artifact, "x", 0).unwrap();
        writer.write(&batch).await.unwrap();
        PinnedTable { parts: vec![writer.finish().await.unwrap()], ..PinnedTable::empty(artifact) }
    }

    /// Nothing makes pair_quality of a shard in which every caption or every image failed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_shard_without_pairs_needs_no_pair_quality() {
        let work = WorkStore::in_memory();
        let spec = PairsSpec { drop_least_similar: 0.5, ..PairsSpec::default() };
        let of = async |captions: &str, images: &str, split: &str| {
            let inputs = [
                one_row(&work, Artifact::Captions, "status", captions).await,
                one_row(&work, Artifact::Images, "status", images).await,
                one_row(&work, Artifact::Splits, "split", split).await,
                PinnedTable::empty(Artifact::PairQuality),
            ];
            left_out(&work, &inputs, &spec).await
        };
        for (captions, images, split) in [("error", "ok", "train"), ("ok", "error", "train"), ("ok", "ok", "val")] {
            assert!(of(captions, images, split).await.unwrap().is_empty(), "{captions} {images} {split}");
        }
        let error = of("ok", "ok", "train").await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("shard 0 of pair_quality"), "{error}");
        assert!(error.to_string().contains("`urbancross retry SPEC --errors`"), "{error}");
    }

    /// Sifting may take hours: a run that was stopped goes on with what it found when it began.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_goes_on_sifts_nothing_again() {
        let work = WorkStore::in_memory();
        let spec = PairsSpec { drop_least_similar: 0.5, ..PairsSpec::default() };
        let inputs = [
            one_row(&work, Artifact::Captions, "status", "error").await,
            one_row(&work, Artifact::Images, "status", "ok").await,
            one_row(&work, Artifact::Splits, "split", "train").await,
            PinnedTable::empty(Artifact::PairQuality),
        ];
        let of_run = async || of_run((&work, "run"), &work, &inputs, &spec).await;
        assert!(of_run().await.unwrap().is_empty());
        let why = BTreeMap::from([("a".to_owned(), "too like b".to_owned())]);
        write(&work, "run", &why).await.unwrap();
        assert_eq!(of_run().await.unwrap(), why);
        // what was changed since is not believed
        work.put_json(&format!("run/{LEFT_OUT_FILE}"), &BTreeMap::from([("c", "too like b")])).await.unwrap();
        assert!(of_run().await.unwrap().is_empty());
        // none is an answer, too: no table is read
        let none = BTreeMap::new();
        work.delete(&format!("run/{LEFT_OUT_FILE}")).await.unwrap();
        write(&work, "run", &none).await.unwrap();
        let captions = &inputs[0].parts[0].path;
        work.delete(&format!("{}/{captions}", paths::table(Artifact::Captions))).await.unwrap();
        assert_eq!(of_run().await.unwrap(), none);
        let read = left_out(&work, &inputs, &spec).await;
        assert!(read.is_err());
    }

    #[test]
    fn sifting_that_leaves_no_batch_says_that_it_did() {
        let said = |before, left| check_rest((before, left), 8).map_err(|error| error.to_string());
        assert!(said(40, 8).is_ok() && said(40, 40).is_ok());
        assert!(said(5, 5).is_ok(), "nothing was left out: too few rows are another fault");
        let why = said(40, 1).unwrap_err();
        assert!(why.contains("[pretrain.pairs] leaves 39 of 40 pairs") && why.contains("the 1 that stay"), "{why}");
        assert_eq!(check_rest((40, 1), 8).unwrap_err().exit_code(), 65);
    }
}
