//! Stage `captions`: words for an image. `geotags` turns OpenStreetMap tags into plain English,
//! `given` takes the captions that came with the images.

use manifests::build::Captioner;
use manifests::{Artifact, BuildSpec, digest};
use rayon::prelude::*;
use wording::Tags;

use crate::stage::{Input, InputRows, Map, MapOutput, ModelUse, Outcome, Stage, StageError};
use crate::table::{self, Columns, TableError, option_text};

const NAME: &str = "captions";

pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[Input {
            artifact: Artifact::Geotags,
            digests: &["tags_digest"],
            columns: &["title", "title_multi_objects", "given_captions", "center_tags", "surrounding_tags"],
        }],
        output: Artifact::Captions,
        source: None,
        model: ModelUse::None,
        recipe_digest: None,
        parameters,
        open: |opening| Ok(Box::new(WriteCaptions { captioner: opening.spec.caption.captioner })),
    }
}

fn parameters(spec: &BuildSpec) -> serde_json::Value {
    serde_json::json!({ "captioner": spec.caption.captioner })
}

struct WriteCaptions {
    captioner: Captioner,
}

/// What the captioner knows of one image.
struct Known<'a> {
    title: Option<&'a str>,
    title_multi_objects: Option<&'a str>,
    given: &'a [String],
    center: Option<&'a str>,
    surrounding: Option<&'a str>,
}

struct Written {
    captions: Vec<String>,
    dropped_tags: Vec<String>,
}

impl WriteCaptions {
    fn write(&self, known: &Known<'_>) -> Result<Written, String> {
        match self.captioner {
            Captioner::Given => given(known),
            Captioner::Geotags => from_geotags(known),
            Captioner::Instructblip => Err("instructblip is not available in this version".into()),
        }
    }
}

fn given(known: &Known<'_>) -> Result<Written, String> {
    let captions: Vec<String> = known.given.iter().filter(|c| !c.trim().is_empty()).cloned().collect();
    if captions.is_empty() {
        return Err("no caption came with the image".into());
    }
    Ok(Written { captions, dropped_tags: Vec::new() })
}

/// Tags first; the title where an image has none, or none that can be seen from above.
fn from_geotags(known: &Known<'_>) -> Result<Written, String> {
    let center: Tags = parse_tags(known.center, "center_tags")?;
    let surrounding: Vec<Tags> = parse_tags(known.surrounding, "surrounding_tags")?;
    let caption = wording::caption(&center, &surrounding)
        .or_else(|| wording::caption_from_title(known.title?, known.title_multi_objects));
    let Some(caption) = caption else {
        return Err("neither its tags nor its title say anything that can be seen".into());
    };
    let mut dropped_tags: Vec<String> = [&center]
        .into_iter()
        .chain(&surrounding)
        .flat_map(wording::unknown_tags)
        .map(|tag| format!("{}={}", tag.key, tag.value))
        .collect();
    dropped_tags.sort_unstable();
    dropped_tags.dedup();
    Ok(Written { captions: vec![caption], dropped_tags })
}

fn parse_tags<T: serde::de::DeserializeOwned + Default>(json: Option<&str>, column: &str) -> Result<T, String> {
    match json {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text).map_err(|e| format!("{column} is no canonical JSON: {e}")),
    }
}

impl Map for WriteCaptions {
    fn map(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        self.map_table(rows).map_err(|source| StageError::Table { stage: NAME, source })
    }
}

impl WriteCaptions {
    fn map_table(&self, rows: &InputRows) -> Result<MapOutput, TableError> {
        let columns = Columns::new(Artifact::Geotags, &rows.tables[&Artifact::Geotags]);
        let (title, multi) = (columns.text("title")?, columns.text("title_multi_objects")?);
        let (center, surrounding) = (columns.text("center_tags")?, columns.text("surrounding_tags")?);
        let given = columns.texts("given_captions")?;
        let written: Vec<Result<Written, String>> = (0..rows.len())
            .into_par_iter()
            .map(|row| {
                self.write(&Known {
                    title: option_text(title, row),
                    title_multi_objects: option_text(multi, row),
                    given: &given[row],
                    center: option_text(center, row),
                    surrounding: option_text(surrounding, row),
                })
            })
            .collect();
        let captioner = serde_json::json!(self.captioner);
        let captioner = captioner.as_str().unwrap_or_default();
        let good: Vec<Option<&Written>> = written.iter().map(|w| w.as_ref().ok()).collect();
        let lists = |of: fn(&Written) -> &Vec<String>| -> Result<_, TableError> {
            table::text_lists(&good.iter().map(|w| w.map(|w| of(w).clone())).collect::<Vec<_>>())
        };
        let content = table::content(
            Artifact::Captions,
            vec![
                table::texts(good.iter().map(|w| w.map(|_| captioner))),
                lists(|w| &w.captions)?,
                lists(|w| &w.dropped_tags)?,
                table::texts(good.iter().map(|w| w.map(|w| digest::of_value(&w.captions)))),
            ],
        )?;
        Ok(MapOutput { outcomes: Outcome::of(&written), content })
    }
}
