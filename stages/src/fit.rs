//! What every training on tables does alike: the loop with validation and curve, and the result.

mod curve;
mod result;
mod validation;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use pixels::DecodeLimits;
use training::batch::BatchSource;
use training::communicator::Communicator;
use training::trainer::{Event, Execution, Fit, Trainer};

use crate::encoder::Encoder;
use crate::stage::StageError;
use crate::train_rows::{TrainRows, rows_of};

pub use curve::{CURVE_FILE, CurvePoint, read_curve};
pub use result::{RESULT_FOLDER, Trained, export_model, model_digest};

use curve::Curve;
use result::write_result;

/// A training that is about to begin.
pub(crate) struct TrainJob<'a> {
    /// For messages.
    pub(crate) stage: &'static str,
    pub(crate) ranks: &'a mut dyn Communicator,
    pub(crate) source: &'a mut dyn BatchSource,
    pub(crate) train_rows: u64,
    pub(crate) validation: &'a mut dyn TrainRows,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) limits: DecodeLimits,
    pub(crate) folder: &'a Path,
    pub(crate) execution: Execution,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) observe: &'a mut dyn FnMut(&Event),
}

impl TrainJob<'_> {
    /// Trains to the end and writes the result; only rank 0 gets it.
    ///
    /// # Errors
    /// [`StageError::Configuration`] without a validation row, [`StageError::Stopped`], the trainer's.
    pub(crate) fn fit<N: DualEncoder>(self, trainer: &mut Trainer<N>) -> Result<Option<Trained>, StageError> {
        let TrainJob { stage, source, validation, tokenizer, limits, observe, .. } = self;
        let configuration = |why: &str| StageError::Configuration { stage, why: why.to_owned() };
        let validation_rows = rows_of(validation);
        if validation_rows == 0 {
            return Err(configuration(
                "the validation split is empty: raise split.val_share, or the second part of the ratio",
            ));
        }
        let rank = self.ranks.rank();
        let mut curve = Curve::open(self.folder).map_err(|e| StageError::of(stage, &e))?;
        let steps_per_epoch = source.steps_per_epoch();
        let mut validation_chance = None;
        let summary = trainer
            .fit(Fit {
                ranks: self.ranks,
                source,
                validate: &mut |network, _epoch, ranks| {
                    let encoder = Encoder { stage, network, tokenizer, limits, average_over_turns: false };
                    let recall = validation::recall(&encoder, validation, ranks)?;
                    validation_chance = Some(recall.chance_mean_recall);
                    Ok(recall.mean_recall)
                },
                folder: Some(self.folder),
                execution: self.execution,
                stop: self.stop,
                observe: &mut |event| {
                    curve.note(event, steps_per_epoch);
                    observe(event);
                },
            })
            .map_err(|e| StageError::of(stage, &e))?;
        if !summary.finished {
            return Err(StageError::Stopped);
        }
        if rank > 0 {
            return Ok(None);
        }
        let best = summary.position.best.ok_or_else(|| configuration("no epoch was validated: epochs is 0"))?;
        Ok(Some(Trained {
            model_digest: write_result::<N>(stage, self.folder, tokenizer)?,
            parameters: trainer.network().parameters().num_elements() as u64,
            train_rows: self.train_rows,
            validation_rows,
            epochs: summary.position.epoch,
            best_epoch: best.epoch,
            best_validation_mean_recall: best.metric,
            validation_chance,
            samples: summary.position.samples,
            seconds: summary.seconds,
            wait_seconds: summary.wait_seconds,
        }))
    }
}
