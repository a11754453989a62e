//! `urbancross analyse`: what a country's geo-tags and captions are like, as the paper's appendix shows it.

mod adapted;
mod asked;
mod compared;
mod figures;
mod related;
mod sample;
mod tags;
mod together;

use std::collections::BTreeMap;

use arrow::array::Array;
use futures::TryStreamExt;
use manifests::Artifact;
use serde::Serialize;
use stages::table::{Columns, TableError, option_text};
use workers::WorkerError;
use workers::parts::batches;

use crate::build::Build;

pub(crate) use adapted::OUTDATED;
pub use adapted::{BeforeAndAfter, before_and_after, in_words as moves_in_words};
pub(crate) use compared::name_of;
pub use compared::{CaptionerLine, Comparison, Row, SegmenterLine, Way, Written, compare, prompts};
pub use figures::Figures;
pub use related::{Related, related};
pub use sample::{Draw, MOST_SAMPLED, Sample};
pub use tags::{Group, TagStatistics};
pub use together::{Placed, TagPlane};

use tags::{Counter, Image, Tags};

/// What is known of a country's tags and captions.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// The country.
    pub country: String,
    /// File of the build's spec, where other builds of the country are told beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
    /// Counts of tags.
    pub tags: TagStatistics,
    /// Which of those that can be seen go together.
    pub plane: TagPlane,
    /// Captions by the number of their words.
    pub captions_by_words: BTreeMap<u64, u64>,
    /// Tags that are close to a text, for each text that was asked.
    pub related: Vec<Related>,
    /// One captioner's answers to several prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Comparison>,
    /// Captioners and segmenters side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Comparison>,
}

impl Analysis {
    /// The country, with the file of the spec where it takes that to know the build.
    pub fn name(&self) -> String {
        self.spec.as_ref().map_or_else(|| self.country.clone(), |spec| format!("{} ({spec})", self.country))
    }
}

/// Reads the geo-tags and captions of a build, a few parts at once: counts are kept, rows are not.
///
/// # Errors
/// [`WorkerError::Configuration`] for a build without geo-tags, [`WorkerError::Broken`] for parts that cannot be read; a
/// store that does not answer.
pub async fn analyse(build: &Build) -> Result<Analysis, WorkerError> {
    let country = build.spec.country.clone();
    let mut counter = Counter::default();
    let at_once = build.spec.work.concurrency;
    let geotags = build.pin(Artifact::Geotags).await?;
    let columns = ["status", "source", "year", "gsd_meters", "center_tags", "surrounding_tags"];
    let mut read = batches(&build.work, &geotags, &columns, at_once);
    while let Some(rows) = read.try_next().await? {
        count(&mut counter, &rows).map_err(|e| WorkerError::Broken(e.to_string()))?;
    }
    let (tags, together) = counter.finish();
    if tags.images == 0 {
        return Err(WorkerError::Configuration(format!(
            "{country} has no geo-tags in {} yet: run its build first (`urbancross run` with its spec)",
            build.work.url()
        )));
    }
    let mut captions_by_words = BTreeMap::new();
    let captions = build.pin(Artifact::Captions).await?;
    let mut read = batches(&build.work, &captions, &["captions"], at_once);
    while let Some(rows) = read.try_next().await? {
        let captions = Columns::new(Artifact::Captions, &rows).texts("captions");
        for caption in captions.map_err(|e| WorkerError::Broken(e.to_string()))?.iter().flatten() {
            *captions_by_words.entry(caption.split_whitespace().count() as u64).or_default() += 1;
        }
    }
    Ok(Analysis {
        country,
        spec: None,
        tags,
        plane: together::place(&together),
        captions_by_words,
        related: Vec::new(),
        prompts: None,
        compared: None,
    })
}

fn count(counter: &mut Counter, rows: &arrow::record_batch::RecordBatch) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::Geotags, rows);
    let [status, source, center, around] =
        ["status", "source", "center_tags", "surrounding_tags"].map(|name| columns.text(name));
    let (status, source, center, around) = (status?, source?, center?, around?);
    let (year, gsd) = (columns.int32("year")?, columns.float64("gsd_meters")?);
    for row in (0..rows.num_rows()).filter(|row| status.value(*row) == "ok") {
        // tags that cannot be read are none
        let center = option_text(center, row).and_then(|text| serde_json::from_str::<Tags>(text).ok());
        let around = option_text(around, row).and_then(|text| serde_json::from_str::<Vec<Tags>>(text).ok());
        let objects: Vec<Tags> = center.into_iter().chain(around.into_iter().flatten()).collect();
        counter.add(&Image {
            source: option_text(source, row),
            year: (!year.is_null(row)).then(|| year.value(row)),
            gsd_meters: (!gsd.is_null(row)).then(|| gsd.value(row)),
            objects: &objects,
        });
    }
    Ok(())
}
