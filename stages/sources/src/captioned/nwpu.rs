//! NWPU-Captions: images by their class, with five captions in fields of their own.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::formats::{parse_split, without_mark};
use super::{CaptionedImage, Gathered};
use crate::SourceError;

#[derive(Deserialize)]
struct Image {
    filename: String,
    split: Option<String>,
    raw: String,
    raw_1: Option<String>,
    raw_2: Option<String>,
    raw_3: Option<String>,
    raw_4: Option<String>,
}

/// `dataset_nwpu.json`: `{"CLASS": [{"filename", "split", "raw", "raw_1" … "raw_4"}]}`; an image lies in the folder of its
/// class. Errors count images from 1, class after class in order of their names.
///
/// # Errors
/// [`SourceError::Table`] if it is not such a JSON, [`SourceError::Row`] for one image.
pub fn read_nwpu(bytes: &[u8]) -> Result<Vec<CaptionedImage>, SourceError> {
    let classes: BTreeMap<String, Vec<Image>> = serde_json::from_slice(without_mark(bytes)).map_err(|error| {
        SourceError::Table(format!(
            "not the JSON of NWPU-Captions, {{\"CLASS\": [{{\"filename\", \"split\", \"raw\", \"raw_1\" …}}]}}: {error}"
        ))
    })?;
    let mut gathered = Gathered::default();
    let images = classes.iter().flat_map(|(class, images)| images.iter().map(move |image| (class, image)));
    for (line, (class, image)) in (1..).zip(images) {
        let split = parse_split(line, image.split.as_deref())?;
        let others = [&image.raw_1, &image.raw_2, &image.raw_3, &image.raw_4];
        let captions = std::iter::once(&image.raw).chain(others.into_iter().flatten()).map(String::as_str);
        gathered.add(line, &format!("{class}/{}", image.filename), split, captions)?;
    }
    Ok(gathered.images)
}
