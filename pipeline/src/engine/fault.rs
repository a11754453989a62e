//! Why a cluster has not done what it was asked for.

use workers::WorkerError;

/// What a cluster refuses, as far as the caller tells refusals apart.
#[derive(Debug)]
pub(super) enum Fault {
    /// All that was to be created is there.
    AlreadyExists(String),
    /// There is no such object.
    NotFound(String),
    /// Everything else.
    Other(WorkerError),
}

impl From<Fault> for WorkerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::AlreadyExists(text) | Fault::NotFound(text) => WorkerError::Broken(text),
            Fault::Other(error) => error,
        }
    }
}
