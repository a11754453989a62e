//! The caption of an image from the tags of its centre object and of the objects around it.

use std::collections::BTreeMap;

use crate::Tags;
use crate::english::{list, number, plural, with_article};
use crate::object::Object;
use crate::table::Noun;

/// Longest caption in characters: it stays well inside CLIP's context of 77 tokens.
pub const MAX_CAPTION_CHARS: usize = 240;

/// At most so many kinds of surrounding objects are named, the most frequent first.
pub const MAX_SURROUNDING_KINDS: usize = 5;

/// One object in plain English with its article: "a soccer pitch", "a residential road with an asphalt
/// surface", "a church with a red roof". `None` when nothing of it can be seen from above and named.
pub fn phrase(tags: &Tags) -> Option<String> {
    Object::from_tags(tags).map(|object| object.phrase())
}

/// What kind of object it is, with its article: "a soccer pitch", "grass". `None` as of [`phrase`].
pub fn kind(tags: &Tags) -> Option<String> {
    Object::from_tags(tags).map(|object| object.kind())
}

/// "a satellite image of a soccer pitch, surrounded by two residential roads and a house".
///
/// Surrounding objects are named and counted, not described; their order does not matter. Without a nameable
/// centre the surroundings are the subject. `None` when nothing can be named. At most
/// [`MAX_CAPTION_CHARS`] long.
pub fn caption(center: &Tags, surrounding: &[Tags]) -> Option<String> {
    const PREFIX: &str = "a satellite image of ";
    describe(center, surrounding, MAX_CAPTION_CHARS - PREFIX.len()).map(|scene| format!("{PREFIX}{scene}"))
}

/// The caption without its "a satellite image of", at most `max_chars` long.
pub(crate) fn describe(center: &Tags, surrounding: &[Tags], max_chars: usize) -> Option<String> {
    let center = Object::from_tags(center);
    let center_noun = center.as_ref().map(|object| object.noun);
    let kinds = count_kinds(surrounding, center_noun);
    let center = center.map(|object| object.phrase());
    (0..=kinds.len().min(MAX_SURROUNDING_KINDS))
        .rev()
        .filter_map(|named| sentence(center.as_deref(), &kinds[..named]))
        .find(|sentence| sentence.len() <= max_chars)
}

/// The centre with its article, and the most frequent surrounding kinds, counted.
pub(crate) fn scene(center: &Tags, surrounding: &[Tags]) -> (Option<String>, Vec<String>) {
    let center = Object::from_tags(center);
    let mut kinds = count_kinds(surrounding, center.as_ref().map(|object| object.noun));
    kinds.truncate(MAX_SURROUNDING_KINDS);
    (center.map(|object| object.phrase()), kinds)
}

fn sentence(center: Option<&str>, kinds: &[String]) -> Option<String> {
    match (center, kinds) {
        (None, []) => None,
        (Some(center), []) => Some(center.to_owned()),
        (None, kinds) => Some(list(kinds)),
        (Some(center), kinds) => Some(format!("{center}, surrounded by {}", list(kinds))),
    }
}

/// "two residential roads", "a house": the surrounding objects by kind, most frequent first, then by word.
fn count_kinds(surrounding: &[Tags], center: Option<Noun>) -> Vec<String> {
    let mut counts: BTreeMap<&'static str, (usize, Noun)> = BTreeMap::new();
    for object in surrounding.iter().filter_map(Object::from_tags) {
        if let Noun::Count(word) | Noun::Mass(word) | Noun::Plural(word) = object.noun {
            counts.entry(word).or_insert((0, object.noun)).0 += 1;
        }
    }
    let mut kinds: Vec<(usize, Noun)> = counts.into_values().collect();
    kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    kinds.into_iter().map(|(count, noun)| counted(count, noun, Some(noun) == center)).collect()
}

/// "a house", "three houses", "many trees", "grass"; beside an equal centre "another house".
fn counted(count: usize, noun: Noun, like_center: bool) -> String {
    match (noun, count) {
        (Noun::Count(noun), 1) if like_center => format!("another {noun}"),
        (Noun::Count(noun), 1) => with_article(noun),
        (Noun::Count(noun), _) if like_center => {
            format!("{} other {}", number(count), plural(noun))
        }
        (Noun::Count(noun), _) => format!("{} {}", number(count), plural(noun)),
        (Noun::Mass(noun), _) if like_center => format!("more {noun}"),
        (Noun::Plural(noun), _) if like_center => format!("other {noun}"),
        (Noun::Mass(noun) | Noun::Plural(noun), _) => noun.to_owned(),
        (Noun::Hidden, _) => String::new(),
    }
}
