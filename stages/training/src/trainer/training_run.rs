//! The loop: batches, steps, validation, checkpoints.

mod learn;

use choices::SegmentTower;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use models::dual_encoder::DualEncoder;
use serde_json::{Value, json};

use super::events::{EpochEnd, Event, Summary};
use super::forward::wide;
use super::loaded::{Loaded, Loader};
use super::phases::StopWatch;
use super::shards::Shards;
use super::share::{check_one_run, share_bytes, share_optimiser, share_parameters, sum};
use super::step::image_tower;
use super::unread::{Taken, Unread};
use super::{Execution, Settings};
use crate::batch::{BatchSource, BoxError, Prefetched, with_prefetch};
use crate::checkpoint::{self, Best, Position, State};
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::host::scalar;
use crate::objective::{OBJECTIVE_PREFIX, Objective, StepInfo};
#[cfg(test)]
use crate::optimiser::HeldHistory;
use crate::optimiser::{self, AdamW, groups_by_decay};
use crate::schedule::RunLength;

/// Prefix of the parameters of a separate segment tower in the optimiser.
const SEGMENT_TOWER: &str = "segment_tower.";

/// A training, as one rank sees it.
pub struct Trainer<N> {
    network: N,
    /// The tower for segments, unless it is the image tower.
    segment_tower: Option<N>,
    average: Option<N>,
    optimiser: AdamW,
    objective: Box<dyn Objective>,
    settings: Settings,
    position: Position,
}

/// The caller's own validation: the metric of the weights to use, higher is better. All ranks call it; rank 0's counts.
pub type Validate<'a, N> = dyn FnMut(&N, usize, &mut dyn Communicator) -> Result<f64, BoxError> + 'a;

/// What a training is given from outside.
pub struct Fit<'a, N> {
    /// The ranks that train together.
    pub ranks: &'a mut dyn Communicator,
    /// This rank's batches.
    pub source: &'a mut dyn BatchSource,
    /// Called after every epoch, without gradients.
    pub validate: &'a mut Validate<'a, N>,
    /// Folder of the run, for checkpoints. Only rank 0's is read and written.
    pub folder: Option<&'a Path>,
    /// How the run is carried out.
    pub execution: Execution,
    /// Ends the run after the step, on all ranks when it is set on one.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub observe: &'a mut dyn FnMut(&Event),
}

/// What stays the same during a call of [`Trainer::fit`].
struct LoopContext<'a, N> {
    ranks: &'a mut dyn Communicator,
    validate: &'a mut Validate<'a, N>,
    observe: &'a mut dyn FnMut(&Event),
    folder: Option<&'a Path>,
    execution: Execution,
    stop: &'a AtomicBool,
    identity: Value,
    length: RunLength,
    /// Who keeps which part of the optimiser's state; `None`: everyone all of it.
    shards: Option<Shards>,
    unread: Unread,
    watch: StopWatch,
}

impl<N: DualEncoder> Trainer<N> {
    /// A run that starts from the weights of `network`.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(network: N, settings: Settings, objective: Box<dyn Objective>) -> Result<Self> {
        settings.check()?;
        if settings.norm_group > 0 && !network.normalises_groups() {
            let problem = "is set, and no layer of the network normalises over rows: leave it out";
            return Err(Error::argument("norm_group", problem));
        }
        let segment_tower = match settings.segment_tower {
            SegmentTower::Shared => None,
            SegmentTower::Frozen => Some(network.frozen()?),
            SegmentTower::Separate => Some(network.copy_as(network.dtype())?),
        };
        // In half precision the small steps of an average would be rounded away.
        let average = (settings.ema_decay > 0.0).then(|| network.copy_as(wide(network.dtype()))).transpose()?;
        let named = |prefix: &str, (name, var): (&str, &Var)| (format!("{prefix}{name}"), var.clone());
        let mut trained: Vec<(String, Var)> = network.parameters().iter().map(|each| named("", each)).collect();
        if let (SegmentTower::Separate, Some(tower)) = (settings.segment_tower, &segment_tower) {
            trained.extend(image_tower(tower).map(|each| named(SEGMENT_TOWER, each)));
        }
        if let Some(parameters) = objective.parameters() {
            trained.extend(parameters.iter().map(|each| named(OBJECTIVE_PREFIX, each)));
        }
        let groups = groups_by_decay(trained, settings.optimiser.weight_decay);
        let optimiser = AdamW::new(groups, settings.optimiser)?;
        Ok(Self { network, segment_tower, average, optimiser, objective, settings, position: Position::default() })
    }

    /// The network being trained.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// The weights to use: the moving average, if one is kept.
    pub fn averaged(&self) -> &N {
        self.average.as_ref().unwrap_or(&self.network)
    }

    /// Every variable that a step can move.
    #[cfg(test)]
    pub(super) fn variables(&self) -> Vec<(String, Tensor)> {
        let networks = [("", Some(&self.network)), ("average.", self.average.as_ref())];
        let of_networks = networks.into_iter().filter_map(|(prefix, network)| Some((prefix, network?)));
        let of_networks = of_networks.flat_map(|(prefix, network)| {
            let both = network.parameters().iter().chain(network.buffers().iter());
            both.map(move |(name, var)| (format!("{prefix}{name}"), var.as_detached_tensor()))
        });
        let others = self.optimiser.parameters().filter(|(name, _)| self.network.parameters().get(name).is_none());
        of_networks.chain(others.map(|(name, var)| (name.to_owned(), var.as_detached_tensor()))).collect()
    }

    /// First moments of the parameters whose history this rank keeps.
    #[cfg(test)]
    pub(super) fn first_moments(&mut self) -> Vec<(String, Tensor)> {
        let of_kept = |(name, _, kept): (&str, &Var, &mut HeldHistory)| match kept {
            HeldHistory::Here(history) => Some((name.to_owned(), history.first_moment().clone())),
            _ => None,
        };
        self.optimiser.histories().filter_map(of_kept).collect()
    }

    /// Trains until the epochs are done, patience is lost or `stop` is set (then it ends after the step).
    ///
    /// With a `folder`, `last` in it is taken up first: a run that was killed after any step and continued gives the
    /// same weights as one that was not, to the last bit on the CPU, and up to rounding with another number of ranks.
    ///
    /// # Errors
    /// A checkpoint of other settings, the source's or the validation's error, numbers that are not finite, a rank that
    /// is gone. The last checkpoint stays.
    pub fn fit(&mut self, fit: Fit<'_, N>) -> Result<Summary> {
        let start = Instant::now();
        let Fit { ranks, source, validate, folder, execution, stop, observe } = fit;
        let length = RunLength { epochs: self.settings.epochs, steps_per_epoch: source.steps_per_epoch() };
        if length.steps_per_epoch == 0 {
            return Err(Error::argument("source", "has no full batch: lower the batch or add rows"));
        }
        let identity = self.identity(length)?;
        check_one_run(&identity, self.network.device(), ranks)?;
        let folder = folder.filter(|_| ranks.rank() == 0);
        let mut loaded = None;
        if let Some(folder) = folder
            && let Some((position, moments)) = self.resume(folder, &identity, length)?
        {
            self.position = position;
            loaded = Some(moments);
        }
        let sharded = execution.shard_optimiser && ranks.world_size() > 1;
        let shards = sharded.then(|| Shards::of(&self.optimiser, ranks.world_size()));
        self.share(loaded, shards.as_ref(), ranks)?;
        let Position { epoch, step, .. } = self.position;
        let steps = length.steps_per_epoch;
        let positions = (epoch * steps + step..length.steps()).map(move |step| (step / steps, step % steps));
        let ahead = execution.prefetch_batches;
        let device = self.network.device().clone();
        let unread = Unread::new(execution.look_every_steps, &device);
        let watch = StopWatch::new(execution.time_phases.then(|| device.clone()));
        let meets_in_towers = ranks.world_size() > 1 && self.network.normalises_groups();
        let mut loader = Loader::new(self.network.preprocessing(), execution.micro_batches, &device)
            .with_blank_segments(meets_in_towers);
        let mut context =
            LoopContext { ranks, validate, observe, folder, execution, stop, identity, length, shards, unread, watch };
        let (steps, wait_seconds) = with_prefetch(
            source,
            positions,
            ahead,
            |batch| loader.load(batch),
            |batches| {
                let steps = self.run(batches, &mut context)?;
                Ok::<_, Error>((steps, batches.waited_seconds()))
            },
        )?;
        let seconds = start.elapsed().as_secs_f64();
        let finished = self.is_finished();
        Ok(Summary { position: self.position.clone(), finished, steps, seconds, wait_seconds })
    }

    /// All ranks start from rank 0's state, whatever they had and however many wrote the checkpoint.
    fn share(
        &mut self,
        loaded: Option<optimiser::State>,
        shards: Option<&Shards>,
        ranks: &mut dyn Communicator,
    ) -> Result<()> {
        if ranks.world_size() == 1 {
            let damaged = |problem| Error::argument("optimiser state of the checkpoint", problem);
            return loaded.map_or(Ok(()), |state| self.optimiser.set_state(state).map_err(damaged));
        }
        ranks.at_step(0);
        let networks = [Some(&self.network), self.average.as_ref(), self.segment_tower.as_ref()];
        for network in networks.into_iter().flatten() {
            share_parameters(network.parameters(), ranks)?;
            share_parameters(network.buffers(), ranks)?;
        }
        if let Some(parameters) = self.objective.parameters() {
            share_parameters(parameters, ranks)?;
        }
        let rank = ranks.rank();
        let keeps = |name: &str| shards.is_none_or(|shards| shards.keeps(rank, name));
        share_optimiser(&mut self.optimiser, loaded, keeps, ranks)?;
        self.objective.share(ranks)?;
        let damaged = |error: serde_json::Error| Error::argument("position of rank 0", error.to_string());
        let position = serde_json::to_vec(&self.position).map_err(damaged)?;
        let position = share_bytes(&position, self.network.device(), ranks)?;
        self.position = serde_json::from_slice(&position).map_err(damaged)?;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let Settings { epochs, patience, .. } = self.settings;
        self.position.epoch >= epochs || (patience > 0 && self.position.epochs_without_gain >= patience)
    }

    /// Steps and epoch ends from the present position on; returns the steps taken.
    fn run(&mut self, batches: &mut Prefetched<Loaded>, context: &mut LoopContext<N>) -> Result<usize> {
        let mut taken = 0;
        while !self.is_finished() {
            context.ranks.at_step(self.global_step(context.length) as u64);
            if self.is_stopped(context)? {
                self.save(context)?;
                break;
            }
            if self.position.step == context.length.steps_per_epoch {
                self.end_epoch(context)?;
                self.save(context)?;
                continue;
            }
            self.step(batches, context)?;
            taken += 1;
            if context.unread.is_due() {
                context.look()?;
            }
            let every = context.execution.checkpoint_every_steps;
            let within_epoch = self.position.step < context.length.steps_per_epoch;
            if every > 0 && within_epoch && self.position.step.is_multiple_of(every) {
                self.save(context)?;
            }
        }
        Ok(taken)
    }

    fn global_step(&self, length: RunLength) -> usize {
        self.position.epoch * length.steps_per_epoch + self.position.step
    }

    /// A rank that is told to stop takes all others with it, after the same step.
    fn is_stopped(&self, context: &mut LoopContext<N>) -> Result<bool> {
        if context.ranks.world_size() > 1 && !context.unread.is_empty() {
            return Ok(false); // they would wait for the device to agree
        }
        let told = context.stop.load(Ordering::Relaxed);
        let device = self.network.device().clone();
        Ok(sum(&[f64::from(told)], &device, context.ranks)?[0] > 0.0)
    }

    fn step(&mut self, batches: &mut Prefetched<Loaded>, context: &mut LoopContext<N>) -> Result<()> {
        let began = Instant::now();
        let Position { epoch, step, .. } = self.position;
        context.watch.start();
        let (loaded, wait_seconds) = batches.next(epoch, step)?;
        context.watch.end(|phases| &mut phases.data)?;
        let global_step = self.global_step(context.length);
        let Settings { schedule, learning_rate: base, .. } = &self.settings;
        let learning_rate = schedule.learning_rate(*base, global_step, context.length);
        let progress = global_step as f64 / context.length.steps() as f64;
        let info = StepInfo { epoch, global_step, progress, rate_factor: learning_rate / base };
        let found = self.learn(&loaded, info, learning_rate, context)?;
        self.position.step += 1;
        self.position.samples += found.pairs;
        let taken = Taken { epoch, step, global_step, learning_rate, wait_seconds, found };
        context.unread.push(began, taken);
        Ok(())
    }

    fn end_epoch(&mut self, context: &mut LoopContext<N>) -> Result<()> {
        context.look()?;
        let phases = context.watch.take();
        let epoch = self.position.epoch;
        let quiet = self.averaged().without_gradients()?;
        let metric =
            (context.validate)(&quiet, epoch, context.ranks).map_err(|cause| Error::Validation { epoch, cause })?;
        if !metric.is_finite() {
            let what = format!("validation metric of epoch {epoch}");
            return Err(Error::Numbers { what, problem: format!("is {metric}; check the validation") });
        }
        // All ranks must agree on when the run ends; on GPUs their figures may differ in the last bit.
        let metric = Tensor::new(&[metric], &Device::Cpu)?.to_device(quiet.device())?;
        let metric = scalar(&context.ranks.broadcast(&metric, 0)?.squeeze(0)?)?;
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
                if let Some(folder) = context.folder {
                    checkpoint::write_best(folder, self.averaged(), &self.position, &context.identity)?;
                }
                best
            }
        };
        (context.observe)(&Event::EpochEnd(EpochEnd { epoch, metric, best, phases }));
        Ok(())
    }

    /// All ranks call it; rank 0 writes.
    fn save(&mut self, context: &mut LoopContext<N>) -> Result<()> {
        context.look()?;
        let gathered = match &context.shards {
            Some(shards) => shards.gather(&mut self.optimiser, context.ranks)?,
            None => context.folder.map(|_| self.optimiser.state()).transpose()?,
        };
        let (Some(folder), Some(optimiser)) = (context.folder, gathered) else {
            return Ok(());
        };
        let position = self.position.clone();
        let keep = context.execution.keep_last;
        let (state, _) = self.parts();
        checkpoint::write_last(folder, (&state, &optimiser), &position, &context.identity, keep)?;
        (context.observe)(&Event::Saved);
        Ok(())
    }

    /// Takes up the last checkpoint, if there is one.
    fn resume(
        &mut self,
        folder: &Path,
        identity: &Value,
        length: RunLength,
    ) -> Result<Option<(Position, optimiser::State)>> {
        let (mut state, optimiser) = self.parts();
        checkpoint::resume(folder, (&mut state, optimiser), identity, length)
    }

    fn parts(&mut self) -> (State<'_, N>, &mut AdamW) {
        let state = State {
            network: &self.network,
            average: self.average.as_ref(),
            segment_tower: self.segment_tower.as_ref(),
            objective: self.objective.as_mut(),
        };
        (state, &mut self.optimiser)
    }

    /// What a checkpoint must agree with. Neither the number of ranks nor the execution is part of it.
    fn identity(&self, length: RunLength) -> Result<Value> {
        let unwritable = |error: serde_json::Error| Error::argument("settings", error.to_string());
        Ok(json!({
            "model": self.network.identity(),
            "settings": serde_json::to_value(&self.settings).map_err(unwritable)?,
            "objective": self.objective.identity(),
            "steps_per_epoch": length.steps_per_epoch,
        }))
    }
}

impl<N> LoopContext<'_, N> {
    /// Tells what the last steps have found. Nothing is validated or saved before it was found to be finite.
    fn look(&mut self) -> Result<()> {
        let Self { unread, observe, .. } = self;
        unread.look(|progress| observe(&Event::Step(progress)))
    }
}
