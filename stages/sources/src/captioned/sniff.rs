//! Which caption format a file has, and which files of a folder are read.

use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::formats::without_mark;
use super::image_folder::{ImageFolder, is_caption_field};
use crate::split::Split;

/// A caption format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptionFormat {
    /// One JSON object a line.
    Jsonl,
    /// A CSV with a header.
    Csv,
    /// One JSON document with `images`, each with `sentences` (Karpathy's splits of COCO).
    Karpathy,
    /// One JSON document with `images` and `annotations` (COCO).
    Coco {
        /// The split that the file's name tells.
        split: Option<Split>,
    },
    /// One JSON document with a list of images for each class (NWPU-Captions).
    Nwpu,
    /// `metadata.csv` of an image folder.
    MetadataCsv(ImageFolder),
    /// `metadata.jsonl` of an image folder.
    MetadataJsonl(ImageFolder),
    /// Captions line by line; `filenames` is the name of the file with the image names.
    Lines {
        /// The file of image names, line by line beside the captions.
        filenames: String,
        /// The split that the file's name tells.
        split: Option<Split>,
    },
}

impl CaptionFormat {
    /// The split of a file that is one part of several.
    fn split_of_name(&self) -> Option<Split> {
        match self {
            Self::Coco { split } => *split,
            Self::MetadataCsv(at) | Self::MetadataJsonl(at) => at.split,
            Self::Jsonl | Self::Csv | Self::Karpathy | Self::Nwpu | Self::Lines { .. } => None,
        }
    }
}

/// How much of the beginning of a file [`sniff`] wants.
pub const HEAD_BYTES: u64 = 64 << 10;

/// Whether a file of this name is worth a look into it. `._name` is what macOS writes beside a file on foreign disks:
/// attributes under the name of captions.
pub fn may_hold_captions(file_name: &str) -> bool {
    let name = file_name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    !name.starts_with("._") && [".txt", ".csv", ".json", ".jsonl"].iter().any(|ending| name.ends_with(ending))
}

/// Tells the format of a caption file from its name and its first [`HEAD_BYTES`] or more; `None` if it is no caption
/// file, a file of image names for instance.
pub fn sniff(file_name: &str, head: &[u8]) -> Option<CaptionFormat> {
    if !may_hold_captions(file_name) {
        return None;
    }
    let name = file_name.to_ascii_lowercase();
    if name.ends_with(".txt") {
        return lines_format(file_name);
    }
    let head = without_mark(head).trim_ascii_start();
    if let Some(at) = ImageFolder::of(file_name) {
        return metadata(at, &name, head);
    }
    if name.ends_with(".csv") {
        let first_line = head.split(|&byte| byte == b'\n').next()?;
        let first_line = String::from_utf8_lossy(first_line).to_ascii_lowercase();
        let is_caption_table = ["image_name", "description"].iter().all(|column| first_line.contains(column));
        return is_caption_table.then_some(CaptionFormat::Csv);
    }
    if is_nwpu(&name, head) {
        return Some(CaptionFormat::Nwpu);
    }
    match telling_field(head)? {
        Telling::Images | Telling::Annotations if !name.ends_with(".json") => None,
        Telling::Images if !has_coco_names(head) => Some(CaptionFormat::Karpathy),
        Telling::Images | Telling::Annotations => Some(CaptionFormat::Coco { split: split_of(file_name) }),
        Telling::FileOrCaptions => Some(CaptionFormat::Jsonl),
        // image folders call their files by one name alone
        Telling::FileName => None,
    }
}

/// A metadata file tells of captions, or of labels alone.
fn metadata(at: ImageFolder, name: &str, head: &[u8]) -> Option<CaptionFormat> {
    if name.ends_with(".csv") {
        let first_line = head.split(|&byte| byte == b'\n').next()?;
        let first_line = String::from_utf8_lossy(first_line).to_ascii_lowercase();
        let columns: Vec<&str> = first_line.split(',').map(|column| column.trim().trim_matches('"')).collect();
        let tells = columns.contains(&"file_name") && columns.iter().any(|column| is_caption_field(column));
        return tells.then_some(CaptionFormat::MetadataCsv(at));
    }
    matches!(telling_field(head)?, Telling::FileName | Telling::FileOrCaptions)
        .then_some(CaptionFormat::MetadataJsonl(at))
}

/// Classes have any names: the file's own tells, and the fields of its first image.
fn is_nwpu(name: &str, head: &[u8]) -> bool {
    let is_named = name.ends_with(".json") && name.rsplit('/').next().is_some_and(|file| file.contains("nwpu"));
    is_named && [&b"\"raw\""[..], b"\"raw_1\""].iter().all(|field| head.windows(field.len()).any(|at| at == *field))
}

/// Whether the images behind `images` bear COCO's names. Karpathy's have `filename` and `sentences` in the first of them.
fn has_coco_names(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let at = |name: &str| text.find(&format!("\"{name}\"")).unwrap_or(usize::MAX);
    at("file_name") < at("filename").min(at("sentences"))
}

/// The split that a file's name tells: `captions_train2017.json`.
fn split_of(file_name: &str) -> Option<Split> {
    let name = file_name.rsplit('/').next()?;
    name.split(|c: char| !c.is_ascii_alphabetic()).rev().find_map(Split::parse)
}

/// Which of a folder's caption files are read: the only one, all of the line format, or COCO's, or image folders', of which
/// each is of a split of its own.
///
/// # Errors
/// What to do, if there is none, or several of which some would be passed over.
pub fn choose(candidates: Vec<(String, CaptionFormat)>) -> Result<Vec<String>, String> {
    let all_lines = candidates.iter().all(|(_, format)| matches!(format, CaptionFormat::Lines { .. }));
    let splits: Vec<Option<Split>> = candidates.iter().map(|(_, format)| format.split_of_name()).collect();
    let are_parts = splits.iter().enumerate().all(|(place, split)| split.is_some() && !splits[..place].contains(split));
    let names: Vec<String> = candidates.into_iter().map(|(name, _)| name).collect();
    match names.len() {
        0 => Err("no caption file found; name it with source.tables = [\"captions.jsonl\"]".into()),
        1 => Ok(names),
        _ if all_lines || are_parts => Ok(names),
        _ => Err(format!(
            "several caption files, {}: name the one that counts, or all of them, with source.tables = {:?}",
            names.join(", "),
            &names[..1]
        )),
    }
}

/// A field that only one of the JSON formats has.
enum Telling {
    /// Of a JSON line.
    FileOrCaptions,
    /// Of Karpathy's object, and of COCO's.
    Images,
    /// Of COCO's object.
    Annotations,
    /// Of an image folder's JSON line.
    FileName,
}

/// The first telling field of the JSON object that begins here, however long the values before it are.
fn telling_field(head: &[u8]) -> Option<Telling> {
    struct Fields<'t>(&'t mut Option<Telling>);
    impl<'de> Visitor<'de> for Fields<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                *self.0 = match name.as_str() {
                    "file_name" => Some(Telling::FileName),
                    "file" | "captions" => Some(Telling::FileOrCaptions),
                    "images" => Some(Telling::Images),
                    "annotations" => Some(Telling::Annotations),
                    _ => None,
                };
                if self.0.is_some() {
                    break;
                }
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut found = None;
    // an error, where the head breaks off for one, comes behind what was found
    let _ = serde_json::Deserializer::from_slice(head).deserialize_map(Fields(&mut found));
    found
}

/// `rsicd_train_caps.txt` belongs to `rsicd_train_filename.txt`.
fn lines_format(file_name: &str) -> Option<CaptionFormat> {
    let (folder, name) = match file_name.rsplit_once('/') {
        Some((folder, name)) => (Some(folder), name),
        None => (None, file_name),
    };
    let words: Vec<&str> = name.strip_suffix(".txt")?.split('_').collect();
    let place = words.iter().position(|word| *word == "caps")?;
    let split = words[..place].iter().rev().find_map(|word| Split::parse(word));
    let mut partner = words;
    partner[place] = "filename";
    let partner = format!("{}.txt", partner.join("_"));
    Some(CaptionFormat::Lines {
        filenames: match folder {
            Some(folder) => format!("{folder}/{partner}"),
            None => partner,
        },
        split,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_first_bytes_tell_the_format() {
        let jsonl = br#"{"file": "a.jpg", "captions": ["#;
        assert_eq!(sniff("captions.jsonl", jsonl), Some(CaptionFormat::Jsonl));
        assert_eq!(sniff("x/captions.json", jsonl), Some(CaptionFormat::Jsonl));
        let karpathy = b"\xEF\xBB\xBF{\n \"dataset\": \"rsicd\", \"images\": [{\"filename\"";
        assert_eq!(sniff("dataset_rsicd.json", karpathy), Some(CaptionFormat::Karpathy));
        let csv = b"image_name,description\na.jpg,";
        assert_eq!(sniff("spain.CSV", csv), Some(CaptionFormat::Csv));
        assert_eq!(sniff("a.csv", b"filepath,title\n"), None);
        assert_eq!(sniff("vocab.json", b"{\"word2idx\": {"), None);
        assert_eq!(sniff("a.json", b""), None);
        assert_eq!(sniff("a.jpg", jsonl), None);
        let lines = |filenames: &str, split| {
            let filenames = filenames.into();
            Some(CaptionFormat::Lines { filenames, split })
        };
        assert_eq!(
            sniff("d/rsicd_train_caps.txt", b"a road ."),
            lines("d/rsicd_train_filename.txt", Some(Split::Train))
        );
        assert_eq!(sniff("val_caps_verify.txt", b""), lines("val_filename_verify.txt", Some(Split::Val)));
        assert_eq!(sniff("caps.txt", b""), lines("filename.txt", None));
        assert_eq!(sniff("train_filename.txt", b"a.jpg"), None);
        assert_eq!(sniff("d/._rsicd_train_caps.txt", b"\0\x05\x16\x07"), None, "attributes of macOS");
    }

    #[test]
    fn a_telling_field_may_stand_behind_long_ones() {
        let before = format!("{{\"note\": [\"{}\", {{\"images\": 1}}], ", "x".repeat(5000));
        assert_eq!(
            sniff("a.jsonl", format!("{before}\"file\": \"a.jpg\", \"ca").as_bytes()),
            Some(CaptionFormat::Jsonl)
        );
        assert_eq!(sniff("a.json", format!("\u{feff}{before}\"images\": [").as_bytes()), Some(CaptionFormat::Karpathy));
        assert_eq!(sniff("a.jsonl", before.as_bytes()), None, "the nested field is not of this object");
    }

    #[test]
    fn no_caption_file_is_passed_over() {
        let lines = |name: &str| (name.to_owned(), sniff(name, b"").unwrap());
        let jsonl = ("captions.jsonl".to_owned(), CaptionFormat::Jsonl);
        assert_eq!(choose(vec![jsonl.clone()]).unwrap(), ["captions.jsonl"]);
        let pairs = vec![lines("test_caps.txt"), lines("train_caps.txt")];
        assert_eq!(choose(pairs).unwrap(), ["test_caps.txt", "train_caps.txt"]);
        assert!(choose(vec![]).unwrap_err().contains("source.tables"));
        for others in [vec![jsonl.clone(), lines("train_caps.txt")], vec![("a.csv".into(), CaptionFormat::Csv), jsonl]]
        {
            let names: Vec<String> = others.iter().map(|(name, _)| name.clone()).collect();
            let error = choose(others).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
    }
}
