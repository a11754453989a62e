//! What is known of the images before a refresh: boxes, and tags as they stand.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::Array;
use futures::TryStreamExt;
use manifests::plan::PinnedTable;
use manifests::spec::OsmSpec;
use manifests::{Artifact, BuildSpec};
use osm::{ImageBox, SubjectKind};
use stages::table::{Columns, TableError, option_text};
use stages::tag_refreshes::ImageTags;

use super::record::Base;
use super::rows;
use crate::error::WorkerError;
use crate::parts;
use crate::stores::WorkStore;
use crate::tables::Tables;

/// The tags of an image, as they stand.
pub(super) struct Before {
    /// Of what matters of them.
    pub(super) digest: String,
    /// Whether they come from OpenStreetMap already.
    pub(super) is_refreshed: bool,
    /// Whether the image is left out, since what it was taken for is gone.
    pub(super) is_gone: bool,
}

/// What is known of a country's images.
pub(super) struct Known {
    pub(super) boxes: BTreeMap<String, ImageBox>,
    pub(super) before: BTreeMap<String, Before>,
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
/// more: that is in the state.
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
    let mut known = Known { boxes: BTreeMap::new(), before: BTreeMap::new(), geotags };
    let geotags = known.geotags.clone();
    let mut read = parts::batches(work, &geotags, &COLUMNS, spec.work.concurrency);
    while let Some(batch) = read.try_next().await? {
        known.add(osm, &Columns::new(Artifact::Geotags, &batch)).map_err(table)?;
    }
    let mut gone = BTreeSet::new();
    let columns = ["image_id", "gone", "center_tags", "surrounding_tags"];
    let mut read = parts::batches(work, &base.pinned, &columns, spec.work.concurrency);
    while let Some(batch) = read.try_next().await? {
        let columns = Columns::new(Artifact::TagRefreshes, &batch);
        let text = |name| columns.text(name).map_err(table);
        let (ids, left) = (text("image_id")?, text("gone")?);
        let (center, surrounding) = (text("center_tags")?, text("surrounding_tags")?);
        for row in 0..batch.num_rows() {
            let (id, is_gone) = (ids.value(row).to_owned(), !left.is_null(row));
            if is_gone {
                gone.insert(id.clone());
            }
            if is_gone || known.boxes.contains_key(&id) {
                let tags = tags(osm, option_text(center, row), option_text(surrounding, row));
                let digest = rows::digest_of(Some(&tags).filter(|_| !is_gone));
                known.before.insert(id, Before { digest, is_refreshed: true, is_gone });
            }
        }
    }
    if gone.iter().any(|id| !known.boxes.contains_key(id)) {
        match base.state(work).await {
            Ok(state) => {
                let boxes = state.iter().flat_map(|state| state.boxes().all());
                let left = boxes.filter(|image| gone.contains(&image.image_id));
                known.boxes.extend(left.map(|image| (image.image_id.clone(), image.clone())));
            }
            Err(error) => tracing::warn!(%error, "images that were left out stay so"),
        }
    }
    if known.boxes.is_empty() {
        return Err(WorkerError::Configuration(format!(
            "{} has no image with a box: run the build first, at least `urbancross run SPEC --until geotags`, with \
             source.meta = true and source.kind = \"skyscript\"",
            spec.country
        )));
    }
    Ok(known)
}

impl Known {
    fn add(&mut self, osm: &OsmSpec, columns: &Columns<'_>) -> Result<(), TableError> {
        let text = |name| columns.text(name);
        let (ids, status, kinds) = (text("image_id")?, text("status")?, text("osm_kind")?);
        let (center, surrounding) = (text("center_tags")?, text("surrounding_tags")?);
        let numbers = columns.int64("osm_id")?;
        let sides =
            [columns.float64("west")?, columns.float64("south")?, columns.float64("east")?, columns.float64("north")?];
        for row in 0..ids.len() {
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
            let id = ids.value(row);
            let image = match ImageBox::new(id, kind, numbers.value(row), sides.map(|side| side.value(row))) {
                Ok(image) => image,
                Err(error) => {
                    tracing::warn!(%error, "its tags stay as they are");
                    continue;
                }
            };
            let tags = tags(osm, option_text(center, row), option_text(surrounding, row));
            let before = Before { digest: rows::digest_of(Some(&tags)), is_refreshed: false, is_gone: false };
            self.before.insert(id.to_owned(), before);
            self.boxes.insert(id.to_owned(), image);
        }
        Ok(())
    }
}
