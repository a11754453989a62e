//! The rows of a run, read from the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile, digest};
use sources::name::ImageName;
use stages::table::{Columns, TableError, option_text};

use super::super::broken;
use super::{DigestBits, RowSplit, RunRow, RunRows, Sight};
use crate::assignment::AssignedRow;
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// What a run reads of one country.
#[derive(Clone, Copy)]
pub struct RunInputs<'a> {
    /// Where the tables are.
    pub work: &'a WorkStore,
    /// Address of the source of the images.
    pub source: &'a str,
    /// `images` among them: what is known of a picture's bytes is known from there.
    pub tables: &'a [PinnedTable],
    /// Boxes and objects of the images.
    pub geotags: &'a PinnedTable,
    /// The splits, by shard, where they are not those of the tables.
    pub assignment: Option<&'a [Vec<AssignedRow>]>,
}

/// Column that says whether a row of a table has changed for a training.
fn digest_column(artifact: Artifact) -> &'static str {
    match artifact {
        Artifact::Images => "bytes_digest",
        Artifact::Captions => "captions_digest",
        Artifact::Splits => "split_digest",
        Artifact::Segments => "segments_digest",
        // floats: their recipe stands for them
        _ => "recipe",
    }
}

/// What is found of one image, table by table.
#[derive(Default)]
struct Found {
    digests: String,
    split: Option<RowSplit>,
    bytes: Option<DigestBits>,
}

/// Shards that are read at a time.
const AT_ONCE: usize = 32;

/// What is read of one shard.
struct ShardInputs {
    work: WorkStore,
    source: Arc<str>,
    parts: Vec<(Artifact, PartFile)>,
    geotags: Option<PartFile>,
    /// The splits, where they are not those of the tables.
    assigned: Vec<AssignedRow>,
}

impl ShardInputs {
    fn new(inputs: RunInputs<'_>, source: &Arc<str>, shard: u32) -> Self {
        Self {
            work: inputs.work.clone(),
            source: source.clone(),
            parts: inputs.tables.iter().filter_map(|t| Some((t.artifact, t.part(shard)?.clone()))).collect(),
            geotags: inputs.geotags.part(shard).cloned(),
            assigned: inputs.assignment.and_then(|shards| shards.get(shard as usize)).cloned().unwrap_or_default(),
        }
    }

    async fn read(self) -> Result<BTreeMap<Box<str>, RunRow>, WorkerError> {
        let mut found = BTreeMap::new();
        for (artifact, part) in &self.parts {
            read_part(&self.work, *artifact, part, &mut found).await?;
        }
        for row in self.assigned {
            let digest = row.digest();
            let entry: &mut Found = found.entry(row.image_id).or_default();
            entry.digests.push_str(&digest);
            entry.split = RowSplit::named(row.split);
        }
        let mut rows =
            found.into_iter().map(|(image_id, found)| (image_id.into_boxed_str(), found.row(&self.source))).collect();
        if let Some(part) = &self.geotags {
            place_part(&self.work, part, &mut rows).await?;
        }
        Ok(rows)
    }
}

impl RunRows {
    /// Reads what a run reads of each image, without reading what it learns from. Boxes and objects come from `geotags`.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for a part that cannot be read; a store that does not answer.
    pub async fn read(inputs: RunInputs<'_>) -> Result<Self, WorkerError> {
        let source: Arc<str> = inputs.source.into();
        let assigned = inputs.assignment.unwrap_or_default();
        let shards: BTreeSet<u32> =
            inputs.tables.iter().flat_map(|t| &t.parts).map(|p| p.shard).chain(0..assigned.len() as u32).collect();
        let of_shards = shards.into_iter().map(|shard| ShardInputs::new(inputs, &source, shard).read());
        let mut read = in_order(of_shards, AT_ONCE, "rows of a training");
        let mut all = RunRows::default();
        while let Some(rows) = read.try_next().await? {
            all.rows.extend(rows);
        }
        Ok(all)
    }
}

impl Found {
    fn row(self, source: &Arc<str>) -> RunRow {
        RunRow {
            digest: Some(digest::bits(&digest::of_bytes(self.digests.as_bytes()))),
            split: self.split,
            sight: Sight { source: Some(source.clone()), bytes: self.bytes, ..Sight::default() },
        }
    }
}

/// Adds what one table has of a shard's images.
async fn read_part(
    work: &WorkStore,
    artifact: Artifact,
    part: &PartFile,
    found: &mut BTreeMap<String, Found>,
) -> Result<(), WorkerError> {
    let column = digest_column(artifact);
    let mut names = vec!["image_id", "status", column];
    names.extend((artifact == Artifact::Splits).then_some("split"));
    let batch = PartReader::open(work, artifact, part).await?.read(&names).await?;
    let mut read = || -> Result<(), TableError> {
        let columns = Columns::new(artifact, &batch);
        let (ids, status, digests) = (columns.text("image_id")?, columns.text("status")?, columns.text(column)?);
        let splits = if names.contains(&"split") { Some(columns.text("split")?) } else { None };
        for row in (0..batch.num_rows()).filter(|&row| status.value(row) == "ok") {
            let entry = found.entry(ids.value(row).to_owned()).or_default();
            entry.digests.push_str(artifact.name());
            entry.digests.push_str(digests.value(row));
            if artifact == Artifact::Images {
                entry.bytes = option_text(digests, row).map(digest::bits);
            }
            if let Some(split) = splits.and_then(|splits| option_text(splits, row)) {
                entry.split = RowSplit::named(split);
            }
        }
        Ok(())
    };
    read().map_err(broken)
}

/// Fills in where a shard's images lie.
async fn place_part(
    work: &WorkStore,
    part: &PartFile,
    rows: &mut BTreeMap<Box<str>, RunRow>,
) -> Result<(), WorkerError> {
    let reader = PartReader::open(work, Artifact::Geotags, part).await?;
    let batch = reader.read(&["image_id", "filepath", "west", "south", "east", "north"]).await?;
    place(&batch, rows).map_err(broken)
}

fn place(batch: &RecordBatch, rows: &mut BTreeMap<Box<str>, RunRow>) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::Geotags, batch);
    let (ids, path) = (columns.text("image_id")?, columns.text("filepath")?);
    let edges =
        [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
    for at in 0..batch.num_rows() {
        let Some(row) = rows.get_mut(ids.value(at)) else { continue };
        let name = option_text(path, at).and_then(|path| ImageName::parse(path).ok());
        row.sight.object = name.map(|name| name.osm_object().to_string().into());
        let whole = edges.iter().all(|edge| !edge.is_null(at));
        row.sight.box_wsen =
            whole.then(|| edges.map(|edge| edge.value(at))).filter(|wsen| sources::meta::is_box(*wsen));
    }
    Ok(())
}
