//! What is kept of a WebDataset archive between listings.

use serde::{Deserialize, Serialize};

use crate::archive::MemberPlace;

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSamples {
    /// ETag of the archive when it was read.
    pub(super) etag: Option<String>,
    pub(super) samples: Vec<KeptSample>,
    /// Samples without an image.
    pub(super) others: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptSample {
    pub(super) id: String,
    pub(super) place: MemberPlace,
    pub(super) captions: Vec<String>,
    pub(super) split: Option<String>,
    pub(super) problem: Option<String>,
}
