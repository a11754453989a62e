use std::path::{Path, PathBuf};

/// What can go wrong with a network, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A configuration that describes no network; correct the named value.
    #[error("configuration: {0}")]
    Config(String),

    /// The input does not fit the network; correct the input.
    #[error("input: {0}")]
    Input(String),

    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// A file was read, and its content is not what its name says.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected, and what is there instead.
        reason: String,
    },

    /// The checkpoint belongs to a network of another kind.
    #[error("{path}: a checkpoint of another model: {reason}")]
    AnotherModel {
        /// The checkpoint's file or folder.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },

    /// The checkpoint lacks a tensor that the configuration asks for.
    #[error(
        "{path}: tensor {name} of shape {expected:?} is missing; check that configuration and weights belong together"
    )]
    MissingTensor {
        /// The checkpoint's file.
        path: PathBuf,
        /// The name under which it was looked for.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },

    /// The checkpoint holds a tensor that the configuration has no place for.
    #[error(
        "{path}: tensor {name} of shape {found:?} has no place in this configuration; check that configuration and weights belong together"
    )]
    UnexpectedTensor {
        /// The checkpoint's file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },

    /// A tensor has another shape than the configuration asks for.
    #[error("{path}: tensor {name} has shape {found:?}, the configuration asks for {expected:?}")]
    WrongShape {
        /// The checkpoint's file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },

    /// The network cannot be written in the format asked for; choose another.
    #[error("cannot be written as {format}: {reason}")]
    Unsupported {
        /// The format, as people call it.
        format: &'static str,
        /// What it has no room for.
        reason: String,
    },

    /// The tokenizer library refused a vocabulary or a text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),

    /// An image or a mask could not be worked with.
    #[error(transparent)]
    Pixels(#[from] pixels::PixelError),

    /// The caller asked to stop between two batches.
    #[error("stopped before the work was done, as asked")]
    Stopped,

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError + '_ {
        move |source| ModelError::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl std::fmt::Display) -> ModelError {
        ModelError::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }
}
