//! Adversarial domain adaptation (UrbanCross, stage 3): which source pairs are learnt from, how much each counts, and
//! what is minimised against a discriminator of domains.
//!
//! One step: [`aggregate`] the frozen embeddings of the batch, compare them ([`Similarity`], Eq. 9), choose sources
//! ([`choose_sources`]), weigh them ([`sample_weights`], Eq. 10), encode, and differentiate the [`objective`]
//! (Eq. 11 and 12). Everything up to the weights is a pure function of host data that every rank has; everything after
//! is written for this rank's rows, divided by global counts, so that losses and gradients of all ranks add up to those
//! of one.
//!
//! Letters: S sources of a batch, T its targets, N gathered rows, B rows of this rank, D embedding width, H hidden
//! width.

mod adaptation;
mod adversary;
mod discriminator;
mod domain;
mod objective;
mod sampler;
mod settings;
mod similarity;
mod triplet;
mod weights;

pub use adaptation::Adaptation;
pub use adversary::{DomainPair, discriminator_loss, encoder_loss, reverse_gradient, reversed_loss};
pub use discriminator::{Discriminator, MAX_HIDDEN};
pub use domain::DomainBatch;
pub use objective::{StepLoss, objective};
pub use sampler::choose_sources;
pub use settings::{
    Adversary, AdversaryWeights, Curriculum, Directions, Distance, Ramp, Sampler, Settings, SimilarityOf, WeightsOf,
};
pub use similarity::{Embeddings, Similarity, aggregate};
pub use triplet::{Negatives, Triplet, triplet};
pub use weights::sample_weights;

#[cfg(test)]
mod tests;
