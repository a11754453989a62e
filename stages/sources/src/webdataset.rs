//! WebDataset's archives: neighbours in a tar whose names are alike up to the first dot are one sample, here an image and the
//! files that say what it shows.
//!
//! | file | captions |
//! |---|---|
//! | `KEY.json` with `captions` | every text of the list |
//! | `KEY.txt` | its text, as one caption |
//! | `KEY.json` with `caption` or `text` | that text, or the texts of a list |
//!
//! The first row that applies counts. `split` of a `KEY.json` tells the split, or else the archive's name.

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::captioned::composed;
use crate::split::Split;
use crate::tar::{Member, Visitor};
use crate::{SourceError, path};

/// Endings of images that are read.
const IMAGES: [&str; 7] = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"];
/// Longest file of words beside an image.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// What is kept of an archive: names and words. A file of captions may be as long.
const MAX_KEPT_BYTES: u64 = 1 << 30;
/// What a sample, and a caption, takes beside its names and words.
const SAMPLE_BYTES: u64 = 256;
const CAPTION_BYTES: u64 = 32;

/// A file of an archive, known by its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its path in the archive.
    pub name: String,
    /// Where its data begins: in the archive once it is unpacked.
    pub offset: u64,
    /// Bytes of its data.
    pub size: u64,
    /// CRC-32 of its data.
    pub crc32: u32,
}

/// An image with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Path up to the first dot of its last part, or the id that a file beside it has for that.
    pub id: String,
    /// The image.
    pub picture: Picture,
    /// In order; only blanks around them are taken away, and blank ones.
    pub captions: Vec<String>,
    /// The split, where one is told.
    pub split: Option<Split>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// The samples of an archive, as it is read.
pub struct Samples {
    /// Of the archive's name.
    split: Option<Split>,
    done: Vec<Sample>,
    now: Option<Draft>,
    file: Open,
    kept: u64,
    most: u64,
    others: u64,
}

/// A sample in the making.
#[derive(Default)]
struct Draft {
    key: String,
    picture: Option<Picture>,
    text: Option<String>,
    json: Option<Value>,
    problem: Option<String>,
}

/// What becomes of the data that comes.
enum Open {
    Nothing,
    Picture { name: String, offset: u64, size: u64, crc32: crc32fast::Hasher },
    Words { is_json: bool, bytes: Vec<u8> },
}

impl Samples {
    /// Those of an archive of this name.
    pub fn of(archive: &str) -> Self {
        let name = archive.rsplit('/').next().unwrap_or_default();
        let split = name.split(|c: char| !c.is_ascii_alphabetic()).find_map(Split::parse);
        let (done, now, file) = (Vec::new(), None, Open::Nothing);
        Self { split, done, now, file, kept: 0, most: MAX_KEPT_BYTES, others: 0 }
    }

    /// All samples with an image, in order, and how many have none.
    ///
    /// # Errors
    /// [`SourceError::Limit`] for more than is kept.
    pub fn finish(mut self) -> Result<(Vec<Sample>, u64), SourceError> {
        self.close()?;
        Ok((self.done, self.others))
    }

    fn keep(&mut self, bytes: u64) -> Result<(), SourceError> {
        self.kept = self.kept.saturating_add(bytes);
        match self.kept > self.most {
            false => Ok(()),
            true => Err(SourceError::Limit {
                what: "names and captions of a tar archive".to_owned(),
                value: self.kept,
                setting: "MAX_KEPT_BYTES",
                limit: self.most,
            }),
        }
    }

    fn close(&mut self) -> Result<(), SourceError> {
        let Some(Draft { key, picture, text, json, mut problem }) = self.now.take() else { return Ok(()) };
        let Some(picture) = picture else {
            self.others += 1;
            return Ok(());
        };
        if picture.size == 0 {
            problem.get_or_insert_with(|| format!("{} is empty", picture.name));
        }
        let captions = captions(text.as_deref(), json.as_ref());
        self.keep(CAPTION_BYTES * captions.len() as u64)?;
        if captions.is_empty() {
            problem.get_or_insert_with(|| format!("no {key}.txt or {key}.json beside it tells a caption"));
        }
        let field = |name: &str| json.as_ref().and_then(|json| json.get(name)).and_then(Value::as_str);
        let (folder, last) = key.rsplit_once('/').map_or(("", key.as_str()), |(folder, last)| (folder, last));
        let is_id = |id: &str| folder.is_empty() && key_of(id) == last && path::check_relative(id).is_ok();
        let id = match field("image_id").filter(|id| is_id(id)) {
            Some(id) => id.to_owned(),
            None => key.clone(),
        };
        let split = field("split").and_then(Split::parse).or(self.split);
        self.done.push(Sample { id, picture, captions, split, problem });
        Ok(())
    }
}

impl Visitor for Samples {
    fn begin(&mut self, member: Member) -> Result<(), SourceError> {
        self.file = Open::Nothing;
        let Member { name, offset, size } = member;
        // a picture whose name is of another encoding is a sample that cannot be taken, and not nothing
        let (name, problem) = match String::from_utf8(name) {
            Ok(name) => (name, None),
            Err(other) => {
                let shown = other.as_bytes().escape_ascii().to_string();
                (shown, Some("its name is no UTF-8: write the archive anew with such names"))
            }
        };
        let name = composed(name.strip_prefix("./").unwrap_or(&name)).into_owned();
        let Some((key, ending)) = parts_of(&name) else { return Ok(()) };
        if self.now.as_ref().is_none_or(|now| now.key != key) {
            self.close()?;
            self.keep(SAMPLE_BYTES + key.len() as u64)?;
            let problem = problem.or(path::check_relative(&key).err()).map(str::to_owned);
            self.now = Some(Draft { key, problem, ..Draft::default() });
        }
        if IMAGES.contains(&ending.as_str()) {
            self.keep(name.len() as u64)?;
            self.file = Open::Picture { name, offset, size, crc32: crc32fast::Hasher::new() };
        } else if ending == "txt" || ending == "json" {
            if size > MAX_TEXT_BYTES {
                self.spoil(format!("{name} has {size} bytes, over the limit of {MAX_TEXT_BYTES}"));
            } else {
                self.keep(size)?;
                self.file = Open::Words { is_json: ending == "json", bytes: Vec::new() };
            }
        }
        Ok(())
    }

    fn data(&mut self, data: &[u8]) -> Result<(), SourceError> {
        match &mut self.file {
            Open::Nothing => {}
            Open::Picture { crc32, .. } => crc32.update(data),
            Open::Words { bytes, .. } => bytes.extend_from_slice(data),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), SourceError> {
        let file = std::mem::replace(&mut self.file, Open::Nothing);
        let Some(now) = &mut self.now else { return Ok(()) };
        match file {
            Open::Nothing => {}
            Open::Picture { name, offset, size, crc32 } => match &now.picture {
                None => now.picture = Some(Picture { name, offset, size, crc32: crc32.finalize() }),
                Some(first) => {
                    let why = format!("it has two images, {} and {name}: keep one", first.name);
                    self.spoil(why);
                }
            },
            Open::Words { is_json: false, bytes } => match String::from_utf8(bytes) {
                Ok(text) => now.text = Some(text),
                Err(_) => self.spoil("its .txt is not UTF-8".to_owned()),
            },
            Open::Words { is_json: true, bytes } => match serde_json::from_slice(&bytes) {
                Ok(json) => now.json = Some(json),
                Err(error) => self.spoil(format!("its .json is none: {error}")),
            },
        }
        Ok(())
    }
}

impl Samples {
    fn spoil(&mut self, why: String) {
        if let Some(now) = &mut self.now {
            now.problem.get_or_insert(why);
        }
    }
}

/// A name as WebDataset cuts it: up to the first dot of its last part, and what stands behind that dot in small letters.
fn parts_of(name: &str) -> Option<(String, String)> {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = last + name[last..].find('.').filter(|dot| *dot > 0)?;
    Some((name[..dot].to_owned(), name[dot + 1..].to_ascii_lowercase()))
}

/// The key that an image id has in an archive. Readers cut a name at its first dot and take slashes for folders: these are
/// written as in addresses (`%2E`), and a name that is none of ours cannot leave the folder.
pub fn key_of(image_id: &str) -> String {
    let mut key = String::with_capacity(image_id.len());
    for character in image_id.chars() {
        match character {
            '.' | '/' | '\\' | '%' => key.push_str(&format!("%{:02X}", character as u32)),
            c if c.is_control() => c.to_string().bytes().for_each(|byte| key.push_str(&format!("%{byte:02X}"))),
            c => key.push(c),
        }
    }
    key
}

fn captions(text: Option<&str>, json: Option<&Value>) -> Vec<String> {
    let field = |name: &str| json.and_then(|json| json.get(name));
    let texts = |value: &Value| -> Vec<String> {
        let all = match value {
            Value::Array(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        let kept = all.iter().filter_map(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        kept.map(str::to_owned).collect()
    };
    let listed = field("captions").map(texts).filter(|texts| !texts.is_empty());
    let written = || text.map(str::trim).filter(|text| !text.is_empty()).map(|text| vec![text.to_owned()]);
    let named = || ["caption", "text"].into_iter().filter_map(field).map(texts).find(|texts| !texts.is_empty());
    listed.or_else(written).or_else(named).unwrap_or_default()
}
