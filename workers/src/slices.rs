//! Inputs that are no tables, cut by shard: what the source offers, and the split assignment.
//!
//! The planner makes them whole and keeps them in memory, as the Parquet files that tables have, each named by the digests
//! of its rows: where source bytes lie is no part of a name, so that an archive that was packed anew with the same members
//! makes nothing stale. A planner that maps by itself reads them there. For workers elsewhere what a plan reads of them is
//! written to the work store first: a worker reads its shard's slice, and never lists a source.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use manifests::plan::PinnedTable;
use manifests::{Artifact, Digest, PartFile, Plan, digest, paths};
use stages::table::{Columns, TableError};

use crate::error::WorkerError;
use crate::parts::{PartReader, PartWriter};
use crate::stores::WorkStore;

/// Where the inputs of a shard are read from.
#[derive(Clone, Copy)]
pub struct InputStores<'a> {
    /// Where parts of tables are.
    pub tables: &'a WorkStore,
    /// Where slices are: the same store, or the planner's own memory.
    pub slices: &'a WorkStore,
}

impl<'a> InputStores<'a> {
    /// The store that an input is read from.
    pub fn of(self, artifact: Artifact) -> &'a WorkStore {
        if artifact.is_table() { self.tables } else { self.slices }
    }
}

/// The slices of a planner.
pub struct Slices {
    memory: WorkStore,
    inputs: BTreeMap<Artifact, PinnedTable>,
}

impl Default for Slices {
    fn default() -> Self {
        Self { memory: WorkStore::in_memory(), inputs: BTreeMap::new() }
    }
}

impl Slices {
    /// The store that they lie in.
    pub fn store(&self) -> &WorkStore {
        &self.memory
    }

    /// Replaces an input. Shards without rows have no slice.
    ///
    /// # Errors
    /// Rows that are none of the input.
    pub async fn replace(
        &mut self,
        artifact: Artifact,
        country: &str,
        shards: impl Iterator<Item = Result<(u32, RecordBatch), TableError>>,
    ) -> Result<(), WorkerError> {
        self.clear(artifact).await?;
        let mut input = PinnedTable::empty(artifact);
        for cut in shards {
            let (shard, rows) = cut.map_err(|e| WorkerError::Broken(e.to_string()))?;
            if rows.num_rows() > 0 {
                input.parts.push(self.write(artifact, country, shard, &rows).await?);
            }
        }
        self.inputs.insert(artifact, input);
        Ok(())
    }

    async fn write(
        &self,
        artifact: Artifact,
        country: &str,
        shard: u32,
        rows: &RecordBatch,
    ) -> Result<PartFile, WorkerError> {
        let mut writer = PartWriter::create(&self.memory, artifact, country, shard)?;
        writer.write(rows).await?;
        let written = writer.finish().await?;
        let folder = paths::table(artifact);
        let draft = format!("{folder}/{}", written.path);
        let bytes = self.bytes(&draft).await?;
        let path = paths::slice(country, shard, &content(artifact, rows)?);
        self.memory.put(&format!("{folder}/{path}"), bytes).await?;
        self.memory.delete(&draft).await?;
        Ok(PartFile { path, ..written })
    }

    async fn bytes(&self, path: &str) -> Result<bytes::Bytes, WorkerError> {
        let bytes = self.memory.get(path).await?;
        bytes.ok_or_else(|| WorkerError::Missing { what: "a slice", path: path.to_owned() })
    }

    /// Forgets an input.
    ///
    /// # Errors
    /// None that memory has.
    pub async fn clear(&mut self, artifact: Artifact) -> Result<(), WorkerError> {
        for part in self.inputs.remove(&artifact).into_iter().flat_map(|input| input.parts) {
            self.memory.delete(&format!("{}/{}", paths::table(artifact), part.path)).await?;
        }
        Ok(())
    }

    /// The slices of an input; none before it was made.
    pub fn pin(&self, artifact: Artifact) -> PinnedTable {
        self.inputs.get(&artifact).cloned().unwrap_or_else(|| PinnedTable::empty(artifact))
    }

    /// Columns of a shard of an input, in order of image id; `None`: it has no rows.
    ///
    /// # Errors
    /// A column that the input has not got.
    pub async fn read(
        &self,
        artifact: Artifact,
        shard: u32,
        columns: &[&str],
    ) -> Result<Option<RecordBatch>, WorkerError> {
        let input = self.inputs.get(&artifact);
        let Some(part) = input.and_then(|input| input.part(shard)) else { return Ok(None) };
        PartReader::open(&self.memory, artifact, part).await?.read(columns).await.map(Some)
    }

    /// Images of a shard of an input, in order.
    ///
    /// # Errors
    /// None that memory has.
    pub async fn image_ids(&self, artifact: Artifact, shard: u32) -> Result<Vec<String>, WorkerError> {
        let Some(rows) = self.read(artifact, shard, &["image_id"]).await? else { return Ok(Vec::new()) };
        let ids = Columns::new(artifact, &rows).text("image_id").map_err(|e| WorkerError::Broken(e.to_string()))?;
        Ok(ids.iter().flatten().map(str::to_owned).collect())
    }

    /// Writes what the stale shards of a plan read of them, over whatever lies there: its rows are the same, and what was
    /// damaged, moved or is about to be cleared away is whole, right and young again.
    ///
    /// # Errors
    /// The work store's.
    async fn write_stale(&self, work: &WorkStore, plan: &Plan, at_once: usize) -> Result<(), WorkerError> {
        let stale = || plan.counts.stale.iter().map(|shard| shard.shard);
        let inputs = plan.inputs.iter().filter(|input| !input.artifact.is_table());
        let slices = inputs.flat_map(|input| {
            let parts = stale().filter_map(|shard| input.part(shard));
            parts.map(|part| format!("{}/{}", paths::table(input.artifact), part.path))
        });
        futures::stream::iter(slices)
            .map(|path| async move { work.put(&path, self.bytes(&path).await?).await })
            .buffer_unordered(at_once.max(1))
            .try_collect()
            .await
    }

    /// Writes a plan for workers elsewhere: first the slices that it reads, then the plan, over an older one with its key,
    /// which may tell other sizes of them.
    ///
    /// # Errors
    /// The work store's.
    pub async fn publish_plan(&self, work: &WorkStore, plan: &Plan, at_once: usize) -> Result<(), WorkerError> {
        self.write_stale(work, plan, at_once).await?;
        work.put_sealed(&paths::plan(&plan.country, &plan.stage, &plan.key()), plan).await
    }
}

/// Digest of what rows are made from.
fn content(artifact: Artifact, rows: &RecordBatch) -> Result<Digest, WorkerError> {
    let columns = Columns::new(artifact, rows);
    let fields = artifact.fields().into_iter().map(|field| field.name);
    let names = fields.filter(|name| *name == "image_id" || name.ends_with("_digest"));
    let columns: Vec<_> = names
        .map(|name| columns.text(name))
        .collect::<Result<_, _>>()
        .map_err(|e| WorkerError::Broken(e.to_string()))?;
    let values = (0..rows.num_rows()).flat_map(|row| columns.iter().map(move |column| column.value(row).as_bytes()));
    Ok(digest::of_parts(values))
}
