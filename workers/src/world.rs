//! The ranks of a training: this process among those that a launcher has started.

use std::time::Duration;

use manifests::BuildSpec;
use manifests::build::Backend;
use ranks::{Place, RanksError};
use training::communicator::{Communicator, Solo};

use crate::error::WorkerError;

/// This process's place, if a launcher has started it as one of several ranks.
///
/// # Errors
/// Variables that contradict each other.
pub fn place() -> Result<Option<Place>, WorkerError> {
    let place = Place::from_environment(&|name| std::env::var(name).ok()).map_err(configuration)?;
    Ok(place.filter(|place| place.world_size > 1))
}

/// The spec as this rank runs it: on a node with several GPUs, a rank has the one of its local number.
pub fn for_rank(mut spec: BuildSpec, place: Option<&Place>) -> BuildSpec {
    if let Some(place) = place
        && spec.model.device.starts_with("cuda")
    {
        spec.model.device = format!("cuda:{}", place.local_rank);
    }
    spec
}

/// Meets the other ranks; alone where there are none. Blocks until all are there.
///
/// # Errors
/// Ranks that did not come, by number.
pub fn meet(spec: &BuildSpec, place: Option<&Place>) -> Result<Box<dyn Communicator>, WorkerError> {
    let Some(place) = place else { return Ok(Box::new(Solo)) };
    let backend = match spec.ranks.backend {
        Backend::Auto => ranks::Backend::Auto,
        Backend::Tcp => ranks::Backend::Tcp,
        Backend::Nccl => ranks::Backend::Nccl,
    };
    let device = stages::device::device("train", spec)?;
    let time_out = Duration::from_secs(spec.ranks.timeout_seconds);
    ranks::open(place, backend, &device, time_out).map_err(|error| match error {
        RanksError::Collective(_) => WorkerError::Transient(error.to_string()),
        _ => configuration(error),
    })
}

fn configuration(error: RanksError) -> WorkerError {
    WorkerError::Configuration(error.to_string())
}
