//! Going back to what people had decided before a part was damaged.

use std::collections::BTreeMap;

use manifests::words::count;
use manifests::{Artifact, PartFile};

use super::{look, of_rows, write};
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// Versions that are looked at, from the newest on.
const MOST_LOOKS_BACK: usize = 1000;

/// A new part of a shard with the decisions of the newest whole one of its past, and in words what is lost. Without one
/// it has no rows.
pub(crate) async fn gone_back(
    work: &WorkStore,
    tables: &Tables,
    country: &str,
    shard: u32,
) -> Result<(PartFile, String), WorkerError> {
    let artifact = Artifact::CaptionReviews;
    let versions: Vec<u64> = tables.written(artifact).await?.into_iter().map(|(version, _)| version).collect();
    let mut tried: Option<String> = None;
    for version in versions.into_iter().rev().take(MOST_LOOKS_BACK) {
        let pinned = match tables.pin(artifact, country, Some(version)).await {
            Ok(pinned) => pinned,
            // another program's files, or a log that was cut
            Err(WorkerError::Broken(_) | WorkerError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Some(part) = pinned.part(shard).filter(|part| tried.as_ref() != Some(&part.path)) else { continue };
        tried = Some(part.path.clone());
        let read = async {
            let reader = PartReader::open(work, artifact, part).await?;
            reader.verify().await?;
            of_rows(&reader.read(look::columns(artifact)).await?)
        };
        match read.await {
            Ok(reviews) => {
                let decisions = count(reviews.len(), "decision");
                let words =
                    format!("shard {shard} of {}: back to the {decisions} of version {version}", artifact.name());
                return Ok((write(work, country, shard, &reviews).await?, words));
            }
            Err(WorkerError::Broken(_) | WorkerError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let words = format!("shard {shard} of {}: all that people decided is lost, with no older file", artifact.name());
    Ok((write(work, country, shard, &BTreeMap::new()).await?, words))
}
