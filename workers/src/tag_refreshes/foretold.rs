//! What a refresh would do, and what a run would make again after it.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch};
use manifests::{Artifact, digest};
use serde::Serialize;
use stages::stage::{InputRows, Stage, Told};
use stages::table::{self, Columns, TableError, option_text};
use stages::tag_refreshes::ImageTags;

use super::boxes::Known;
use super::write::Write;
use super::{Found, Refresher, Refreshment};
use crate::error::WorkerError;
use crate::parts::PartReader;

/// A refresh that nobody has made.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Foretold {
    /// What it would do; nothing is written.
    pub done: Refreshment,
    /// Rows of the geo-tags that would be looked at again.
    pub geotags: u64,
    /// Images whose tags would be others, without those that leave or come back.
    pub retagged: u64,
    /// Rows of these that stand all the same, by stage: their words are the same.
    pub stand: BTreeMap<&'static str, u64>,
}

impl Foretold {
    /// Images whose tags would be others, as a share of all, 0 to 1.
    pub fn share(&self) -> f64 {
        self.done.changed as f64 / self.done.images.max(1) as f64
    }
}

/// Images of a shard, and the tags that they would have.
type Retagged = BTreeMap<String, ImageTags>;

impl Refresher<'_> {
    pub(super) async fn foretold(
        &self,
        known: &Known,
        found: Found,
        writes: BTreeMap<u32, Vec<Write>>,
    ) -> Result<Foretold, WorkerError> {
        let Found { state, mut done, lost, .. } = found;
        let stages: Vec<(Stage, Told)> =
            stages::map_stages(self.spec).into_iter().filter_map(|stage| Some((stage, stage.told?))).collect();
        let mut foretold = Foretold { geotags: lost.len() as u64, ..Foretold::default() };
        let mut pinned = BTreeMap::new();
        for (stage, _) in &stages {
            let table = self.tables.pin(stage.output, &self.spec.country, None).await?;
            pinned.insert(stage.output, table);
        }
        for (shard, writes) in writes {
            foretold.geotags += writes.len() as u64;
            let mut retagged = Retagged::new();
            for Write { number, is_changed } in writes {
                let Some(image_id) = state.boxes().all().image_id(number).filter(|_| is_changed) else { continue };
                let is_there = known.before(image_id).is_some_and(|before| !before.is_gone);
                if let Some(tags) = self.tags_of(&state, number).flatten().filter(|_| is_there) {
                    retagged.insert(image_id.to_owned(), tags);
                }
            }
            foretold.retagged += retagged.len() as u64;
            let Some(part) = known.geotags.part(shard).filter(|_| !retagged.is_empty()) else { continue };
            for (stage, told) in &stages {
                let Some(made) = pinned.get(&stage.output).and_then(|table| table.part(shard)) else { continue };
                let input = stage.inputs.iter().find(|input| input.artifact == told.input);
                let Some(input) = input.filter(|input| input.artifact == Artifact::Geotags) else { continue };
                let columns: Vec<&str> =
                    ["image_id", "status"].into_iter().chain(input.columns.iter().copied()).collect();
                let tags = PartReader::open(self.work, Artifact::Geotags, part).await?.read(&columns).await?;
                let reader = PartReader::open(self.work, stage.output, made).await?;
                let before = reader.read(&["image_id", "status", told.column]).await?;
                let count = standing(told, stage.output, (&tags, &before), &retagged);
                *foretold.stand.entry(stage.name).or_default() +=
                    count.map_err(|error| WorkerError::Broken(error.to_string()))?;
            }
        }
        done.written = false;
        Ok(Foretold { done, ..foretold })
    }
}

/// Rows of a table whose captioner would be told the same of the new tags.
fn standing(
    told: &Told,
    artifact: Artifact,
    (geotags, made): (&RecordBatch, &RecordBatch),
    retagged: &Retagged,
) -> Result<u64, TableError> {
    let columns = Columns::new(artifact, made);
    let (ids, status, before) = (columns.text("image_id")?, columns.text("status")?, columns.text(told.column)?);
    let good = (0..made.num_rows()).filter(|row| status.value(*row) == "ok");
    let before: BTreeMap<&str, &str> =
        good.filter_map(|row| Some((ids.value(row), option_text(before, row)?))).collect();
    let rows = with_tags(geotags, retagged)?;
    let now = (told.of)(told.by, &rows)?;
    let is_same =
        |(id, now): (&String, &Option<String>)| now.is_some() && before.get(id.as_str()).copied() == now.as_deref();
    Ok(rows.image_ids.iter().zip(&now).filter(|pair| is_same(*pair)).count() as u64)
}

/// Rows of the geo-tags as they would be. A title tells the tags that it was made of, which are others.
fn with_tags(geotags: &RecordBatch, retagged: &Retagged) -> Result<InputRows, TableError> {
    let columns = Columns::new(Artifact::Geotags, geotags);
    let (ids, status) = (columns.text("image_id")?, columns.text("status")?);
    let rows: Vec<usize> = (0..geotags.num_rows())
        .filter(|row| status.value(*row) == "ok" && retagged.contains_key(ids.value(*row)))
        .collect();
    let image_ids: Vec<String> = rows.iter().map(|row| ids.value(*row).to_owned()).collect();
    let indices: arrow::array::UInt64Array = rows.iter().map(|row| Some(*row as u64)).collect();
    let build =
        |why: arrow::error::ArrowError| TableError::Build { table: Artifact::Geotags.name(), why: why.to_string() };
    let taken = arrow::compute::take_record_batch(geotags, &indices).map_err(build)?;
    let text = |of: fn(&ImageTags) -> String| -> ArrayRef {
        table::texts(image_ids.iter().map(|id| retagged.get(id).map(of)))
    };
    let schema = taken.schema();
    let columns = schema.fields().iter().zip(taken.columns()).map(|(field, column)| match field.name().as_str() {
        "center_tags" => text(|tags| digest::canonical_json(&tags.center)),
        "surrounding_tags" => text(|tags| digest::canonical_json(&tags.surrounding)),
        "title" | "title_multi_objects" => table::texts(image_ids.iter().map(|_| None::<String>)),
        _ => column.clone(),
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).map_err(build)?;
    Ok(InputRows { image_ids, tables: BTreeMap::from([(Artifact::Geotags, batch)]), source: Vec::new() })
}
