//! Stage `captions`: words for an image. `geotags` turns OpenStreetMap tags into plain English,
//! `given` takes the captions that came with the images, `instructblip` looks at the image and is told its tags.

mod generated;
mod quality;

use std::sync::Arc;

use arrow::array::{Float32Array, Int32Array};
use manifests::build::Captioner;
use manifests::{Artifact, BuildSpec, digest};
use rayon::prelude::*;
use wording::Tags;

use crate::clip_judge::CLIP_FIELD;
use crate::device::arithmetic;
use crate::instructblip::{LANGUAGE_FIELD, WEIGHTS_FIELD};
use crate::stage::{Input, InputRows, Map, MapOutput, ModelUse, Opening, Outcome, Stage, StageError};
use crate::table::{self, Columns, TableError, option_text};
use generated::Generated;
use quality::Quality;

const NAME: &str = "captions";

/// What the captioner is told of an image.
pub(crate) const TAGS: Input = Input {
    artifact: Artifact::Geotags,
    digests: &["tags_digest"],
    columns: &["title", "title_multi_objects", "given_captions", "center_tags", "surrounding_tags"],
};
/// What InstructBLIP sees of an image.
pub(crate) const PIXELS: Input = Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] };

pub fn stage(spec: &BuildSpec) -> Stage {
    let looks = spec.caption.captioner == Captioner::Instructblip;
    Stage {
        name: NAME,
        // 2: words of other languages for buildings, sports, surfaces and colours
        version: 2,
        inputs: if looks { &[TAGS, PIXELS] } else { &[TAGS] },
        output: Artifact::Captions,
        source: None,
        model: match looks {
            false => ModelUse::None,
            true if spec.caption.writes_by_clip_score() => {
                ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD, CLIP_FIELD])
            }
            true => ModelUse::Named(&[WEIGHTS_FIELD, LANGUAGE_FIELD]),
        },
        recipe_digest: None,
        parameters,
        open,
    }
}

/// What changes words: batch sizes do not.
fn parameters(spec: &BuildSpec) -> serde_json::Value {
    let captioner = spec.caption.captioner;
    if captioner != Captioner::Instructblip {
        return serde_json::json!({ "captioner": captioner });
    }
    let mut settings = serde_json::json!(spec.caption.instructblip);
    if let Some(map) = settings.as_object_mut() {
        for field in ["weights", "language_gguf", "images_per_batch", "cache_mib", "structured"] {
            map.remove(field);
        }
        if spec.caption.writes_by_clip_score() {
            map.insert("min_clip_score".into(), spec.caption.score.min_clip_score.into());
        }
    }
    serde_json::json!({ "captioner": captioner, "settings": settings, "precision": arithmetic(spec) })
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Map>, StageError> {
    let writer = match opening.spec.caption.captioner {
        Captioner::Given => Writer::Given,
        Captioner::Geotags => Writer::Geotags,
        Captioner::Instructblip => Writer::Instructblip(Box::new(Generated::open(opening)?)),
    };
    Ok(Box::new(WriteCaptions { writer, captioner: opening.spec.caption.captioner }))
}

enum Writer {
    Given,
    Geotags,
    Instructblip(Box<Generated>),
}

struct WriteCaptions {
    writer: Writer,
    captioner: Captioner,
}

/// What the captioner knows of one image.
pub(crate) struct Known<'a> {
    pub(crate) image_id: &'a str,
    title: Option<&'a str>,
    title_multi_objects: Option<&'a str>,
    given: &'a [String],
    center: Option<&'a str>,
    surrounding: Option<&'a str>,
}

impl<'a> Known<'a> {
    /// Of every row, in order; `given` are the captions that came with the images.
    pub(crate) fn read(rows: &'a InputRows, given: &'a [Vec<String>]) -> Result<Vec<Known<'a>>, TableError> {
        let columns = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
        let (title, multi) = (columns.text("title")?, columns.text("title_multi_objects")?);
        let (center, surrounding) = (columns.text("center_tags")?, columns.text("surrounding_tags")?);
        Ok((0..rows.len())
            .map(|row| Known {
                image_id: &rows.image_ids[row],
                title: option_text(title, row),
                title_multi_objects: option_text(multi, row),
                given: given.get(row).map_or(&[], Vec::as_slice),
                center: option_text(center, row),
                surrounding: option_text(surrounding, row),
            })
            .collect())
    }
}

#[derive(Default)]
struct Written {
    captions: Vec<String>,
    dropped_tags: Vec<String>,
    /// Of generated captions.
    quality: Vec<Quality>,
    flagged: Option<String>,
}

fn given(known: &Known<'_>) -> Result<Written, String> {
    let captions: Vec<String> = known.given.iter().filter(|c| !c.trim().is_empty()).cloned().collect();
    if captions.is_empty() {
        return Err("no caption came with the image".into());
    }
    Ok(Written { captions, ..Written::default() })
}

/// Tags first; the title where an image has none, or none that can be seen from above.
fn from_geotags(known: &Known<'_>) -> Result<Written, String> {
    let words = TagWords::of(known)?;
    let Some(caption) = words.sentence else {
        return Err("neither its tags nor its title say anything that can be seen".into());
    };
    Ok(Written { captions: vec![caption], dropped_tags: words.dropped_tags, ..Written::default() })
}

/// An image's tags in plain English.
pub(crate) struct TagWords {
    /// "a satellite image of …"; `None`: nothing can be seen.
    sentence: Option<String>,
    dropped_tags: Vec<String>,
}

impl TagWords {
    /// What is to be seen, without "a satellite image of".
    pub(crate) fn scene(&self) -> Option<&str> {
        self.sentence.as_deref().map(|s| s.trim_start_matches("a satellite image of "))
    }

    pub(crate) fn of(known: &Known<'_>) -> Result<Self, String> {
        let (center, surrounding) = known.tags()?;
        let sentence = wording::caption(&center, &surrounding)
            .or_else(|| wording::caption_from_title(known.title?, known.title_multi_objects));
        let mut dropped_tags: Vec<String> = [&center]
            .into_iter()
            .chain(&surrounding)
            .flat_map(wording::unknown_tags)
            .map(|tag| format!("{}={}", tag.key, tag.value))
            .collect();
        dropped_tags.sort_unstable();
        dropped_tags.dedup();
        Ok(Self { sentence, dropped_tags })
    }
}

impl Known<'_> {
    /// Tags of the object in the middle, and of those around.
    pub(crate) fn tags(&self) -> Result<(Tags, Vec<Tags>), String> {
        Ok((parse_tags(self.center, "center_tags")?, parse_tags(self.surrounding, "surrounding_tags")?))
    }
}

fn parse_tags<T: serde::de::DeserializeOwned + Default>(json: Option<&str>, column: &str) -> Result<T, String> {
    match json {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text).map_err(|e| format!("{column} is no canonical JSON: {e}")),
    }
}

impl Map for WriteCaptions {
    fn map(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        let table_error = |source| StageError::Table { stage: NAME, source };
        let columns = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
        let given_captions = columns.texts("given_captions").map_err(table_error)?;
        let known = Known::read(rows, &given_captions).map_err(table_error)?;
        let written = match &self.writer {
            Writer::Given => known.par_iter().map(given).collect(),
            Writer::Geotags => known.par_iter().map(from_geotags).collect(),
            Writer::Instructblip(generated) => {
                let images = Columns::new(Artifact::Images, &rows.tables[&Artifact::Images]);
                let bytes = images.binary("bytes").map_err(table_error)?;
                generated.describe(&known, &(0..rows.len()).map(|row| bytes.value(row)).collect::<Vec<_>>())?
            }
        };
        let content = self.content(&written).map_err(table_error)?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }
}

impl WriteCaptions {
    fn content(&self, written: &[Result<Written, String>]) -> Result<arrow::record_batch::RecordBatch, TableError> {
        let captioner = serde_json::json!(self.captioner);
        let captioner = captioner.as_str().unwrap_or_default();
        let good: Vec<Option<&Written>> = written.iter().map(|w| w.as_ref().ok()).collect();
        let lists = |of: fn(&Written) -> &Vec<String>| -> Result<_, TableError> {
            table::text_lists(&good.iter().map(|w| w.map(|w| of(w).clone())).collect::<Vec<_>>())
        };
        let qualities: Vec<&Quality> = good.iter().flatten().flat_map(|w| &w.quality).collect();
        let float = |of: fn(&Quality) -> f64| {
            Arc::new(Float32Array::from_iter_values(qualities.iter().map(|q| of(q) as f32))) as _
        };
        let int = |of: fn(&Quality) -> usize| {
            Arc::new(Int32Array::from_iter_values(qualities.iter().map(|q| of(q) as i32))) as _
        };
        let quality = table::struct_lists(
            Artifact::Captions,
            "quality",
            &good.iter().map(|w| w.map(|w| w.quality.len())).collect::<Vec<_>>(),
            vec![int(|q| q.words), float(|q| q.repetition), float(|q| q.tag_coverage), int(|q| q.attempts)],
        )?;
        table::content(
            Artifact::Captions,
            vec![
                table::texts(good.iter().map(|w| w.map(|_| captioner))),
                lists(|w| &w.captions)?,
                lists(|w| &w.dropped_tags)?,
                table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&w.captions)))),
                quality,
                table::texts(good.iter().map(|w| w.and_then(|w| w.flagged.as_deref()))),
            ],
        )
    }
}
