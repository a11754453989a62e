//! Hugging Face's image folders: `metadata.csv` or `metadata.jsonl` beside the images, perhaps one in each split's folder.

use serde_json::{Map, Value};

use super::formats::{parse_split, text};
use super::{CaptionedImage, Gathered};
use crate::SourceError;
use crate::csv::{header_names, optional_column, required_column};
use crate::records::Records;
use crate::split::Split;

const FILE_NAME: &str = "file_name";
/// Columns that hold captions; each may be there several times with a number behind it: `caption_1`.
const CAPTIONS: [&str; 7] = ["text", "caption", "captions", "description", "sentence", "sentences", "raw"];

/// Where a metadata file lies, which its file names are relative to, and the split that its folder names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFolder {
    /// Path of the folder within the source; empty for the source itself.
    pub folder: String,
    /// Of a folder called `train`, `validation` or `test`.
    pub split: Option<Split>,
}

impl ImageFolder {
    /// The folder of a metadata file; `None`: the file is called otherwise.
    pub(super) fn of(file_name: &str) -> Option<Self> {
        let (folder, name) = file_name.rsplit_once('/').unwrap_or(("", file_name));
        let split = folder.rsplit('/').find_map(Split::parse);
        ["metadata.csv", "metadata.jsonl"]
            .contains(&name.to_ascii_lowercase().as_str())
            .then(|| Self { folder: folder.to_owned(), split })
    }

    fn path(&self, file: &str) -> String {
        if self.folder.is_empty() { file.to_owned() } else { format!("{}/{}", self.folder, file.trim()) }
    }
}

/// Whether a column or field holds captions.
pub(super) fn is_caption_field(name: &str) -> bool {
    let word = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = if word.len() < name.len() { word.trim_end_matches('_') } else { word };
    CAPTIONS.contains(&word)
}

fn without_captions(names: &str) -> SourceError {
    SourceError::Table(format!("no column with captions ({}, perhaps numbered) among {names}", CAPTIONS.join(", ")))
}

/// `metadata.csv`: a row an image, or several; a column `split` may be there.
///
/// # Errors
/// [`SourceError::Table`] for missing columns, [`SourceError::Row`] with the line.
pub fn read_metadata_csv(bytes: &[u8], at: &ImageFolder) -> Result<Vec<CaptionedImage>, SourceError> {
    let mut records = Records::new(bytes)?;
    let names = match records.next() {
        Some(header) => header_names(&header?)?,
        None => return Err(SourceError::Table("the file is empty".into())),
    };
    let file = required_column(&names, FILE_NAME)?;
    let split = optional_column(&names, "split")?;
    let captions: Vec<usize> = (0..names.len()).filter(|&column| is_caption_field(&names[column])).collect();
    if captions.is_empty() {
        return Err(without_captions(&names.join(", ")));
    }
    let mut gathered = Gathered::default();
    while let Some(record) = records.next() {
        let record = record?;
        record.check_columns(names.len())?;
        let given = split.map(|column| record.text(column)).transpose()?;
        let split = parse_split(record.line, given)?.or(at.split);
        let mut texts = Vec::with_capacity(captions.len());
        for &column in &captions {
            texts.extend(listed(record.line, record.text(column)?)?);
        }
        gathered.add(record.line, &at.path(record.text(file)?), split, texts.iter().map(String::as_str))?;
    }
    Ok(gathered.images)
}

/// A cell with one caption, or with a JSON list of them.
fn listed(line: u64, cell: &str) -> Result<Vec<String>, SourceError> {
    if !cell.trim_start().starts_with('[') {
        return Ok(vec![cell.to_owned()]);
    }
    serde_json::from_str(cell).map_err(|error| SourceError::Row {
        line,
        problem: format!(
            "a cell begins with `[` and is no JSON list of texts ({error}): write [\"…\", \"…\"], or a column a caption"
        ),
    })
}

/// `metadata.jsonl`: an object a line, with `file_name` and captions as one text or a list.
///
/// # Errors
/// [`SourceError::Row`] with the line.
pub fn read_metadata_jsonl(bytes: &[u8], at: &ImageFolder) -> Result<Vec<CaptionedImage>, SourceError> {
    let mut gathered = Gathered::default();
    for (line, json) in (1..).zip(text(bytes)?.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let row = |problem: String| SourceError::Row { line, problem };
        let fields: Map<String, Value> = serde_json::from_str(json)
            .map_err(|error| row(format!("{error}; expected an object with `{FILE_NAME}`")))?;
        let Some(Value::String(file)) = fields.get(FILE_NAME) else {
            return Err(row(format!("`{FILE_NAME}` is missing or no text")));
        };
        let split = match fields.get("split") {
            None | Some(Value::Null) => None,
            Some(Value::String(split)) => parse_split(line, Some(split))?,
            Some(other) => return Err(row(format!("the split {other} is no text"))),
        };
        let mut captions: Vec<&str> = Vec::new();
        let mut has_captions = false;
        for (name, value) in fields.iter().filter(|(name, _)| is_caption_field(&name.to_ascii_lowercase())) {
            has_captions = true;
            match value {
                Value::Null => {}
                Value::String(caption) => captions.push(caption),
                Value::Array(list) => {
                    for item in list {
                        let caption =
                            item.as_str().ok_or_else(|| row(format!("`{name}` holds {item}, which is no text")))?;
                        captions.push(caption);
                    }
                }
                other => return Err(row(format!("`{name}` is {other}, and neither a text nor a list of texts"))),
            }
        }
        if !has_captions {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            return Err(row(without_captions(&names.join(", ")).to_string()));
        }
        gathered.add(line, &at.path(file), split.or(at.split), captions)?;
    }
    Ok(gathered.images)
}
