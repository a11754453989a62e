//! One run of a sweep over a build: its model under other settings, and how that is measured.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use manifests::{Artifact, BuildSpec, digest, paths};
use serde::{Deserialize, Serialize};
use stages::{Training, evaluate};
use training::communicator::Communicator;
use training::recall::RecallReport;
use workers::WorkerError;
use workers::train::{Members, TableRows, TrainingRecord, fetch_result, training_inputs};

use super::{Moves, beside};
use crate::build::Build;
use crate::engine::Engine;
use crate::evaluate::embed;
use crate::pair::pin;
use crate::progress::Progress;
use crate::run::current_or_trained;
use crate::trainings::{TrainingState, learnt_and_held_out, training_state};

/// What a model comes to on the validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub mean_recall: f64,
    pub chance_mean_recall: f64,
    pub seconds: f64,
}

/// A finished build under other settings.
pub(crate) struct Swept {
    pub(super) build: Build,
    moves: Moves,
}

/// A run of a sweep, opened, or what is awaited first.
pub(crate) enum Opened {
    Ready(Box<Swept>),
    /// An engine has begun this step, and somebody comes back when it is done.
    Placed(&'static str),
}

impl Swept {
    /// Opens a finished build under other settings. Where they change segments, those are made beside the tables, where `engine`
    /// has its workers; so many of their shards may fail.
    pub(crate) async fn open(
        spec: BuildSpec,
        moves: Moves,
        (engine, allow_failed): (&Engine, usize),
        stop: &Arc<AtomicBool>,
        progress: &Progress,
    ) -> Result<Opened, WorkerError> {
        let mut build = Build::open_work(spec, stop.clone()).await?;
        for artifact in training_inputs(&build.spec, Training::Pretrain) {
            pin(&build, artifact).await?;
        }
        build.weights = workers::weights::fetch(&build.work, &build.spec, &build.stop).await?;
        // other settings of a training leave the segments as they are: a bootstrap would follow them, too
        if moves == Moves::Segments
            && let Some(step) = beside::segments(&mut build, engine, allow_failed, progress).await?
        {
            return Ok(Opened::Placed(step));
        }
        Ok(Opened::Ready(Box::new(Swept { build, moves })))
    }

    /// The same in this process alone.
    pub(crate) async fn here(
        spec: BuildSpec,
        moves: Moves,
        allow_failed: usize,
        stop: &Arc<AtomicBool>,
        progress: &Progress,
    ) -> Result<Swept, WorkerError> {
        match Self::open(spec, moves, (&Engine::Here, allow_failed), stop, progress).await? {
            Opened::Ready(swept) => Ok(*swept),
            Opened::Placed(step) => Err(WorkerError::Broken(format!("{step}: nobody was to begin it elsewhere"))),
        }
    }

    /// The build, whose pins are those of its settings.
    pub(crate) fn build(&self) -> &Build {
        &self.build
    }

    /// Key of its training, unless that is done, and measured where that is what its settings move.
    pub(crate) async fn unfinished(&self) -> Result<Option<String>, WorkerError> {
        let record = match training_state(&self.build, Training::Pretrain, false).await? {
            TrainingState::MustRun(next) => return Ok(Some(next.run.key)),
            TrainingState::UpToDate { record, .. } => record,
        };
        if self.moves != Moves::Measure {
            return Ok(None);
        }
        let path = self.measured_at(&record).await?;
        let measured = self.build.work.get_sealed::<Measured>(&path).await?;
        Ok(measured.is_none().then_some(record.key))
    }

    /// Does what is left to do: trains, and measures where the settings move that. `None` on ranks other than 0.
    pub(crate) async fn finish(
        &self,
        ranks: &mut dyn Communicator,
        progress: &Progress,
    ) -> Result<Option<TrainingRecord>, WorkerError> {
        let state = training_state(&self.build, Training::Pretrain, false).await?;
        let record = current_or_trained(&self.build, Training::Pretrain, state, ranks, progress).await?;
        // ranks that find it finished are all told its record
        let Some(record) = record.filter(|_| ranks.rank() == 0) else { return Ok(None) };
        if self.moves == Moves::Measure {
            self.measured(&record).await?;
        }
        Ok(Some(record))
    }

    /// The trained model on the validation split, measured as the spec says; figures that are there are used again.
    pub(super) async fn measured(&self, record: &TrainingRecord) -> Result<Measured, WorkerError> {
        let path = self.measured_at(record).await?;
        if let Some(known) = self.build.work.get_sealed(&path).await? {
            return Ok(known);
        }
        let began = Instant::now();
        let recall = self.test(record, "val").await?.exact.pessimistic;
        let measured = Measured {
            mean_recall: recall.mean_recall,
            chance_mean_recall: recall.chance_mean_recall,
            seconds: began.elapsed().as_secs_f64(),
        };
        self.build.work.put_sealed(&path, &measured).await?;
        Ok(measured)
    }

    /// Has its finished training learnt from the rows as they are? Parts may have been made again with the same ones.
    pub(super) async fn is_of_these_rows(&self) -> Result<bool, WorkerError> {
        match training_state(&self.build, Training::Pretrain, false).await? {
            TrainingState::UpToDate { changed, .. } => Ok(changed.changed == 0),
            TrainingState::MustRun(_) => Ok(false),
        }
    }

    /// Where the measure lies: beside the model, by all that it depends on.
    async fn measured_at(&self, record: &TrainingRecord) -> Result<String, WorkerError> {
        let (spec, mut tables) = (&self.build.spec, Vec::new());
        for artifact in TESTED {
            tables.push(self.build.pin(artifact).await?.digest());
        }
        let settings = (spec.evaluate.protocol, spec.evaluate.average_over_turns, &spec.model.precision);
        let key = digest::of_value(&(evaluate::VERSION, settings, &record.trained.model_digest, tables));
        let run = paths::training_run(&spec.country, Training::Pretrain.name(), &record.key);
        Ok(format!("{run}/measured/{key}.json"))
    }

    /// Figures of the trained model on a split of its build.
    pub(super) async fn test(&self, record: &TrainingRecord, split: &str) -> Result<RecallReport, WorkerError> {
        let build = &self.build;
        let folder = fetch_result(&build.work, &build.spec, Training::Pretrain, &record.key, &build.scratch).await?;
        let mut inputs = Vec::new();
        for artifact in TESTED {
            inputs.push(build.pin(artifact).await?);
        }
        let mut rows = TableRows::open(&build.work, &inputs, Members::Split(split)).await?;
        let mut rows = embed(&build.spec, &folder, &mut rows).await?;
        // of images that changed their split since, as in every evaluation
        evaluate::leave_out(&mut rows, &learnt_and_held_out(build, record).await?);
        let protocol = build.spec.evaluate.protocol;
        Ok(tokio::task::block_in_place(|| evaluate::recall_of(&rows, protocol))?.report)
    }
}

/// Tables that a test reads.
const TESTED: [Artifact; 3] = [Artifact::Images, Artifact::Captions, Artifact::Splits];
