//! The rows of one split, read from the tables at pinned versions.

mod index;
mod open;

use std::collections::BTreeMap;

use futures::TryStreamExt;
use futures::future::try_join_all;
use manifests::Artifact;
use manifests::plan::PinnedTable;
use stages::table::Columns;
use stages::train_rows::{RowsError, TrainRow, TrainRows};

use super::broken;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::stores::WorkStore;

pub use index::Members;
use index::{Group, ShardIndex};
use open::{OpenPart, captions_of, embedded_of, segments_of};

/// Tables that rows are read of, as far as they are among the inputs.
const READ: [Artifact; 6] = [
    Artifact::Images,
    Artifact::Captions,
    Artifact::Segments,
    Artifact::SegmentScores,
    Artifact::ImageEmbeddings,
    Artifact::TextEmbeddings,
];
/// Part files held open: a window of row groups may touch many shards.
const MOST_OPEN: usize = 256;
/// Shards whose ids are read at once.
const SHARDS_AT_ONCE: usize = 16;

/// The rows of one split, read from the tables by row group of `images`.
pub struct TableRows {
    work: WorkStore,
    runtime: tokio::runtime::Handle,
    tables: BTreeMap<Artifact, PinnedTable>,
    groups: Vec<Group>,
    lengths: Vec<u32>,
    /// Part files that were read lately. Footers and ids are small beside the images.
    open: BTreeMap<(Artifact, u32), OpenPart>,
}

impl TableRows {
    /// Indexes the rows that are wanted: reads ids and splits, no pixels. About 50 bytes a row.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a part that cannot be read, or without images among the inputs; a store that does
    /// not answer.
    pub async fn open(work: &WorkStore, inputs: &[PinnedTable], wanted: Members<'_>) -> Result<Self, WorkerError> {
        let tables: BTreeMap<Artifact, PinnedTable> = inputs.iter().map(|t| (t.artifact, t.clone())).collect();
        let mut rows = Self {
            work: work.clone(),
            runtime: tokio::runtime::Handle::current(),
            tables,
            groups: Vec::new(),
            lengths: Vec::new(),
            open: BTreeMap::new(),
        };
        let Some(images) = rows.tables.get(&Artifact::Images).cloned() else {
            return Err(WorkerError::Broken("a training without images".into()));
        };
        let of_shards = images.parts.into_iter().map(|images| {
            let part = |artifact| rows.tables.get(&artifact).and_then(|table| table.part(images.shard)).cloned();
            let shard = ShardIndex {
                work: work.clone(),
                captions: part(Artifact::Captions),
                splits: part(Artifact::Splits),
                wanted: wanted.of_shard(images.shard),
                images,
            };
            shard.groups()
        });
        let mut indexed = in_order(of_shards, SHARDS_AT_ONCE, "rows of a split");
        while let Some(groups) = indexed.try_next().await? {
            rows.lengths.extend(groups.iter().map(|group| group.rows.len() as u32));
            rows.groups.extend(groups);
        }
        drop(indexed);
        Ok(rows)
    }

    /// Takes some of the rows out.
    pub fn leave_out(&mut self, is_out: impl Fn(&str) -> bool) {
        for (group, length) in self.groups.iter_mut().zip(&mut self.lengths) {
            group.rows.retain(|(_, image_id)| !is_out(image_id));
            *length = group.rows.len() as u32;
        }
    }

    /// Rows that are wanted.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).sum()
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.rows.is_empty())
    }

    /// Opens the parts of a shard that are not open, all at once.
    async fn open_parts(&mut self, shard: u32) -> Result<(), WorkerError> {
        if self.open.len() > MOST_OPEN {
            self.open.clear();
        }
        let parts = self.tables.iter().filter(|(artifact, _)| READ.contains(artifact));
        let missing = parts.filter(|(artifact, _)| !self.open.contains_key(&(**artifact, shard)));
        let opened = missing.filter_map(|(artifact, table)| {
            let (work, part) = (&self.work, table.part(shard)?);
            Some(
                async move { Ok::<_, WorkerError>(((*artifact, shard), OpenPart::open(work, *artifact, part).await?)) },
            )
        });
        let opened = try_join_all(opened).await?;
        self.open.extend(opened);
        Ok(())
    }

    async fn read_group(&mut self, group: usize) -> Result<Vec<TrainRow>, WorkerError> {
        let Group { shard, row_group, rows } = &self.groups[group];
        let (shard, row_group, wanted) = (*shard, *row_group, rows.clone());
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.open_parts(shard).await?;
        let part = |artifact| self.open.get(&(artifact, shard));
        let Some(images) = part(Artifact::Images) else {
            return Err(WorkerError::Broken(format!("shard {shard} of images is gone")));
        };
        let ids: Vec<String> = wanted.iter().map(|(_, id)| id.clone()).collect();
        let (mut captions, mut segments, mut embedded, batch) = tokio::try_join!(
            captions_of(part(Artifact::Captions), &ids),
            segments_of(part(Artifact::SegmentScores), part(Artifact::Segments), &ids),
            embedded_of(part(Artifact::ImageEmbeddings), part(Artifact::TextEmbeddings), &ids),
            images.reader.read_row_group(&["bytes", "bytes_digest"], row_group),
        )?;
        let columns = Columns::new(Artifact::Images, &batch);
        let (bytes, digests) =
            (columns.binary("bytes").map_err(broken)?, columns.text("bytes_digest").map_err(broken)?);
        Ok(wanted
            .into_iter()
            .map(|(row, image_id)| TrainRow {
                bytes: bytes.value(row).to_vec(),
                bytes_digest: digests.value(row).to_owned(),
                captions: captions.remove(&image_id).unwrap_or_default(),
                segments: segments.remove(&image_id).unwrap_or_default(),
                embedded: embedded.remove(&image_id),
                image_id,
            })
            .collect())
    }

    /// The captions of all rows that are wanted, a shard after the other.
    async fn all_captions(&self) -> Result<Vec<String>, WorkerError> {
        let mut by_shard: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for group in &self.groups {
            by_shard.entry(group.shard).or_default().extend(group.rows.iter().map(|(_, id)| id.clone()));
        }
        let of_shards = by_shard.into_iter().filter_map(|(shard, ids)| {
            let (work, part) = (self.work.clone(), self.tables.get(&Artifact::Captions)?.part(shard)?.clone());
            Some(async move {
                let part = OpenPart::open(&work, Artifact::Captions, &part).await?;
                let captions = captions_of(Some(&part), &ids).await?;
                Ok(captions.into_values().flatten().collect::<Vec<_>>())
            })
        });
        in_order(of_shards, SHARDS_AT_ONCE, "captions of a split").try_concat().await
    }
}

/// What becomes of an error on its way through a training: whether another try can help survives.
fn unread(error: WorkerError) -> RowsError {
    RowsError { passes: error.exit_code() == 75, why: error.to_string() }
}

impl TrainRows for TableRows {
    fn groups(&self) -> &[u32] {
        &self.lengths
    }

    fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, RowsError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.read_group(group)).map_err(unread)
    }

    fn captions(&mut self) -> Result<Vec<String>, RowsError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.all_captions()).map_err(unread)
    }
}
