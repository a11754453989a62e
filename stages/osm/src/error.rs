//! What can be wrong with extracts, diffs and states.

use std::path::{Path, PathBuf};

/// Why something was not read. Nothing of it is used.
#[derive(Debug, thiserror::Error)]
pub enum OsmError {
    /// A file that cannot be opened, read or written.
    #[error("{path}: {cause}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// Bytes that are no OpenStreetMap data, or not all of it.
    #[error("{0}")]
    Content(String),
    /// More than anything sound has.
    #[error("more than {limit} {what}: this is no sound OpenStreetMap file")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is taken.
        limit: u64,
    },
    /// A fault with the file that it is in.
    #[error("{path}: {why}", path = .path.display())]
    In {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        why: Box<OsmError>,
    },
    /// Diffs that do not follow what they are applied to.
    #[error("{0}")]
    Sequence(String),
}

impl OsmError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OsmError + '_ {
        |cause| OsmError::Io { path: path.to_owned(), cause }
    }

    /// Says in which file it is.
    pub(crate) fn inside(self, path: &Path) -> OsmError {
        match self {
            OsmError::Io { path: inner, cause } if inner.as_os_str().is_empty() => {
                OsmError::Io { path: path.to_owned(), cause }
            }
            named @ (OsmError::Io { .. } | OsmError::In { .. }) => named,
            why => OsmError::In { path: path.to_owned(), why: Box::new(why) },
        }
    }

    /// Of a stream without a name.
    pub(crate) fn stream(cause: std::io::Error) -> OsmError {
        match cause.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                OsmError::Content(format!("it ends early or is damaged ({cause}): download it again"))
            }
            _ => OsmError::Io { path: PathBuf::new(), cause },
        }
    }
}
