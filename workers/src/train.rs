//! Training on the tables: rows at pinned versions, resumable runs, and when a run is stale.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use arrow::array::Array;
use manifests::plan::PinnedTable;
use manifests::{Artifact, BuildSpec, digest, paths};
use pixels::mask::Rle;
use serde::{Deserialize, Serialize};
use stages::Training;
use stages::pretrain::{self, RESULT_FOLDER, TrainRow, TrainRows, Trained};
use stages::segment_features::RowSegments;
use stages::table::{Columns, TableError};
use training::pretrain::Event;

use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// What a finished training run is, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    pub key: String,
    pub training: String,
    pub country: String,
    pub stage_version: u32,
    /// Canonical JSON of the settings.
    pub parameters: String,
    pub inputs: Vec<PinnedTable>,
    pub warm_start: Option<String>,
    pub trained: Trained,
    /// Counts finished runs of a country: the newest has the largest.
    pub sequence: u64,
}

/// Name of a finished run's record in its folder.
pub const RECORD_FILE: &str = "done.json";

/// The tables that a training reads, the first ones always, segments where they enter the loss.
pub fn training_inputs(spec: &BuildSpec, training: Training) -> Vec<Artifact> {
    let mut inputs = vec![Artifact::Images, Artifact::Captions, Artifact::Splits];
    if pretrain::of_training(spec, training).segments_per_image > 0 {
        inputs.extend([Artifact::Segments, Artifact::SegmentScores]);
    }
    inputs
}

/// Identity of a run: the same key continues the same run.
pub fn run_key(training: Training, parameters: &str, inputs: &[PinnedTable], warm_start: Option<&str>) -> String {
    let tables: BTreeMap<_, _> = inputs.iter().map(|t| (t.artifact.name(), t.digest())).collect();
    digest::of_value(&(training.name(), pretrain::VERSION, parameters, tables, warm_start))
}

/// All finished runs of a training in a country, oldest first.
pub async fn records(work: &WorkStore, country: &str, training: Training) -> Result<Vec<TrainingRecord>, WorkerError> {
    let folder = paths::training_runs(country, training.name());
    let mut records = Vec::new();
    for name in work.list(&folder).await? {
        if name.ends_with(&format!("/{RECORD_FILE}"))
            && let Some(record) = work.get_json::<TrainingRecord>(&format!("{folder}/{name}")).await?
        {
            records.push(record);
        }
    }
    records.sort_by_key(|r: &TrainingRecord| r.sequence);
    Ok(records)
}

/// How far the tables have moved away from those of a finished run: digests of every row that the
/// training reads, then and now.
pub async fn changed_share(
    work: &WorkStore,
    before: &[PinnedTable],
    now: &[PinnedTable],
) -> Result<ChangedShare, WorkerError> {
    let mut share = ChangedShare::default();
    let shards: std::collections::BTreeSet<u32> =
        before.iter().chain(now).flat_map(|t| &t.parts).map(|p| p.shard).collect();
    for shard in shards {
        let (old, new) = (row_digests(work, before, shard).await?, row_digests(work, now, shard).await?);
        let ids: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        share.rows += ids.len() as u64;
        share.changed += ids.into_iter().filter(|id| old.get(*id) != new.get(*id)).count() as u64;
    }
    Ok(share)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedShare {
    pub rows: u64,
    pub changed: u64,
}

impl ChangedShare {
    pub fn share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.changed as f64 / self.rows as f64 }
    }
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

async fn row_digests(
    work: &WorkStore,
    tables: &[PinnedTable],
    shard: u32,
) -> Result<BTreeMap<String, String>, WorkerError> {
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for table in tables {
        let Some(part) = table.part(shard) else { continue };
        let column = digest_column(table.artifact);
        let batch = PartReader::open(work, table.artifact, part).await?.read(&["image_id", "status", column]).await?;
        let columns = Columns::new(table.artifact, &batch);
        let read = || Ok::<_, TableError>((columns.text("image_id")?, columns.text("status")?, columns.text(column)?));
        let (ids, status, digests) = read().map_err(broken)?;
        for row in 0..batch.num_rows() {
            if status.value(row) == "ok" {
                let entry = rows.entry(ids.value(row).to_owned()).or_default();
                entry.push_str(table.artifact.name());
                entry.push_str(digests.value(row));
            }
        }
    }
    Ok(rows)
}

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// A row group of the images table with the rows of one split in it.
struct Group {
    shard: u32,
    row_group: usize,
    /// Rows within the row group, with their ids.
    rows: Vec<(usize, String)>,
}

/// The rows of one split, read from the tables by row group of `images`.
pub struct TableRows {
    work: WorkStore,
    runtime: tokio::runtime::Handle,
    tables: BTreeMap<Artifact, PinnedTable>,
    groups: Vec<Group>,
    lengths: Vec<u32>,
    /// Open part files of the shard read last: groups of one shard follow each other in
    /// evaluation, and in training a footer costs little beside the images.
    readers: BTreeMap<(Artifact, u32), PartReader>,
}

impl TableRows {
    /// Indexes the rows of `split`: reads ids and splits, no pixels. About 50 bytes a row.
    pub async fn open(work: &WorkStore, inputs: &[PinnedTable], split: &str) -> Result<Self, WorkerError> {
        let tables: BTreeMap<Artifact, PinnedTable> = inputs.iter().map(|t| (t.artifact, t.clone())).collect();
        let mut rows = Self {
            work: work.clone(),
            runtime: tokio::runtime::Handle::current(),
            tables,
            groups: Vec::new(),
            lengths: Vec::new(),
            readers: BTreeMap::new(),
        };
        let Some(images) = rows.tables.get(&Artifact::Images).cloned() else {
            return Err(WorkerError::Broken("a training without images".into()));
        };
        for part in &images.parts {
            let members = rows.members(part.shard, split).await?;
            let reader = PartReader::open(work, Artifact::Images, part).await?;
            for row_group in 0..reader.row_groups().len() {
                let batch = reader.read_row_group(&["image_id", "status"], row_group).await?;
                let columns = Columns::new(Artifact::Images, &batch);
                let (ids, status) =
                    (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
                let chosen: Vec<(usize, String)> = (0..batch.num_rows())
                    .filter(|&row| status.value(row) == "ok" && members.contains(ids.value(row)))
                    .map(|row| (row, ids.value(row).to_owned()))
                    .collect();
                rows.lengths.push(chosen.len() as u32);
                rows.groups.push(Group { shard: part.shard, row_group, rows: chosen });
            }
        }
        Ok(rows)
    }

    /// Ids of a shard that belong to the split and have a caption.
    async fn members(&self, shard: u32, split: &str) -> Result<std::collections::BTreeSet<String>, WorkerError> {
        let mut members: Option<std::collections::BTreeSet<String>> = None;
        for (artifact, column, wanted) in [(Artifact::Splits, "split", split), (Artifact::Captions, "status", "ok")] {
            let Some(part) = self.tables.get(&artifact).and_then(|t| t.part(shard)) else {
                return Ok(std::collections::BTreeSet::new());
            };
            let batch = PartReader::open(&self.work, artifact, part).await?.read(&["image_id", column]).await?;
            let columns = Columns::new(artifact, &batch);
            let (ids, values) = (columns.text("image_id").map_err(broken)?, columns.text(column).map_err(broken)?);
            let here = (0..batch.num_rows())
                .filter(|&row| !values.is_null(row) && values.value(row) == wanted)
                .map(|row| ids.value(row).to_owned())
                .filter(|id| members.as_ref().is_none_or(|m| m.contains(id)))
                .collect();
            members = Some(here);
        }
        Ok(members.unwrap_or_default())
    }

    async fn reader(&mut self, artifact: Artifact, shard: u32) -> Result<Option<&PartReader>, WorkerError> {
        let Some(part) = self.tables.get(&artifact).and_then(|t| t.part(shard)).cloned() else { return Ok(None) };
        // a window of row groups may touch many shards: keep a bounded number of footers
        if self.readers.len() > 256 {
            self.readers.clear();
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = self.readers.entry((artifact, shard)) {
            entry.insert(PartReader::open(&self.work, artifact, &part).await?);
        }
        Ok(self.readers.get(&(artifact, shard)))
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
        let Some(images) = self.reader(Artifact::Images, shard).await? else {
            return Err(WorkerError::Broken(format!("shard {shard} of images is gone")));
        };
        let batch = images.read_row_group(&["bytes", "bytes_digest"], row_group).await?;
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
                image_id,
            })
            .collect())
    }

    async fn captions_of(&mut self, shard: u32, ids: &[String]) -> Result<BTreeMap<String, Vec<String>>, WorkerError> {
        let Some(reader) = self.reader(Artifact::Captions, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = positions(reader, Artifact::Captions, ids).await?;
        let batch = reader.read_rows(&["captions"], &rows).await?;
        let texts = Columns::new(Artifact::Captions, &batch).texts("captions").map_err(broken)?;
        Ok(found.into_iter().zip(texts).collect())
    }

    /// Selected segments with their weights; images without scores have none.
    async fn segments_of(
        &mut self,
        shard: u32,
        ids: &[String],
    ) -> Result<BTreeMap<String, Vec<(Rle, f32)>>, WorkerError> {
        let mut chosen: BTreeMap<String, Vec<(usize, f32)>> = BTreeMap::new();
        let Some(reader) = self.reader(Artifact::SegmentScores, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = positions(reader, Artifact::SegmentScores, ids).await?;
        let batch = reader.read_rows(&["scores"], &rows).await?;
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
        let Some(reader) = self.reader(Artifact::Segments, shard).await? else { return Ok(BTreeMap::new()) };
        let (rows, found) = positions(reader, Artifact::Segments, ids).await?;
        let batch = reader.read_rows(&["width", "height", "segments"], &rows).await?;
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

/// Rows of a part that hold the ids, rising, with the id of each. Failed rows are left out.
async fn positions(
    reader: &PartReader,
    artifact: Artifact,
    ids: &[String],
) -> Result<(Vec<usize>, Vec<String>), WorkerError> {
    let batch = reader.read(&["image_id", "status"]).await?;
    let columns = Columns::new(artifact, &batch);
    let (all, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
    let wanted: std::collections::BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    Ok((0..batch.num_rows())
        .filter(|&row| status.value(row) == "ok" && wanted.contains(all.value(row)))
        .map(|row| (row, all.value(row).to_owned()))
        .unzip())
}

impl TrainRows for TableRows {
    fn groups(&self) -> &[u32] {
        &self.lengths
    }

    fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, String> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.read_group(group)).map_err(|e| e.to_string())
    }

    fn captions(&mut self) -> Result<Vec<String>, String> {
        let runtime = self.runtime.clone();
        let mut by_shard: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for group in &self.groups {
            by_shard.entry(group.shard).or_default().extend(group.rows.iter().map(|(_, id)| id.clone()));
        }
        let mut all = Vec::new();
        for (shard, ids) in by_shard {
            let captions = runtime.block_on(self.captions_of(shard, &ids)).map_err(|e| e.to_string())?;
            all.extend(captions.into_values().flatten());
        }
        Ok(all)
    }
}

/// What a training run is told.
pub struct TrainRequest<'a> {
    pub work: &'a WorkStore,
    pub spec: &'a BuildSpec,
    pub training: Training,
    pub inputs: Vec<PinnedTable>,
    pub key: String,
    pub parameters: String,
    pub warm_start: Option<String>,
    pub sequence: u64,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: &'a Path,
    pub stop: &'a AtomicBool,
}

/// Trains on a thread of its own, resuming the run of the same key, and records the result.
pub async fn train(
    request: TrainRequest<'_>,
    mut observe: impl FnMut(&Event) + Send,
) -> Result<TrainingRecord, WorkerError> {
    let run = paths::training_run(&request.spec.country, request.training.name(), &request.key);
    let folder = local_run_folder(request.work, request.scratch, &run);
    restore(request.work, &run, &folder).await?;
    let mut train = TableRows::open(request.work, &request.inputs, "train").await?;
    let mut validation = TableRows::open(request.work, &request.inputs, "val").await?;
    let warm_start = match &request.warm_start {
        Some(key) => Some(fetch_result(request.work, request.spec, request.training, key, request.scratch).await?),
        None => None,
    };
    let (spec, stop, key, training) = (request.spec, request.stop, request.key.clone(), request.training);
    let trained = std::thread::scope(|scope| {
        let folder = &folder;
        let thread = scope.spawn(move || {
            pretrain::train(pretrain::Run {
                spec,
                training,
                train: &mut train,
                validation: &mut validation,
                folder,
                data: key,
                warm_start,
                stop,
                observe: &mut observe,
            })
        });
        // the calling thread waits in `block_in_place`: the runtime's other threads serve the reads
        tokio::task::block_in_place(|| thread.join())
    });
    let trained = trained.map_err(|_| {
        WorkerError::Broken(format!("{}: the training thread failed; its message is above", training.name()))
    })?;
    if request.work.local_folder().is_none() {
        upload(request.work, &run, &folder).await?;
    }
    let record = TrainingRecord {
        key: request.key,
        training: training.name().to_owned(),
        country: request.spec.country.clone(),
        stage_version: pretrain::VERSION,
        parameters: request.parameters,
        inputs: request.inputs,
        warm_start: request.warm_start,
        trained: trained?,
        sequence: request.sequence,
    };
    request.work.put_json(&format!("{run}/{RECORD_FILE}"), &record).await?;
    Ok(record)
}

/// Where a run's files lie on this machine: in the work store itself if that is here.
fn local_run_folder(work: &WorkStore, scratch: &Path, run: &str) -> PathBuf {
    work.local_folder().unwrap_or_else(|| scratch.to_owned()).join(run)
}

/// Brings an unfinished run of another machine here.
async fn restore(work: &WorkStore, run: &str, folder: &Path) -> Result<(), WorkerError> {
    if work.local_folder().is_some() || folder.exists() {
        return Ok(());
    }
    download(work, run, folder).await
}

async fn download(work: &WorkStore, prefix: &str, folder: &Path) -> Result<(), WorkerError> {
    for name in work.list(prefix).await? {
        let Some(bytes) = work.get(&format!("{prefix}/{name}")).await? else { continue };
        let target = folder.join(&name);
        let written =
            target.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&target, &bytes));
        written.map_err(|e| WorkerError::Transient(format!("{}: {e}", target.display())))?;
    }
    Ok(())
}

/// Copies a run's files to a work store elsewhere.
async fn upload(work: &WorkStore, run: &str, folder: &Path) -> Result<(), WorkerError> {
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        let failed = |e: std::io::Error| WorkerError::Transient(format!("{}: {e}", next.display()));
        for entry in std::fs::read_dir(&next).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                pending.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                let bytes = std::fs::read(&path).map_err(failed)?;
                work.put(&format!("{run}/{}", relative.to_string_lossy()), bytes.into()).await?;
            }
        }
    }
    Ok(())
}

/// The result folder of a finished run, on this machine.
pub async fn fetch_result(
    work: &WorkStore,
    spec: &BuildSpec,
    training: Training,
    key: &str,
    scratch: &Path,
) -> Result<PathBuf, WorkerError> {
    let run = paths::training_run(&spec.country, training.name(), key);
    let result = local_run_folder(work, scratch, &run).join(RESULT_FOLDER);
    if work.local_folder().is_none() && !result.exists() {
        download(work, &format!("{run}/{RESULT_FOLDER}"), &result).await?;
    }
    if !result.exists() {
        return Err(WorkerError::Missing { what: "result of a training", path: result.display().to_string() });
    }
    Ok(result)
}
