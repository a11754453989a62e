//! COCO's caption files: images and annotations in two lists.

use std::collections::HashMap;

use serde::Deserialize;

use super::formats::{parse_split, without_mark};
use super::{CaptionedImage, Gathered};
use crate::SourceError;
use crate::split::Split;

/// Ids are numbers, and texts in what others have made of the format.
#[derive(Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Id::Number(number) => write!(f, "{number}"),
            Id::Text(text) => write!(f, "{:?}", text.chars().take(60).collect::<String>()),
        }
    }
}

#[derive(Deserialize)]
struct Dataset {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
    split: Option<String>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Id,
    caption: String,
}

/// `captions_*.json`: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`. `split` is what the
/// file's name tells; an image may name one of its own. Errors count images, and then annotations, from 1.
///
/// # Errors
/// [`SourceError::Table`] if it is not such a JSON, [`SourceError::Row`] for one image or annotation.
pub fn read_coco(bytes: &[u8], split: Option<Split>) -> Result<Vec<CaptionedImage>, SourceError> {
    let dataset: Dataset = serde_json::from_slice(without_mark(bytes)).map_err(|error| {
        SourceError::Table(format!(
            "no captions of COCO, {{\"images\": [{{\"id\", \"file_name\"}}], \"annotations\": [{{\"image_id\", \
             \"caption\"}}]}}: {error}"
        ))
    })?;
    let mut places: HashMap<&Id, usize> = HashMap::with_capacity(dataset.images.len());
    let mut captions: Vec<Vec<&str>> = vec![Vec::new(); dataset.images.len()];
    for (place, image) in dataset.images.iter().enumerate() {
        if places.insert(&image.id, place).is_some() {
            let problem = format!("two images have the id {}: give each its own", image.id);
            return Err(SourceError::Row { line: place as u64 + 1, problem });
        }
    }
    for (line, annotation) in (1..).zip(&dataset.annotations) {
        let Some(&place) = places.get(&annotation.image_id) else {
            let problem = format!("an annotation is of image {}, which is not among the images", annotation.image_id);
            return Err(SourceError::Row { line, problem });
        };
        captions[place].push(&annotation.caption);
    }
    let mut gathered = Gathered::default();
    for (line, (image, captions)) in (1..).zip(dataset.images.iter().zip(captions)) {
        let split = parse_split(line, image.split.as_deref())?.or(split);
        gathered.add(line, &image.file_name, split, captions)?;
    }
    Ok(gathered.images)
}
