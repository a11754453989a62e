//! Refreshes of a build's tags, and what became of them: what `urbancross diff` says of the time until the next one.

use std::collections::{BTreeMap, BTreeSet};

use arrow::record_batch::RecordBatch;
use atlas::{Edit, Edited, ImageName, Moved, Retagged};
use manifests::plan::PinnedTable;
use manifests::{Artifact, PartFile};
use stages::table::{Columns, TableError, option_text};
use stages::tag_refreshes::{self, ImageTags, Origin, Refreshed};
use workers::WorkerError;
use workers::changes::{between, changed_images};
use workers::parts::PartReader;
use workers::search::row_of;

use crate::build::Build;
use crate::clock;
use crate::diff::{Since, TableDiff, diff_until, pinned};

/// Refreshes that are listed.
const MOST_LISTED: usize = 12;
/// Versions that are looked at for them: those of other countries are among them.
const MOST_VERSIONS: usize = 48;
/// Shards that are read to count the images of a refresh.
const MOST_SHARDS: usize = 64;
/// Images that are shown of one.
const MOST_SHOWN: usize = 12;
/// Images among which those with other captions are looked for.
const MOST_CHANGED: usize = 10_000;
/// Captions that are looked at for that.
const MOST_REWORDED: usize = 200;

/// A refresh with its tables.
struct Refresh {
    edit: Edit,
    before: PinnedTable,
    after: PinnedTable,
    millis: i64,
}

/// The last refreshes that moved rows of the build's country, the newest first.
async fn refreshes(build: &Build, is_counted: impl Fn(u64) -> bool) -> Result<Vec<Refresh>, WorkerError> {
    let table = Artifact::TagRefreshes;
    let written = build.tables.written(table).await?;
    let (mut found, mut newer) = (Vec::new(), None);
    for (version, millis) in written.into_iter().rev().take(MOST_VERSIONS) {
        let Ok(now) = pinned(build, table, Some(version)).await else { break };
        if let Some((after, edit_version, at)) = newer.replace((now.clone(), version, millis)) {
            found.extend(refresh(build, now, after, (edit_version, at), &is_counted).await?);
        }
        if found.len() >= MOST_LISTED {
            return Ok(found);
        }
    }
    // before the first version there was nothing
    if let Some((after, 0, at)) = newer {
        found.extend(refresh(build, PinnedTable::empty(table), after, (0, at), &is_counted).await?);
    }
    Ok(found)
}

/// What a version of the table was, unless it moved nothing of this country.
async fn refresh(
    build: &Build,
    before: PinnedTable,
    after: PinnedTable,
    (version, millis): (u64, i64),
    is_counted: impl Fn(u64) -> bool,
) -> Result<Option<Refresh>, WorkerError> {
    let moved: Vec<&PartFile> = after.parts.iter().filter(|part| before.part(part.shard) != Some(part)).collect();
    let Some(first) = moved.first() else { return Ok(None) };
    // parts that `gc` has cleared away tell nothing any more
    let origin = origin(build, before.part(first.shard), first).await.unwrap_or_default();
    let mut images = None;
    if moved.len() <= MOST_SHARDS && is_counted(version) {
        // nobody accepts rows of this table
        let of = (&before, &after);
        let changes = between(&build.work, Artifact::TagRefreshes, of, (("", ""), &[]), 0).await.ok();
        images = changes.map(|changes| changes.added + changes.removed + changes.changed);
    }
    let number = origin.sequence.map_or(String::new(), |sequence| format!(" {sequence}"));
    let edit = Edit {
        version,
        written: clock::at((millis / 1000).max(0) as u64),
        origin: if origin.kind.is_empty() { "a refresh".to_owned() } else { format!("{}{number}", origin.kind) },
        moment: origin.moment.unwrap_or_default(),
        images,
    };
    Ok(Some(Refresh { edit, before, after, millis }))
}

/// Where the rows come from that a part has and the one before had not.
async fn origin(build: &Build, before: Option<&PartFile>, after: &PartFile) -> Result<Origin, WorkerError> {
    let mut old = BTreeMap::new();
    if let Some(before) = before {
        old = rows_of(build, before).await?;
    }
    let new = rows_of(build, after).await?;
    let is_new = |(id, row): &(&String, &Refreshed)| old.get(*id) != Some(*row);
    let origins = new.iter().filter(is_new).map(|(_, row)| row.origin.clone());
    Ok(origins.max_by(|a, b| (a.sequence, &a.moment).cmp(&(b.sequence, &b.moment))).unwrap_or_default())
}

async fn rows_of(build: &Build, part: &PartFile) -> Result<BTreeMap<String, Refreshed>, WorkerError> {
    let batch =
        PartReader::open(&build.work, Artifact::TagRefreshes, part).await?.read(&tag_refreshes::COLUMNS).await?;
    let rows = tag_refreshes::rows(&batch).map_err(broken)?;
    Ok(rows.into_iter().filter_map(|(id, row)| Some((id, row.ok()?))).collect())
}

fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

/// The last refreshes, the newest first.
pub(super) async fn list(build: &Build) -> Result<Vec<Edit>, WorkerError> {
    Ok(refreshes(build, |_| true).await?.into_iter().map(|refresh| refresh.edit).collect())
}

/// What became of a refresh until the next one, or until now; `None`: it is none of those that are listed.
pub(super) async fn edited(build: &Build, version: u64) -> Result<Option<Edited>, WorkerError> {
    let refreshes = refreshes(build, |counted| counted == version).await?;
    let Some(at) = refreshes.iter().position(|refresh| refresh.edit.version == version) else { return Ok(None) };
    let (refresh, next) = (&refreshes[at], at.checked_sub(1).map(|next| &refreshes[next]));
    let since = match refresh.before.version {
        Some(before) => Since::Version(Artifact::TagRefreshes, before),
        None => Since::Time(refresh.millis - 1),
    };
    let end = next.map(|next| next.millis - 1);
    let diff = diff_until(build, &since, end, MOST_REWORDED).await?;
    let (changed, count) =
        changed_images(&build.work, Artifact::TagRefreshes, (&refresh.before, &refresh.after), MOST_CHANGED).await?;
    let of_table = |artifact: Artifact| diff.tables.iter().find(|table| table.artifact == artifact);
    let captions = of_table(Artifact::Captions);
    let reworded: BTreeSet<&String> =
        captions.iter().flat_map(|table| &table.changes.examples).map(|row| &row.image_id).collect();
    let (first, then): (Vec<&String>, Vec<&String>) = changed.iter().partition(|id| reworded.contains(id));
    let mut images = Vec::new();
    for id in first.into_iter().chain(then).take(MOST_SHOWN) {
        images.push(retagged(build, refresh, [of_table(Artifact::Geotags), captions], id).await?);
    }
    Ok(Some(Edited {
        edit: refresh.edit.clone(),
        until: match next {
            None => format!("now, {}", clock::now()),
            Some(next) => format!("{} was read, {}", next.edit.origin, next.edit.written),
        },
        others: count.saturating_sub(images.len() as u64),
        steps: diff.tables.iter().map(moved).collect(),
        images,
    }))
}

fn moved(of: &TableDiff) -> Moved {
    let changes = &of.changes;
    let accepted = (changes.accepted > 0).then(|| format!("{} accepted", changes.accepted));
    Moved {
        step: of.step.to_owned(),
        added: changes.added,
        removed: changes.removed,
        changed: changes.changed,
        remade: changes.remade,
        carried: changes.carried,
        kept: changes.kept,
        why: changes.causes.iter().map(|(cause, rows)| format!("{rows} {cause}")).chain(accepted).collect(),
    }
}

/// One image before and after.
async fn retagged(
    build: &Build,
    refresh: &Refresh,
    [geotags, captions]: [Option<&TableDiff>; 2],
    id: &str,
) -> Result<Retagged, WorkerError> {
    let row = async |table: &PinnedTable, columns: &[&str]| {
        row_of(&build.work, (table, build.spec.work.shards), id, columns).await
    };
    let before = match row(&refresh.before, &tag_refreshes::COLUMNS).await? {
        Some(row) => refreshed(&row).and_then(|row| row.tags),
        None => None,
    };
    let before = match (before, geotags) {
        (None, Some(geotags)) => {
            let table = pinned(build, Artifact::Geotags, geotags.before).await?;
            row(&table, &["center_tags", "surrounding_tags"]).await?.and_then(|row| tags(&row))
        }
        (before, _) => before,
    };
    let before = before.unwrap_or_default();
    let after = row(&refresh.after, &tag_refreshes::COLUMNS).await?.and_then(|row| refreshed(&row)?.tags);
    let mut said = [Vec::new(), Vec::new()];
    if let Some(table) = captions {
        for (said, version) in said.iter_mut().zip([table.before, table.after]) {
            let row = row(&pinned(build, Artifact::Captions, version).await?, &["captions"]).await?;
            let texts = row.map(|row| Columns::new(Artifact::Captions, &row).texts("captions")).transpose();
            *said = texts.map_err(broken)?.into_iter().flatten().flatten().collect();
        }
    }
    let [captions_before, captions_after] = said;
    let (around_gone, around_new) = match &after {
        Some(after) => apart(&before.surrounding, &after.surrounding),
        None => Default::default(),
    };
    Ok(Retagged {
        image: ImageName { country: build.spec.country.clone(), id: id.to_owned() },
        pictured: row(&build.pin(Artifact::Images).await?, &["image_id"]).await?.is_some(),
        tags_before: words(&before.center),
        tags_after: after.map(|after| words(&after.center)),
        around_new,
        around_gone,
        captions_before,
        captions_after,
    })
}

type Tags = BTreeMap<String, String>;

fn words(tags: &Tags) -> Vec<String> {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Objects of the first list that the second lacks, and the reverse; equal ones are told apart by their number alone.
fn apart(before: &[Tags], after: &[Tags]) -> (Vec<String>, Vec<String>) {
    let mut counts = BTreeMap::<&Tags, i64>::new();
    before.iter().for_each(|tags| *counts.entry(tags).or_default() -= 1);
    after.iter().for_each(|tags| *counts.entry(tags).or_default() += 1);
    let some = |sign: i64| {
        let of_sign = counts.iter().filter(|(tags, count)| **count * sign > 0 && !tags.is_empty());
        of_sign.map(|(tags, _)| words(tags).join(" ")).collect()
    };
    (some(-1), some(1))
}

fn refreshed(row: &RecordBatch) -> Option<Refreshed> {
    tag_refreshes::rows(row).ok()?.into_values().next()?.ok()
}

/// Tags that cannot be read are none.
fn tags(row: &RecordBatch) -> Option<ImageTags> {
    let columns = Columns::new(Artifact::Geotags, row);
    let (center, surrounding) = (columns.text("center_tags").ok()?, columns.text("surrounding_tags").ok()?);
    ImageTags::parse(option_text(center, 0), option_text(surrounding, 0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_around_are_told_apart_by_their_tags() {
        let tags = |value: &str| Tags::from([("building".to_owned(), value.to_owned())]);
        let (house, shed) = (tags("house"), tags("shed"));
        let before = [house.clone(), house.clone(), Tags::new()];
        let after = [shed, house];
        assert_eq!(apart(&before, &after), (vec!["building=house".to_owned()], vec!["building=shed".to_owned()]));
        assert_eq!(apart(&before, &before), (Vec::new(), Vec::new()));
    }
}
