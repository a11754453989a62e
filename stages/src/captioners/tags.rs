//! The geo-tags of an image, as a captioner is told them.

use manifests::Artifact;
use wording::Tags;

use crate::stage::InputRows;
use crate::table::{Columns, TableError, option_text};

/// What a captioner is told of one image.
pub(crate) struct ImageTags<'a> {
    pub(crate) image_id: &'a str,
    title: Option<&'a str>,
    title_multi_objects: Option<&'a str>,
    pub(crate) given: &'a [String],
    center: Option<&'a str>,
    surrounding: Option<&'a str>,
    /// A sentence about its segments, where the captioner knows them.
    pub(crate) regions: Option<String>,
}

impl<'a> ImageTags<'a> {
    /// Columns of the geo-tags that it is read from.
    pub(crate) const COLUMNS: [&'static str; 4] = ["title", "title_multi_objects", "center_tags", "surrounding_tags"];

    /// Of an image that the captioner is told nothing of.
    fn unknown(image_id: &'a str) -> Self {
        let (title, title_multi_objects, center, surrounding) = (None, None, None, None);
        ImageTags { image_id, title, title_multi_objects, given: &[], center, surrounding, regions: None }
    }

    /// Of every row, in order, and nothing of any where the stage reads no tags; `given` are the captions that came with the images.
    pub(crate) fn read(rows: &'a InputRows, given: &'a [Vec<String>]) -> Result<Vec<ImageTags<'a>>, TableError> {
        let Some(geotags) = rows.tables.get(&Artifact::Geotags) else {
            return Ok(rows.image_ids.iter().map(|image_id| ImageTags::unknown(image_id)).collect());
        };
        let columns = Columns::new(Artifact::Geotags, geotags);
        let (title, multi) = (columns.text("title")?, columns.text("title_multi_objects")?);
        let (center, surrounding) = (columns.text("center_tags")?, columns.text("surrounding_tags")?);
        Ok((0..rows.len())
            .map(|row| ImageTags {
                image_id: &rows.image_ids[row],
                title: option_text(title, row),
                title_multi_objects: option_text(multi, row),
                given: given.get(row).map_or(&[], Vec::as_slice),
                center: option_text(center, row),
                surrounding: option_text(surrounding, row),
                regions: None,
            })
            .collect())
    }
}

/// An image's tags in plain English.
pub(crate) struct TagWords {
    /// "a satellite image of …"; `None`: nothing can be seen.
    pub(crate) sentence: Option<String>,
    pub(crate) dropped_tags: Vec<String>,
}

impl TagWords {
    /// What is to be seen, without "a satellite image of".
    pub(crate) fn scene(&self) -> Option<&str> {
        self.sentence.as_deref().map(|s| s.trim_start_matches("a satellite image of "))
    }

    pub(crate) fn of(tags: &ImageTags<'_>) -> Result<Self, String> {
        let (center, surrounding) = tags.all()?;
        let sentence = wording::caption(&center, &surrounding)
            .or_else(|| wording::caption_from_title(tags.title?, tags.title_multi_objects));
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

impl ImageTags<'_> {
    /// A prompt, or words without one, and what segments show.
    pub(crate) fn with_regions(&self, mut words: String) -> String {
        if let Some(regions) = &self.regions {
            if !words.ends_with(['.', '!', '?', ':']) {
                words.push('.');
            }
            words.push(' ');
            words += regions;
        }
        words
    }

    /// Kinds of objects in the image, each once, that of the middle first.
    pub(crate) fn kinds(&self) -> Result<Vec<String>, String> {
        let (center, surrounding) = self.all()?;
        let mut kinds: Vec<String> = Vec::new();
        for kind in [&center].into_iter().chain(&surrounding).filter_map(wording::kind) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        Ok(kinds)
    }

    /// Tags of the object in the middle, and of those around.
    pub(crate) fn all(&self) -> Result<(Tags, Vec<Tags>), String> {
        Ok((parse_tags(self.center, "center_tags")?, parse_tags(self.surrounding, "surrounding_tags")?))
    }
}

fn parse_tags<T: serde::de::DeserializeOwned + Default>(json: Option<&str>, column: &str) -> Result<T, String> {
    match json {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text).map_err(|e| format!("{column} is no canonical JSON: {e}")),
    }
}
