//! What can go wrong in training, sorted by what the caller can do about it.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument contradicts another or lies outside its range: correct the call or the spec.
    #[error("{what}: {problem}")]
    Argument {
        /// The argument.
        what: &'static str,
        /// What is wrong with it, with the values, and what is expected.
        problem: String,
    },
    /// Numbers went bad (not finite, not normalised): the model or its settings are at fault.
    #[error("{what}: {problem}")]
    Numbers {
        /// Which numbers.
        what: String,
        /// What is wrong with them and what to try.
        problem: String,
    },
    /// A checkpoint exists but belongs to another model or other settings.
    #[error(
        "checkpoint {folder} belongs to other settings: {difference}; \
         continue with the settings it was written with or train into another folder"
    )]
    ForeignCheckpoint {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// The first field that differs, with both values.
        difference: String,
    },
    /// A checkpoint is incomplete or damaged: delete it or fall back to an older one.
    #[error("checkpoint {path}: {problem}")]
    DamagedCheckpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The source of batches failed: the cause names the row or shard.
    #[error("batch of epoch {epoch}, step {step}: {cause}")]
    Source {
        /// Epoch of the batch, from 0.
        epoch: usize,
        /// Step within the epoch, from 0.
        step: usize,
        /// The source's own error.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The caller's validation failed.
    #[error("validation after epoch {epoch}: {cause}")]
    Validation {
        /// The epoch that had just been trained, from 0.
        epoch: usize,
        /// The caller's own error.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ranks could not do something together: this rank ends, and so do all others.
    #[error("rank {rank}: {operation} of step {step}: {problem}")]
    Collective {
        /// The rank that reports.
        rank: usize,
        /// The operation, such as `all_gather`.
        operation: &'static str,
        /// Step of the training.
        step: u64,
        /// What is wrong, naming the rank at fault, and what to look at.
        problem: String,
    },
    /// The file system refused.
    #[error("{path}: {cause}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: std::io::Error,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] models::ModelError),
}

impl Error {
    pub(crate) fn argument(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Argument { what, problem: problem.into() }
    }
}

/// Adds the path to an input/output error.
pub(crate) trait AtPath<T> {
    /// Names the file or folder that the operation was about.
    fn at(self, path: &std::path::Path) -> Result<T>;
}

impl<T> AtPath<T> for std::io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T> {
        self.map_err(|cause| Error::File { path: path.to_path_buf(), cause })
    }
}
