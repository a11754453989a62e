//! What a listing has read of archives, to be kept for the next one.

use std::sync::Arc;

use serde::Serialize;

use super::kept_samples::KeptSamples;
use crate::archive::WantedMembers;

/// What was read of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ReadArchive {
    /// Of a zip.
    Members(#[serde(serialize_with = "shared")] Arc<WantedMembers>),
    /// Of a tar.
    Samples(KeptSamples),
}

fn shared<S: serde::Serializer>(members: &Arc<WantedMembers>, to: S) -> Result<S::Ok, S::Error> {
    members.serialize(to)
}

/// What was read of archives anew, by the names under which a work store keeps it.
pub type ReadAnew = Vec<(String, ReadArchive)>;
