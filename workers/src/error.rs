//! Errors by what the caller can do about them.

use stages::io_fault::IoFault;
use stages::stage::is_disk_full;

use crate::cause::{TornEntry, is_beyond_end, may_pass, way_in, whole_chain};

/// Why work did not finish.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The spec, a credential or a store's set-up is wrong: nothing is gained by another try.
    #[error("{0}")]
    Configuration(String),
    /// A store lets nobody in, or not us: credentials are missing or do not suffice.
    #[error("{0}")]
    Refused(String),
    /// The input, a table or a checkpoint cannot be used as it is.
    #[error("{0}")]
    Broken(String),
    /// An object that must be there is not.
    #[error("{what} is not there: {path}")]
    Missing {
        /// What kind of object it is.
        what: &'static str,
        /// Its address.
        path: String,
    },
    /// A store did not answer, or answered with a fault of its own, after all retries: run again.
    #[error("{0}")]
    Transient(String),
    /// What the work was planned on is there no longer, such as an archive that was written anew: plan again.
    #[error("{0}")]
    Outdated(String),
    /// Something beside the stores of the build did not answer, after all retries; nothing was begun.
    #[error("{0}")]
    Unanswered(String),
    /// Another writer was faster; the caller looks again.
    #[error("{0} was written by another worker meanwhile")]
    Conflict(String),
    /// A disk or a quota is full; what was being written.
    #[error("no space left while writing {0}")]
    DiskFull(String),
    /// A thread that computed ended in a panic.
    #[error("{0}")]
    Panicked(String),
    /// The run was asked to end.
    #[error("stopped on request")]
    Stopped,
}

impl WorkerError {
    /// 0 done, 65 permanent, 75 transient, 143 stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            WorkerError::Transient(_)
            | WorkerError::Outdated(_)
            | WorkerError::Unanswered(_)
            | WorkerError::Conflict(_)
            | WorkerError::DiskFull(_) => 75,
            WorkerError::Stopped => 143,
            _ => 65,
        }
    }

    /// What to do now. Said once, behind the whole message: errors are parts of others.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            WorkerError::Transient(_) | WorkerError::Outdated(_) | WorkerError::Conflict(_) => {
                Some("what is done stays done: run the same command again")
            }
            WorkerError::DiskFull(_) => Some("free some and run the same command again"),
            WorkerError::Stopped => Some("run the same command again to go on"),
            WorkerError::Unanswered(_) => Some("nothing was written: run the same command again when it answers"),
            WorkerError::Configuration(_)
            | WorkerError::Refused(_)
            | WorkerError::Broken(_)
            | WorkerError::Missing { .. }
            | WorkerError::Panicked(_) => None,
        }
    }

    /// Sorts an error of the local file system.
    pub fn of_io(path: &std::path::Path, error: &std::io::Error) -> WorkerError {
        let said = format!("{}: {error}", path.display());
        match IoFault::of(error) {
            IoFault::DiskFull => WorkerError::DiskFull(path.display().to_string()),
            IoFault::ForGood => WorkerError::Configuration(said),
            IoFault::Passing => WorkerError::Transient(said),
        }
    }

    /// Sorts a store's error; `what` says which object was wanted.
    pub fn of_store(what: &str, error: object_store::Error) -> WorkerError {
        use object_store::Error as E;
        match &error {
            E::NotFound { path, .. } => WorkerError::Broken(format!(
                "{what}: not found at {path}; look at the url, and at the names inside the store"
            )),
            E::PermissionDenied { path, .. } | E::Unauthenticated { path, .. } => WorkerError::Refused(format!(
                "{what}: the store refuses access to {path} (403); set credentials in the environment that may do it, \
                 or options = {{ anonymous = true }} for a public store"
            )),
            E::Precondition { .. } => WorkerError::changed(what),
            E::NotSupported { source } if source.is::<TornEntry>() => WorkerError::Broken(format!("{what}: {source}")),
            E::NotSupported { .. } | E::NotImplemented { .. } => WorkerError::Configuration(format!(
                "{what}: {}; files are read in parts: use a server that answers range requests, an object store, or a \
                 folder of this machine",
                whole_chain(&error)
            )),
            E::InvalidPath { .. } => WorkerError::Broken(format!("{what}: {}", whole_chain(&error))),
            E::AlreadyExists { path, .. } => WorkerError::Conflict(path.clone()),
            other if is_disk_full(other) => WorkerError::DiskFull(what.to_owned()),
            other if is_beyond_end(other) => {
                WorkerError::Outdated(format!("{what}: it is shorter than it was when it was listed"))
            }
            other if may_pass(other) => WorkerError::Transient(format!("{what}: {}", whole_chain(other))),
            other => WorkerError::Configuration(format!("{what}: {}{}", whole_chain(other), way_in(other))),
        }
    }

    pub(crate) fn gone(what: &str) -> WorkerError {
        WorkerError::Outdated(format!("{what}: it was there when it was listed, and is gone"))
    }

    pub(crate) fn changed(what: &str) -> WorkerError {
        WorkerError::Outdated(format!("{what}: it changed after it was listed (its ETag, its size or its time)"))
    }
}

impl From<stages::StageError> for WorkerError {
    fn from(error: stages::StageError) -> Self {
        match error {
            stages::StageError::Stopped => WorkerError::Stopped,
            stages::StageError::DiskFull { .. } => WorkerError::DiskFull(error.to_string()),
            stages::StageError::RankLost { .. } | stages::StageError::Unreachable { .. } => {
                WorkerError::Transient(error.to_string())
            }
            stages::StageError::Configuration { .. } => WorkerError::Configuration(error.to_string()),
            other => WorkerError::Broken(other.to_string()),
        }
    }
}

impl From<stages::train_rows::RowsError> for WorkerError {
    fn from(error: stages::train_rows::RowsError) -> Self {
        if error.passes { WorkerError::Transient(error.why) } else { WorkerError::Broken(error.why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_no_part_of_a_message() {
        let inner = WorkerError::Transient("part: 503".into());
        let outer = WorkerError::Transient(format!("table: {inner}"));
        assert_eq!(outer.to_string(), "table: part: 503");
        assert!(outer.advice().is_some_and(|advice| advice.contains("run the same command again")));
    }

    #[test]
    fn a_right_that_lacks_lasts_and_a_fault_of_the_disk_passes() {
        let of = |kind: std::io::ErrorKind| WorkerError::of_io("x".as_ref(), &kind.into()).exit_code();
        assert_eq!(of(std::io::ErrorKind::PermissionDenied), 65);
        assert_eq!(of(std::io::ErrorKind::ReadOnlyFilesystem), 65);
        assert_eq!(of(std::io::ErrorKind::NotFound), 65);
        assert_eq!(WorkerError::of_io("x".as_ref(), &std::io::Error::from_raw_os_error(5)).exit_code(), 75);
        assert_eq!(of(std::io::ErrorKind::StorageFull), 75);
    }

    /// A store that is away for a while must not end a training for good.
    #[test]
    fn unread_rows_keep_their_kind_on_their_way_up() {
        let code = |passes| {
            let unread = stages::train_rows::RowsError { passes, why: "images: timed out".into() };
            let source = training::Error::Source { epoch: 0, step: 0, cause: Box::new(unread) };
            WorkerError::from(stages::StageError::of("pretrain", &source)).exit_code()
        };
        assert_eq!((code(true), code(false)), (75, 65));
    }

    #[test]
    fn a_full_disk_is_told_from_a_fault() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = object_store::Error::Generic { store: "local", source: Box::new(full) };
        assert!(matches!(WorkerError::of_store("part", error), WorkerError::DiskFull(_)));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let inner = object_store::Error::Generic { store: "local", source: Box::new(full) };
        let wrapped = object_store::Error::Generic { store: "local", source: Box::new(std::io::Error::other(inner)) };
        assert!(matches!(WorkerError::of_store("part", wrapped), WorkerError::DiskFull(_)));
        let other = object_store::Error::Generic { store: "s3", source: "503".into() };
        assert_eq!(WorkerError::of_store("part", other).exit_code(), 75);
    }

    #[test]
    fn only_what_another_try_can_help_is_tried_again() {
        let local = |kind: std::io::ErrorKind| {
            let source = Box::new(std::io::Error::from(kind));
            WorkerError::of_store("a", object_store::Error::Generic { store: "LocalFileSystem", source }).exit_code()
        };
        use std::io::ErrorKind as K;
        assert_eq!([K::PermissionDenied, K::NotADirectory, K::Other, K::TimedOut].map(local), [65, 65, 75, 75]);
        let no_ranges = object_store::Error::NotSupported { source: "no ranges".into() };
        assert_eq!(WorkerError::of_store("a", no_ranges).exit_code(), 65);
        let of_s3 = |said: &str| {
            let error = WorkerError::of_store("a", object_store::Error::Generic { store: "S3", source: said.into() });
            (error.exit_code(), error.to_string())
        };
        let status = |code: &str| of_s3(&format!("Server returned non-2xx status code: {code}"));
        let said_in_400 = |code: &str| format!("400 Bad Request: <Code>{code}</Code>");
        for passes in ["429 Too Many Requests".to_owned(), "503 Slow Down".to_owned()]
            .into_iter()
            .chain(["RequestTimeout", "ExpiredToken"].map(said_in_400))
        {
            assert_eq!(status(&passes).0, 75, "{passes}");
        }
        // an archive that was cut is to be listed again
        assert_eq!(status("416 Range Not Satisfiable").0, 75);
        for ((code, said), field) in [
            (status("410 Gone"), ""),
            (status("400 Bad Request: <Code>AuthorizationHeaderMalformed</Code>"), "options.region"),
            (of_s3("Received redirect without LOCATION, this normally indicates …"), "options.region"),
            (of_s3("builder error: URL scheme is not allowed"), "options.allow_http"),
        ] {
            assert!(code == 65 && said.contains(field), "{said}");
        }
    }
}
