//! The rows of one split, read from the tables at pinned versions.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::Array;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use pixels::mask::Rle;
use stages::image_embeddings::mean_direction;
use stages::segment_features::RowSegments;
use stages::table::{Columns, TableError};
use stages::train_rows::{Embedded, RowsError, TrainRow, TrainRows};

use super::broken;
use crate::assignment::AssignedRow;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Part files held open: a window of row groups may touch many shards.
const MOST_OPEN: usize = 256;
/// Shards whose ids are read at once.
const SHARDS_AT_ONCE: usize = 16;

/// A row group of the images table with the rows of one split in it.
struct Group {
    shard: u32,
    row_group: usize,
    /// Rows within the row group, with their ids.
    rows: Vec<(usize, String)>,
}

/// Which rows are read.
#[derive(Clone, Copy)]
pub enum Members<'a> {
    /// Those of a split of the build.
    Split(&'a str),
    /// Those of a split under another assignment than the build's, by shard.
    Assigned(&'a [Vec<AssignedRow>], &'a str),
}

impl Members<'_> {
    fn of_shard(self, shard: u32) -> Wanted {
        match self {
            Members::Split(split) => Wanted::Split(split.to_owned()),
            Members::Assigned(shards, split) => {
                let rows = shards.get(shard as usize).into_iter().flatten();
                Wanted::Ids(rows.filter(|row| row.split == split).map(|row| row.image_id.clone()).collect())
            }
        }
    }
}

/// Rows of a shard that are wanted.
enum Wanted {
    Split(String),
    Ids(BTreeSet<String>),
}

/// What is read of a shard to know its rows of a split.
struct ShardIndex {
    work: WorkStore,
    images: PartFile,
    captions: Option<PartFile>,
    splits: Option<PartFile>,
    wanted: Wanted,
}

impl ShardIndex {
    async fn groups(self) -> Result<Vec<Group>, WorkerError> {
        let members = self.members().await?;
        let reader = PartReader::open(&self.work, Artifact::Images, &self.images).await?;
        let batch = reader.read(&["image_id", "status"]).await?;
        let columns = Columns::new(Artifact::Images, &batch);
        let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
        let mut groups = Vec::new();
        let mut first = 0;
        for (row_group, length) in reader.row_groups().into_iter().enumerate() {
            let is_member = |row: &usize| {
                let at = first + *row;
                status.value(at) == "ok" && members.contains(ids.value(at))
            };
            let chosen = (0..length).filter(is_member).map(|row| (row, ids.value(first + row).to_owned())).collect();
            groups.push(Group { shard: self.images.shard, row_group, rows: chosen });
            first += length;
        }
        Ok(groups)
    }

    /// Ids that are wanted and have a caption.
    async fn members(&self) -> Result<BTreeSet<String>, WorkerError> {
        let captioned = self.ids(Artifact::Captions, &self.captions, "status", "ok").await?;
        let wanted = match &self.wanted {
            Wanted::Ids(ids) => ids,
            Wanted::Split(split) => &self.ids(Artifact::Splits, &self.splits, "split", split).await?,
        };
        Ok(captioned.intersection(wanted).cloned().collect())
    }

    /// Ids of a part's rows with a value in a column; none of a part that is not there.
    async fn ids(
        &self,
        artifact: Artifact,
        part: &Option<PartFile>,
        column: &str,
        wanted: &str,
    ) -> Result<BTreeSet<String>, WorkerError> {
        let Some(part) = part else { return Ok(BTreeSet::new()) };
        let batch = PartReader::open(&self.work, artifact, part).await?.read(&["image_id", column]).await?;
        let columns = Columns::new(artifact, &batch);
        let (ids, values) = (columns.text("image_id").map_err(broken)?, columns.text(column).map_err(broken)?);
        let is_wanted = |row: &usize| !values.is_null(*row) && values.value(*row) == wanted;
        Ok((0..batch.num_rows()).filter(is_wanted).map(|row| ids.value(row).to_owned()).collect())
    }
}

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

/// A part file with the places of its good rows.
struct OpenPart {
    reader: PartReader,
    place_of_id: BTreeMap<String, usize>,
}

impl OpenPart {
    async fn open(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<Self, WorkerError> {
        let reader = PartReader::open(work, artifact, part).await?;
        let batch = reader.read(&["image_id", "status"]).await?;
        let columns = Columns::new(artifact, &batch);
        let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
        let place_of_id = (0..batch.num_rows())
            .filter(|&row| status.value(row) == "ok")
            .map(|row| (ids.value(row).to_owned(), row))
            .collect();
        Ok(Self { reader, place_of_id })
    }

    /// Rows that hold the ids, rising, with the id of each. Failed rows are left out.
    fn places(&self, ids: &[String]) -> (Vec<usize>, Vec<String>) {
        let mut found: Vec<(usize, String)> =
            ids.iter().filter_map(|id| Some((*self.place_of_id.get(id)?, id.clone()))).collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().unzip()
    }
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

    /// The part file of a shard, if the table has one.
    async fn part(&mut self, artifact: Artifact, shard: u32) -> Result<Option<&OpenPart>, WorkerError> {
        let Some(part) = self.tables.get(&artifact).and_then(|t| t.part(shard)).cloned() else { return Ok(None) };
        if self.open.len() > MOST_OPEN {
            self.open.clear();
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = self.open.entry((artifact, shard)) {
            entry.insert(OpenPart::open(&self.work, artifact, &part).await?);
        }
        Ok(self.open.get(&(artifact, shard)))
    }

    async fn read_group(&mut self, group: usize) -> Result<Vec<TrainRow>, WorkerError> {
        let Group { shard, row_group, rows } = &self.groups[group];
        let (shard, row_group, wanted) = (*shard, *row_group, rows.clone());
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = wanted.iter().map(|(_, id)| id.clone()).collect();
        let mut captions = self.captions_of(shard, &ids).await?;
        let mut segments = self.segments_of(shard, &ids).await?;
        let mut embedded = self.embedded_of(shard, &ids).await?;
        let Some(images) = self.part(Artifact::Images, shard).await? else {
            return Err(WorkerError::Broken(format!("shard {shard} of images is gone")));
        };
        let batch = images.reader.read_row_group(&["bytes", "bytes_digest"], row_group).await?;
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

    async fn captions_of(&mut self, shard: u32, ids: &[String]) -> Result<BTreeMap<String, Vec<String>>, WorkerError> {
        let Some(part) = self.part(Artifact::Captions, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = part.places(ids);
        let batch = part.reader.read_rows(&["captions"], &rows).await?;
        let texts = Columns::new(Artifact::Captions, &batch).texts("captions").map_err(broken)?;
        Ok(found.into_iter().zip(texts).collect())
    }

    /// Embeddings of images and captions, where both tables of them are among the inputs.
    async fn embedded_of(&mut self, shard: u32, ids: &[String]) -> Result<BTreeMap<String, Embedded>, WorkerError> {
        let Some(part) = self.part(Artifact::ImageEmbeddings, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = part.places(ids);
        let batch = part.reader.read_rows(&["embedding"], &rows).await?;
        let images = Columns::new(Artifact::ImageEmbeddings, &batch).vectors("embedding").map_err(broken)?;
        let images: BTreeMap<String, Vec<f32>> = found.into_iter().zip(images).collect();
        let Some(part) = self.part(Artifact::TextEmbeddings, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = part.places(ids);
        let batch = part.reader.read_rows(&["texts"], &rows).await?;
        let columns = Columns::new(Artifact::TextEmbeddings, &batch);
        let mut embedded = BTreeMap::new();
        for (row, id) in found.into_iter().enumerate() {
            let texts = columns.structs("texts", row).map_err(broken)?;
            let text = mean_direction(columns.inner(&texts).vectors("embedding").map_err(broken)?);
            if let Some(image) = images.get(&id) {
                embedded.insert(id, Embedded { image: image.clone(), text });
            }
        }
        Ok(embedded)
    }

    /// Selected segments with their weights; images without scores have none.
    async fn segments_of(
        &mut self,
        shard: u32,
        ids: &[String],
    ) -> Result<BTreeMap<String, Vec<(Rle, f32)>>, WorkerError> {
        let mut chosen: BTreeMap<String, Vec<(usize, f32)>> = BTreeMap::new();
        let Some(part) = self.part(Artifact::SegmentScores, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = part.places(ids);
        let batch = part.reader.read_rows(&["scores"], &rows).await?;
        let columns = Columns::new(Artifact::SegmentScores, &batch);
        for (row, id) in found.into_iter().enumerate() {
            let scores = columns.structs("scores", row).map_err(broken)?;
            let inner = columns.inner(&scores);
            let read = || {
                Ok::<_, TableError>((inner.int32("segment")?, inner.float32("similarity")?, inner.bool("selected")?))
            };
            let (segment, similarity, selected) = read().map_err(broken)?;
            let weights = (0..scores.num_rows())
                .filter(|&i| selected.value(i))
                .map(|i| (segment.value(i).max(0) as usize, similarity.value(i)))
                .collect();
            chosen.insert(id, weights);
        }
        let Some(part) = self.part(Artifact::Segments, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = part.places(ids);
        let batch = part.reader.read_rows(&["width", "height", "segments"], &rows).await?;
        let columns = Columns::new(Artifact::Segments, &batch);
        let mut masks = BTreeMap::new();
        for (row, id) in found.into_iter().enumerate() {
            let segments = RowSegments::read(&columns, row).map_err(broken)?;
            let of_row = chosen.remove(&id).unwrap_or_default();
            let of_row = of_row
                .into_iter()
                .map(|(i, weight)| Ok((segments.mask(i)?, weight)))
                .collect::<Result<Vec<_>, String>>()
                .map_err(|why| WorkerError::Broken(format!("image {id}: {why}")))?;
            masks.insert(id, of_row);
        }
        Ok(masks)
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
        let mut by_shard: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for group in &self.groups {
            by_shard.entry(group.shard).or_default().extend(group.rows.iter().map(|(_, id)| id.clone()));
        }
        let mut all = Vec::new();
        for (shard, ids) in by_shard {
            let captions = runtime.block_on(self.captions_of(shard, &ids)).map_err(unread)?;
            all.extend(captions.into_values().flatten());
        }
        Ok(all)
    }
}
