//! A few images of a build, chosen by digests of their ids: the same ones whoever asks, and of a smaller sample all are in a
//! larger one.

use std::collections::{BTreeMap, BTreeSet};

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use manifests::{Artifact, PartFile, digest};
use stages::stage::InputRows;
use stages::table::{Columns, TableError, option_text};
use wording::Tags;
use workers::WorkerError;
use workers::concurrently::in_order;
use workers::parts::PartReader;
use workers::stores::WorkStore;

use crate::build::Build;

/// More images are no sample, and would take days of a captioner.
pub const MOST_SAMPLED: usize = 10_000;
/// Images whose pixels are in memory at once.
const IMAGES_AT_ONCE: usize = 32;

/// What captioners and segmenters read of an image.
const GEOTAGS: [&str; 8] = [
    "image_id",
    "status",
    "title",
    "title_multi_objects",
    "given_captions",
    "center_tags",
    "surrounding_tags",
    "tags_digest",
];
const IMAGES: [&str; 3] = ["image_id", "status", "bytes"];

/// Which images, and how they were drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Images at most.
    pub images: usize,
    /// Another seed draws other images.
    pub seed: u64,
}

/// Images of a sample, by shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    by_shard: BTreeMap<u32, BTreeSet<String>>,
}

/// Some images of a sample with all that is read of them.
pub(super) struct Chunk {
    /// Geo-tags and pictures, in the order of the images.
    pub(super) rows: InputRows,
    /// Tags of the object in the middle and of those around it; none where they cannot be read.
    pub(super) tags: Vec<(Tags, Vec<Tags>)>,
}

impl Sample {
    /// Draws from the images that have both pixels and geo-tags. Reads ids, no pixels.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for a build without such images; parts that cannot be read.
    pub async fn draw(build: &Build, draw: Draw) -> Result<Sample, WorkerError> {
        let most = draw.images.min(MOST_SAMPLED);
        let images = build.pin(Artifact::Images).await?;
        let mut drawn: BTreeMap<(String, String), u32> = BTreeMap::new();
        let both = build.pin(Artifact::Geotags).await?.parts;
        let both = both.into_iter().filter_map(|tags| images.part(tags.shard).cloned().map(|pixels| (tags, pixels)));
        let ids = both.map(|(tags, pixels)| {
            let work = build.work.clone();
            async move {
                let (with_tags, with_pixels) = tokio::try_join!(
                    good_ids(&work, Artifact::Geotags, &tags),
                    good_ids(&work, Artifact::Images, &pixels)
                )?;
                Ok::<_, WorkerError>((tags.shard, &with_tags & &with_pixels))
            }
        });
        let mut ids = in_order(ids, build.spec.work.concurrency, "a sample");
        while let Some((shard, ids)) = ids.try_next().await? {
            for id in ids {
                drawn.insert((place(draw.seed, &id), id), shard);
                if drawn.len() > most {
                    drawn.pop_last();
                }
            }
        }
        if drawn.is_empty() {
            return Err(WorkerError::Configuration(format!(
                "{} has no image with geo-tags in {} yet: run its build first (`urbancross run` with its spec)",
                build.spec.country,
                build.work.url()
            )));
        }
        let mut by_shard: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for ((_, id), shard) in drawn {
            by_shard.entry(shard).or_default().insert(id);
        }
        Ok(Sample { by_shard })
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.by_shard.values().map(BTreeSet::len).sum()
    }

    /// Never: a sample without images is an error.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is read together: few images of one shard.
    pub(super) fn chunks(&self) -> Vec<(u32, Vec<String>)> {
        let of_shard = |(shard, ids): (&u32, &BTreeSet<String>)| {
            let ids: Vec<String> = ids.iter().cloned().collect();
            ids.chunks(IMAGES_AT_ONCE).map(|few| (*shard, few.to_vec())).collect::<Vec<_>>()
        };
        self.by_shard.iter().flat_map(of_shard).collect()
    }
}

/// Where an image stands in the draw.
fn place(seed: u64, id: &str) -> String {
    digest::of_parts([&seed.to_le_bytes()[..], id.as_bytes()])
}

async fn good_ids(work: &WorkStore, artifact: Artifact, part: &PartFile) -> Result<BTreeSet<String>, WorkerError> {
    let rows = PartReader::open(work, artifact, part).await?.read(&["image_id", "status"]).await?;
    let columns = Columns::new(artifact, &rows);
    let (ids, status) = (columns.text("image_id").map_err(broken)?, columns.text("status").map_err(broken)?);
    Ok((0..rows.num_rows()).filter(|row| status.value(*row) == "ok").map(|row| ids.value(row).to_owned()).collect())
}

/// Rows of a table for some images of one shard, in the order of `ids`, which rise.
pub(super) async fn rows_of(
    build: &Build,
    artifact: Artifact,
    columns: &[&str],
    (shard, ids): (u32, &[String]),
) -> Result<RecordBatch, WorkerError> {
    let pinned = build.pin(artifact).await?;
    let gone = || WorkerError::Broken(format!("{} has lost rows while they were read", artifact.name()));
    let reader = PartReader::open(&build.work, artifact, pinned.part(shard).ok_or_else(gone)?).await?;
    let all = reader.read(&["image_id"]).await?;
    let all_ids = Columns::new(artifact, &all).text("image_id").map_err(broken)?;
    let rows: Vec<usize> = (0..all.num_rows())
        .filter(|row| ids.binary_search_by(|id| id.as_str().cmp(all_ids.value(*row))).is_ok())
        .collect();
    if rows.len() != ids.len() {
        return Err(gone());
    }
    let batch = reader.read_rows(columns, &rows).await?;
    concat_batches(&batch.schema(), [&batch]).map_err(|e| WorkerError::Broken(e.to_string()))
}

impl Chunk {
    /// Reads geo-tags and pictures.
    pub(super) async fn read(build: &Build, of: (u32, &[String])) -> Result<Chunk, WorkerError> {
        let geotags = rows_of(build, Artifact::Geotags, &GEOTAGS, of).await?;
        let images = rows_of(build, Artifact::Images, &IMAGES, of).await?;
        let columns = Columns::new(Artifact::Geotags, &geotags);
        let center = columns.text("center_tags").map_err(broken)?;
        let around = columns.text("surrounding_tags").map_err(broken)?;
        let tags = (0..geotags.num_rows()).map(|row| {
            let center = option_text(center, row).and_then(|text| serde_json::from_str(text).ok());
            let around = option_text(around, row).and_then(|text| serde_json::from_str(text).ok());
            (center.unwrap_or_default(), around.unwrap_or_default())
        });
        let tags = tags.collect();
        let tables = [(Artifact::Geotags, geotags), (Artifact::Images, images)].into();
        Ok(Chunk { rows: InputRows { image_ids: of.1.to_vec(), tables, source: Vec::new() }, tags })
    }
}

pub(super) fn broken(error: TableError) -> WorkerError {
    WorkerError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_draw_is_in_a_larger_one_and_another_seed_draws_others() {
        let ids: Vec<String> = (0..200).map(|i| format!("image{i}")).collect();
        let draw = |seed: u64, most: usize| -> BTreeSet<&String> {
            let mut places: Vec<_> = ids.iter().map(|id| (place(seed, id), id)).collect();
            places.sort();
            places.into_iter().take(most).map(|(_, id)| id).collect()
        };
        assert!(draw(0, 10).is_subset(&draw(0, 30)));
        assert_ne!(draw(0, 10), draw(1, 10));
    }

    #[test]
    fn few_images_are_read_together() {
        let ids = |n: usize| (0..n).map(|i| format!("{i:03}")).collect::<BTreeSet<_>>();
        let sample = Sample { by_shard: [(0, ids(40)), (3, ids(2))].into() };
        let sizes: Vec<(u32, usize)> = sample.chunks().iter().map(|(shard, ids)| (*shard, ids.len())).collect();
        assert_eq!((sizes.as_slice(), sample.len()), (&[(0, 32), (0, 8), (3, 2)][..], 42));
    }
}
