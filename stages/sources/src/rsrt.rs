//! Texts about images in the files of RSRT (TRSLLaVA): structured captions, and captions that images are asked with.
//!
//! | file | shape |
//! |---|---|
//! | grouped | a line per image: `{"image", "variants": [{"one_sentence", "feature", "caption"}]}` |
//! | flat | a line per variant: `{"image" or "image_path", "one_sentence", "feature", "caption"}`, the three also under `text` |
//! | queries | a JSON list, or a line per image: `{"image", "image_path" or "filename", "caption"}`, also under `text` |
//!
//! Older files say `one_sentence_caption` and `feature_analysis`. Of an image's variants the first five are kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::SourceError;

/// Variants of an image that count.
const KEPT: usize = 5;
/// Longest text, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// One structured caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructuredText {
    /// The whole image in one sentence.
    pub one_sentence: String,
    /// What stands out.
    pub feature: String,
    /// A longer description.
    pub caption: String,
}

/// What was written about images, by their paths without the ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByImage<T> {
    texts: Vec<(String, T)>,
    /// Places in `texts` by the last part of the path.
    by_name: HashMap<String, Vec<usize>>,
}

impl<T> ByImage<T> {
    fn new(texts: Vec<(String, T)>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, (stem, _)) in texts.iter().enumerate() {
            by_name.entry(name_of(stem).to_owned()).or_default().push(place);
        }
        Self { texts, by_name }
    }

    /// Images that something was written about.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// What was written about an image of this id, which is a path without its ending: of the file's paths it must be one,
    /// or the end of one. `None`: nothing.
    ///
    /// # Errors
    /// Where several paths end in the id: two folders have images of one name.
    pub fn of(&self, image_id: &str) -> Result<Option<&T>, String> {
        let Some(places) = self.by_name.get(name_of(image_id)) else { return Ok(None) };
        let stem = |place: usize| self.texts[place].0.as_str();
        if let Some(&exact) = places.iter().find(|&&place| stem(place) == image_id) {
            return Ok(Some(&self.texts[exact].1));
        }
        let ends = |place: &usize| stem(*place).strip_suffix(image_id).is_some_and(|before| before.ends_with('/'));
        let mut found = places.iter().copied().filter(|place| ends(place));
        match (found.next(), found.next()) {
            (Some(first), Some(second)) => Err(format!(
                "texts are there of {} and of {}, and which is meant nobody says: name images by their folders",
                stem(first),
                stem(second)
            )),
            (found, _) => Ok(found.map(|place| &self.texts[place].1)),
        }
    }
}

fn name_of(stem: &str) -> &str {
    stem.rsplit('/').next().unwrap_or(stem)
}

/// A path without its ending, with one kind of slash.
fn stem_of(path: &str) -> String {
    let path = path.trim().replace('\\', "/");
    let path = path.trim_start_matches("./");
    match path.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && !ending.contains('/') => stem.to_owned(),
        _ => path.to_owned(),
    }
}

/// Reads structured captions, grouped or flat. Variants with an empty field are left out, and those that repeat another of
/// their image word for word.
///
/// # Errors
/// [`SourceError::Row`] with the line; [`SourceError::Table`] for a file that holds none.
pub fn read_structured(bytes: &[u8]) -> Result<ByImage<Vec<StructuredText>>, SourceError> {
    let mut images: Gathered<Vec<StructuredText>> = Gathered::default();
    for (line, fields) in lines(bytes)? {
        let at = |problem: String| SourceError::Row { line, problem };
        let image = image_of(&fields).map_err(at)?;
        let variants = match fields.get("variants") {
            None => vec![variant(&fields).map_err(at)?],
            Some(Value::Array(list)) => {
                let one = |item: &Value| match item {
                    Value::Object(fields) => variant(fields),
                    _ => Err("`variants` holds what is no object".to_owned()),
                };
                list.iter().take(KEPT).map(one).collect::<Result<_, _>>().map_err(at)?
            }
            Some(_) => return Err(at("`variants` is no list".into())),
        };
        let kept = images.of(image);
        for variant in variants.into_iter().flatten() {
            if kept.len() < KEPT && !kept.contains(&variant) {
                kept.push(variant);
            }
        }
    }
    images.finish("structured captions")
}

/// Reads captions that images are asked with.
///
/// # Errors
/// As [`read_structured`]; an image that is there twice.
pub fn read_queries(bytes: &[u8]) -> Result<ByImage<String>, SourceError> {
    let mut images: Gathered<Option<Option<String>>> = Gathered::default();
    for (line, fields) in lines(bytes)? {
        let at = |problem: String| SourceError::Row { line, problem };
        let image = image_of(&fields).map_err(at)?;
        let caption = field(&fields, &["caption"]).map_err(at)?;
        let shown = image.escape_debug().to_string();
        if images.of(image).replace(caption).is_some() {
            return Err(at(format!("`{shown}` is there twice: keep one")));
        }
    }
    let read = images.finish("query captions")?;
    Ok(ByImage::new(read.texts.into_iter().filter_map(|(stem, text)| Some((stem, text??))).collect()))
}

/// Texts by image, in order of their first appearance.
struct Gathered<T> {
    texts: Vec<(String, T)>,
    places: HashMap<String, usize>,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { texts: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Default> Gathered<T> {
    fn of(&mut self, stem: String) -> &mut T {
        let place = match self.places.entry(stem) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.texts.push((new.key().clone(), T::default()));
                *new.insert(self.texts.len() - 1)
            }
        };
        &mut self.texts[place].1
    }

    fn finish(self, what: &str) -> Result<ByImage<T>, SourceError> {
        match self.texts.is_empty() {
            true => Err(SourceError::Table(format!("it holds no {what}"))),
            false => Ok(ByImage::new(self.texts)),
        }
    }
}

/// An object of a file with its line; of a JSON list with its number, from 1.
type Numbered = (u64, Map<String, Value>);

fn lines(bytes: &[u8]) -> Result<Vec<Numbered>, SourceError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    if bytes.first() == Some(&b'[') {
        let list: Vec<Map<String, Value>> = serde_json::from_slice(bytes)
            .map_err(|error| SourceError::Table(format!("no JSON list of objects: {error}")))?;
        return Ok((1..).zip(list).collect());
    }
    #[derive(Deserialize)]
    struct Line(Map<String, Value>);
    (1..)
        .zip(bytes.split(|&byte| byte == b'\n'))
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(number, line)| match serde_json::from_slice::<Line>(line) {
            Ok(Line(fields)) => Ok((number, fields)),
            Err(error) => Err(SourceError::Row { line: number, problem: format!("no JSON object: {error}") }),
        })
        .collect()
}

fn image_of(fields: &Map<String, Value>) -> Result<String, String> {
    let names = ["image", "image_path", "filename"];
    let path = names.iter().find_map(|name| fields.get(*name)).and_then(Value::as_str);
    let stem = path.map(stem_of).filter(|stem| !stem.is_empty() && !stem.ends_with('/'));
    stem.ok_or_else(|| format!("no path of an image in {}", names.join(", ")))
}

/// A text at the top or under `text`, by the first of its names that is there; `None`: it is blank.
fn field(fields: &Map<String, Value>, names: &[&str]) -> Result<Option<String>, String> {
    let inner = fields.get("text").and_then(Value::as_object);
    let places = [Some(fields), inner];
    let value = places.iter().flatten().find_map(|fields| names.iter().find_map(|name| fields.get(*name)));
    match value {
        Some(Value::String(text)) if text.len() > MAX_TEXT => {
            Err(format!("`{}` has {} bytes, at most {MAX_TEXT} are read", names[0], text.len()))
        }
        Some(Value::String(text)) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            Ok((!words.is_empty()).then(|| words.join(" ")))
        }
        Some(Value::Null) => Ok(None),
        Some(_) => Err(format!("`{}` is no text", names[0])),
        None => Err(format!("`{}` is missing", names.join("` or `"))),
    }
}

/// `None`: one of its fields is blank.
fn variant(fields: &Map<String, Value>) -> Result<Option<StructuredText>, String> {
    let one_sentence = field(fields, &["one_sentence", "one_sentence_caption"])?;
    let feature = field(fields, &["feature", "feature_analysis"])?;
    let caption = field(fields, &["caption"])?;
    Ok(match (one_sentence, feature, caption) {
        (Some(one_sentence), Some(feature), Some(caption)) => Some(StructuredText { one_sentence, feature, caption }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: usize) -> StructuredText {
        StructuredText { one_sentence: format!("s{number}"), feature: "f".into(), caption: format!("c {number}") }
    }

    fn json(number: usize) -> Value {
        serde_json::json!({"one_sentence": format!("s{number}"), "feature": " f ", "caption": format!("c\n {number}")})
    }

    #[test]
    fn grouped_and_flat_files_say_the_same() {
        let all: Vec<Value> = (0..7).map(json).collect();
        let grouped = serde_json::json!({"image": "images/a.b/x.tif", "variants": all, "model": "m"}).to_string();
        let kept: Vec<StructuredText> = (0..5).map(text).collect();
        let read = read_structured(format!("\u{feff}{grouped}\n\n").as_bytes()).unwrap();
        assert_eq!((read.len(), read.of("x").unwrap()), (1, Some(&kept)), "the first five");
        let flat = (0..7).map(|i| match i % 3 {
            0 => serde_json::json!({"image_path": "images\\a.b\\x.jpg", "text": json(i), "model": "m"}),
            1 => serde_json::json!({"image": "./images/a.b/x.jpg", "one_sentence_caption": format!("s{i}"),
                 "feature_analysis": "f", "caption": format!("c {i}")}),
            _ => {
                let mut line = json(i);
                line["image"] = "images/a.b/x.tif".into();
                line
            }
        });
        let flat: Vec<String> = flat.map(|line| line.to_string()).collect();
        assert_eq!(read_structured(flat.join("\n").as_bytes()).unwrap(), read);
        // a JSON list, too
        assert_eq!(read_structured(format!("[{}]", flat.join(",")).as_bytes()).unwrap(), read);
    }

    #[test]
    fn blank_and_repeated_variants_are_left_out() {
        let mut blank = json(3);
        blank["feature"] = " ".into();
        let grouped = serde_json::json!({"image": "x.tif", "variants": [json(1), blank, json(1), json(2)]}).to_string();
        assert_eq!(read_structured(grouped.as_bytes()).unwrap().of("x").unwrap(), Some(&vec![text(1), text(2)]));
        let none = serde_json::json!({"image": "x.tif", "variants": []}).to_string();
        assert_eq!(read_structured(none.as_bytes()).unwrap().of("x").unwrap(), Some(&Vec::new()));
    }

    #[test]
    fn an_image_is_found_by_its_path_or_the_end_of_it() {
        let line = |image: &str, caption: &str| serde_json::json!({"filename": image, "caption": caption}).to_string();
        let file = [line("a/x.tif", "1"), line("b/x.tif", "2"), line("c/y.tif", "3"), line("x.tif", "4")].join("\n");
        let read = read_queries(file.as_bytes()).unwrap();
        let of = |id: &str| read.of(id).unwrap().map(String::as_str);
        assert_eq!(
            [of("a/x"), of("b/x"), of("y"), of("x"), of("z"), of("d/y")],
            [Some("1"), Some("2"), Some("3"), Some("4"), None, None]
        );
        let file = [line("a/x.tif", "1"), line("b/x.tif", "2")].join("\n");
        let read = read_queries(file.as_bytes()).unwrap();
        assert!(read.of("x").unwrap_err().contains("a/x and of b/x"), "two folders with one name");
        assert_eq!(read.of("ax").unwrap(), None, "a part of a name is none");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let good = serde_json::json!({"image": "x.tif", "variants": [json(1)]}).to_string();
        for (bad, words) in [
            (r#"{"variants": []}"#.to_owned(), "no path of an image"),
            (r#"{"image": "", "variants": []}"#.to_owned(), "no path of an image"),
            (r#"{"image": "a/", "variants": []}"#.to_owned(), "no path of an image"),
            (r#"{"image": "y.tif", "variants": {}}"#.to_owned(), "no list"),
            (r#"{"image": "y.tif", "variants": [1]}"#.to_owned(), "no object"),
            (r#"{"image": "y.tif", "one_sentence": "a", "caption": "b"}"#.to_owned(), "feature_analysis"),
            (r#"{"image": "y.tif", "one_sentence": 1, "feature": "f", "caption": "b"}"#.to_owned(), "no text"),
            (
                format!(
                    r#"{{"image": "y.tif", "one_sentence": "{}", "feature": "f", "caption": "b"}}"#,
                    "x".repeat(70_000)
                ),
                "at most",
            ),
            ("[".to_owned(), "no JSON object"),
        ] {
            let why = read_structured(format!("{good}\n{bad}").as_bytes()).unwrap_err().to_string();
            assert!(why.contains(words) && why.contains('2'), "{bad}: {why}");
        }
        assert!(read_structured(b"").unwrap_err().to_string().contains("holds no"));
        let twice = r#"[{"image": "x.tif", "caption": "1"}, {"image": "x.jpg", "caption": "2"}]"#;
        assert!(read_queries(twice.as_bytes()).unwrap_err().to_string().contains("twice"));
        let inner = r#"{"image": "x.tif", "text": {"caption": " a  road "}}"#;
        assert_eq!(read_queries(inner.as_bytes()).unwrap().of("x").unwrap().unwrap(), "a road");
    }
}
