//! All images of a gallery, shard after shard: where they lie, and their vectors.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use manifests::{Artifact, PartFile};
use stages::table::{Columns, option_text};

use super::filter::Tags;
use super::found::{FACTS, facts};
use super::{Gallery, broken};
use crate::concurrently::in_order;
use crate::error::WorkerError;
use crate::parts::PartReader;
use crate::stores::WorkStore;

/// Shards whose rows, and whose vectors, are in memory at once.
const SHARDS_AT_ONCE: usize = 16;
const VECTORS_AT_ONCE: usize = 4;

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
    /// Shows every image that the geo-tags know, in order of shard. In memory are the geo-tags and splits of a few shards.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for parts that cannot be read; a store that does not answer.
    pub async fn survey(&self, mut visit: impl FnMut(Surveyed) + Send) -> Result<(), WorkerError> {
        let of_shards = self.geotags.parts.clone().into_iter().map(|part| {
            let (work, splits) = (self.work.clone(), self.splits.part(part.shard).cloned());
            async move { surveyed(&work, &part, splits.as_ref()).await }
        });
        let mut of_shards = in_order(of_shards, self.at_once.min(SHARDS_AT_ONCE), "a survey");
        while let Some(of_shard) = of_shards.try_next().await? {
            of_shard.into_iter().for_each(&mut visit);
        }
        Ok(())
    }

    /// Shows the vectors of some images by the gallery's model. In memory are those of a few shards.
    ///
    /// # Errors
    /// As [`survey`](Self::survey).
    pub async fn each_vector(
        &self,
        wanted: impl Fn(&str) -> bool + Send,
        mut visit: impl FnMut(&str, Vec<f32>) + Send,
    ) -> Result<(), WorkerError> {
        let read = self.vectors.clone().into_iter().map(|file| {
            let work = self.work.clone();
            async move { file.open(&work).await?.read(&["image_id", "status", "model", "embedding"]).await }
        });
        let mut read = in_order(read, self.at_once.min(VECTORS_AT_ONCE), "vectors");
        while let Some(batch) = read.try_next().await? {
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
        Ok(())
    }
}

/// The images of a part of the geo-tags.
async fn surveyed(
    work: &WorkStore,
    geotags: &PartFile,
    splits: Option<&PartFile>,
) -> Result<Vec<Surveyed>, WorkerError> {
    let splits = splits_of(work, splits).await?;
    let columns: Vec<&str> = ["image_id", "status"].into_iter().chain(FACTS).collect();
    let batch = PartReader::open(work, Artifact::Geotags, geotags).await?.read(&columns).await?;
    let columns = Columns::new(Artifact::Geotags, &batch);
    let [ids, status, center] = ["image_id", "status", "center_tags"].map(|name| columns.text(name));
    let (ids, status, center) = (ids.map_err(broken)?, status.map_err(broken)?, center.map_err(broken)?);
    let facts = facts(&batch).map_err(broken)?.into_iter().enumerate();
    let good = facts.filter(|(row, _)| status.value(*row) == "ok");
    let seen = good.map(|(row, facts)| Surveyed {
        image_id: ids.value(row).to_owned(),
        place: facts.place,
        year: facts.year,
        gsd_meters: facts.gsd_meters,
        split: splits.get(ids.value(row)).cloned(),
        tags: option_text(center, row).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
    });
    Ok(seen.collect())
}

async fn splits_of(work: &WorkStore, part: Option<&PartFile>) -> Result<BTreeMap<String, String>, WorkerError> {
    let Some(part) = part else { return Ok(BTreeMap::new()) };
    let batch = PartReader::open(work, Artifact::Splits, part).await?.read(&["image_id", "split"]).await?;
    let columns = Columns::new(Artifact::Splits, &batch);
    let (ids, splits) = (columns.text("image_id").map_err(broken)?, columns.text("split").map_err(broken)?);
    let of = |row: usize| Some((ids.value(row).to_owned(), option_text(splits, row)?.to_owned()));
    Ok((0..batch.num_rows()).filter_map(of).collect())
}
