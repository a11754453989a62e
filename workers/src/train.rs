//! Training on the tables: resumable runs, and when a run is stale.

mod claim;
mod mirror;
mod place;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use manifests::plan::PinnedTable;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, digest, paths};
use serde::{Deserialize, Serialize};
use stages::Training;
use stages::pretrain::{self, RESULT_FOLDER, Trained};
use stages::table::{Columns, TableError};
use training::communicator::Communicator;
use training::trainer::Event;

use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

use mirror::Mirror;
pub(crate) use place::RunPlace;
pub use rows::{Members, TableRows};

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

/// Whether a run that is not finished has left a checkpoint, from which it will go on.
pub async fn is_begun(
    work: &WorkStore,
    country: &str,
    training: Training,
    key: &str,
    scratch: &Path,
) -> Result<bool, WorkerError> {
    Mirror::new(work, scratch, &paths::training_run(country, training.name(), key)).is_begun().await
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

/// What a training run is told.
pub struct TrainRequest<'a> {
    pub work: &'a WorkStore,
    pub spec: &'a BuildSpec,
    pub weights: &'a Weights,
    pub training: Training,
    pub inputs: Vec<PinnedTable>,
    pub key: String,
    pub parameters: String,
    pub warm_start: Option<String>,
    pub sequence: u64,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: &'a Path,
    pub stop: &'a AtomicBool,
    /// The ranks that train together.
    pub ranks: &'a mut dyn Communicator,
}

/// Trains on a thread of its own, resuming the run of the same key, and records the result. Rank 0 keeps the run's
/// checkpoints and gets the record; the other ranks train with it and get nothing.
pub async fn train(
    request: TrainRequest<'_>,
    observe: impl FnMut(&Event) + Send,
) -> Result<Option<TrainingRecord>, WorkerError> {
    let run = paths::training_run(&request.spec.country, request.training.name(), &request.key);
    let mut train = TableRows::open(request.work, &request.inputs, Members::Split("train")).await?;
    let mut validation = TableRows::open(request.work, &request.inputs, Members::Split("val")).await?;
    let warm_start = match &request.warm_start {
        Some(key) => Some(fetch_result(request.work, request.spec, request.training, key, request.scratch).await?),
        None => None,
    };
    let (spec, weights, stop) = (request.spec, request.weights, request.stop);
    let (data, training) = (request.key.clone(), request.training);
    let place = RunPlace { work: request.work, scratch: request.scratch, run: &run, name: training.name() };
    let claim = place.claim(request.ranks, stop).await?;
    if claim.waited
        && let Some(record) = request.work.get_json(&format!("{run}/{RECORD_FILE}")).await?
    {
        return Ok(Some(record));
    }
    let trained = place
        .run(request.ranks, observe, |ranks, folder, observe| {
            pretrain::train(pretrain::Run {
                spec,
                weights,
                training,
                ranks,
                train: &mut train,
                validation: &mut validation,
                folder,
                data,
                warm_start,
                stop,
                observe,
            })
        })
        .await?;
    let Some(trained) = trained else { return Ok(None) };
    let record = TrainingRecord {
        key: request.key,
        training: training.name().to_owned(),
        country: request.spec.country.clone(),
        stage_version: pretrain::VERSION,
        parameters: request.parameters,
        inputs: request.inputs,
        warm_start: request.warm_start,
        trained,
        sequence: request.sequence,
    };
    request.work.put_json(&format!("{run}/{RECORD_FILE}"), &record).await?;
    Ok(Some(record))
}

/// The result folder of a finished run, on this machine.
pub async fn fetch_result(
    work: &WorkStore,
    spec: &BuildSpec,
    training: Training,
    key: &str,
    scratch: &Path,
) -> Result<PathBuf, WorkerError> {
    result_of(work, scratch, &paths::training_run(&spec.country, training.name(), key)).await
}

/// The result folder of a finished run, on this machine.
pub(crate) async fn result_of(work: &WorkStore, scratch: &Path, run: &str) -> Result<PathBuf, WorkerError> {
    let result = Mirror::new(work, scratch, run).fetch(RESULT_FOLDER).await?;
    if !result.exists() {
        return Err(WorkerError::Missing { what: "result of a training", path: result.display().to_string() });
    }
    Ok(result)
}
