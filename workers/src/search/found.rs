//! What is known of images, from the tables.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use futures::{StreamExt, TryStreamExt};
use manifests::{Artifact, shard_of};
use serde::Serialize;
use stages::table::{Columns, TableError, option_text};

use super::filter::{Facts, Tags};
use super::{Gallery, broken, rows_of};
use crate::error::WorkerError;

/// Columns that [`facts`] reads.
pub(super) const FACTS: [&str; 8] =
    ["west", "south", "east", "north", "year", "gsd_meters", "center_tags", "surrounding_tags"];

/// An image that was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Found {
    /// From 1.
    pub rank: usize,
    /// Cosine of the angle to the query.
    pub score: f64,
    /// Stem of the image's name.
    pub image_id: String,
    /// Country of the build.
    pub country: String,
    /// `train`, `val`, `test` or `dropped`.
    pub split: Option<String>,
    /// As the tables have them.
    pub captions: Vec<String>,
    /// Of the object that the picture was taken for.
    pub tags: Tags,
    /// Degrees north of the picture's middle.
    pub latitude: Option<f64>,
    /// Degrees east of the picture's middle.
    pub longitude: Option<f64>,
    /// Calendar year of the picture.
    pub year: Option<i32>,
    /// Ground resolution.
    pub gsd_meters: Option<f64>,
    /// Path of the picture in the source.
    pub filepath: Option<String>,
    /// Address of the object that the picture was taken for.
    pub object: Option<String>,
}

/// Place, time, resolution and tags of rows of the geo-tags.
pub(super) fn facts(batch: &RecordBatch) -> Result<Vec<Facts>, TableError> {
    let columns = Columns::new(Artifact::Geotags, batch);
    let [west, south, east, north] = ["west", "south", "east", "north"].map(|edge| columns.float64(edge));
    let (west, south, east, north) = (west?, south?, east?, north?);
    let (year, gsd) = (columns.int32("year")?, columns.float64("gsd_meters")?);
    let (center, around) = (columns.text("center_tags")?, columns.text("surrounding_tags")?);
    Ok((0..batch.num_rows())
        .map(|row| {
            let has_box = [west, south, east, north].iter().all(|edge| !edge.is_null(row));
            let middle = |one: f64, other: f64| (one + other) / 2.0;
            let place = (middle(south.value(row), north.value(row)), middle(west.value(row), east.value(row)));
            // tags that cannot be read are none
            let center = option_text(center, row).and_then(|text| serde_json::from_str::<Tags>(text).ok());
            let around = option_text(around, row).and_then(|text| serde_json::from_str::<Vec<Tags>>(text).ok());
            Facts {
                place: has_box.then_some(place),
                year: (!year.is_null(row)).then(|| year.value(row)),
                gsd_meters: (!gsd.is_null(row)).then(|| gsd.value(row)),
                objects: center.into_iter().chain(around.into_iter().flatten()).collect(),
            }
        })
        .collect())
}

impl Gallery {
    /// What the tables know of images: in the order of the ids, without ranks and scores.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn describe(&self, ids: &[&str]) -> Result<Vec<Found>, WorkerError> {
        let mut by_shard: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for id in ids {
            by_shard.entry(shard_of(id, self.shards)).or_default().push((*id).to_owned());
        }
        let shards = futures::stream::iter(by_shard).map(|(shard, ids)| self.describe_shard(shard, ids));
        let shards: Vec<_> = shards.buffered(self.at_once.max(1)).try_collect().await?;
        let mut known: BTreeMap<String, Found> = shards.into_iter().flatten().collect();
        Ok(ids.iter().filter_map(|id| known.remove(*id)).collect())
    }

    /// The same of images of one shard, by id.
    async fn describe_shard(&self, shard: u32, ids: Vec<String>) -> Result<BTreeMap<String, Found>, WorkerError> {
        let mut known: BTreeMap<String, Found> = BTreeMap::new();
        for id in &ids {
            let found = Found { image_id: id.clone(), country: self.country.clone(), ..Found::default() };
            known.insert(id.clone(), found);
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let of_geotags: Vec<&str> = FACTS.into_iter().chain(["filepath", "osm_kind", "osm_id"]).collect();
        let (geotags, captions, splits) = tokio::try_join!(
            rows_of(&self.work, &self.geotags, shard, &ids, &of_geotags),
            rows_of(&self.work, &self.captions, shard, &ids, &["captions"]),
            rows_of(&self.work, &self.splits, shard, &ids, &["split"]),
        )?;
        if let Some((ids, rows)) = geotags {
            add_geotags(&mut known, &ids, &rows).map_err(broken)?;
        }
        if let Some((ids, rows)) = captions {
            let texts = Columns::new(Artifact::Captions, &rows).texts("captions").map_err(broken)?;
            for (id, captions) in ids.iter().zip(texts) {
                known.entry(id.clone()).and_modify(|found| found.captions = captions);
            }
        }
        if let Some((ids, rows)) = splits {
            let splits = Columns::new(Artifact::Splits, &rows).text("split").map_err(broken)?;
            for (row, id) in ids.iter().enumerate() {
                let split = option_text(splits, row).map(str::to_owned);
                known.entry(id.clone()).and_modify(|found| found.split = split);
            }
        }
        Ok(known)
    }
}

fn add_geotags(known: &mut BTreeMap<String, Found>, ids: &[String], rows: &RecordBatch) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::Geotags, rows);
    let (filepath, kind, osm_id) = (columns.text("filepath")?, columns.text("osm_kind")?, columns.int64("osm_id")?);
    let center = columns.text("center_tags")?;
    for ((row, id), facts) in ids.iter().enumerate().zip(facts(rows)?) {
        let Some(found) = known.get_mut(id) else { continue };
        found.latitude = facts.place.map(|place| place.0);
        found.longitude = facts.place.map(|place| place.1);
        found.year = facts.year;
        found.gsd_meters = facts.gsd_meters;
        found.filepath = option_text(filepath, row).map(str::to_owned);
        let tags = option_text(center, row).and_then(|text| serde_json::from_str(text).ok());
        found.tags = tags.unwrap_or_default();
        let number = (!osm_id.is_null(row)).then(|| osm_id.value(row));
        found.object = option_text(kind, row).zip(number).and_then(|(kind, number)| osm_address(kind, number));
    }
    Ok(())
}

/// Address of an object of OpenStreetMap, by the letter of image names. An area is a way or a relation, and the letter does
/// not tell which.
fn osm_address(kind: &str, number: i64) -> Option<String> {
    let kind = match kind {
        "n" => "node",
        "w" => "way",
        "r" => "relation",
        _ => return None,
    };
    Some(format!("https://www.openstreetmap.org/{kind}/{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_a_known_kind_have_an_address() {
        assert_eq!(osm_address("w", 12).as_deref(), Some("https://www.openstreetmap.org/way/12"));
        assert_eq!(osm_address("a", 12), None);
    }
}
