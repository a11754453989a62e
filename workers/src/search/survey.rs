//! All images of a gallery, one row group after the other: where they lie, and their vectors.

use std::collections::BTreeMap;

use manifests::Artifact;
use manifests::plan::PinnedTable;
use stages::table::{Columns, option_text};

use super::filter::Tags;
use super::found::{FACTS, facts};
use super::{Gallery, broken};
use crate::error::WorkerError;
use crate::parts::PartReader;

/// What the tables know of an image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surveyed {
    /// Its id.
    pub image_id: String,
    /// Degrees north and east of the middle of its box.
    pub place: Option<(f64, f64)>,
    /// Calendar year of the picture.
    pub year: Option<i32>,
    /// Ground resolution.
    pub gsd_meters: Option<f64>,
    /// `train`, `val`, `test` or `dropped`.
    pub split: Option<String>,
    /// Of the object that the picture was taken for.
    pub tags: Tags,
}

impl Gallery {
    /// Shows every image that the geo-tags know. In memory are a row group, and the splits of one shard.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn survey(&self, mut visit: impl FnMut(Surveyed) + Send) -> Result<(), WorkerError> {
        let columns: Vec<&str> = ["image_id", "status"].into_iter().chain(FACTS).collect();
        for part in &self.geotags.parts {
            let splits = self.splits_of(part.shard).await?;
            let reader = PartReader::open(&self.work, Artifact::Geotags, part).await?;
            for row_group in 0..reader.row_groups().len() {
                let batch = reader.read_row_group(&columns, row_group).await?;
                let columns = Columns::new(Artifact::Geotags, &batch);
                let [ids, status, center] = ["image_id", "status", "center_tags"].map(|name| columns.text(name));
                let (ids, status, center) = (ids.map_err(broken)?, status.map_err(broken)?, center.map_err(broken)?);
                for (row, facts) in facts(&batch).map_err(broken)?.into_iter().enumerate() {
                    if status.value(row) != "ok" {
                        continue;
                    }
                    let tags = option_text(center, row).and_then(|text| serde_json::from_str(text).ok());
                    visit(Surveyed {
                        image_id: ids.value(row).to_owned(),
                        place: facts.place,
                        year: facts.year,
                        gsd_meters: facts.gsd_meters,
                        split: splits.get(ids.value(row)).cloned(),
                        tags: tags.unwrap_or_default(),
                    });
                }
            }
        }
        Ok(())
    }

    async fn splits_of(&self, shard: u32) -> Result<BTreeMap<String, String>, WorkerError> {
        let table: &PinnedTable = &self.splits;
        let Some(part) = table.part(shard) else { return Ok(BTreeMap::new()) };
        let batch = PartReader::open(&self.work, table.artifact, part).await?.read(&["image_id", "split"]).await?;
        let columns = Columns::new(table.artifact, &batch);
        let (ids, splits) = (columns.text("image_id").map_err(broken)?, columns.text("split").map_err(broken)?);
        let of = |row: usize| Some((ids.value(row).to_owned(), option_text(splits, row)?.to_owned()));
        Ok((0..batch.num_rows()).filter_map(of).collect())
    }

    /// Shows the vectors of some images by the gallery's model. In memory is a row group.
    ///
    /// # Errors
    /// As [`survey`](Self::survey).
    pub async fn each_vector(
        &self,
        wanted: impl Fn(&str) -> bool + Send,
        mut visit: impl FnMut(&str, Vec<f32>) + Send,
    ) -> Result<(), WorkerError> {
        for file in &self.vectors {
            let reader = file.open(&self.work).await?;
            for row_group in 0..reader.row_groups().len() {
                let columns = ["image_id", "status", "model", "embedding"];
                let batch = reader.read_row_group(&columns, row_group).await?;
                let columns = Columns::new(Artifact::ImageEmbeddings, &batch);
                let [ids, status, model] = ["image_id", "status", "model"].map(|name| columns.text(name));
                let (ids, status, model) = (ids.map_err(broken)?, status.map_err(broken)?, model.map_err(broken)?);
                let vectors = columns.vectors("embedding").map_err(broken)?;
                for (row, vector) in vectors.into_iter().enumerate() {
                    let is_good = status.value(row) == "ok" && model.value(row) == self.model;
                    if is_good && wanted(ids.value(row)) && vector.iter().all(|value| value.is_finite()) {
                        visit(ids.value(row), vector);
                    }
                }
            }
        }
        Ok(())
    }
}
