//! Trainings: pairs left out, adaptation, sweeps, ranks.

mod adaptation;
mod noisy_pairs;
mod ranks;
mod several;
mod sweep;
