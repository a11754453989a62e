//! Rows of the table: the changed ones among those that stay.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::Array;
use manifests::Artifact;
use manifests::commit::Replacement;
use stages::table::{Columns, TableError, option_text};
use stages::tag_refreshes::{self, ImageTags, Origin, Refreshed};

use super::boxes::Known;
use super::record::Base;
use crate::error::WorkerError;
use crate::parts::{PartReader, PartWriter};
use crate::stores::WorkStore;

fn broken(why: impl std::fmt::Display) -> WorkerError {
    WorkerError::Broken(format!("table {}: {why}", super::table()))
}

/// A shard of the table.
pub(super) struct Shard<'a> {
    pub(super) work: &'a WorkStore,
    pub(super) country: &'a str,
    pub(super) shard: u32,
}

impl Shard<'_> {
    /// Writes a new part; nothing is live yet. Where a row is `None`, its tags stay as the geo-tags have them, to the letter:
    /// what differs in them does not matter, and would make rows again. Those that are `lost` are taken out.
    pub(super) async fn write(
        &self,
        base: &Base,
        known: &Known,
        changed: BTreeMap<String, Option<Refreshed>>,
        lost: &BTreeSet<String>,
        origin: &Origin,
    ) -> Result<Replacement, WorkerError> {
        let mut all = BTreeMap::new();
        if let Some(part) = base.pinned.part(self.shard) {
            let reader = PartReader::open(self.work, Artifact::TagRefreshes, part).await?;
            let batch = reader.read(&tag_refreshes::COLUMNS).await?;
            for (id, row) in tag_refreshes::rows(&batch).map_err(broken)? {
                match row {
                    Ok(row) => _ = all.insert(id, row),
                    // one that is no longer readable is found again if it is changed, and left out otherwise
                    Err(why) => tracing::warn!(image = id, why, "passed over"),
                }
            }
        }
        if changed.values().any(Option::is_none)
            && let Some(part) = known.geotags.part(self.shard)
        {
            let reader = PartReader::open(self.work, Artifact::Geotags, part).await?;
            let batch = reader.read(&["image_id", "center_tags", "surrounding_tags"]).await?;
            let stand = as_they_stand(&Columns::new(Artifact::Geotags, &batch)).map_err(broken)?;
            let stay = stand.into_iter().filter(|(id, _)| changed.get(id).is_some_and(Option::is_none));
            all.extend(stay.map(|(id, tags)| (id, Refreshed { tags: Some(tags), origin: origin.clone() })));
        }
        all.extend(changed.into_iter().filter_map(|(id, row)| Some((id, row?))));
        all.retain(|id, _| !lost.contains(id));
        let batch = tag_refreshes::batch(&all).map_err(broken)?;
        let mut writer = PartWriter::create(self.work, Artifact::TagRefreshes, self.country, self.shard)?;
        writer.write(&batch).await?;
        let base = base.pinned.part_name(self.shard).map(str::to_owned);
        Ok(Replacement { base, part: writer.finish().await? })
    }
}

fn as_they_stand(columns: &Columns<'_>) -> Result<BTreeMap<String, ImageTags>, TableError> {
    let (ids, center) = (columns.text("image_id")?, columns.text("center_tags")?);
    let surrounding = columns.text("surrounding_tags")?;
    let tags = |row: usize| ImageTags::parse(option_text(center, row), option_text(surrounding, row)).ok();
    Ok((0..ids.len()).filter_map(|row| Some((ids.value(row).to_owned(), tags(row)?))).collect())
}
