//! The loop: batches, steps, validation, checkpoints.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use models::clip::Clip;
use models::ops::Dropout;
use serde_json::{Value, json};

use super::events::{EpochEnd, Event, Progress, Summary};
use super::step::{BatchLoss, batch_loss};
use super::{Cadence, SegmentTower, Settings};
use crate::batch::{BatchSource, BoxError, PairBatch, Prefetched, with_prefetch};
use crate::checkpoint::{self, Best, Position, State};
use crate::error::{Error, Result};
use crate::loss::MAX_LOGIT_SCALE;
use crate::optimiser::{AdamW, groups_by_decay};
use crate::schedule::RunLength;

/// Prefix of the parameters of a separate segment tower in the optimiser.
const SEGMENT_TOWER: &str = "segment_tower.";

/// A run of pre-training.
pub struct Trainer {
    clip: Clip,
    /// The tower for segments, unless it is the image tower.
    segment_tower: Option<Clip>,
    average: Option<Clip>,
    optimiser: AdamW,
    settings: Settings,
    position: Position,
}

/// What a run is given from outside.
struct Surroundings<'a> {
    validate: &'a mut dyn FnMut(&Clip, usize) -> Result<f64, BoxError>,
    observe: &'a mut dyn FnMut(&Event),
    folder: Option<&'a Path>,
    cadence: Cadence,
    stop: &'a AtomicBool,
    identity: Value,
    length: RunLength,
}

impl Trainer {
    /// A run that starts from the weights of `clip`.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(clip: Clip, settings: Settings) -> Result<Self> {
        settings.check()?;
        let copy = || -> Result<Clip> { Ok(Clip::from_parameters(clip.config(), clip.parameters().deep_copy()?)?) };
        let segment_tower = match settings.segment_tower {
            SegmentTower::Shared => None,
            SegmentTower::Frozen => Some(clip.frozen()?),
            SegmentTower::Separate => Some(copy()?),
        };
        // In half precision the small steps of an average would be rounded away.
        let wide = if clip.logit_scale().dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let average = (settings.ema_decay > 0.0)
            .then(|| Clip::from_parameters(clip.config(), clip.parameters().to_dtype(wide)?))
            .transpose()?;
        let mut trained: Vec<(String, Var)> =
            clip.parameters().iter().map(|(name, var)| (name.to_owned(), var.clone())).collect();
        if let (SegmentTower::Separate, Some(tower)) = (settings.segment_tower, &segment_tower) {
            let visual = tower.parameters().iter().filter(|(name, _)| name.starts_with("visual."));
            trained.extend(visual.map(|(name, var)| (format!("{SEGMENT_TOWER}{name}"), var.clone())));
        }
        let groups = groups_by_decay(trained, settings.optimiser.weight_decay);
        let optimiser = AdamW::new(groups, settings.optimiser)?;
        Ok(Self { clip, segment_tower, average, optimiser, settings, position: Position::default() })
    }

    /// The network being trained.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// The weights to use: the moving average, if one is kept.
    pub fn averaged(&self) -> &Clip {
        self.average.as_ref().unwrap_or(&self.clip)
    }

    /// Trains until the epochs are done, patience is lost or `stop` is set (then it ends after the step).
    ///
    /// With a `folder`, `last` in it is taken up first: a run that was killed after any step and continued gives the
    /// same weights as one that was not, to the last bit on the CPU. `validate` gets the weights to use (without
    /// gradients) after every epoch and returns a metric; higher is better.
    ///
    /// # Errors
    /// A checkpoint of other settings, the source's or the validation's error, numbers that are not finite. The last
    /// checkpoint stays.
    pub fn fit(
        &mut self,
        source: &mut dyn BatchSource,
        validate: &mut dyn FnMut(&Clip, usize) -> Result<f64, BoxError>,
        folder: Option<&Path>,
        cadence: Cadence,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<Summary> {
        let start = Instant::now();
        let length = RunLength { epochs: self.settings.epochs, steps_per_epoch: source.steps_per_epoch() };
        if length.steps_per_epoch == 0 {
            return Err(Error::argument("source", "has no full batch: lower the batch or add rows"));
        }
        let identity = self.identity(length)?;
        if let Some(folder) = folder
            && let Some(position) = checkpoint::resume(folder, &mut self.state(), &identity)?
        {
            self.position = position;
        }
        let Position { epoch, step, .. } = self.position;
        let steps = length.steps_per_epoch;
        let positions = (epoch * steps + step..length.steps()).map(move |step| (step / steps, step % steps));
        let mut surroundings = Surroundings { validate, observe, folder, cadence, stop, identity, length };
        let (steps, wait_seconds) = with_prefetch(source, positions, cadence.prefetch_batches, |batches| {
            let steps = self.run(batches, &mut surroundings)?;
            Ok::<_, Error>((steps, batches.waited_seconds()))
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let finished = self.is_finished();
        Ok(Summary { position: self.position.clone(), finished, steps, seconds, wait_seconds })
    }

    fn is_finished(&self) -> bool {
        let Settings { epochs, patience, .. } = self.settings;
        self.position.epoch >= epochs || (patience > 0 && self.position.epochs_without_gain >= patience)
    }

    /// Steps and epoch ends from the present position on; returns the steps taken.
    fn run(&mut self, batches: &mut Prefetched, surroundings: &mut Surroundings) -> Result<usize> {
        let mut taken = 0;
        while !self.is_finished() {
            if surroundings.stop.load(Ordering::Relaxed) {
                self.save(surroundings)?;
                break;
            }
            if self.position.step == surroundings.length.steps_per_epoch {
                self.end_epoch(surroundings)?;
                self.save(surroundings)?;
                continue;
            }
            let progress = self.step(batches, surroundings.length)?;
            taken += 1;
            (surroundings.observe)(&Event::Step(progress));
            let every = surroundings.cadence.checkpoint_every_steps;
            let within_epoch = self.position.step < surroundings.length.steps_per_epoch;
            if every > 0 && within_epoch && self.position.step.is_multiple_of(every) {
                self.save(surroundings)?;
            }
        }
        Ok(taken)
    }

    fn step(&mut self, batches: &mut Prefetched, length: RunLength) -> Result<Progress> {
        let start = Instant::now();
        let Position { epoch, step, .. } = self.position;
        let (batch, wait_seconds) = batches.next(epoch, step)?;
        let global_step = epoch * length.steps_per_epoch + step;
        let Settings { schedule, learning_rate: base, .. } = &self.settings;
        let learning_rate = schedule.learning_rate(*base, global_step, length);
        let (loss, gradient_norm) = self.learn(&batch, learning_rate, global_step)?;
        self.position.step += 1;
        self.position.samples += batch.rows() as u64;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Progress {
            epoch,
            step,
            loss: scalar(&loss.total)?,
            image_text_loss: scalar(&loss.image_text)?,
            segment_text_loss: loss.segment_text.as_ref().map(scalar).transpose()?,
            learning_rate,
            gradient_norm,
            samples_per_second: batch.rows() as f64 / seconds,
            seconds,
            wait_seconds,
        })
    }

    fn learn(&mut self, batch: &PairBatch, learning_rate: f64, global_step: usize) -> Result<(BatchLoss, f64)> {
        let segment_tower = self.segment_tower.as_ref().unwrap_or(&self.clip);
        // drawn from the step alone: a resumed run drops the same values
        let seed = self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(global_step as u64);
        let dropout = (self.settings.dropout > 0.0).then(|| Dropout::new(self.settings.dropout, seed));
        let loss = batch_loss(&self.clip, segment_tower, batch, self.settings.loss, dropout.as_ref())?;
        let gradients = loss.total.backward()?;
        if global_step == 0 {
            self.check_reach(&gradients)?;
        }
        let gradient_norm = self.optimiser.step(&gradients, learning_rate)?;
        clamp_logit_scale(&self.clip)?;
        if let Some(average) = &self.average {
            let steps = global_step as f64;
            // A young average forgets faster, or it would carry the initial weights for long.
            let decay = self.settings.ema_decay.min((1.0 + steps) / (10.0 + steps));
            move_average(average, &self.clip, decay)?;
        }
        Ok((loss, gradient_norm))
    }

    /// Some of candle's operations have no backward pass and say nothing: a parameter that the loss does not reach
    /// would stay as it was drawn.
    fn check_reach(&self, gradients: &GradStore) -> Result<()> {
        // Not reached by design: the scale by the hinge loss, the segment tower by a batch without segments.
        let may_lack = |name: &str| name == "logit_scale" || name.starts_with(SEGMENT_TOWER);
        match self.optimiser.parameters().find(|(name, var)| gradients.get(var).is_none() && !may_lack(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Numbers {
                what: format!("gradient of {name}"),
                problem: "is missing: an operation between it and the loss cannot be differentiated".to_owned(),
            }),
        }
    }

    fn end_epoch(&mut self, surroundings: &mut Surroundings) -> Result<()> {
        let epoch = self.position.epoch;
        let metric = (surroundings.validate)(&self.averaged().without_gradients()?, epoch)
            .map_err(|cause| Error::Validation { epoch, cause })?;
        if !metric.is_finite() {
            let what = format!("validation metric of epoch {epoch}");
            return Err(Error::Numbers { what, problem: format!("is {metric}; check the validation") });
        }
        // To the millionth: so few digits come back from JSON as they were, and a resumed run compares the same numbers.
        let metric = (metric * 1e6).round() / 1e6;
        self.position.epoch += 1;
        self.position.step = 0;
        let best = match self.position.best {
            Some(best) if best.metric >= metric => {
                self.position.epochs_without_gain += 1;
                best
            }
            _ => {
                self.position.epochs_without_gain = 0;
                let best = Best { epoch, metric };
                self.position.best = Some(best);
                if let Some(folder) = surroundings.folder {
                    checkpoint::write_best(folder, self.averaged(), &self.position, &surroundings.identity)?;
                }
                best
            }
        };
        (surroundings.observe)(&Event::EpochEnd(EpochEnd { epoch, metric, best }));
        Ok(())
    }

    fn save(&mut self, surroundings: &mut Surroundings) -> Result<()> {
        let Some(folder) = surroundings.folder else {
            return Ok(());
        };
        let position = self.position.clone();
        checkpoint::write_last(folder, &self.state(), &position, &surroundings.identity)?;
        (surroundings.observe)(&Event::Saved);
        Ok(())
    }

    fn state(&mut self) -> State<'_> {
        State {
            clip: &self.clip,
            average: self.average.as_ref(),
            segment_tower: self.segment_tower.as_ref(),
            optimiser: &mut self.optimiser,
        }
    }

    /// What a checkpoint must agree with.
    fn identity(&self, length: RunLength) -> Result<Value> {
        let unwritable = |error: serde_json::Error| Error::argument("settings", error.to_string());
        Ok(json!({
            "model": serde_json::to_value(self.clip.config()).map_err(unwritable)?,
            "settings": serde_json::to_value(&self.settings).map_err(unwritable)?,
            "steps_per_epoch": length.steps_per_epoch,
        }))
    }
}

fn clamp_logit_scale(clip: &Clip) -> Result<()> {
    match clip.parameters().get("logit_scale") {
        Some(scale) => Ok(scale.set(&scale.as_detached_tensor().minimum(MAX_LOGIT_SCALE)?)?),
        None => Ok(()),
    }
}

/// average ← decay · average + (1 − decay) · weights
fn move_average(average: &Clip, weights: &Clip, decay: f64) -> Result<()> {
    for ((_, average), (_, weight)) in average.parameters().iter().zip(weights.parameters().iter()) {
        let kept = (average.as_detached_tensor() * decay)?;
        let weight = weight.as_detached_tensor().to_dtype(kept.dtype())?;
        average.set(&(kept + (weight * (1.0 - decay))?)?)?;
    }
    Ok(())
}

fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.to_scalar()?)
}
