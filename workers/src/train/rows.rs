//! The rows of one split, read from the tables at pinned versions.

mod index;
mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
/// Row groups that are read at once; those of a window lie nearly always in as many shards.
const GROUPS_AT_ONCE: usize = 16;

/// The rows of one split, read from the tables by row group of `images`.
pub struct TableRows {
    work: WorkStore,
    runtime: tokio::runtime::Handle,
    tables: BTreeMap<Artifact, PinnedTable>,
    groups: Vec<Group>,
    lengths: Vec<u32>,
    /// Part files that were read lately. Footers and ids are small beside the images.
    open: BTreeMap<(Artifact, u32), Arc<OpenPart>>,
}

impl TableRows {
    /// Indexes the rows that are wanted: reads ids and splits, no pixels. About 50 bytes a row.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a part that cannot be read, or without images among the inputs; a store that does
    /// not answer.
    pub async fn open(work: &WorkStore, inputs: &[PinnedTable], wanted: Members<'_>) -> Result<Self, WorkerError> {
        let [rows] = Self::open_each(work, inputs, [wanted]).await?;
        Ok(rows)
    }

    /// The same for several splits, in one pass through the tables.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_each<const N: usize>(
        work: &WorkStore,
        inputs: &[PinnedTable],
        wanted: [Members<'_>; N],
    ) -> Result<[Self; N], WorkerError> {
        let tables: BTreeMap<Artifact, PinnedTable> = inputs.iter().map(|t| (t.artifact, t.clone())).collect();
        let Some(images) = tables.get(&Artifact::Images).cloned() else {
            return Err(WorkerError::Broken("a training without images".into()));
        };
        let mut all = wanted.map(|_| Self {
            work: work.clone(),
            runtime: tokio::runtime::Handle::current(),
            tables: tables.clone(),
            groups: Vec::new(),
            lengths: Vec::new(),
            open: BTreeMap::new(),
        });
        let of_shards = images.parts.into_iter().map(|images| {
            let part = |artifact| tables.get(&artifact).and_then(|table| table.part(images.shard)).cloned();
            let shard = ShardIndex {
                work: work.clone(),
                captions: part(Artifact::Captions),
                splits: part(Artifact::Splits),
                wanted: wanted.iter().map(|wanted| wanted.of_shard(images.shard)).collect(),
                images,
            };
            shard.groups()
        });
        let mut indexed = in_order(of_shards, SHARDS_AT_ONCE, "rows of a split");
        while let Some(of_shard) = indexed.try_next().await? {
            for (rows, groups) in all.iter_mut().zip(of_shard) {
                rows.lengths.extend(groups.iter().map(|group| group.rows.len() as u32));
                rows.groups.extend(groups);
            }
        }
        drop(indexed);
        Ok(all)
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

    /// Opens the parts of some shards that are not open, all at once.
    async fn open_parts(&mut self, shards: &BTreeSet<u32>) -> Result<(), WorkerError> {
        if self.open.len() > MOST_OPEN {
            self.open.clear();
        }
        let mut missing = Vec::new();
        for (&artifact, table) in self.tables.iter().filter(|(artifact, _)| READ.contains(artifact)) {
            let closed = shards.iter().filter(|shard| !self.open.contains_key(&(artifact, **shard)));
            missing.extend(closed.filter_map(move |&shard| Some((artifact, table.part(shard)?))));
        }
        let work = &self.work;
        let opened = missing.into_iter().map(|(artifact, part)| async move {
            let open = OpenPart::open(work, artifact, part).await?;
            Ok::<_, WorkerError>(((artifact, part.shard), Arc::new(open)))
        });
        let opened = try_join_all(opened).await?;
        self.open.extend(opened);
        Ok(())
    }

    /// The rows of some groups, of a few at once.
    async fn read_groups(&mut self, groups: &[usize]) -> Result<Vec<Vec<TrainRow>>, WorkerError> {
        let mut read = Vec::with_capacity(groups.len());
        for some in groups.chunks(GROUPS_AT_ONCE) {
            let filled = some.iter().map(|&group| &self.groups[group]).filter(|group| !group.rows.is_empty());
            let shards: BTreeSet<u32> = filled.map(|group| group.shard).collect();
            self.open_parts(&shards).await?;
            let of_groups = some.iter().map(|&group| {
                let Group { shard, row_group, rows } = &self.groups[group];
                let part = |artifact: &Artifact| Some((*artifact, self.open.get(&(*artifact, *shard))?.clone()));
                read_group(READ.iter().filter_map(part).collect(), *shard, *row_group, rows.clone())
            });
            read.extend(in_order(of_groups, GROUPS_AT_ONCE, "rows of a split").try_collect::<Vec<_>>().await?);
        }
        Ok(read)
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

/// The rows of one group, from the parts of its shard.
async fn read_group(
    parts: BTreeMap<Artifact, Arc<OpenPart>>,
    shard: u32,
    row_group: usize,
    wanted: Vec<(usize, String)>,
) -> Result<Vec<TrainRow>, WorkerError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let part = |artifact| parts.get(&artifact).map(|part| &**part);
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
    let (bytes, digests) = (columns.binary("bytes").map_err(broken)?, columns.text("bytes_digest").map_err(broken)?);
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

/// What becomes of an error on its way through a training: whether another try can help survives.
fn unread(error: WorkerError) -> RowsError {
    RowsError { passes: error.exit_code() == 75, why: error.to_string() }
}

impl TrainRows for TableRows {
    fn groups(&self) -> &[u32] {
        &self.lengths
    }

    fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, RowsError> {
        Ok(self.read_many(&[group])?.pop().unwrap_or_default())
    }

    fn read_many(&mut self, groups: &[usize]) -> Result<Vec<Vec<TrainRow>>, RowsError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.read_groups(groups)).map_err(unread)
    }

    fn captions(&mut self) -> Result<Vec<String>, RowsError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.all_captions()).map_err(unread)
    }
}
