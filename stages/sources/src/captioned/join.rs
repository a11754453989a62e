//! Several caption files of one folder as one list of images.

use std::collections::HashMap;

use super::{CaptionedImage, split_name};
use crate::SourceError;

/// Joins what several caption files hold: an image of two files gets the captions of both.
///
/// # Errors
/// [`SourceError::Table`] for an image whose files disagree about its split: it would be trained and tested on.
pub fn join(files: Vec<(String, Vec<CaptionedImage>)>) -> Result<Vec<CaptionedImage>, SourceError> {
    let mut joined: Vec<CaptionedImage> = Vec::new();
    let mut places: HashMap<String, (usize, String)> = HashMap::new();
    for (path, images) in files {
        for image in images {
            let Some((index, first_path)) = places.get(&image.file) else {
                places.insert(image.file.clone(), (joined.len(), path.clone()));
                joined.push(image);
                continue;
            };
            let known = &mut joined[*index];
            if known.split != image.split {
                return Err(SourceError::Table(format!(
                    "`{}` is in {} in {path} and in {} in {first_path}: keep one, or name the files that count in \
                     source.tables",
                    image.file,
                    split_name(image.split),
                    split_name(known.split),
                )));
            }
            known.captions.extend(image.captions);
        }
    }
    Ok(joined)
}
