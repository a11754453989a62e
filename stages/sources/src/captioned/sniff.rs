//! Which caption format a file has.

use crate::split::Split;

/// A caption format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptionFormat {
    Jsonl,
    Csv,
    Karpathy,
    /// Captions line by line; `filenames` is the name of the file with the image names.
    Lines {
        filenames: String,
        split: Option<Split>,
    },
}

/// Tells the format of a caption file from its name and the first bytes of its content (a few
/// hundred are enough); `None` if it is no caption file, a file of image names for instance.
pub fn sniff(file_name: &str, head: &[u8]) -> Option<CaptionFormat> {
    let name = file_name.rsplit('/').next()?.to_ascii_lowercase();
    let head = String::from_utf8_lossy(head);
    let head = head.trim_start_matches('\u{feff}').trim_start();
    if name.ends_with(".txt") {
        return lines_format(file_name);
    }
    let first_line = head.lines().next()?.to_ascii_lowercase();
    if name.ends_with(".csv") {
        let is_caption_table = ["image_name", "description"].iter().all(|column| first_line.contains(column));
        return is_caption_table.then_some(CaptionFormat::Csv);
    }
    if !head.starts_with('{') || !(name.ends_with(".json") || name.ends_with(".jsonl")) {
        return None;
    }
    // `"images"` opens Karpathy's object; a JSON line names its file before long.
    if first_line.contains("\"captions\"") || first_line.contains("\"file\"") {
        Some(CaptionFormat::Jsonl)
    } else if name.ends_with(".json") && head.contains("\"images\"") {
        Some(CaptionFormat::Karpathy)
    } else {
        None
    }
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
    }
}
