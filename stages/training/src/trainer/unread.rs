//! What steps have found and nobody has looked at yet.
//!
//! A look at a number on a GPU waits until all that came before it is done, and the GPU then waits for its next work. So
//! the numbers of several steps are fetched together, in one copy.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::events::Progress;
use crate::error::Result;
use crate::optimiser::check_norm;

/// Steps that are looked at together where nothing else is asked for: a few seconds of a large model on a GPU, and in host
/// memory nothing is waited for.
const ON_A_GPU: usize = 10;

/// Steps since the last look.
pub(super) struct Unread {
    every: usize,
    began: Option<Instant>,
    steps: Vec<Taken>,
}

/// A step that was handed to the device.
pub(super) struct Taken {
    pub(super) epoch: usize,
    pub(super) step: usize,
    /// Step over the whole run.
    pub(super) global_step: usize,
    pub(super) learning_rate: f64,
    pub(super) wait_seconds: f64,
    pub(super) found: Numbers,
}

/// What a step has found, on its device.
pub(super) struct Numbers {
    /// Names of the parts of the loss.
    pub(super) parts: Vec<&'static str>,
    /// The parts, f64 `[P]`.
    pub(super) losses: Tensor,
    /// Pairs of all ranks together that take part.
    pub(super) pairs: u64,
    /// The gradient's norm before clipping, a scalar in f64.
    pub(super) norm: Tensor,
    /// Whether the norm was looked at before the step was taken: infinite then says that it was not.
    pub(super) is_checked: bool,
    /// The norm of what the objective has learnt itself.
    pub(super) norm_of_objective: Option<Tensor>,
}

impl Unread {
    /// `every`: steps from one look to the next; 0: as suits the device.
    pub(super) fn new(every: usize, device: &Device) -> Self {
        let every = match every {
            0 if device.is_cpu() => 1,
            0 => ON_A_GPU,
            every => every,
        };
        Self { every, began: None, steps: Vec::new() }
    }

    /// Whether each step is looked at before the next.
    pub(super) fn is_each(&self) -> bool {
        self.every == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn is_due(&self) -> bool {
        self.steps.len() >= self.every
    }

    /// A step that began at this time has been handed over.
    pub(super) fn push(&mut self, began: Instant, taken: Taken) {
        self.began.get_or_insert(began);
        self.steps.push(taken);
    }

    /// Waits for the device, and tells of every step since the last look; their time is shared out evenly.
    ///
    /// # Errors
    /// The first norm that is not finite, after the steps before it have been told.
    pub(super) fn look(&mut self, mut tell: impl FnMut(Progress)) -> Result<()> {
        let Some(began) = self.began.take() else { return Ok(()) };
        let steps = std::mem::take(&mut self.steps);
        let mut numbers = fetch(&steps)?.into_iter();
        let seconds = began.elapsed().as_secs_f64() / steps.len() as f64;
        for Taken { epoch, step, global_step, learning_rate, wait_seconds, found } in steps {
            let parts: Vec<(&'static str, f64)> = found.parts.into_iter().zip(&mut numbers).collect();
            let mut next = || numbers.next().unwrap_or(f64::NAN);
            let gradient_norm = next();
            if !found.is_checked {
                check_norm(gradient_norm, "gradient norm", global_step as u64)?;
            }
            if found.norm_of_objective.is_some() {
                check_norm(next(), "the objective's own gradient norm", global_step as u64)?;
            }
            tell(Progress {
                epoch,
                step,
                loss: parts.iter().map(|(_, value)| value).sum(),
                parts,
                learning_rate,
                gradient_norm,
                samples_per_second: found.pairs as f64 / seconds,
                seconds,
                wait_seconds,
            });
        }
        Ok(())
    }
}

/// The numbers of all steps, one step's after another's: losses, norm, the objective's norm.
fn fetch(steps: &[Taken]) -> Result<Vec<f64>> {
    let mut all = Vec::with_capacity(3 * steps.len());
    for Taken { found, .. } in steps {
        // a norm that was looked at is on the host, and goes along
        let device = found.losses.device();
        all.push(found.losses.clone());
        for norm in [Some(&found.norm), found.norm_of_objective.as_ref()].into_iter().flatten() {
            all.push(norm.to_device(device)?.to_dtype(DType::F64)?.reshape(1)?);
        }
    }
    Ok(Tensor::cat(&all, 0)?.to_device(&Device::Cpu)?.to_vec1()?)
}
