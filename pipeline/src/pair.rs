//! Two builds and the adaptation of one's model to the other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use manifests::plan::PinnedTable;
use manifests::words::count;
use manifests::{Artifact, BuildSpec, PairSpec, are_two, digest, paths};
use serde::{Deserialize, Serialize};
use stages::Training;
use stages::adapt::Sampled;
use stages::evaluate::{self, Changes, EvaluatedRow};
use stages::pretrain::check_batch;
use training::communicator::{Communicator, Solo};
use training::recall::RecallReport;
use workers::WorkerError;
use workers::adapt::{self, AdaptRequest, AdaptationRecord};
use workers::assignment::Assignment;
use workers::train::{Members, RunInputs, RunRows, TableRows, fetch_result, pairs};

use crate::build::Build;
use crate::evaluate::embed;
use crate::plan::{Model, plan_stage};
use crate::progress::Progress;
use crate::trainings::{current_record, no_model};

/// A pair, opened: both builds are finished.
pub struct Pair {
    /// Settings of the pair.
    pub spec: PairSpec,
    /// `SOURCE_to_TARGET`.
    pub name: String,
    /// The build whose model is adapted.
    pub source: Build,
    /// The build of the country that it is adapted to.
    pub target: Build,
    /// The target's rows in the pair's own parts, by shard.
    assignment: Assignment,
    source_inputs: Vec<PinnedTable>,
    target_inputs: Vec<PinnedTable>,
    /// Digest and folder of the source's model.
    source_model: (String, PathBuf),
    /// The target's rows, and all that was learnt from.
    rows: RunRows,
}

/// Figures of one model on the pair's test part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// Digest of the model that was tested.
    pub model_digest: String,
    /// Recall both ways.
    pub recall: RecallReport,
}

impl Tested {
    /// Mean recall in percent, exact pairs, ties lost.
    pub fn mean_recall(&self) -> f64 {
        self.recall.exact.pessimistic.mean_recall
    }
}

impl Pair {
    /// Opens both builds of a pair spec.
    ///
    /// # Errors
    /// Builds that are not finished, and a source that saw what the target holds out.
    pub async fn open(path: &Path, overrides: &[String], stop: Arc<AtomicBool>) -> Result<Pair, WorkerError> {
        let (spec, source, target) =
            PairSpec::read(path, overrides).map_err(|e| WorkerError::Configuration(e.to_string()))?;
        Self::of(spec, source, target, stop).await
    }

    /// The same of specs that were read.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn of(
        spec: PairSpec,
        source: BuildSpec,
        target: BuildSpec,
        stop: Arc<AtomicBool>,
    ) -> Result<Pair, WorkerError> {
        are_two(&source, &target).map_err(WorkerError::Configuration)?;
        stages::adapt::settings(&spec)?;
        check_segments(&spec, [&source, &target])?;
        let name = format!("{}_to_{}", source.country, target.country);
        let (source, target) = (Build::open_work(source, stop.clone()).await?, Build::open_work(target, stop).await?);
        let Some(record) = current_record(&source, Training::Pretrain).await? else {
            return Err(no_model(&source).await?);
        };
        check_vectors(&source, &record.trained.model_digest).await?;
        let folder = fetch_result(&source.work, &source.spec, Training::Pretrain, &record.key, &source.scratch).await?;
        let (mut source_inputs, mut target_inputs) = (Vec::new(), Vec::new());
        for artifact in adapt::source_inputs(&spec, &source.spec) {
            source_inputs.push(pin(&source, artifact).await?);
        }
        for artifact in adapt::target_inputs(&spec) {
            target_inputs.push(pin(&target, artifact).await?);
        }
        let assignment = target.assignment(spec.ratio).await?;
        let rows = adapt::lineage(
            &name,
            RunInputs {
                work: &source.work,
                source: source.source.url().as_str(),
                tables: &source_inputs,
                geotags: &source.pin(Artifact::Geotags).await?,
                assignment: None,
            },
            &folder,
            RunInputs {
                work: &target.work,
                source: target.source.url().as_str(),
                tables: &target_inputs,
                geotags: &target.pin(Artifact::Geotags).await?,
                assignment: Some(&assignment),
            },
        )
        .await?;
        let source_model = (record.trained.model_digest, folder);
        let pair = Pair { spec, name, source, target, assignment, source_inputs, target_inputs, source_model, rows };
        pair.check_parts()?;
        Ok(pair)
    }

    /// Refuses parts that no adaptation can do with.
    fn check_parts(&self) -> Result<(), WorkerError> {
        let parts = self.parts();
        let [(_, train), (_, val), (_, test)] = parts;
        if let Some((part, _)) = parts.iter().find(|(_, rows)| *rows == 0) {
            return Err(WorkerError::Configuration(format!(
                "the {part} part of {} is empty ({train} training, {val} validation and {test} test images); look at \
                 ratio, and at the splits that its source gives",
                self.target.spec.country
            )));
        }
        self.check_batch(&self.spec)
    }

    /// Refuses a batch that the target's labelled part does not fill.
    pub(crate) fn check_batch(&self, spec: &PairSpec) -> Result<(), WorkerError> {
        let [(_, train), ..] = self.parts();
        let batch = ("adapt.batch", spec.adapt.batch);
        Ok(check_batch(stages::adapt::NAME, batch, ("the target's labelled part", train as u64), 1)?)
    }

    /// Rows of the target in each of the pair's parts.
    pub fn parts(&self) -> [(&'static str, usize); 3] {
        ["train", "val", "test"]
            .map(|split| (split, self.assignment.iter().flatten().filter(|row| row.split == split).count()))
    }

    /// Adapts with the settings of `spec`; a finished run with them is used again.
    ///
    /// # Errors
    /// Whatever ends the training, see [`adapt`](workers::adapt::adapt).
    pub async fn adapt(
        &self,
        spec: &PairSpec,
        ranks: &mut dyn Communicator,
        progress: &Progress,
    ) -> Result<Option<AdaptationRecord>, WorkerError> {
        let bar = progress.training(stages::adapt::NAME, spec.adapt.epochs);
        let record = adapt::adapt(self.request(spec, ranks), |event| bar.event(event)).await?;
        if let Some(record) = &record {
            bar.finish(&record.trained);
            let left_out = pairs::written(&self.target.work, (&self.name, stages::adapt::NAME), &record.key).await?;
            if !left_out.is_empty() {
                let words = pairs::in_words(left_out.values().map(String::as_str));
                progress.note(&format!("{:21} left out of {}: {words}", stages::adapt::NAME, self.source.spec.country));
            }
        }
        Ok(record)
    }

    fn request<'a>(&'a self, spec: &'a PairSpec, ranks: &'a mut dyn Communicator) -> AdaptRequest<'a> {
        AdaptRequest {
            pair: spec,
            name: &self.name,
            source_spec: &self.source.spec,
            source_work: &self.source.work,
            source_inputs: self.source_inputs.clone(),
            source_model: self.source_model.clone(),
            target_work: &self.target.work,
            target_country: &self.target.spec.country,
            target_inputs: self.target_inputs.clone(),
            assignment: &self.assignment,
            rows: &self.rows,
            scratch: &self.target.scratch,
            stop: &self.target.stop,
            ranks,
        }
    }

    /// Folder of the target's work store that keeps the checkpoints of the adaptation with the settings of `spec`.
    ///
    /// # Errors
    /// A method that makes no sense.
    pub(crate) fn run(&self, spec: &PairSpec) -> Result<String, WorkerError> {
        Ok(paths::training_run(&self.name, stages::adapt::NAME, &self.request(spec, &mut Solo).key()?))
    }

    /// The finished adaptation with the settings of `spec`, of the tables and the model as they are; `None`: it must run.
    ///
    /// # Errors
    /// A method that makes no sense; a store that does not answer.
    pub async fn finished(&self, spec: &PairSpec) -> Result<Option<AdaptationRecord>, WorkerError> {
        let key = self.request(spec, &mut Solo).key()?;
        adapt::record(&self.target.work, &self.name, &key).await
    }

    /// What the sampler makes of the first batches of some epochs, without training.
    ///
    /// # Errors
    /// As [`adapt`](Self::adapt).
    pub async fn sampled(&self, epochs: usize) -> Result<Vec<Sampled>, WorkerError> {
        adapt::sampled(
            (&self.spec, &self.source.spec),
            (&self.source.work, &self.source_inputs),
            (&self.target.work, &self.target_inputs),
            (&self.assignment, &self.source_model.1),
            epochs,
        )
        .await
    }

    /// The model of a finished adaptation, or the source's own: digest and folder.
    ///
    /// # Errors
    /// [`WorkerError::Missing`] if its files are gone; a store that does not answer.
    pub async fn model(&self, record: Option<&AdaptationRecord>) -> Result<(String, PathBuf), WorkerError> {
        let Some(record) = record else { return Ok(self.source_model.clone()) };
        let folder = adapt::fetch_result(&self.target.work, &self.target.scratch, &self.name, &record.key).await?;
        Ok((record.trained.model_digest.clone(), folder))
    }

    /// Folder of the finished adaptation whose model has this digest.
    pub(crate) async fn adapted_model(&self, model_digest: &str) -> Result<Option<PathBuf>, WorkerError> {
        for record in adapt::records(&self.target.work, &self.name).await? {
            if record.trained.model_digest == model_digest {
                return Ok(Some(self.model(Some(&record)).await?.1));
            }
        }
        Ok(None)
    }

    /// Refuses an adapted model, in its folder, that had learnt from images which are validation or test now: tables have changed.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] with one of them.
    pub(crate) fn check_unseen(&self, folder: &Path) -> Result<(), WorkerError> {
        let then = RunRows::of_weights(folder, &RunRows::default());
        let Some(leak) = then.and_then(|then| then.leak(&self.rows)) else { return Ok(()) };
        Err(WorkerError::Configuration(format!(
            "{}: its model was adapted with {} that the target's validation and test parts hold now, such as {} ({}): the tables have \
             changed since; run `urbancross adapt` with the pair's spec again",
            self.name,
            count(leak.images, "image"),
            leak.image_id,
            leak.how
        )))
    }

    /// Vectors of the target's test part by a model.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for rows or weights that cannot be read; a store that does not answer.
    pub async fn embedded(&self, folder: &Path) -> Result<Vec<EvaluatedRow>, WorkerError> {
        let members = Members::Assigned(&self.assignment, "test");
        let mut rows = TableRows::open(&self.target.work, &adapt::pairs_of(&self.target_inputs), members).await?;
        embed(&self.spec.network_of(&self.source.spec), folder, &mut rows).await
    }

    /// Where figures of models on the target's test part lie: by everything that they depend on.
    fn path_of(&self, version: &impl Serialize, models: &impl Serialize) -> String {
        let protocol = self.target.spec.evaluate.protocol;
        let tables: Vec<String> = adapt::pairs_of(&self.target_inputs).iter().map(PinnedTable::digest).collect();
        // splits that a source gives are in none of these tables
        let test = self.assignment.iter().flatten().filter(|row| row.split == "test");
        let images = digest::of_value(&test.map(|row| &row.image_id).collect::<BTreeSet<_>>());
        // how vectors are made is the source's affair
        let network = self.spec.network_of(&self.source.spec);
        let vectors = (network.evaluate.average_over_turns, network.model.precision);
        paths::evaluation(&self.name, &digest::of_value(&(version, protocol, models, vectors, tables, images)))
    }

    /// What becomes of the queries of the target's test part from one model to another. It is made once: a comparison that
    /// was made before is used again, and nothing is embedded.
    ///
    /// # Errors
    /// As [`embedded`](Self::embedded).
    pub async fn changes(
        &self,
        [before, after]: [&(String, PathBuf); 2],
        progress: &Progress,
    ) -> Result<Changes, WorkerError> {
        let protocol = self.target.spec.evaluate.protocol;
        let path = self.path_of(&(evaluate::VERSION, evaluate::PANELS_VERSION), &(&before.0, &after.0));
        if let Some(stored) = self.target.work.get_sealed::<Changes>(&path).await? {
            return Ok(stored);
        }
        progress.note(&format!("{}: {} by two models", self.name, count(self.parts()[2].1, "test image")));
        let rows = (self.embedded(&before.1).await?, self.embedded(&after.1).await?);
        let changes = tokio::task::block_in_place(|| evaluate::changes(&rows.0, &rows.1, protocol))?;
        self.target.work.put_sealed(&path, &changes).await?;
        Ok(changes)
    }

    /// Tests a model on the target's test part; figures that were made before are used again.
    ///
    /// # Errors
    /// As [`embedded`](Self::embedded).
    pub async fn test(&self, model: &(String, PathBuf)) -> Result<Tested, WorkerError> {
        let protocol = self.target.spec.evaluate.protocol;
        let path = self.path_of(&evaluate::VERSION, &model.0);
        if let Some(stored) = self.target.work.get_sealed::<Tested>(&path).await? {
            return Ok(stored);
        }
        let rows = self.embedded(&model.1).await?;
        let outcome = tokio::task::block_in_place(|| evaluate::recall_of(&rows, protocol))?;
        let tested = Tested { model_digest: model.0.clone(), recall: outcome.report };
        self.target.work.put_sealed(&path, &tested).await?;
        Ok(tested)
    }
}

/// Sources are chosen by the vectors in the tables, targets get theirs from the model: both must be by one model.
async fn check_vectors(source: &Build, model_digest: &str) -> Result<(), WorkerError> {
    let model = Model { digest: model_digest.to_owned(), ..Model::default() };
    for stage in [stages::image_embeddings::stage(), stages::text_embeddings::stage()] {
        let rows = plan_stage(source, &stage, &model, false).await?.computed();
        if rows > 0 {
            return Err(WorkerError::Configuration(format!(
                "{} of {}'s {} not made by its newest model and settings: run its build first",
                count(rows, "row"),
                source.spec.country,
                stage.name
            )));
        }
    }
    Ok(())
}

/// Refuses an adaptation with segments of a country whose build scores none.
fn check_segments(spec: &PairSpec, builds: [&BuildSpec; 2]) -> Result<(), WorkerError> {
    let wanted = spec.adapt.segments_per_image;
    match builds.into_iter().find(|build| wanted > 0 && !build.uses_segments()) {
        Some(build) => Err(WorkerError::Configuration(format!(
            "adapt.segments_per_image = {wanted}: the build of {} scores no segments; set segment.segmenter and \
             pretrain.segments_per_image in its spec and run it, or set adapt.segments_per_image = 0",
            build.country
        ))),
        None => Ok(()),
    }
}

/// A table that a finished build has.
pub(crate) async fn pin(build: &Build, artifact: Artifact) -> Result<PinnedTable, WorkerError> {
    let table = build.pin(artifact).await?;
    if table.parts.is_empty() {
        let (country, name) = (&build.spec.country, artifact.name());
        return Err(WorkerError::Configuration(format!("{country} has no {name} yet: run its build first")));
    }
    Ok(table)
}
