//! Everything that the tables know of one image.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use atlas::{CaptionOf, Found, Image, ImageName, SegmentOf, Step, Trouble};
use manifests::Artifact;
use pixels::mask::Rle;
use stages::table::{Columns, TableError, option_text};
use workers::WorkerError;
use workers::search::{Gallery, Tags};

use super::snapshot::Snapshot;
use super::{no_such_image, trouble};
use crate::build::Build;
use crate::explain::lineage;

const JPEG_QUALITY: u8 = 90;

fn broken(error: TableError) -> Trouble {
    trouble(WorkerError::Broken(error.to_string()))
}

pub(super) fn unreadable() -> Trouble {
    Trouble::NotThere("the picture cannot be read".into())
}

/// What a search found, as pages read it.
pub(super) fn found(found: workers::search::Found) -> Found {
    let tags = crate::page::search::tags(&found).collect();
    Found {
        rank: found.rank,
        score: found.score,
        image: ImageName { country: found.country, id: found.image_id },
        split: found.split,
        captions: found.captions,
        tags,
        latitude: found.latitude,
        longitude: found.longitude,
        year: found.year,
        gsd_meters: found.gsd_meters,
        object: found.object,
    }
}

fn gallery<'s>(now: &'s Snapshot, image: &ImageName) -> Result<&'s Gallery, Trouble> {
    let galleries = now.models.first().map(|loaded| loaded.searcher.galleries()).unwrap_or_default();
    let found = galleries.iter().find(|gallery| gallery.country == image.country);
    found.map(AsRef::as_ref).ok_or_else(|| no_such_image(image))
}

/// The page of an image.
pub(super) async fn image(now: &Snapshot, build: &Build, name: &ImageName) -> Result<Image, Trouble> {
    let rows = Rows { build, gallery: gallery(now, name)?, id: &name.id };
    let lineage = lineage(build, &name.id).await.map_err(trouble)?;
    if lineage.is_empty() {
        return Err(no_such_image(name));
    }
    let described = rows.gallery.describe(&[&name.id]).await.map_err(trouble)?;
    let (width, height) = rows.size().await?;
    let step = |(stage, lines): (&str, Vec<String>)| Step { stage: stage.to_owned(), lines };
    Ok(Image {
        found: described.into_iter().next().map(found).unwrap_or_default(),
        width,
        height,
        captions: rows.captions().await?,
        around: rows.around().await?,
        segments: rows.segments().await?,
        lineage: lineage.into_iter().map(step).collect(),
    })
}

/// The encoded picture, as the table has it.
pub(super) async fn bytes(build: &Build, image: &ImageName) -> Result<Vec<u8>, Trouble> {
    let ids = std::collections::BTreeSet::from([image.id.clone()]);
    let read = crate::page::encoded(build, &ids).await.map_err(trouble)?;
    read.into_iter().next().map(|(_, bytes)| bytes).ok_or_else(|| no_such_image(image))
}

/// The picture at its full size, decoded and encoded again.
pub(super) async fn picture(build: &Build, image: &ImageName) -> Result<Vec<u8>, Trouble> {
    let bytes = bytes(build, image).await?;
    let encoded = tokio::task::block_in_place(|| {
        let limits = stages::images::limits(&build.spec);
        pixels::decode(&bytes, &limits).map(|rgb| pixels::encode_jpeg(&rgb, JPEG_QUALITY))
    });
    encoded.map_err(|_| unreadable())
}

/// The rows of an image.
struct Rows<'s> {
    build: &'s Build,
    gallery: &'s Gallery,
    id: &'s str,
}

impl Rows<'_> {
    async fn row(&self, artifact: Artifact, columns: &[&str]) -> Result<Option<RecordBatch>, Trouble> {
        let table = self.build.pin(artifact).await.map_err(trouble)?;
        self.gallery.row(&table, self.id, columns).await.map_err(trouble)
    }

    async fn size(&self) -> Result<(u32, u32), Trouble> {
        let Some(row) = self.row(Artifact::Images, &["width", "height"]).await? else { return Ok((0, 0)) };
        let columns = Columns::new(Artifact::Images, &row);
        let side = |name| columns.int32(name).map(|sides| sides.value(0).max(0) as u32).map_err(broken);
        Ok((side("width")?, side("height")?))
    }

    async fn around(&self) -> Result<Vec<Vec<String>>, Trouble> {
        let Some(row) = self.row(Artifact::Geotags, &["surrounding_tags"]).await? else { return Ok(Vec::new()) };
        let columns = Columns::new(Artifact::Geotags, &row);
        let text = option_text(columns.text("surrounding_tags").map_err(broken)?, 0);
        // tags that cannot be read are none
        let objects: Vec<Tags> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let words = |tags: Tags| tags.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        Ok(objects.into_iter().map(words).collect())
    }

    async fn captions(&self) -> Result<Vec<CaptionOf>, Trouble> {
        let columns = ["captioner", "captions", "captions_digest", "quality", "flagged", "served"];
        let Some(row) = self.row(Artifact::Captions, &columns).await? else { return Ok(Vec::new()) };
        let mut captions = captions_of(&row).map_err(broken)?;
        // a table that an earlier spec left behind says nothing about this one
        if !self.build.spec.caption.score.clip.is_empty()
            && let Some(scores) = self.row(Artifact::CaptionScores, &["scores", "inputs"]).await?
            && is_made_of((Artifact::CaptionScores, &scores), CAPTIONS, &row).map_err(broken)?
        {
            add_scores(&mut captions, &scores).map_err(broken)?;
        }
        Ok(captions)
    }

    async fn segments(&self) -> Result<Vec<SegmentOf>, Trouble> {
        let columns = ["width", "height", "segments", "segments_digest"];
        let Some(row) = self.row(Artifact::Segments, &columns).await? else { return Ok(Vec::new()) };
        let mut segments = segments_of(&row).map_err(broken)?;
        if self.build.spec.uses_segments()
            && let Some(scores) = self.row(Artifact::SegmentScores, &["scores", "inputs"]).await?
            && self.are_of_segments(&scores, &row).await?
        {
            add_similarities(&mut segments, &scores).map_err(broken)?;
        }
        // those that train the model first, then the largest
        segments.sort_by(|a, b| b.selected.cmp(&a.selected).then(b.share.total_cmp(&a.share)));
        Ok(segments)
    }

    /// Whether scores are of these segments: made of them, or of features that are.
    async fn are_of_segments(&self, scores: &RecordBatch, segments: &RecordBatch) -> Result<bool, Trouble> {
        let scores = (Artifact::SegmentScores, scores);
        if is_made_of(scores, SEGMENTS, segments).map_err(broken)? {
            return Ok(true);
        }
        let columns = ["features_digest", "inputs"];
        let Some(features) = self.row(Artifact::SegmentFeatures, &columns).await? else { return Ok(false) };
        let are_made = is_made_of(scores, FEATURES, &features).map_err(broken)?
            && is_made_of((Artifact::SegmentFeatures, &features), SEGMENTS, segments).map_err(broken)?;
        Ok(are_made)
    }
}

/// Tables whose rows others are made of, and the columns that tell a row from an earlier one.
const CAPTIONS: (Artifact, &str) = (Artifact::Captions, "captions_digest");
const SEGMENTS: (Artifact, &str) = (Artifact::Segments, "segments_digest");
const FEATURES: (Artifact, &str) = (Artifact::SegmentFeatures, "features_digest");

/// Whether a row was made of the image's row in another table as that is now. Until a run has committed both, it may be
/// of an earlier one.
fn is_made_of(
    (artifact, row): (Artifact, &RecordBatch),
    (input, digest): (Artifact, &str),
    read: &RecordBatch,
) -> Result<bool, TableError> {
    let inputs = Columns::new(artifact, row).text("inputs")?;
    let made_of: BTreeMap<String, String> = serde_json::from_str(inputs.value(0)).unwrap_or_default();
    let now = option_text(Columns::new(input, read).text(digest)?, 0);
    let field = format!("{}.{}", input.name(), digest.trim_end_matches("_digest"));
    Ok(now.is_some() && made_of.get(&field).map(String::as_str) == now)
}

/// Who writes captions, in words.
fn in_words(captioner: &str, served: Option<&str>) -> String {
    match captioner {
        "geotags" => "written from the tags of OpenStreetMap".into(),
        "given" => "given with the image".into(),
        "instructblip" => "written by InstructBLIP".into(),
        "llava" => "written by LLaVA".into(),
        "server" => match served {
            Some(served) => format!("written by {served}, on a server"),
            None => "written by a server".into(),
        },
        other => format!("written by {other}"),
    }
}

fn captions_of(row: &RecordBatch) -> Result<Vec<CaptionOf>, TableError> {
    let columns = Columns::new(Artifact::Captions, row);
    let captioner = option_text(columns.text("captioner")?, 0).unwrap_or("nobody knows whom");
    let source = in_words(captioner, option_text(columns.text("served")?, 0));
    let flagged = option_text(columns.text("flagged")?, 0).map(str::to_owned);
    let texts = columns.texts("captions")?.into_iter().next().unwrap_or_default();
    let quality = qualities(&columns)?;
    let of = |(at, text)| CaptionOf {
        text,
        source: source.clone(),
        quality: quality.get(at).cloned().unwrap_or_default(),
        flagged: flagged.clone(),
    };
    Ok(texts.into_iter().enumerate().map(of).collect())
}

fn qualities(columns: &Columns<'_>) -> Result<Vec<Vec<String>>, TableError> {
    if columns.list("quality")?.is_null(0) {
        return Ok(Vec::new());
    }
    let items = columns.structs("quality", 0)?;
    let inner = columns.inner(&items);
    let (words, attempts) = (inner.int32("words")?, inner.int32("attempts")?);
    let (repetition, coverage) = (inner.float32("repetition")?, inner.float32("tag_coverage")?);
    let of = |row: usize| {
        let percent = |share: f32| format!("{:.0} %", 100.0 * share);
        let mut quality = vec![
            manifests::words::count(words.value(row).max(0) as usize, "word"),
            format!("{} of the tags named", percent(coverage.value(row))),
        ];
        if repetition.value(row) > 0.0 {
            quality.push(format!("{} repeated", percent(repetition.value(row))));
        }
        if attempts.value(row) > 1 {
            quality.push(format!("written in {} attempts", attempts.value(row)));
        }
        quality
    };
    Ok((0..items.num_rows()).map(of).collect())
}

fn add_scores(captions: &mut [CaptionOf], row: &RecordBatch) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::CaptionScores, row);
    if columns.list("scores")?.is_null(0) {
        return Ok(());
    }
    let items = columns.structs("scores", 0)?;
    let inner = columns.inner(&items);
    let (clip, perception) = (inner.float32("clip_score")?, inner.float32("perception_score")?);
    for (at, caption) in captions.iter_mut().enumerate().take(items.num_rows()) {
        caption.quality.push(format!("CLIPScore {:.2}", clip.value(at)));
        if !perception.is_null(at) {
            caption.quality.push(format!("PerceptionScore {:.2}", perception.value(at)));
        }
    }
    Ok(())
}

fn segments_of(row: &RecordBatch) -> Result<Vec<SegmentOf>, TableError> {
    let columns = Columns::new(Artifact::Segments, row);
    let side = |name| columns.int32(name).map(|sides| sides.value(0).max(0) as u32);
    let (width, height) = (side("width")?, side("height")?);
    if columns.list("segments")?.is_null(0) {
        return Ok(Vec::new());
    }
    let items = columns.structs("segments", 0)?;
    let inner = columns.inner(&items);
    let (rle, area) = (inner.text("rle")?, inner.int64("area_px")?);
    let of = |at: usize| {
        let share = area.value(at) as f64 / (f64::from(width) * f64::from(height)).max(1.0);
        // a mask that cannot be read is drawn nowhere
        let runs = Rle::from_coco_string(rle.value(at), height, width).map(|rle| rle.counts).unwrap_or_default();
        SegmentOf { runs, share, similarity: None, selected: false }
    };
    Ok((0..items.num_rows()).map(of).collect())
}

fn add_similarities(segments: &mut [SegmentOf], row: &RecordBatch) -> Result<(), TableError> {
    let columns = Columns::new(Artifact::SegmentScores, row);
    if columns.list("scores")?.is_null(0) {
        return Ok(());
    }
    let items = columns.structs("scores", 0)?;
    let inner = columns.inner(&items);
    let (of, similarity, selected) = (inner.int32("segment")?, inner.float32("similarity")?, inner.bool("selected")?);
    for at in 0..items.num_rows() {
        if let Some(segment) = usize::try_from(of.value(at)).ok().and_then(|of| segments.get_mut(of)) {
            segment.similarity = Some(similarity.value(at));
            segment.selected = selected.value(at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn row(column: &str, text: &str) -> RecordBatch {
        RecordBatch::try_from_iter([(column, Arc::new(StringArray::from(vec![text])) as ArrayRef)]).unwrap()
    }

    #[test]
    fn a_row_is_laid_beside_the_one_that_it_was_made_of() {
        let scores = row("inputs", r#"{"captions.captions":"c1","images.bytes":"b1"}"#);
        let of = |digest| is_made_of((Artifact::CaptionScores, &scores), CAPTIONS, &row("captions_digest", digest));
        assert_eq!((of("c1").unwrap(), of("c2").unwrap()), (true, false));
        let segments = row("segments_digest", "b1");
        assert!(!is_made_of((Artifact::CaptionScores, &scores), SEGMENTS, &segments).unwrap(), "it read none");
        let damaged = row("inputs", "{");
        assert!(!is_made_of((Artifact::SegmentScores, &damaged), SEGMENTS, &segments).unwrap());
    }
}
