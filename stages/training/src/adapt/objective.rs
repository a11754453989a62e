//! What one step minimises.

use candle_core::Tensor;

use super::adversary::{DomainPair, reversed_loss};
use super::triplet::{Triplet, triplet};
use super::{Adversary, Discriminator, DomainBatch, Settings};
use crate::error::{Error, Result};

/// This rank's share of a step's losses, all scalars: summed over ranks they are those of one rank.
#[derive(Clone, Debug)]
pub struct StepLoss {
    /// To be differentiated. Where gradients are reversed, its value is not what the encoders minimise (that would be
    /// the triplets minus factor x `adversarial`), but its gradient is.
    pub total: Tensor,
    /// Eq. 11 of the sources, times their weight, detached.
    pub source_triplet: Tensor,
    /// Eq. 11 of the targets, detached; absent when they are not supervised.
    pub target_triplet: Option<Tensor>,
    /// Weighted cross-entropy of the discriminator, Eq. 12 as a cost, detached; absent without an adversary.
    pub adversarial: Option<Tensor>,
}

/// Losses of one step from features.
///
/// `weights_n` `[N]` is W_vec of the gathered sources. `progress` is the share of the run that is over. A backward pass of
/// `total` leaves gradients in the features of both domains and, with [`Adversary::Reversal`], in the discriminator's
/// parameters (which take no factor); so with [`Adversary::Joint`]. With [`Adversary::Alternating`] the discriminator has a step of its own on
/// [`discriminator_loss`](super::discriminator_loss), and gets no gradient here.
///
/// # Errors
/// Shapes or weights that do not fit together; an adversary without a discriminator.
pub fn objective(
    source: &DomainBatch,
    target: &DomainBatch,
    weights_n: &[f64],
    discriminator: Option<&Discriminator>,
    settings: &Settings,
    progress: f64,
) -> Result<StepLoss> {
    let (shape, factor) = (Triplet::at(settings, progress), settings.adversarial_factor(progress));
    let weights = settings.triplet_weighted.then_some(weights_n);
    let source_triplet = (triplet(source, weights, &shape)? * settings.source_weight)?;
    let mut total = source_triplet.clone();
    let target_triplet = settings.target_triplet.then(|| triplet(target, None, &shape)).transpose()?;
    if let Some(target_triplet) = &target_triplet {
        total = (total + target_triplet)?;
    }
    let mut adversarial = None;
    if settings.adversary != Adversary::Off {
        let Some(discriminator) = discriminator else {
            let problem =
                format!("is {:?} but there is no discriminator: hand one over or switch it off", settings.adversary);
            return Err(Error::argument("adversary", problem));
        };
        let pair = DomainPair { source, target, weights_n, weighted: settings.adversary_weights };
        let weighted = pair.weighted(discriminator)?;
        let minimised = match settings.adversary {
            Adversary::Alternating => (&weighted * -factor)?,
            _ => reversed_loss(discriminator, &pair, factor)?,
        };
        total = (total + minimised.to_dtype(source_triplet.dtype())?)?;
        adversarial = Some(weighted.detach());
    }
    let target_triplet = target_triplet.map(|loss| loss.detach());
    Ok(StepLoss { total, source_triplet: source_triplet.detach(), target_triplet, adversarial })
}
