//! What can go wrong with a stage as a whole, by what the caller can do.

use crate::io_fault::IoFault;
use crate::table::TableError;
use crate::train_rows::RowsError;

/// Errors of a stage as a whole. A bad row is no error: it becomes a row status.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The build cannot go on like this: another model, another setting is needed.
    #[error("{stage}: {why}")]
    Configuration {
        /// Name of the stage.
        stage: &'static str,
        /// What is wrong, and what to change.
        why: String,
    },
    /// A table is not what the stage expects.
    #[error("{stage}: {source}")]
    Table {
        /// Name of the stage.
        stage: &'static str,
        /// Which table and column.
        source: TableError,
    },
    /// A computation failed, or its result cannot be used.
    #[error("{stage}: {why}")]
    Compute {
        /// Name of the stage.
        stage: &'static str,
        /// What failed, on what.
        why: String,
    },
    /// The disk or a quota is full: free some and go on.
    #[error("{stage}: {why}")]
    DiskFull {
        /// Name of the stage.
        stage: &'static str,
        /// Where, and the system's words.
        why: String,
    },
    /// Another rank of a training is gone: what is saved stays saved, and the run can be continued.
    #[error("{stage}: {why}")]
    RankLost {
        /// Name of the stage.
        stage: &'static str,
        /// Which rank, and in which step.
        why: String,
    },
    /// A store did not answer while rows were read, or a disk failed: another try may go on.
    #[error("{stage}: {why}")]
    Unreachable {
        /// Name of the stage.
        stage: &'static str,
        /// What did not answer.
        why: String,
    },
    /// The run was asked to end.
    #[error("stopped on request")]
    Stopped,
}

impl StageError {
    /// Sorts an error of a computation or of a file.
    pub fn of(stage: &'static str, error: &(dyn std::error::Error + 'static)) -> StageError {
        let why = error.to_string();
        if is_collective(error) {
            return StageError::RankLost { stage, why };
        }
        if passes(error) || is_disk_fault(error) {
            return StageError::Unreachable { stage, why };
        }
        if is_disk_full(error) { StageError::DiskFull { stage, why } } else { StageError::Compute { stage, why } }
    }
}

/// Did ranks fail to do something together?
fn is_collective(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<training::Error>() {
        Some(training::Error::Collective { .. }) => true,
        Some(training::Error::Validation { cause, .. } | training::Error::Source { cause, .. }) => {
            cause.downcast_ref::<StageError>().is_some_and(|e| matches!(e, StageError::RankLost { .. }))
        }
        _ => false,
    }
}

/// Could rows not be read because a store did not answer?
fn passes(error: &(dyn std::error::Error + 'static)) -> bool {
    let cause: &(dyn std::error::Error + 'static) = match error.downcast_ref::<training::Error>() {
        Some(training::Error::Validation { cause, .. } | training::Error::Source { cause, .. }) => cause.as_ref(),
        _ => error,
    };
    cause.downcast_ref::<RowsError>().is_some_and(|e| e.passes)
        || cause.downcast_ref::<StageError>().is_some_and(|e| matches!(e, StageError::Unreachable { .. }))
}

/// Is a full disk anywhere among the causes?
pub fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    any_io(error, |io| IoFault::of(io) == IoFault::DiskFull)
}

/// Is a fault of the disk or of a network file system anywhere among the causes?
fn is_disk_fault(error: &(dyn std::error::Error + 'static)) -> bool {
    any_io(error, |io| IoFault::of(io) == IoFault::Passing && IoFault::is_of_the_system(io))
}

fn any_io(error: &(dyn std::error::Error + 'static), is: fn(&std::io::Error) -> bool) -> bool {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        // the source of an I/O error is that of what it wraps, which would itself be passed over
        let wrapped = io.get_ref().is_some_and(|inner| any_io(inner, is));
        return wrapped || is(io);
    }
    error.source().is_some_and(|cause| any_io(cause, is))
}
