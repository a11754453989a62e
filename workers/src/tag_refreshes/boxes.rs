//! What is known of the images before a refresh: boxes, and tags as they stand.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::Array;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::spec::OsmSpec;
use manifests::{Artifact, BuildSpec, digest, shard_of};
use osm::{ImageBox, Images, SubjectKind, moment_of};
use stages::table::{Columns, TableError, option_text};
use stages::tag_refreshes::ImageTags;

use super::record::Base;
use crate::error::WorkerError;
use crate::parts;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// The tags of an image, as they stand.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Of what matters of them; of one that is left out it says nothing.
    digest: [u8; 16],
    /// Whether a row of the table says that they come from OpenStreetMap.
    pub(super) is_refreshed: bool,
    /// Whether the image is left out, since what it was taken for is gone.
    pub(super) is_gone: bool,
}

impl Before {
    fn of(tags: &ImageTags, is_refreshed: bool) -> Self {
        Self { digest: digest::bits(&tags.digest()), is_refreshed, is_gone: false }
    }

    const GONE: Before = Before { digest: [0; 16], is_refreshed: true, is_gone: true };
    /// The same where the row that said so is lost.
    const LOST: Before = Before { is_refreshed: false, ..Before::GONE };

    /// Whether these are other tags; `None`: what the image was taken for is gone.
    pub(super) fn differs(&self, now: Option<&ImageTags>) -> bool {
        match now {
            None => !self.is_gone,
            Some(tags) => self.is_gone || self.digest != digest::bits(&tags.digest()),
        }
    }
}

/// What is known of a country's images: of each its name and 58 bytes, as there are millions.
pub(super) struct Known {
    pub(super) images: Arc<Images>,
    /// By number of the image.
    pub(super) before: Vec<Before>,
    /// Images that are left out and whose box nobody knows.
    pub(super) boxless: Vec<String>,
    /// The newest moment that a refreshed row shows, seconds since 1970.
    pub(super) newest_row: Option<i64>,
    pub(super) geotags: PinnedTable,
}

/// What matters of tags in a table. Those that cannot be read are as good as none.
fn tags(osm: &OsmSpec, center: Option<&str>, surrounding: Option<&str>) -> ImageTags {
    let mut tags = ImageTags::parse(center, surrounding).unwrap_or_default();
    for of_object in std::iter::once(&mut tags.center).chain(&mut tags.surrounding) {
        of_object.retain(|key, _| !osm.ignores(key));
    }
    tags.surrounding.retain(|tags| !tags.is_empty());
    tags
}

const COLUMNS: [&str; 10] =
    ["image_id", "status", "osm_kind", "osm_id", "west", "south", "east", "north", "center_tags", "surrounding_tags"];

/// Reads the geo-tags of a build, and what was refreshed before. An image that was left out has no box in the table any
/// more: that is in the state. Which images those are, no refreshed row says in a shard that has lost its part: there
/// they are those of the state that the geo-tags exclude.
///
/// # Errors
/// [`WorkerError::Configuration`] for a build without boxes; parts that cannot be read; a store that does not answer.
pub(super) async fn known(
    work: &WorkStore,
    tables: &Tables,
    spec: &BuildSpec,
    base: &Base,
) -> Result<Known, WorkerError> {
    let osm = &spec.source.osm;
    let table = |error: TableError| WorkerError::Broken(error.to_string());
    let geotags = tables.pin(Artifact::Geotags, &spec.country, None).await?;
    let altered = base.altered_shards();
    let mut found = Found { images: Images::default(), before: Vec::new(), excluded: Vec::new() };
    {
        let mut read = parts::batches(work, &geotags, &COLUMNS, spec.work.concurrency);
        while let Some(batch) = read.try_next().await? {
            found.add(spec, &altered, &Columns::new(Artifact::Geotags, &batch)).map_err(table)?;
        }
    }
    found = found.sorted();
    // those that are left out and whose box is in the state alone
    let mut gone: Vec<String> = Vec::new();
    let mut newest_row: Option<i64> = None;
    let columns = ["image_id", "gone", "center_tags", "surrounding_tags", "moment"];
    let mut read = parts::batches(work, &base.pinned, &columns, spec.work.concurrency);
    while let Some(batch) = read.try_next().await? {
        let columns = Columns::new(Artifact::TagRefreshes, &batch);
        let text = |name| columns.text(name).map_err(table);
        let (ids, left) = (text("image_id")?, text("gone")?);
        let (center, surrounding) = (text("center_tags")?, text("surrounding_tags")?);
        let moments = text("moment")?;
        let mut finder = found.images.finder();
        for row in 0..batch.num_rows() {
            newest_row = newest_row.max(option_text(moments, row).and_then(moment_of));
            let is_gone = !left.is_null(row);
            let Some(number) = finder.find(ids.value(row)) else {
                gone.extend(is_gone.then(|| ids.value(row).to_owned()));
                continue;
            };
            found.before[number as usize] = match is_gone {
                true => Before::GONE,
                false => Before::of(&tags(osm, option_text(center, row), option_text(surrounding, row)), true),
            };
        }
    }
    if !gone.is_empty() || !found.excluded.is_empty() {
        match base.images(work).await {
            Ok(in_state) => {
                let lost = found.excluded.iter().map(|id| (id, Before::LOST));
                // of an image that is there twice the last one counts: where a row is left, it knows
                for (id, before) in lost.chain(gone.iter().map(|id| (id, Before::GONE))) {
                    let Some(image) = in_state.number_of(id).and_then(|number| in_state.get(number)) else { continue };
                    found.images.push(&image);
                    found.before.push(before);
                }
                found = found.sorted();
            }
            // whoever needs the state refuses without it, and who writes says what becomes of these images
            Err(WorkerError::Broken(why)) => tracing::debug!("{why}"),
            Err(error) => return Err(error),
        }
    }
    gone.retain(|id| found.images.number_of(id).is_none());
    if found.images.is_empty() && gone.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{} has no image with a box: run the build first, at least `urbancross run SPEC --until geotags`, with \
             source.meta = true and source.kind = \"skyscript\"",
            spec.country
        )));
    }
    Ok(Known { images: Arc::new(found.images), before: found.before, boxless: gone, newest_row, geotags })
}

impl Known {
    /// The tags of an image, as they stand.
    pub(super) fn before(&self, image_id: &str) -> Option<Before> {
        self.before.get(self.images.number_of(image_id)? as usize).copied()
    }
}

/// Images in order of arrival, and what is known of each.
struct Found {
    images: Images,
    before: Vec<Before>,
    /// Images of altered shards that the geo-tags exclude.
    excluded: Vec<String>,
}

impl Found {
    fn sorted(self) -> Found {
        let (images, order) = self.images.sorted();
        let before = order.iter().map(|number| self.before[*number as usize]).collect();
        Found { images, before, excluded: self.excluded }
    }

    fn add(&mut self, spec: &BuildSpec, altered: &BTreeSet<u32>, columns: &Columns<'_>) -> Result<(), TableError> {
        let osm = &spec.source.osm;
        let text = |name| columns.text(name);
        let (ids, status, kinds) = (text("image_id")?, text("status")?, text("osm_kind")?);
        let (center, surrounding) = (text("center_tags")?, text("surrounding_tags")?);
        let numbers = columns.int64("osm_id")?;
        let sides =
            [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
        for row in 0..ids.len() {
            let id = ids.value(row);
            if status.value(row) == "excluded" && altered.contains(&shard_of(id, spec.work.shards)) {
                self.excluded.push(id.to_owned());
            }
            if status.value(row) != "ok" || numbers.is_null(row) || sides.iter().any(|side| side.is_null(row)) {
                continue;
            }
            let kind = match option_text(kinds, row) {
                Some("n") => SubjectKind::Node,
                Some("w") => SubjectKind::Way,
                Some("a") => SubjectKind::Area,
                Some("r") => SubjectKind::Relation,
                _ => continue,
            };
            let image = match ImageBox::new(id, kind, numbers.value(row), sides.map(|side| side.value(row))) {
                Ok(image) => image,
                Err(error) => {
                    tracing::warn!(%error, "its tags stay as they are");
                    continue;
                }
            };
            let tags = tags(osm, option_text(center, row), option_text(surrounding, row));
            self.before.push(Before::of(&tags, false));
            self.images.push(&image);
        }
        Ok(())
    }
}
