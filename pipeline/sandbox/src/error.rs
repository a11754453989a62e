//! What can go wrong, by what the caller can do about it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use zip::result::ZipError;

/// Failure of making or editing a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A setting is out of its limits: correct it.
    #[error("setting {name} is {value}, but must lie in {limits}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The range that it must lie in.
        limits: &'static str,
    },
    /// A world, or files of the same names, are there already.
    #[error("{} is there already: name another folder, or replace the world with --force", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// It would be replaced, and is none of ours.
    #[error("{} holds something, and no sandbox world that --force could replace: name another folder", path.display())]
    Stranger {
        /// The folder.
        path: PathBuf,
    },
    /// The disk refused: check the path, its rights and the space left.
    #[error("cannot access {}: {source}; check that the folder is writable and the disk not full", path.display())]
    Storage {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The folder is no sandbox, or something else changed it: generate it anew.
    #[error("{} is not a sandbox file: {reason}; generate the sandbox again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be written in its format.
    #[error("cannot encode {what}: {reason}; please report this with the settings used")]
    Encode {
        /// The file or tile.
        what: String,
        /// The encoder's words.
        reason: String,
    },
}

impl SandboxError {
    /// Exit code of a command: 75 where another try can help, else 65.
    pub fn exit_code(&self) -> u8 {
        match self {
            SandboxError::Storage { source, .. } => match source.kind() {
                ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::ResourceBusy
                | ErrorKind::StaleNetworkFileHandle
                | ErrorKind::TimedOut => 75,
                _ => 65,
            },
            _ => 65,
        }
    }

    pub(crate) fn storage(path: &Path) -> impl FnOnce(std::io::Error) -> SandboxError + '_ {
        move |source| SandboxError::Storage { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, reason: impl ToString) -> SandboxError {
        SandboxError::Damaged { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn encode(what: impl ToString, reason: impl ToString) -> SandboxError {
        SandboxError::Encode { what: what.to_string(), reason: reason.to_string() }
    }

    /// Of an archive that cannot be written; where the disk refuses, its format is not why.
    pub(crate) fn zip(path: &Path, what: impl ToString, error: ZipError) -> SandboxError {
        match error {
            ZipError::Io(source) => SandboxError::Storage { path: path.to_owned(), source },
            other => SandboxError::encode(what, other),
        }
    }

    /// The same for a table.
    pub(crate) fn csv(path: &Path, error: csv::Error) -> SandboxError {
        let reason = error.to_string();
        match error.into_kind() {
            csv::ErrorKind::Io(source) => SandboxError::Storage { path: path.to_owned(), source },
            _ => SandboxError::encode(path.display(), reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_may_pass_and_a_missing_right_does_not() {
        let of = |kind: ErrorKind| SandboxError::Storage { path: "world".into(), source: kind.into() }.exit_code();
        assert_eq!((of(ErrorKind::StorageFull), of(ErrorKind::PermissionDenied)), (75, 65));
    }
}
