//! One pass over all vectors. In memory are one row group of vectors, and the ids of one shard where images are left out,
//! for each shard that is read side by side.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::Array;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::spec::{TextPooling, VariantRule};
use manifests::{Artifact, shard_of};
use stages::search::{Top, similarity};
use stages::table::Columns;

use super::Scan;
use super::filter::Filter;
use super::found::{FACTS, facts};
use super::index::look;
use super::{Gallery, VectorFile, broken};
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;

/// Compares a query with the vectors of all images that a filter wants, and keeps the `most` best. The result depends
/// neither on how many shards are read side by side nor on which of them the gallery's index has.
///
/// # Errors
/// [`WorkerError::Broken`] for files that cannot be read, or hold vectors of another width; a store that does not answer.
pub async fn scan(gallery: &Arc<Gallery>, query: &[f32], filter: &Filter, most: usize) -> Result<Scan, WorkerError> {
    let (query, filter): (Arc<[f32]>, _) = (query.into(), Arc::new(filter.clone()));
    let mut all = Scan { top: Top::new(most), compared: 0, outdated: 0 };
    let mut left = gallery.vectors.clone();
    if !filter.asks() {
        // nothing need be read of any shard: one look at all that the index has
        let (indexed, others) = left.into_iter().partition(|file| gallery.index.of(file).is_some());
        left = others;
        match look_at(gallery, indexed, &query, &filter, most, None).await? {
            Ok(found) => all.add(found),
            Err(files) => left.extend(files),
        }
    }
    let of_files = left.into_iter().map(|file| {
        let (gallery, query, filter) = (gallery.clone(), query.clone(), filter.clone());
        async move { scan_shard(&gallery, file, &query, &filter, most).await }
    });
    let mut shards = in_order(of_files, gallery.at_once, "search");
    while let Some(shard) = shards.try_next().await? {
        all.add(shard);
    }
    Ok(all)
}

impl Scan {
    fn add(&mut self, other: Scan) {
        self.top.merge(other.top);
        self.compared += other.compared;
        self.outdated += other.outdated;
    }
}

/// What the index finds among files that it has, on a thread that computes; the files themselves if it cannot tell.
async fn look_at(
    gallery: &Arc<Gallery>,
    files: Vec<VectorFile>,
    query: &Arc<[f32]>,
    filter: &Arc<Filter>,
    most: usize,
    wanted: Option<BTreeSet<String>>,
) -> Result<Result<Scan, Vec<VectorFile>>, WorkerError> {
    let (index, query, filter, shards) = (gallery.index.clone(), query.clone(), filter.clone(), gallery.shards);
    let looked = tokio::task::spawn_blocking(move || {
        let without = |file: &VectorFile| filter.without.as_deref().filter(|id| shard_of(id, shards) == file.shard);
        let indexed = files.iter().map(|file| Some((index.of(file)?.as_ref(), wanted.as_ref(), without(file))));
        let found = indexed.collect::<Option<Vec<_>>>().and_then(|indexed| look(&indexed, &query, most));
        found.ok_or(files)
    });
    looked.await.map_err(|e| WorkerError::Broken(format!("search: {e}")))
}

async fn scan_shard(
    gallery: &Arc<Gallery>,
    file: VectorFile,
    query: &Arc<[f32]>,
    filter: &Arc<Filter>,
    most: usize,
) -> Result<Scan, WorkerError> {
    let wanted = wanted(gallery, file.shard, filter).await?;
    let mut scan = Scan { top: Top::new(most), compared: 0, outdated: 0 };
    if wanted.as_ref().is_some_and(BTreeSet::is_empty) {
        return Ok(scan);
    }
    if gallery.index.of(&file).is_some()
        && let Ok(found) = look_at(gallery, vec![file.clone()], query, filter, most, wanted.clone()).await?
    {
        return Ok(found);
    }
    let reader = file.open(&gallery.work).await?;
    for row_group in 0..reader.row_groups().len() {
        let read = ["image_id", "status", "model", file.column(), "parameters"];
        let read = if gallery.pooling.is_some() { &read[..] } else { &read[..4] };
        let batch = reader.read_row_group(read, row_group).await?;
        let columns = Columns::new(file.artifact, &batch);
        let [ids, status, model] = ["image_id", "status", "model"].map(|name| columns.text(name));
        let (ids, status, model) = (ids.map_err(broken)?, status.map_err(broken)?, model.map_err(broken)?);
        let pooled = match gallery.pooling {
            Some(pooling) => Some((pooling, columns.text("parameters").map_err(broken)?)),
            None => None,
        };
        // rows have few different parameters
        let mut pooled_alike: HashMap<&str, bool> = HashMap::new();
        let vectors = file.vectors(&batch).map_err(broken)?;
        for (row, vectors) in vectors.iter().enumerate().filter(|(row, _)| status.value(*row) == "ok") {
            let id = ids.value(row);
            let is_wanted = wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
            if !is_wanted || filter.without.as_deref() == Some(id) {
                continue;
            }
            let is_comparable = pooled.is_none_or(|(pooling, parameters)| {
                let parameters = parameters.value(row);
                *pooled_alike.entry(parameters).or_insert_with(|| pooling_of(parameters) == Some(pooling))
            });
            if model.value(row) != gallery.model || !is_comparable {
                scan.outdated += 1;
                continue;
            }
            // nobody could write anything about it
            let Some(score) = score(query, vectors, gallery.rule) else { continue };
            let other = vectors.iter().find(|vector| vector.len() != query.len());
            if other.is_some() || !score.is_finite() {
                return Err(WorkerError::Broken(format!(
                    "image {id} of {}: its vector has {} numbers and the query {}, or one is not finite; \
                     `urbancross verify` tells damage, and `urbancross run` makes outdated rows again",
                    gallery.country,
                    other.map_or(query.len(), Vec::len),
                    query.len()
                )));
            }
            scan.compared += 1;
            scan.top.offer(score, id, || ());
        }
    }
    Ok(scan)
}

/// How vectors of texts with these parameters are pooled.
fn pooling_of(parameters: &str) -> Option<TextPooling> {
    let parameters: serde_json::Value = serde_json::from_str(parameters).ok()?;
    serde_json::from_value(parameters["pooling"].clone()).ok()
}

/// What the vectors of an image come to; `None`: it has none.
fn score(query: &[f32], vectors: &[Vec<f32>], rule: VariantRule) -> Option<f64> {
    let mut scores = vectors.iter().map(|vector| similarity(query, vector));
    match rule {
        VariantRule::First => scores.next(),
        VariantRule::Max => scores.reduce(|best, score| if score > best || score.is_nan() { score } else { best }),
        VariantRule::Mean => {
            let count = vectors.len() as f64;
            scores.reduce(|sum, score| sum + score).map(|sum| sum / count)
        }
    }
}

/// Ids of a shard that a filter wants; `None`: all of them.
async fn wanted(gallery: &Gallery, shard: u32, filter: &Filter) -> Result<Option<BTreeSet<String>>, WorkerError> {
    let mut wanted: Option<BTreeSet<String>> = None;
    if filter.asks_geotags() {
        let columns: Vec<&str> = ["image_id", "status"].into_iter().chain(FACTS).collect();
        let mut ids = BTreeSet::new();
        if let Some(reader) = open(gallery, &gallery.geotags, shard).await? {
            for row_group in 0..reader.row_groups().len() {
                let batch = reader.read_row_group(&columns, row_group).await?;
                let columns = Columns::new(Artifact::Geotags, &batch);
                let image_ids = columns.text("image_id").map_err(broken)?;
                let status = columns.text("status").map_err(broken)?;
                let good = facts(&batch).map_err(broken)?.into_iter().enumerate();
                let good = good.filter(|(row, facts)| status.value(*row) == "ok" && filter.wants(facts));
                ids.extend(good.map(|(row, _)| image_ids.value(row).to_owned()));
            }
        }
        wanted = Some(ids);
    }
    if let Some(split) = &filter.split {
        let mut ids = BTreeSet::new();
        if let Some(reader) = open(gallery, &gallery.splits, shard).await? {
            let batch = reader.read(&["image_id", "split"]).await?;
            let columns = Columns::new(Artifact::Splits, &batch);
            let (image_ids, splits) =
                (columns.text("image_id").map_err(broken)?, columns.text("split").map_err(broken)?);
            let is_of = |row: &usize| !splits.is_null(*row) && splits.value(*row) == split;
            ids.extend((0..batch.num_rows()).filter(is_of).map(|row| image_ids.value(row).to_owned()));
        }
        if let Some(wanted) = &wanted {
            ids.retain(|id| wanted.contains(id));
        }
        wanted = Some(ids);
    }
    Ok(wanted)
}

async fn open(gallery: &Gallery, table: &PinnedTable, shard: u32) -> Result<Option<PartReader>, WorkerError> {
    match table.part(shard) {
        Some(part) => PartReader::open(&gallery.work, table.artifact, part).await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_vectors_come_to_what_the_rule_says() {
        let vectors = [vec![0.5, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        let of = |rule| score(&[1.0, 0.0], &vectors, rule);
        assert_eq!(
            (of(VariantRule::Max), of(VariantRule::First), of(VariantRule::Mean)),
            (Some(1.0), Some(0.5), Some(0.5))
        );
        assert_eq!(score(&[1.0, 0.0], &[], VariantRule::Max), None);
        let damaged = [vec![f32::NAN, 0.0], vec![1.0, 0.0]];
        assert!(score(&[1.0, 0.0], &damaged, VariantRule::Max).unwrap().is_nan(), "it is not hidden by the others");
    }
}
