//! What a run tells while it goes and when it ends.

use super::phases::Phases;
use crate::checkpoint::{Best, Position};

/// What an observer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step is done.
    Step(Progress),
    /// An epoch is done and validated.
    EpochEnd(EpochEnd),
    /// A checkpoint lies in the run's folder.
    Saved,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
    /// Sum of the parts of the loss.
    pub loss: f64,
    /// Parts of the loss, by name, of all ranks together.
    pub parts: Vec<(&'static str, f64)>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Pairs per second of all ranks together, the wait included.
    pub samples_per_second: f64,
    /// Seconds that the step took, the wait included; the mean of steps that are looked at together.
    pub seconds: f64,
    /// Seconds that the step waited for its batch.
    pub wait_seconds: f64,
}

/// One validated epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochEnd {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Its validation metric.
    pub metric: f64,
    /// The best so far, this epoch included.
    pub best: Best,
    /// Seconds of its steps' phases, where they are measured.
    pub phases: Option<Phases>,
}

/// How a call of [`Trainer::fit`] ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Where the run stands.
    pub position: Position,
    /// Whether the run is over (all epochs, or patience lost) rather than stopped.
    pub finished: bool,
    /// Steps taken by this call.
    pub steps: usize,
    /// Seconds of this call, validation included.
    pub seconds: f64,
    /// Seconds that steps of this call waited for batches.
    pub wait_seconds: f64,
}
