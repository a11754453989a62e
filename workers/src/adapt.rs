//! Adaptation on the tables of two countries: resumable runs and their records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use manifests::plan::PinnedTable;
use manifests::{Artifact, BuildSpec, PairSpec, digest, paths};
use serde::{Deserialize, Serialize};
use stages::adapt::{self, NAME};
use stages::fit::Trained;
use training::communicator::Communicator;
use training::trainer::Event;

use crate::assignment::AssignedRow;
use crate::error::WorkerError;
use crate::stores::WorkStore;
use crate::train::{
    DUE_FILE, Members, RECORD_FILE, RunDir, RunInputs, RunRows, TableRows, pairs, result_of, still_there,
};

/// Tables of the source that an adaptation reads: pairs, and their embeddings by the source's own model; segments where
/// they are learnt from, and what tells noisy pairs apart where the source's own training leaves some out.
pub fn source_inputs(pair: &PairSpec, source: &BuildSpec) -> Vec<Artifact> {
    let pairs =
        [Artifact::Images, Artifact::Captions, Artifact::Splits, Artifact::ImageEmbeddings, Artifact::TextEmbeddings];
    let noisy = source.pretrain.pairs.is_on().then_some(Artifact::PairQuality);
    pairs.into_iter().chain(segment_inputs(pair)).chain(noisy).collect()
}

/// The source's pairs that an adaptation may learn from. Those that it leaves out are the same as those of the training of
/// the source's model. The target's labelled pairs are all used: how few they are is what is studied, and its test must not
/// depend on them.
async fn source_rows<T>(
    work: &WorkStore,
    inputs: &[PinnedTable],
    left_out: &BTreeMap<String, T>,
) -> Result<TableRows, WorkerError> {
    let mut rows = TableRows::open(work, inputs, Members::Split("train")).await?;
    rows.leave_out(|image_id| left_out.contains_key(image_id));
    Ok(rows)
}

/// Tables of the target that an adaptation reads.
pub fn target_inputs(pair: &PairSpec) -> Vec<Artifact> {
    PAIRS.into_iter().chain(segment_inputs(pair)).collect()
}

/// Tables that have all of a pair of image and caption.
pub const PAIRS: [Artifact; 2] = [Artifact::Images, Artifact::Captions];

fn segment_inputs(pair: &PairSpec) -> impl Iterator<Item = Artifact> {
    let segments = [Artifact::Segments, Artifact::SegmentScores];
    segments.into_iter().filter(|_| pair.adapt.segments_per_image > 0)
}

/// The tables among `inputs` that a test or a validation reads.
pub fn pairs_of(inputs: &[PinnedTable]) -> Vec<PinnedTable> {
    inputs.iter().filter(|table| PAIRS.contains(&table.artifact)).cloned().collect()
}

/// What a finished adaptation is, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdaptationRecord {
    /// Identity of the run: the same key continues the same run.
    pub key: String,
    /// `SOURCE_to_TARGET`.
    pub pair: String,
    /// Version of the adaptation's method.
    pub stage_version: u32,
    /// Canonical JSON of the settings.
    pub parameters: String,
    /// Digest of the model that was adapted.
    pub source_model: String,
    /// The source's tables, as they were pinned.
    pub source_inputs: Vec<PinnedTable>,
    /// The target's tables, as they were pinned.
    pub target_inputs: Vec<PinnedTable>,
    /// What came out.
    pub trained: Trained,
}

/// What an adaptation needs, written down before it begins, in the stores of both countries: `gc` leaves it alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Of the source and of the target.
    pub(crate) inputs: Vec<PinnedTable>,
    /// Digest of the source's model.
    pub(crate) source_model: String,
    /// Address of the store that keeps the run.
    pub(crate) kept_in: String,
}

/// The adaptations from or to a country that a store tells of, by the folders of their runs.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) finished: Vec<String>,
    pub(crate) begun: Vec<(String, Begun)>,
}

/// All adaptations from or to a country. A description that cannot be read is as good as none.
pub(crate) async fn runs(work: &WorkStore, country: &str) -> Result<Runs, WorkerError> {
    let (from, to) = (format!("{country}_to_"), format!("_to_{country}"));
    let names = work.list(paths::CHECKPOINTS).await?;
    // PAIR/adapt/KEY/FILE
    let folder_of = |name: &str, file: &str| {
        let run = name.strip_suffix(file)?.strip_suffix('/')?;
        let (pair, _) = run.split_once(&format!("/{NAME}/"))?;
        (pair.starts_with(&from) || pair.ends_with(&to)).then(|| format!("{}/{run}", paths::CHECKPOINTS))
    };
    let mut runs =
        Runs { finished: names.iter().filter_map(|name| folder_of(name, RECORD_FILE)).collect(), begun: Vec::new() };
    for run in names.iter().filter_map(|name| folder_of(name, DUE_FILE)).filter(|run| !runs.finished.contains(run)) {
        if let Some(begun) = work.get_record(&format!("{run}/{DUE_FILE}")).await? {
            runs.begun.push((run, begun));
        }
    }
    Ok(runs)
}

/// What an adaptation is told.
pub struct AdaptRequest<'a> {
    /// Settings of the pair.
    pub pair: &'a PairSpec,
    /// `SOURCE_to_TARGET`.
    pub name: &'a str,
    /// The build that made the source's model.
    pub source_spec: &'a BuildSpec,
    /// Work store of the source's build.
    pub source_work: &'a WorkStore,
    /// The source's tables, as they are pinned.
    pub source_inputs: Vec<PinnedTable>,
    /// Digest of the model that is adapted, and its folder on this machine.
    pub source_model: (String, PathBuf),
    /// The run is kept in the target's work store.
    pub target_work: &'a WorkStore,
    /// Country of the target.
    pub target_country: &'a str,
    /// The target's tables, as they are pinned.
    pub target_inputs: Vec<PinnedTable>,
    /// The target's rows under the pair's own parts, by shard.
    pub assignment: &'a [Vec<AssignedRow>],
    /// The same rows with all that was learnt from, as [`lineage`] found them, for the record.
    pub rows: &'a RunRows,
    /// Folder of this machine for checkpoints of work stores that are elsewhere.
    pub scratch: &'a Path,
    /// Set when the run is to end; it saves first.
    pub stop: &'a AtomicBool,
    /// The ranks that train together.
    pub ranks: &'a mut dyn Communicator,
}

impl AdaptRequest<'_> {
    fn parameters(&self) -> Result<String, WorkerError> {
        Ok(digest::canonical_json(&adapt::parameters(self.pair, self.source_spec)?))
    }

    /// Identity of the run: the same key continues the same run.
    ///
    /// # Errors
    /// A method that makes no sense.
    pub fn key(&self) -> Result<String, WorkerError> {
        let tables = |inputs: &[PinnedTable]| -> BTreeMap<_, _> {
            inputs.iter().map(|table| (table.artifact.name(), table.digest())).collect()
        };
        let (source, target) = (tables(&self.source_inputs), tables(&self.target_inputs));
        let rows: Vec<_> = self.assignment.iter().flatten().map(|row| (&row.image_id, row.split)).collect();
        let rows = digest::of_value(&rows);
        let parameters = self.parameters()?;
        Ok(digest::of_value(&(NAME, adapt::VERSION, self.name, parameters, &self.source_model.0, source, target, rows)))
    }
}

/// The record of a finished run.
///
/// # Errors
/// A store that does not answer or lets nobody in. A damaged record is as good as none.
pub async fn record(work: &WorkStore, name: &str, key: &str) -> Result<Option<AdaptationRecord>, WorkerError> {
    work.get_record(&format!("{}/{RECORD_FILE}", paths::training_run(name, NAME, key))).await
}

/// All finished runs of a pair.
///
/// # Errors
/// A store that does not answer or lets nobody in.
pub async fn records(work: &WorkStore, name: &str) -> Result<Vec<AdaptationRecord>, WorkerError> {
    let folder = paths::training_runs(name, NAME);
    let mut records = Vec::new();
    for file in work.list(&folder).await? {
        if file.ends_with(&format!("/{RECORD_FILE}")) {
            let path = format!("{folder}/{file}");
            match work.get_record(&path).await? {
                Some(record) => records.push(record),
                None => work.delete(&path).await?,
            }
        }
    }
    Ok(records)
}

/// The result folder of a finished run, on this machine.
///
/// # Errors
/// [`WorkerError::Missing`] if the run is not finished, [`WorkerError::Broken`] if its files are not what was
/// recorded; a store that does not answer.
pub async fn fetch_result(work: &WorkStore, scratch: &Path, name: &str, key: &str) -> Result<PathBuf, WorkerError> {
    let digest = record(work, name, key).await?.map(|record| record.trained.model_digest);
    result_of(work, scratch, &paths::training_run(name, NAME, key), digest).await
}

/// The rows of an adaptation: those of the target, with everything that the source's model has learnt from and that is
/// learnt from beside the target.
///
/// # Errors
/// [`WorkerError::Configuration`] where the target holds out any of that.
pub async fn lineage(
    name: &str,
    source: RunInputs<'_>,
    checkpoint: &Path,
    target: RunInputs<'_>,
) -> Result<RunRows, WorkerError> {
    let mut learnt = RunRows::read(source).await?;
    if let Some(seen) = RunRows::of_weights(checkpoint, &learnt) {
        learnt.descend_from(&seen);
    }
    let mut rows = RunRows::read(target).await?;
    if let Some(leak) = learnt.leak(&rows) {
        return Err(WorkerError::Configuration(format!(
            "{name}: the source's model or its training images saw {leak}: figures of such an adaptation would be \
             false; use another source, or a target that lies elsewhere"
        )));
    }
    rows.descend_from(&learnt);
    Ok(rows)
}

/// What the sampler makes of the first batches of some epochs, without training; see [`look`](adapt::look).
///
/// # Errors
/// [`WorkerError::Configuration`] for settings or weights that do not fit, [`WorkerError::Broken`] for damaged rows; a
/// store that does not answer.
pub async fn sampled(
    (pair, source_spec): (&PairSpec, &BuildSpec),
    (source_work, source_inputs): (&WorkStore, &[PinnedTable]),
    (target_work, target_inputs): (&WorkStore, &[PinnedTable]),
    (assignment, checkpoint): (&[Vec<AssignedRow>], &Path),
    epochs: usize,
) -> Result<Vec<adapt::Sampled>, WorkerError> {
    let left_out = pairs::left_out(source_work, source_inputs, &source_spec.pretrain.pairs).await?;
    let mut source = source_rows(source_work, source_inputs, &left_out).await?;
    let mut target = TableRows::open(target_work, target_inputs, Members::Assigned(assignment, "train")).await?;
    let mut look = || {
        let at = adapt::LookAt { source_spec, pair, source: &mut source, target: &mut target, checkpoint };
        adapt::look(at, epochs)
    };
    // rows are read by waiting for the store, which no thread of the runtime may do
    let looked = tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(&mut look).join()));
    Ok(looked.map_err(|_| WorkerError::Broken("the sampler failed; its message is above".into()))??)
}

/// Adapts, resuming the run of the same key, and records the result; a finished run is used again.
///
/// # Errors
/// [`WorkerError::Configuration`] for settings or weights that do not fit, [`WorkerError::Broken`] for damaged rows,
/// [`WorkerError::Conflict`] if another machine is ahead, [`WorkerError::Transient`] where going on may help,
/// [`WorkerError::Stopped`].
pub async fn adapt(
    request: AdaptRequest<'_>,
    observe: impl FnMut(&Event) + Send,
) -> Result<Option<AdaptationRecord>, WorkerError> {
    let (key, parameters) = (request.key()?, request.parameters()?);
    if let Some(record) = record(request.target_work, request.name, &key).await? {
        return Ok(Some(record));
    }
    let run = paths::training_run(request.name, NAME, &key);
    let place =
        RunDir { work: request.target_work, scratch: request.scratch, run: &run, name: NAME, stop: request.stop };
    let (pair, source_spec, stop, data) = (request.pair, request.source_spec, request.stop, key.clone());
    let checkpoint = request.source_model.1.clone();
    let claim = place.claim(request.ranks, stop).await?;
    if let Some(record) = record(request.target_work, request.name, &data).await? {
        return Ok(Some(record));
    }
    let rows = if request.ranks.rank() == 0 { request.rows.to_bytes()? } else { Bytes::new() };
    let is_source_elsewhere = request.source_work.url() != request.target_work.url();
    if request.ranks.rank() == 0 {
        let inputs = request.source_inputs.iter().chain(&request.target_inputs).cloned().collect();
        let (source_model, kept_in) = (request.source_model.0.clone(), request.target_work.url().to_string());
        let begun = Begun { inputs, source_model, kept_in };
        request.target_work.put_sealed(&format!("{run}/{DUE_FILE}"), &begun).await?;
        if is_source_elsewhere {
            request.source_work.put_sealed(&format!("{run}/{DUE_FILE}"), &begun).await?;
        }
    }
    // only now: an adaptation has no lease, and this is what `gc` leaves it
    still_there(request.source_work, &request.source_inputs, &request.source_spec.country).await?;
    still_there(request.target_work, &request.target_inputs, request.target_country).await?;
    let (kept_in, sifted) = ((request.target_work, run.as_str()), &request.source_spec.pretrain.pairs);
    let left_out = pairs::of_run(kept_in, request.source_work, &request.source_inputs, sifted).await?;
    let mut source = source_rows(request.source_work, &request.source_inputs, &left_out).await?;
    if request.ranks.rank() == 0 && sifted.is_on() {
        pairs::write(request.target_work, &run, &left_out).await?;
    }
    let of_target = async |tables: &[PinnedTable], split| {
        TableRows::open(request.target_work, tables, Members::Assigned(request.assignment, split)).await
    };
    let mut target = of_target(&request.target_inputs, "train").await?;
    let mut validation = of_target(&pairs_of(&request.target_inputs), "val").await?;
    let trained = place
        .run(&claim, request.ranks, &rows, observe, |ranks, folder, observe| {
            adapt::adapt(adapt::Run {
                source_spec,
                pair,
                ranks,
                source: &mut source,
                target: &mut target,
                validation: &mut validation,
                checkpoint: &checkpoint,
                folder,
                data,
                stop,
                observe,
            })
        })
        .await?;
    let Some(trained) = trained else { return Ok(None) };
    let record = AdaptationRecord {
        key,
        pair: request.name.to_owned(),
        stage_version: adapt::VERSION,
        parameters,
        source_model: request.source_model.0,
        source_inputs: request.source_inputs,
        target_inputs: request.target_inputs,
        trained,
    };
    request.target_work.put_sealed(&format!("{run}/{RECORD_FILE}"), &record).await?;
    if is_source_elsewhere {
        request.source_work.delete(&format!("{run}/{DUE_FILE}")).await?;
    }
    Ok(Some(record))
}
