//! Rows of the table: the changed ones among those that stay.

use std::collections::BTreeMap;

use manifests::commit::Replacement;
use manifests::{Artifact, BuildSpec, shard_of};
use stages::tag_refreshes::{self, Refreshed};

use super::record::Base;
use crate::error::WorkerError;
use crate::parts::{PartReader, PartWriter};
use crate::stores::WorkStore;

/// Writes new parts of the shards that these rows are in; nothing is live yet.
pub(super) async fn write(
    work: &WorkStore,
    spec: &BuildSpec,
    base: &Base,
    rows: BTreeMap<String, Refreshed>,
) -> Result<Vec<Replacement>, WorkerError> {
    let broken = |why: String| WorkerError::Broken(format!("table {}: {why}", super::table()));
    let mut shards: BTreeMap<u32, BTreeMap<String, Refreshed>> = BTreeMap::new();
    for (image_id, row) in rows {
        shards.entry(shard_of(&image_id, spec.work.shards)).or_default().insert(image_id, row);
    }
    let mut replacements = Vec::with_capacity(shards.len());
    for (shard, changed) in shards {
        let mut all = BTreeMap::new();
        if let Some(part) = base.pinned.part(shard) {
            let batch = PartReader::open(work, Artifact::TagRefreshes, part).await?.read(&tag_refreshes::COLUMNS).await?;
            for (id, row) in tag_refreshes::rows(&batch).map_err(|e| broken(e.to_string()))? {
                match row {
                    Ok(row) => _ = all.insert(id, row),
                    // one that is no longer readable is found again if it is changed, and left out otherwise
                    Err(why) => tracing::warn!(image = id, why, "passed over"),
                }
            }
        }
        all.extend(changed);
        let batch = tag_refreshes::batch(&all).map_err(|e| broken(e.to_string()))?;
        let mut writer = PartWriter::create(work, Artifact::TagRefreshes, &spec.country, shard)?;
        writer.write(&batch).await?;
        let base = base.pinned.part_name(shard).map(str::to_owned);
        replacements.push(Replacement { base, part: writer.finish().await? });
    }
    Ok(replacements)
}
