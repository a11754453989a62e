//! The readers of JSON lines, CSV, Karpathy's JSON and lines.

use serde::Deserialize;

use super::{CaptionedImage, Gathered};
use crate::SourceError;
use crate::csv::{header_names, optional_column, required_column};
use crate::records::Records;
use crate::split::Split;

/// Captions an image has in the line format.
pub const CAPTIONS_PER_IMAGE: usize = 5;

/// JSON lines: `{"file": …, "split": …, "captions": […]}`; other fields are ignored, `split` may
/// be missing or null.
///
/// # Errors
/// [`SourceError::Row`] with the line.
pub fn read_jsonl(bytes: &[u8]) -> Result<Vec<CaptionedImage>, SourceError> {
    #[derive(Deserialize)]
    struct Line {
        file: String,
        split: Option<String>,
        captions: Vec<String>,
    }
    let mut gathered = Gathered::default();
    for (number, line) in (1..).zip(text(bytes)?.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(line).map_err(|error| SourceError::Row {
            line: number,
            problem: format!("{error}; expected {{\"file\", \"split\", \"captions\": [..]}}"),
        })?;
        let split = parse_split(number, line.split.as_deref())?;
        let captions = line.captions.iter().map(String::as_str);
        gathered.add(number, &line.file, split, captions)?;
    }
    Ok(gathered.images)
}

/// UrbanCross' CSV: a row `image_name,description` per caption, columns found by name; a column `split` may be there.
///
/// # Errors
/// [`SourceError::Table`] for missing columns, [`SourceError::Row`] with the line.
pub fn read_csv(bytes: &[u8]) -> Result<Vec<CaptionedImage>, SourceError> {
    let mut records = Records::new(bytes)?;
    let names = match records.next() {
        Some(header) => header_names(&header?)?,
        None => return Err(SourceError::Table("the file is empty".into())),
    };
    let image_name = required_column(&names, "image_name")?;
    let description = required_column(&names, "description")?;
    let split_column = optional_column(&names, "split")?;
    let mut gathered = Gathered::default();
    while let Some(record) = records.next() {
        let record = record?;
        record.check_columns(names.len())?;
        let caption = record.text(description)?;
        let split = split_column.map(|column| record.text(column)).transpose()?;
        let split = parse_split(record.line, split)?;
        gathered.add(record.line, record.text(image_name)?, split, [caption])?;
    }
    Ok(gathered.images)
}

/// Karpathy's JSON, as RSICD, UCM-Captions and COCO have it. `filepath`, where given, is the
/// folder of the file name. Errors count images from 1.
///
/// # Errors
/// [`SourceError::Table`] if it is not such a JSON, [`SourceError::Row`] for one image.
pub fn read_karpathy(bytes: &[u8]) -> Result<Vec<CaptionedImage>, SourceError> {
    #[derive(Deserialize)]
    struct Dataset {
        images: Vec<Image>,
    }
    #[derive(Deserialize)]
    struct Image {
        filename: String,
        filepath: Option<String>,
        split: Option<String>,
        sentences: Vec<Sentence>,
    }
    #[derive(Deserialize)]
    struct Sentence {
        raw: String,
    }
    let dataset: Dataset = serde_json::from_slice(without_mark(bytes)).map_err(|error| {
        SourceError::Table(format!(
            "not Karpathy's JSON, {{\"images\": [{{\"filename\", \"split\", \"sentences\"}}]}}: {error}"
        ))
    })?;
    let mut gathered = Gathered::default();
    for (number, image) in (1..).zip(dataset.images) {
        let split = parse_split(number, image.split.as_deref())?;
        let file = match image.filepath.as_deref() {
            None | Some("") => image.filename,
            Some(folder) => format!("{folder}/{}", image.filename),
        };
        let captions = image.sentences.iter().map(|sentence| sentence.raw.as_str());
        gathered.add(number, &file, split, captions)?;
    }
    Ok(gathered.images)
}

/// The line format: `captions` has [`CAPTIONS_PER_IMAGE`] lines an image, `filenames` one line an
/// image or the same number of equal ones. The file's name tells the split.
///
/// # Errors
/// [`SourceError::Table`] if the numbers of lines do not fit, [`SourceError::Row`] with the line.
pub fn read_lines(filenames: &[u8], captions: &[u8], split: Option<Split>) -> Result<Vec<CaptionedImage>, SourceError> {
    let files: Vec<&str> = text(filenames)?.lines().collect();
    let captions: Vec<&str> = text(captions)?.lines().collect();
    let images = captions.len() / CAPTIONS_PER_IMAGE;
    let lines_per_image = match files.len().checked_div(images) {
        Some(lines @ (1 | CAPTIONS_PER_IMAGE))
            if lines * images == files.len() && images * CAPTIONS_PER_IMAGE == captions.len() =>
        {
            lines
        }
        _ => {
            return Err(SourceError::Table(format!(
                "{} captions and {} file names: expected {CAPTIONS_PER_IMAGE} captions an image \
                 and 1 or {CAPTIONS_PER_IMAGE} file names",
                captions.len(),
                files.len()
            )));
        }
    };
    let mut gathered = Gathered::default();
    let groups = files.chunks(lines_per_image).zip(captions.chunks(CAPTIONS_PER_IMAGE));
    for (number, (files, captions)) in (0..).zip(groups) {
        let line = number * lines_per_image as u64 + 1;
        if let Some(other) = files.iter().find(|file| **file != files[0]) {
            return Err(SourceError::Row {
                line,
                problem: format!("`{}` and `{other}` among the {CAPTIONS_PER_IMAGE} lines of one image", files[0]),
            });
        }
        gathered.add(line, files[0], split, captions.iter().copied())?;
    }
    Ok(gathered.images)
}

/// The bytes behind a UTF-8 byte order mark.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, SourceError> {
    let bytes = without_mark(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        SourceError::Row {
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count() as u64,
            problem: "not UTF-8: convert the file".into(),
        }
    })
}

pub(super) fn parse_split(line: u64, split: Option<&str>) -> Result<Option<Split>, SourceError> {
    let Some(name) = split.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match Split::parse(name) {
        Some(split) => Ok(Some(split)),
        None => Err(SourceError::Row {
            line,
            problem: format!("the split `{}` is none of train, val, test", name.escape_debug()),
        }),
    }
}
