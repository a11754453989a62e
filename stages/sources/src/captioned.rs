//! Captioned image folders: the second kind of source, images that come with sentences.
//!
//! Formats that are read, each from the bytes of one file (two for the line format):
//!
//! | format | file | shape |
//! |---|---|---|
//! | [`read_jsonl`] | `captions.jsonl` | a line per image: `{"file", "split"?, "captions": [..]}` |
//! | [`read_csv`] | `*.csv` (UrbanCross) | a row per caption: `image_name,description[,split]` |
//! | [`read_karpathy`] | `dataset_*.json` (Karpathy) | `{"images": [{"filename", "split"?, "sentences": [{"raw"}]}]}` |
//! | [`read_lines`] | `*_caps.txt` + `*_filename.txt` (RSICD, RSITMD as precomputed by UrbanCross) | five captions an image |
//! | [`read_coco`] | `captions_*.json` (COCO) | `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}` |
//! | [`read_nwpu`] | `dataset_nwpu.json` (NWPU-Captions) | `{"CLASS": [{"filename", "split", "raw", "raw_1" …}]}` |
//! | [`read_metadata_csv`] | `metadata.csv` (Hugging Face's image folders) | `file_name,text[,split]` |
//! | [`read_metadata_jsonl`] | `metadata.jsonl` (the same) | a line per image: `{"file_name", "text" or "captions", "split"?}` |
//!
//! [`sniff`] tells them apart, [`choose`] says which files of a folder are read, and [`join`] makes one list of several.
//!
//! Captions keep their raw form, repeats included; only surrounding blanks are removed, and
//! blank captions. A file that is wrong anywhere is refused as a whole, with the place: these
//! files are small and curated, a silent gap would shift captions to other images.

mod coco;
mod formats;
mod image_folder;
mod join;
mod nwpu;
#[cfg(test)]
mod others_tests;
mod sniff;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::split::Split;
use crate::{SourceError, path};

pub use coco::read_coco;
pub use formats::{CAPTIONS_PER_IMAGE, read_csv, read_jsonl, read_karpathy, read_lines};
pub use image_folder::{ImageFolder, read_metadata_csv, read_metadata_jsonl};
pub use join::join;
pub use nwpu::read_nwpu;
pub use sniff::{CaptionFormat, HEAD_BYTES, choose, may_hold_captions, sniff};

/// An image with its captions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionedImage {
    /// Path below the image folder, in [`composed`] form.
    pub file: String,
    /// The split the source gives, if any.
    pub split: Option<Split>,
    /// Empty for an image whose captions are all blank (RSITMD has four): leave it out and count
    /// it, there is nothing to train on.
    pub captions: Vec<String>,
}

/// A file name with its accents composed (Unicode NFC). Disks and archives of macOS hold them decomposed; without one
/// form an image would not be found, or be two.
pub fn composed(name: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(name)
}

/// Gathers images in the order of their first appearance; an image named again gets the further
/// captions.
#[derive(Default)]
struct Gathered {
    images: Vec<CaptionedImage>,
    /// For each image the line of its first appearance.
    lines: Vec<u64>,
    by_file: HashMap<String, usize>,
}

impl Gathered {
    /// Adds captions of an image; `line` (or the number of the image in the file) is for errors.
    fn add<'a>(
        &mut self,
        line: u64,
        file: &str,
        split: Option<Split>,
        captions: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), SourceError> {
        let row_error = |problem: String| SourceError::Row { line, problem };
        let file = &*composed(file.trim());
        path::check_relative(file).map_err(|problem| row_error(format!("`{}`: {problem}", file.escape_debug())))?;
        let index = match self.by_file.get(file) {
            Some(&index) => index,
            None => {
                self.by_file.insert(file.to_owned(), self.images.len());
                self.lines.push(line);
                self.images.push(CaptionedImage { file: file.to_owned(), split, captions: Vec::new() });
                self.images.len() - 1
            }
        };
        let image = &mut self.images[index];
        if image.split != split {
            return Err(row_error(format!(
                "`{file}` is in {} here and in {} at {}: keep one",
                split_name(split),
                split_name(image.split),
                self.lines[index]
            )));
        }
        let captions = captions.into_iter().map(str::trim);
        let kept = captions.filter(|caption| !caption.is_empty());
        image.captions.extend(kept.map(str::to_owned));
        Ok(())
    }
}

fn split_name(split: Option<Split>) -> &'static str {
    split.map_or("no split", Split::as_str)
}
