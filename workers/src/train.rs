//! Training on the tables: resumable runs, and when a run is stale.

pub(crate) mod claim;
mod finished;
mod lineage;
mod mirror;
pub mod pairs;
mod rows;
mod run_dir;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use manifests::plan::PinnedTable;
use manifests::weights::Weights;
use manifests::{Artifact, BuildSpec, digest, paths};
use serde::{Deserialize, Serialize};
use stages::fit::{self, RESULT_FOLDER, Trained};
use stages::pretrain;
use stages::table::TableError;
use stages::{StageError, Training};
use training::communicator::Communicator;
use training::trainer::Event;

use crate::error::WorkerError;
use crate::stores::WorkStore;

pub use lineage::{ChangedShare, Leak, RunInputs, RunRows};
use mirror::Mirror;
pub(crate) use mirror::SAVED;
pub use rows::{Members, TableRows};
pub(crate) use run_dir::RunDir;

/// What a finished training run is, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// Identity of the run, see [`run_key`].
    pub key: String,
    /// `bootstrap` or `pretrain`.
    pub training: String,
    /// Country of the build.
    pub country: String,
    /// Version of the training's method.
    pub stage_version: u32,
    /// Canonical JSON of the settings.
    pub parameters: String,
    /// The tables that it read, as they were pinned.
    pub inputs: Vec<PinnedTable>,
    /// Key of the run whose weights it began with.
    pub warm_start: Option<String>,
    /// What came out.
    pub trained: Trained,
    /// Counts runs of a country in the order in which they began.
    pub sequence: u64,
    /// Where the images came from.
    #[serde(default)]
    pub source: String,
    /// How it began, for people: from which weights, or why from none.
    #[serde(default)]
    pub begins: String,
}

impl TrainingRecord {
    /// Versions of tables only rise: of two runs with the same inputs, the one that pinned later has the larger sum.
    fn pinned_at(&self) -> u64 {
        self.inputs.iter().filter_map(|table| table.version).fold(0, u64::saturating_add)
    }
}

/// What a training is to be: written down before it begins, so that whoever finds it unfinished can go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingRun {
    /// The same key continues the same run.
    pub key: String,
    /// Version of the training's method.
    pub stage_version: u32,
    /// Canonical JSON of the settings.
    pub parameters: String,
    /// The tables that it reads, as they are pinned.
    pub inputs: Vec<PinnedTable>,
    /// Key of the run whose weights it begins with.
    pub warm_start: Option<String>,
    /// Counts runs of a country in the order in which they began.
    pub sequence: u64,
    /// Where the images come from.
    pub source: String,
    /// How it begins, and why it is made.
    pub begins: String,
}

/// Name of a finished run's record in its folder.
pub const RECORD_FILE: &str = "done.json";
/// Name of a begun run's description in its folder.
pub(crate) const DUE_FILE: &str = "begun.json";
/// The rows that a run reads and that it and its ancestors were trained on: in its folder, and in its result.
pub const ROWS_FILE: &str = "rows.parquet";

/// Pairs that a training left out, and why, in its folder.
pub const LEFT_OUT_FILE: &str = "left_out.json";

/// The tables that a training reads, the first ones always, segments where they enter the loss.
pub fn training_inputs(spec: &BuildSpec, training: Training) -> Vec<Artifact> {
    let mut inputs = vec![Artifact::Images, Artifact::Captions, Artifact::Splits];
    if pretrain::of_training(spec, training).segments_per_image > 0 {
        inputs.extend([Artifact::Segments, Artifact::SegmentScores]);
    }
    if pretrain::of_training(spec, training).pairs.is_on() {
        inputs.push(Artifact::PairQuality);
    }
    inputs
}

/// Identity of a run: the same key continues the same run.
pub fn run_key(training: Training, parameters: &str, inputs: &[PinnedTable], warm_start: Option<&str>) -> String {
    let tables: BTreeMap<_, _> = inputs.iter().map(|t| (t.artifact.name(), t.digest())).collect();
    digest::of_value(&(training.name(), pretrain::VERSION, parameters, tables, warm_start))
}

/// The runs of a training in a country.
#[derive(Debug, Default)]
pub struct Runs {
    /// Oldest first.
    pub finished: Vec<Arc<TrainingRecord>>,
    /// Begun and not finished, oldest first.
    pub begun: Vec<PendingRun>,
    /// Paths of descriptions that cannot be read.
    unreadable: Vec<String>,
}

/// All runs of a training in a country. A description that cannot be read is as good as none.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn runs(work: &WorkStore, country: &str, training: Training) -> Result<Runs, WorkerError> {
    let folder = paths::training_runs(country, training.name());
    let listed = work.list_metas(&folder).await?.into_iter();
    let listed: Vec<_> = listed.map(|(name, meta)| (format!("{folder}/{name}"), meta)).collect();
    let of_file = |file: &'static str| listed.iter().filter(move |(path, _)| path.ends_with(&format!("/{file}")));
    let mut runs = Runs::default();
    let mut finished = BTreeSet::new();
    for (path, record) in finished::records(work, of_file(RECORD_FILE).cloned().collect()).await? {
        match record {
            Some(record) => {
                runs.finished.push(record);
                finished.insert(path.replace(RECORD_FILE, DUE_FILE));
            }
            None => runs.unreadable.push(path),
        }
    }
    for (path, _) in of_file(DUE_FILE).filter(|(path, _)| !finished.contains(path)) {
        let path = path.clone();
        match work.get_record::<PendingRun>(&path).await? {
            Some(pending) => runs.begun.push(pending),
            None => runs.unreadable.push(path),
        }
    }
    runs.finished.sort_by_key(|r| (r.pinned_at(), r.sequence));
    runs.begun.sort_by_key(|r| r.sequence);
    Ok(runs)
}

/// Removes descriptions that cannot be read, after it was said that they count as absent.
///
/// # Errors
/// The work store's.
pub async fn discard_unreadable(work: &WorkStore, runs: &Runs) -> Result<(), WorkerError> {
    for path in &runs.unreadable {
        work.delete(path).await?;
    }
    Ok(())
}

/// All finished runs of a training in a country, oldest first.
///
/// # Errors
/// As [`runs`].
pub async fn records(work: &WorkStore, country: &str, training: Training) -> Result<Vec<TrainingRecord>, WorkerError> {
    Ok(runs(work, country, training).await?.finished.iter().map(|record| TrainingRecord::clone(record)).collect())
}

/// The rows of a run, finished or not; `None`: it was made before they were kept. For `like` see
/// [`RunRows::from_bytes`].
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn rows_of_run(
    work: &WorkStore,
    country: &str,
    training: Training,
    key: &str,
    like: &RunRows,
) -> Result<Option<RunRows>, WorkerError> {
    let path = format!("{}/{ROWS_FILE}", paths::training_run(country, training.name(), key));
    let Some(bytes) = work.get(&path).await? else { return Ok(None) };
    Ok(RunRows::from_bytes(bytes, like).inspect_err(|why| tracing::warn!("{path}: {why}; it is ignored")).ok())
}

/// Are all parts of these tables still in the store?
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn parts_are_there(work: &WorkStore, tables: &[PinnedTable], country: &str) -> Result<bool, WorkerError> {
    for table in tables {
        let lost = crate::parts::lost(work, table, country).await?;
        if !lost.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `gc` leaves what is written down as begun; what it took before is gone.
///
/// # Errors
/// [`WorkerError::Transient`]: whoever begins again pins what is there by then.
pub(crate) async fn still_there(work: &WorkStore, tables: &[PinnedTable], country: &str) -> Result<(), WorkerError> {
    match parts_are_there(work, tables, country).await? {
        true => Ok(()),
        false => Err(WorkerError::Transient(format!(
            "the tables of {country} were changed, and their old parts cleared away, while this run began"
        ))),
    }
}

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// What a training run is told.
pub struct TrainRequest<'a> {
    /// Where tables are read and the run is kept.
    pub work: &'a WorkStore,
    /// The build that the training belongs to.
    pub spec: &'a BuildSpec,
    /// What the spec's fields name, on this machine.
    pub weights: &'a Weights,
    /// Which of the build's trainings this is.
    pub training: Training,
    /// The run, new or to be continued.
    pub pending: PendingRun,
    /// The rows that it reads, for the record; made by rank 0's caller.
    pub rows: RunRows,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: &'a Path,
    /// Set when the run is to end; it saves first.
    pub stop: &'a AtomicBool,
    /// The ranks that train together.
    pub ranks: &'a mut dyn Communicator,
}

/// Trains on a thread of its own, resuming the run of the same key, and records the result. Rank 0 keeps the run's
/// checkpoints and gets the record; the other ranks train with it and get nothing.
///
/// # Errors
/// [`WorkerError::Configuration`] for settings or weights that do not fit, [`WorkerError::Broken`] for damaged rows,
/// [`WorkerError::Conflict`] if another machine is ahead, [`WorkerError::Transient`] where going on may help,
/// [`WorkerError::Stopped`].
pub async fn train(
    request: TrainRequest<'_>,
    observe: impl FnMut(&Event) + Send,
) -> Result<Option<TrainingRecord>, WorkerError> {
    let pending = request.pending;
    let run = paths::training_run(&request.spec.country, request.training.name(), &pending.key);
    let splits = [Members::Split("train"), Members::Split("val")];
    let [mut train, mut validation] = TableRows::open_each(request.work, &pending.inputs, splits).await?;
    let pairs_spec = pretrain::of_training(request.spec, request.training).pairs;
    let left_out = pairs::of_run((request.work, run.as_str()), request.work, &pending.inputs, &pairs_spec).await?;
    let before = train.len();
    train.leave_out(|image_id| left_out.contains_key(image_id));
    pairs::check_rest((before, train.len()), pretrain::of_training(request.spec, request.training).batch)?;
    if train.is_empty() {
        return Err(WorkerError::Broken(format!(
            "{}: no row of the train split has an image and a caption without error; look at the rows that failed in \
             {}quarantine/{}/, at split.ratio and at the splits that the source gives",
            request.training.name(),
            request.work.url(),
            request.spec.country
        )));
    }
    let warm_start = match &pending.warm_start {
        Some(key) => Some(fetch_result(request.work, request.spec, request.training, key, request.scratch).await?),
        None => None,
    };
    let (spec, weights, stop) = (request.spec, request.weights, request.stop);
    let (data, training) = (pending.key.clone(), request.training);
    let place = RunDir { work: request.work, scratch: request.scratch, run: &run, name: training.name(), stop };
    let claim = place.claim(request.ranks, stop).await?;
    if let Some(record) = request.work.get_record(&format!("{run}/{RECORD_FILE}")).await? {
        return Ok(Some(record));
    }
    let is_first = request.ranks.rank() == 0;
    let rows = if is_first { request.rows.to_bytes()? } else { Bytes::new() };
    // of a country these are most of what a rank has in memory
    drop(request.rows);
    if is_first {
        request.work.put(&format!("{run}/{ROWS_FILE}"), rows.clone()).await?;
        request.work.put_sealed(&format!("{run}/{DUE_FILE}"), &pending).await?;
        if pairs_spec.is_on() {
            pairs::write(request.work, &run, &left_out).await?;
        }
    }
    still_there(request.work, &pending.inputs, &request.spec.country).await?;
    let trained = place
        .run(&claim, request.ranks, &rows, observe, |ranks, folder, observe| {
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
        key: pending.key,
        training: training.name().to_owned(),
        country: request.spec.country.clone(),
        stage_version: pending.stage_version,
        parameters: pending.parameters,
        inputs: pending.inputs,
        warm_start: pending.warm_start,
        trained,
        sequence: pending.sequence,
        source: pending.source,
        begins: pending.begins,
    };
    request.work.put_sealed(&format!("{run}/{RECORD_FILE}"), &record).await?;
    Ok(Some(record))
}

/// The result folder of a finished run, on this machine.
///
/// # Errors
/// [`WorkerError::Missing`] if the run is not finished, [`WorkerError::Broken`] if its files are not what was
/// recorded; a store that does not answer.
pub async fn fetch_result(
    work: &WorkStore,
    spec: &BuildSpec,
    training: Training,
    key: &str,
    scratch: &Path,
) -> Result<PathBuf, WorkerError> {
    let run = paths::training_run(&spec.country, training.name(), key);
    let record = work.get_record::<TrainingRecord>(&format!("{run}/{RECORD_FILE}")).await?;
    result_of(work, scratch, &run, record.map(|record| record.trained.model_digest)).await
}

/// A text that changes whenever a run of a training or of an adaptation, whose folder is `run`, has saved more than before: whoever
/// starts one again that was killed knows by it whether it comes further.
///
/// # Errors
/// A store that does not answer.
pub async fn saved(work: &WorkStore, run: &str) -> Result<String, WorkerError> {
    let mut positions = BTreeSet::new();
    for name in work.list(run).await?.iter().filter(|name| std::path::Path::new(name).ends_with("last/position.json")) {
        // one that is replaced at this moment is another one the next time
        positions.extend(work.get(&format!("{run}/{name}")).await?.map(|bytes| digest::of_bytes(&bytes)));
    }
    Ok(digest::of_value(&positions))
}

/// The result folder of a finished run, on this machine: its weights are those of the digest in the run's record.
pub(crate) async fn result_of(
    work: &WorkStore,
    scratch: &Path,
    run: &str,
    model_digest: Option<String>,
) -> Result<PathBuf, WorkerError> {
    let path = format!("{run}/{RECORD_FILE}");
    let missing = |what| WorkerError::Missing { what, path: format!("{}{path}", work.url()) };
    let model_digest = model_digest.ok_or_else(|| missing("record of a training"))?;
    let mirror = Mirror::new(work, scratch, run);
    for last in [false, true] {
        let result = mirror.fetch(RESULT_FOLDER).await?;
        if !result.exists() {
            return Err(WorkerError::Missing { what: "result of a training", path: result.display().to_string() });
        }
        let found = tokio::task::block_in_place(|| fit::model_digest(&result));
        match found {
            Ok(digest) if digest == model_digest => return Ok(result),
            // what was copied here was cut: once more
            _ if !last && mirror.forget(RESULT_FOLDER)? => {}
            // nothing is known of the weights where a disk fails
            Err(error @ (StageError::Unreachable { .. } | StageError::DiskFull { .. })) => return Err(error.into()),
            found => {
                return Err(WorkerError::Broken(format!(
                    "{}: these are not the weights that the run left ({}); delete the folder {run} of the work store, \
                     and the next run trains again",
                    result.display(),
                    found.map_or_else(|error| error.to_string(), |_| "their digest differs".into())
                )));
            }
        }
    }
    Err(missing("result of a training"))
}
