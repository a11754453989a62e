//! What a training minimises.

mod gathered;

use std::path::Path;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use models::parameters::Parameters;
use serde_json::Value;

use crate::batch::PairBatch;
use crate::communicator::Communicator;
use crate::error::Result;
use crate::gradients::Gradients;
pub use gathered::{Gathered, GatheredSegments, GatheredTokens};

/// Prefix of the names of an objective's parameters in the trainer's optimiser.
pub(crate) const OBJECTIVE_PREFIX: &str = "objective.";

/// Which towers' tokens an objective wants beside the embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenColumns {
    /// Of the images.
    pub image: bool,
    /// Of the captions.
    pub text: bool,
}

/// When a step happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step over the whole run, from 0.
    pub global_step: usize,
    /// Share of the run that lies behind, in [0, 1).
    pub progress: f64,
    /// Learning rate of the step over the base rate.
    pub rate_factor: f64,
}

/// A differentiated loss.
pub struct Differentiated {
    /// Gradients of this rank's part of the loss with respect to the leaves of [`Gathered`].
    pub gradients: GradStore,
    /// The parts of the loss, scalars: this rank's share of each, with their names. Their sum over parts and ranks is the
    /// loss. Nobody has waited for the device to compute them.
    pub parts: Vec<(&'static str, Tensor)>,
    /// This rank's gradients of what the objective moves itself, of the same parameters on every rank. They travel with
    /// the towers' and come back in [`Objective::learn`].
    pub own: Gradients,
    /// This rank's gradients of [`Objective::parameters`], of all of them on every rank.
    pub joint: Gradients,
}

impl Differentiated {
    /// Differentiates the sum of the parts.
    ///
    /// # Errors
    /// A tensor operation's; no part at all.
    pub fn sum_of(parts: &[(&'static str, Tensor)]) -> Result<Self> {
        let values = parts.iter().map(|(name, part)| (*name, part.detach())).collect();
        let mut total: Option<Tensor> = None;
        for (_, part) in parts {
            total = Some(match total {
                Some(sum) => (sum + part)?,
                None => part.clone(),
            });
        }
        let total = total.ok_or_else(|| crate::Error::argument("objective", "has no part"))?;
        Ok(Self { gradients: total.backward()?, parts: values, own: Gradients::default(), joint: Gradients::default() })
    }
}

/// A loss over the embeddings of a global batch, and what it learns besides the encoders.
///
/// A rank computes the part of its own rows, divided by global counts, so that the parts of all ranks add up to the
/// loss that one rank would have.
pub trait Objective: Send {
    /// The settings that its numbers depend on; a checkpoint continues only under the same.
    fn identity(&self) -> Value;

    /// What it learns with the towers: moved by the trainer's optimiser, in the common clipping, kept in checkpoints and
    /// the same on all ranks. Without any unless it says so.
    fn parameters(&self) -> Option<&Parameters> {
        None
    }

    /// Which tokens it wants in [`Gathered::tokens`]. The network must have them.
    fn tokens(&self) -> TokenColumns {
        TokenColumns::default()
    }

    /// Ids of the captions of this rank's rows `[B, L]`, with others in the places that it has chosen, whose tokens it
    /// wants as well: in every step or never, so that all ranks meet.
    ///
    /// # Errors
    /// Its own.
    fn masked_ids(&mut self, _: &PairBatch, _: StepInfo) -> Result<Option<Vec<u32>>> {
        Ok(None)
    }

    /// This rank's part of the loss and its gradient with respect to the gathered embeddings and the logit scale, and with
    /// respect to what the objective learns. What has to learn before the encoders do learns here, on all ranks alike.
    ///
    /// # Errors
    /// Embeddings that do not fit, numbers that are not finite, a rank that is gone.
    fn differentiate(
        &mut self,
        gathered: &Gathered,
        info: StepInfo,
        ranks: &mut dyn Communicator,
    ) -> Result<Differentiated>;

    /// Learns from its own gradients, summed over ranks, after the encoders have learnt from theirs.
    ///
    /// # Errors
    /// A tensor operation's.
    fn learn(&mut self, _own: &Gradients, _: StepInfo) -> Result<()> {
        Ok(())
    }

    /// The gradient norm of what the objective has learnt itself in the step at hand, a scalar in f64, if it has: the
    /// trainer makes sure that it is finite before it keeps anything.
    fn take_norm(&mut self) -> Option<Tensor> {
        None
    }

    /// Keeps what it has learnt so far, for [`Objective::undo`]. Called before steps that may overflow.
    ///
    /// # Errors
    /// A tensor operation's.
    fn remember(&mut self) -> Result<()> {
        Ok(())
    }

    /// Goes back to what it last remembered: the encoders' gradients overflowed, and nobody learns from such a step.
    ///
    /// # Errors
    /// A tensor operation's.
    fn undo(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes what it has learnt into a checkpoint's folder.
    ///
    /// # Errors
    /// The file system's.
    fn save(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    /// Takes up what [`Objective::save`] wrote.
    ///
    /// # Errors
    /// Missing or damaged files.
    fn load(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    /// Makes what it has learnt the same as on rank 0.
    ///
    /// # Errors
    /// A rank that is gone.
    fn share(&mut self, _: &mut dyn Communicator) -> Result<()> {
        Ok(())
    }
}
