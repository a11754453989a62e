//! Captions for images that come without tags: SkyScript's titles read back into tags.

use std::sync::LazyLock;

use crate::Tags;
use crate::caption::{MAX_CAPTION_CHARS, describe};
use crate::clean::ATTRIBUTE_KEYS;
use crate::grammar::spoken_key;
use crate::object::Object;
use crate::plain_text::clean_line;
use crate::table::{NOT_VISIBLE, OBJECT_KEYS, REFINEMENTS, find};

/// Titles are read up to this length; a real one has some hundred characters.
const MAX_TITLE_CHARS: usize = 4_000;

const SATELLITE: &str = "a satellite image of ";
const AERIAL: &str = "an aerial image of ";

/// How titles begin, and how the caption then begins.
const OPENINGS: [(&str, &str); 5] = [
    ("a satellite image of", SATELLITE),
    ("an aerial image of", AERIAL),
    ("a satellite image. it shows:", SATELLITE),
    ("an aerial image. it shows:", AERIAL),
    ("a satellite photo of", SATELLITE),
];

/// The same natural English as [`crate::caption`], from a title: SkyScript's grammar is read back into tags.
///
/// `title_multi_objects` is preferred, because it also tells the surroundings. Polished titles ("An aerial
/// image. It shows: …") are understood too. A title in no known grammar is returned as it is, on one line,
/// without invisible characters, and cut to [`MAX_CAPTION_CHARS`]. `None` when there is nothing to say.
pub fn caption_from_title(title: &str, title_multi_objects: Option<&str>) -> Option<String> {
    let title = clean_line(title, MAX_TITLE_CHARS);
    let multi = clean_line(title_multi_objects.unwrap_or_default(), MAX_TITLE_CHARS);
    [&multi, &title]
        .into_iter()
        .find_map(|line| caption_from_grammar(line))
        .or_else(|| free_caption(&title))
        .or_else(|| free_caption(&multi))
}

fn caption_from_grammar(line: &str) -> Option<String> {
    let (opening, scene) = split_opening(line);
    let (center, surrounding) = parse_scene(&scene.to_lowercase())?;
    let opening = opening.unwrap_or(SATELLITE);
    describe(&center, &surrounding, MAX_CAPTION_CHARS - opening.len()).map(|scene| format!("{opening}{scene}"))
}

/// A sentence that somebody wrote: only a polished opening is put into words that read on.
fn free_caption(line: &str) -> Option<String> {
    let (opening, scene) = split_opening(line);
    let scene = scene.trim();
    if scene.is_empty() {
        return None;
    }
    let is_polished = line.get(..line.len() - scene.len()).is_some_and(|start| start.contains(':'));
    let text = match opening.filter(|_| is_polished) {
        Some(opening) => format!("{opening}{}", lower_first_word(scene.trim_end_matches(['.', ' ']))),
        None => line.to_owned(),
    };
    Some(clean_line(&text, MAX_CAPTION_CHARS)).filter(|text| !text.is_empty())
}

/// The opening of the caption and the rest of the title; a polished title may hold a raw one.
fn split_opening(line: &str) -> (Option<&'static str>, &str) {
    let (mut opening, mut rest) = (None, line);
    while let Some((next, stripped)) = OPENINGS.iter().find_map(|(start, opening)| {
        let (head, stripped) = rest.split_at_checked(start.len())?;
        let ends_word = stripped.is_empty() || stripped.starts_with(' ');
        (ends_word && head.eq_ignore_ascii_case(start)).then(|| (*opening, stripped.trim_start()))
    }) {
        opening = opening.or(Some(next));
        rest = stripped;
    }
    (opening, rest)
}

/// "Two ponds" → "two ponds"; "NATO base" stays.
fn lower_first_word(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(first), second) if second.is_none_or(|second| !second.is_uppercase()) => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// The centre's tags and the surrounding objects' of "X with A and B, surrounded by Y; Z"; `None` when the
/// text is not in the grammar. Surrounding items that are not are skipped.
fn parse_scene(scene: &str) -> Option<(Tags, Vec<Tags>)> {
    let scene = scene.trim_end_matches(['.', ';', ' ']);
    let (center, surrounding) = match scene.find("surrounded by ") {
        Some(at) => (&scene[..at], &scene[at + "surrounded by ".len()..]),
        None => (scene, ""),
    };
    let mut center_tags = Tags::new();
    for part in center.split([',', ';']).map(str::trim).filter(|part| !part.is_empty()) {
        for (key, value) in parse_item(part)? {
            center_tags.entry(key).or_insert(value);
        }
    }
    let surrounding: Vec<Tags> = surrounding.split([',', ';']).filter_map(parse_item).collect();
    // Without one object that the word table names, the text only happens to look like the grammar.
    let named =
        Object::from_tags(&center_tags).is_some() || surrounding.iter().any(|tags| Object::from_tags(tags).is_some());
    named.then_some((center_tags, surrounding))
}

/// "road of crossing with crossing of zebra and surface of asphalt" → its tags.
fn parse_item(text: &str) -> Option<Tags> {
    let text = text.trim();
    let (focus, attributes) = text.split_once(" with ").unwrap_or((text, ""));
    let mut tags = Tags::from([parse_known_tag(focus)?]);
    for attribute in attributes.split(" and ") {
        if let Some((key, value)) = parse_known_tag(attribute) {
            tags.entry(key).or_insert(value);
        }
    }
    // "building with a red door" is a sentence, not the grammar.
    let understood = attributes.is_empty() || attributes.contains(" of ") || tags.len() > 1;
    understood.then_some(tags)
}

/// Every key the crate knows beside its spoken form, longest first: "generator source of solar" is not
/// "generator" with a strange value.
static SPOKEN_KEYS: LazyLock<Vec<(String, &'static str)>> = LazyLock::new(|| {
    let keys = OBJECT_KEYS.iter().map(|object| object.key);
    let keys = keys
        .chain(REFINEMENTS.iter().map(|refinement| refinement.by))
        .chain(ATTRIBUTE_KEYS.iter().copied())
        .chain(NOT_VISIBLE.keys.iter().copied());
    let mut spoken: Vec<(String, &str)> = keys.map(|key| (spoken_key(key), key)).collect();
    spoken.push(("land use".to_owned(), "landuse"));
    spoken.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
    spoken.dedup();
    spoken
});

/// "road of residential", "building" (= yes), "natural tree" (only for values that the word table knows).
fn parse_known_tag(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    SPOKEN_KEYS.iter().find_map(|(spoken, key)| {
        let rest = text.strip_prefix(spoken.as_str())?;
        let value = match rest.strip_prefix(" of ") {
            _ if rest.is_empty() => "yes".to_owned(),
            Some(value) => value.trim().replace(' ', "_"),
            None => Some(rest.strip_prefix(' ')?.replace(' ', "_")).filter(|value| is_known_value(key, value))?,
        };
        Some(((*key).to_owned(), value))
    })
}

fn is_known_value(key: &str, value: &str) -> bool {
    let object = OBJECT_KEYS.iter().filter(|object| object.key == key).map(|object| &object.nouns);
    let refinement = REFINEMENTS.iter().filter(|refinement| refinement.by == key).map(|refinement| &refinement.nouns);
    object.chain(refinement).any(|nouns| find(nouns, value).is_some())
}
