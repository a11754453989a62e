//! What every training on tables does alike: the loop with validation and curve, and the result.

mod curve;
mod result;
mod rounding;
mod segments;
mod validation;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use manifests::spec::ScoreSpec;
use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use pixels::DecodeLimits;
use training::batch::BatchSource;
use training::communicator::Communicator;
use training::trainer::{Event, Execution, Fit, Trainer};

use crate::device::compute_error;
use crate::encoder::Encoder;
use crate::stage::StageError;
use crate::train_rows::{TrainRows, rows_of};

pub use curve::{CURVE_FILE, CurvePoint, read_curve};
pub use result::{RESULT_FOLDER, Trained, export_model, model_digest};
pub(crate) use rounding::warn_of_rounding;
pub use segments::SeenSegments;

use curve::Curve;
use result::write_result;
use segments::Watched;

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
    /// How segments are shown to the network; `None`: none are learnt from, and none is watched.
    pub(crate) segments: Option<&'a ScoreSpec>,
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
        let validation_chance = Cell::new(curve.validation_chance);
        // of one rank, since it is only looked at
        let watches = self.segments.filter(|_| rank == 0);
        let (mut watched, seen) = (None, RefCell::new(Vec::new()));
        let summary = trainer
            .fit(Fit {
                ranks: self.ranks,
                source,
                validate: &mut |network, _epoch, ranks| {
                    let encoder = Encoder { stage, network, tokenizer, limits, average_over_turns: false };
                    let recall = validation::recall(&encoder, validation, ranks)?;
                    validation_chance.set(Some(recall.chance_mean_recall));
                    if let Some(score) = watches {
                        *seen.borrow_mut() = watch(&encoder, &mut watched, validation, score);
                    }
                    Ok(recall.mean_recall)
                },
                folder: Some(self.folder),
                execution: self.execution,
                stop: self.stop,
                observe: &mut |event| {
                    let of_epoch = matches!(event, Event::EpochEnd(_)).then(|| seen.take());
                    curve.note(event, steps_per_epoch, (validation_chance.get(), of_epoch.unwrap_or_default()));
                    observe(event);
                },
            })
            .map_err(|e| match StageError::of(stage, &e) {
                StageError::Compute { why, .. } => compute_error(stage, trainer.network().device(), why),
                other => other,
            })?;
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
            validation_chance: validation_chance.get(),
            samples: summary.position.samples,
            seconds: summary.seconds,
            wait_seconds: summary.wait_seconds,
        }))
    }
}

/// What the network of an epoch makes of the segments that are watched. That it cannot be told is no reason to end a training.
fn watch<N: DualEncoder>(
    encoder: &Encoder<'_, N>,
    watched: &mut Option<Watched>,
    validation: &mut dyn TrainRows,
    score: &ScoreSpec,
) -> Vec<SeenSegments> {
    let side = encoder.network.preprocessing().side_px as u32;
    if watched.is_none() {
        let chosen = Watched::choose(validation, score, &encoder.limits, side);
        *watched = chosen.inspect_err(|why| tracing::warn!(%why, "no segment is watched")).ok();
    }
    let seen = watched.as_ref().map(|watched| watched.look(encoder));
    seen.transpose()
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "segments were not looked at");
            None
        })
        .unwrap_or_default()
}
