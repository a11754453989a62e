//! The training loop: batches, steps over ranks, validation, checkpoints. What is learnt is an [`Objective`]'s affair.

mod events;
mod forward;
mod gather;
mod grouping;
mod layers;
mod loaded;
mod loss_scale;
mod phases;
mod settings;
mod shards;
mod share;
mod step;
mod training_run;
mod unread;

pub use events::{EpochEnd, Event, Progress, Summary};
pub(crate) use share::{share_optimiser, share_parameters};

pub use loss_scale::LossScale;
pub use phases::Phases;
pub use settings::{Execution, Settings};
pub use training_run::{Fit, Trainer, Validate};

#[cfg(test)]
mod rank_tests;
#[cfg(test)]
mod tests;
