//! Tags cut down to what a satellite can see, and an account of what was dropped.

use serde::Serialize;

use crate::Tags;
use crate::colour::plain_colour;
use crate::table::{NOT_VISIBLE, NotVisible, Noun, REFINEMENTS, attribute, english, find, object_key};

/// OpenStreetMap allows 255 characters for a key and for a value; longer ones are not tags.
const MAX_TAG_BYTES: usize = 4 * 255;

/// Objects with one of these tags lie under the ground, under a roof or under another object.
const OUT_OF_SIGHT: &[(&str, &[&str])] = &[
    ("indoor", &["yes", "room", "corridor", "area"]),
    ("location", &["underground", "indoor", "underwater"]),
    ("parking", &["underground"]),
    ("tunnel", &["yes", "culvert", "building_passage", "covered", "flooded"]),
];

/// Why a tag takes no part in wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Known, and not to be seen from above: names, addresses, benches, everything in a tunnel.
    NotVisible,
    /// The word table does not know the key.
    UnknownKey,
    /// The word table knows the key but not this value; a general word is used where there is one
    /// (`building=haubarg` is still a building).
    UnknownValue,
}

/// A tag that [`clean_tags`] dropped, or kept without its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnknownTag {
    /// Key of the tag, as OpenStreetMap has it.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Why the tag, or its value, was dropped.
    pub reason: DropReason,
}

/// What becomes of one tag.
enum Verdict {
    /// Kept, with the value as the word table spells it.
    Keep(String),
    /// Kept as `key=yes`: the value is not in the word table.
    KeepKey,
    Drop(DropReason),
}

/// The tags that say what can be seen from above, with values of the word table only.
///
/// Names, addresses, references, rights of way and the like go; so do values outside the table (they become
/// `yes` where the key alone means something) and every tag of an object in a tunnel or underground.
/// Idempotent: `clean_tags(&clean_tags(t)) == clean_tags(t)`.
pub fn clean_tags(tags: &Tags) -> Tags {
    if is_out_of_sight(tags) {
        return Tags::new();
    }
    tags.iter()
        .filter_map(|(key, value)| match judge(key, value) {
            Verdict::Keep(value) => Some((key.clone(), value)),
            Verdict::KeepKey => Some((key.clone(), "yes".to_owned())),
            Verdict::Drop(_) => None,
        })
        .collect()
}

/// The tags that [`clean_tags`] drops or generalises, with the reason of each, in key order.
pub fn unknown_tags(tags: &Tags) -> Vec<UnknownTag> {
    let out_of_sight = is_out_of_sight(tags);
    tags.iter()
        .filter_map(|(key, value)| {
            let reason = match judge(key, value) {
                Verdict::Drop(reason) => reason,
                Verdict::KeepKey => DropReason::UnknownValue,
                Verdict::Keep(_) if out_of_sight => DropReason::NotVisible,
                Verdict::Keep(_) => return None,
            };
            Some(UnknownTag { key: key.clone(), value: value.clone(), reason })
        })
        .collect()
}

fn is_out_of_sight(tags: &Tags) -> bool {
    OUT_OF_SIGHT
        .iter()
        .any(|(key, values)| tags.get(*key).is_some_and(|value| values.contains(&first_value(value).as_str())))
}

fn judge(key: &str, value: &str) -> Verdict {
    if key.len().max(value.len()) > MAX_TAG_BYTES {
        return Verdict::Drop(DropReason::UnknownKey);
    }
    let mut value = first_value(value);
    if let Some(english) = english(key, &value) {
        value = english.to_owned();
    }
    let object = object_key(key);
    match object.and_then(|object| find(&object.nouns, &value)) {
        Some(Noun::Hidden) => return Verdict::Drop(DropReason::NotVisible),
        Some(_) => return Verdict::Keep(value),
        None => {}
    }
    let refinements = || REFINEMENTS.iter().filter(|refinement| refinement.by == key);
    match refinements().find_map(|refinement| find(&refinement.nouns, &value)) {
        Some(Noun::Hidden) => return Verdict::Drop(DropReason::NotVisible),
        Some(_) => return Verdict::Keep(value),
        None => {}
    }
    if let Some(verdict) = judge_attribute(key, &value) {
        return verdict;
    }
    match object {
        Some(_) if value == "no" => Verdict::Drop(DropReason::NotVisible),
        Some(object) if object.generic.is_some() && value == "yes" => Verdict::Keep(value),
        Some(object) if object.generic.is_some() => Verdict::KeepKey,
        Some(_) => Verdict::Drop(DropReason::UnknownValue),
        None if is_not_visible(key) => Verdict::Drop(DropReason::NotVisible),
        None if refinements().next().is_some() => Verdict::Drop(DropReason::UnknownValue),
        None => Verdict::Drop(DropReason::UnknownKey),
    }
}

/// The keys of [`judge_attribute`].
pub(crate) const ATTRIBUTE_KEYS: &[&str] = &[
    "bridge",
    "crossing",
    "crossing:markings",
    "crossing_ref",
    "lanes",
    "roof:colour",
    "roof:material",
    "roof:shape",
    "surface",
];

/// The verdict on a tag that describes an object; `None` when `key` is no such key.
fn judge_attribute(key: &str, value: &str) -> Option<Verdict> {
    let kept = match key {
        "surface" | "roof:shape" | "roof:material" => attribute(key, value).map(|_| value),
        "roof:colour" => plain_colour(value),
        "crossing" | "crossing:markings" | "crossing_ref" => attribute("crossing", value).map(|_| value),
        "lanes" => value.parse::<u8>().ok().filter(|lanes| (2..=12).contains(lanes)).map(|_| value),
        "bridge" if value == "no" => None,
        "bridge" if value == "yes" => Some(value),
        "bridge" => return Some(Verdict::KeepKey),
        _ => return None,
    };
    Some(match kept {
        Some(value) => Verdict::Keep(value.to_owned()),
        None if matches!(value, "no" | "1" | "uncontrolled" | "unmarked") => Verdict::Drop(DropReason::NotVisible),
        None => Verdict::Drop(DropReason::UnknownValue),
    })
}

fn is_not_visible(key: &str) -> bool {
    let NotVisible { gone_prefixes, prefixes, keys } = &*NOT_VISIBLE;
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    keys.binary_search(&key).is_ok() || starts(prefixes) || starts(gone_prefixes)
}

/// The first of a `;` list, trimmed, in lower case: "Soccer; basketball" → "soccer".
fn first_value(value: &str) -> String {
    let first = value.split(';').next().unwrap_or_default();
    first.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tags;

    #[test]
    fn what_cannot_be_seen_is_dropped() {
        let raw = tags(&[
            ("highway", "track"),
            ("tracktype", "grade2"),
            ("name", "Weg"),
            ("name:de", "Weg"),
            ("addr:street", "Hauptstraße"),
            ("ref", "B 85"),
            ("source", "survey"),
            ("wikidata", "Q1"),
            ("opening_hours", "24/7"),
            ("operator", "Stadt"),
            ("note", "muddy"),
            ("surface", "gravel"),
        ]);
        assert_eq!(clean_tags(&raw), tags(&[("highway", "track"), ("surface", "gravel")]));
        let dropped = unknown_tags(&raw);
        assert_eq!(dropped.len(), 10);
        assert!(dropped.iter().all(|tag| tag.reason == DropReason::NotVisible), "{dropped:?}");
    }

    #[test]
    fn unknown_values_become_general_or_go() {
        let raw =
            tags(&[("building", "Haubarg"), ("leisure", "wormhole"), ("flux", "high"), ("roof:colour", "#b22222")]);
        assert_eq!(clean_tags(&raw), tags(&[("building", "yes"), ("roof:colour", "red")]));
        let reasons: Vec<_> = unknown_tags(&raw).into_iter().map(|tag| (tag.key, tag.reason)).collect();
        assert_eq!(
            reasons,
            [
                ("building".to_owned(), DropReason::UnknownValue),
                ("flux".to_owned(), DropReason::UnknownKey),
                ("leisure".to_owned(), DropReason::UnknownValue),
            ]
        );
    }

    #[test]
    fn objects_out_of_sight_vanish() {
        for hiding in [("tunnel", "yes"), ("location", "underground"), ("parking", "underground")] {
            let raw = tags(&[("highway", "primary"), ("amenity", "parking"), hiding]);
            assert!(clean_tags(&raw).is_empty(), "{hiding:?}");
            assert_eq!(unknown_tags(&raw).len(), 3);
        }
        let bridge = tags(&[("highway", "primary"), ("tunnel", "no")]);
        assert_eq!(clean_tags(&bridge), tags(&[("highway", "primary")]));
    }

    #[test]
    fn lists_take_their_first_value() {
        let raw = tags(&[("leisure", "Pitch"), ("sport", " Soccer;basketball")]);
        assert_eq!(clean_tags(&raw), tags(&[("leisure", "pitch"), ("sport", "soccer")]));
    }
}
