//! Rows of a split with what an evaluation reads of them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use stages::evaluate::EvaluatedRow;
use stages::table::{Columns, TableError};
use workers::WorkerError;
use workers::concurrently::in_order;
use workers::parts::PartReader;
use workers::stores::WorkStore;

use super::broken;
use crate::build::Build;

/// Rows of a split with their vectors, from the embedding tables.
pub(super) async fn embedded_rows(
    build: &Build,
    tables: &[PinnedTable],
    wanted: &str,
) -> Result<Vec<EvaluatedRow>, WorkerError> {
    let [images, texts, splits, pixels] = tables else { return Ok(Vec::new()) };
    let of_shards = splits.parts.clone().into_iter().filter_map(|splits| {
        let part = |table: &PinnedTable| table.part(splits.shard).cloned();
        let shard = EvaluatedShard {
            work: build.work.clone(),
            images: part(images)?,
            texts: part(texts)?,
            pixels: part(pixels)?,
            splits,
            wanted: wanted.to_owned(),
        };
        Some(shard.rows())
    });
    in_order(of_shards, build.spec.work.concurrency, "evaluation").try_concat().await
}

/// What is read of a shard.
struct EvaluatedShard {
    work: WorkStore,
    images: PartFile,
    texts: PartFile,
    splits: PartFile,
    pixels: PartFile,
    wanted: String,
}

impl EvaluatedShard {
    async fn rows(self) -> Result<Vec<EvaluatedRow>, WorkerError> {
        let read = |artifact, part: PartFile, columns: &'static [&'static str]| {
            let work = &self.work;
            async move { PartReader::open(work, artifact, &part).await?.read(columns).await }
        };
        let splits = read(Artifact::Splits, self.splits, &["image_id", "split"]).await?;
        let columns = Columns::new(Artifact::Splits, &splits);
        let (ids, split) = (columns.text("image_id").map_err(broken)?, columns.text("split").map_err(broken)?);
        let members: BTreeSet<&str> =
            (0..splits.num_rows()).filter(|&r| split.value(r) == self.wanted).map(|r| ids.value(r)).collect();
        let image_batch = read(Artifact::ImageEmbeddings, self.images, &["image_id", "status", "embedding"]).await?;
        let text_batch = read(Artifact::TextEmbeddings, self.texts, &["image_id", "status", "texts"]).await?;
        let pixel_batch = read(Artifact::Images, self.pixels, &["image_id", "status", "bytes_digest"]).await?;
        let mut captions = captions_of(&text_batch).map_err(broken)?;
        let digests = digests_of(&pixel_batch).map_err(broken)?;
        let columns = Columns::new(Artifact::ImageEmbeddings, &image_batch);
        let vectors = columns.vectors("embedding").map_err(broken)?;
        let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
        let mut rows = Vec::new();
        for (row, embedding) in vectors.into_iter().enumerate() {
            let id = ids.value(row);
            if status.value(row) == "ok"
                && members.contains(id)
                && let (Some(captions), Some(digest)) = (captions.remove(id), digests.get(id))
            {
                rows.push(EvaluatedRow { image_id: id.to_owned(), bytes_digest: digest.clone(), embedding, captions });
            }
        }
        Ok(rows)
    }
}

type Captions = BTreeMap<String, Vec<(String, Vec<f32>)>>;

fn captions_of(batch: &RecordBatch) -> Result<Captions, TableError> {
    let columns = Columns::new(Artifact::TextEmbeddings, batch);
    let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
    let mut captions = Captions::new();
    for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok") {
        let items = columns.structs("texts", row)?;
        let inner = columns.inner(&items);
        let texts = inner.text("text")?;
        let vectors = inner.vectors("embedding")?;
        let pairs = texts.iter().flatten().map(str::to_owned).zip(vectors).collect();
        captions.insert(ids.value(row).to_owned(), pairs);
    }
    Ok(captions)
}

fn digests_of(batch: &RecordBatch) -> Result<BTreeMap<String, String>, TableError> {
    let columns = Columns::new(Artifact::Images, batch);
    let (ids, status, digests) = (columns.text("image_id")?, columns.text("status")?, columns.text("bytes_digest")?);
    Ok((0..batch.num_rows())
        .filter(|&row| status.value(row) == "ok")
        .map(|row| (ids.value(row).to_owned(), digests.value(row).to_owned()))
        .collect())
}
