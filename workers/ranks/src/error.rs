//! What can go wrong before ranks are together. What goes wrong afterwards is `training::Error::Collective`.

/// Result of this crate.
pub type Result<T, E = RanksError> = std::result::Result<T, E>;

/// An error of meeting, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum RanksError {
    /// The environment or the arguments contradict themselves: correct them.
    #[error("{0}")]
    Configuration(String),
    /// Ranks did not find each other in time: look at those that the message names.
    #[error("{0}")]
    Rendezvous(String),
    /// Another process has this rank's place under this name, or the other ranks have left it: take another name.
    #[error("{0}")]
    Taken(String),
    /// A rank that has said where it is does not answer, or ranks that had met lost each other before they began: one
    /// has ended meanwhile. Take another name.
    #[error("{0}")]
    Unreachable(String),
    /// A library that the backend needs is not there, or cannot be used so: install it or choose another backend.
    #[error("{0}")]
    Library(String),
    /// The store where ranks meet failed.
    #[error("meeting ranks, {key}: {cause}")]
    RendezvousStore {
        /// The object.
        key: String,
        /// The store's own error.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A first operation between the ranks failed.
    #[error(transparent)]
    Collective(#[from] training::Error),
}
