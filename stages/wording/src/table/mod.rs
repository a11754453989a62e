//! The word table: which tags can be seen from above, and what they are called.
//!
//! The words are in `data/*.tsv`, for people who map to edit; they are read once and checked by tests. To teach the crate a
//! word, add a line there; [`crate::unknown_tags`] counts what is missing.

mod reader;

use std::sync::LazyLock;

use reader::{Lines, group, noun, pairs};

/// How a tag value is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// "a house", "two houses".
    Count(&'static str),
    /// "grass": neither article nor plural.
    Mass(&'static str),
    /// "allotment gardens": already plural, never counted.
    Plural(&'static str),
    /// Known, but not to be seen from above.
    Hidden,
}

/// Tag values and their nouns, sorted by value.
pub type Nouns = Vec<(&'static str, Noun)>;

/// A key that says what an object is.
pub struct ObjectKey {
    pub key: &'static str,
    /// What a `yes` or a value outside the table is called; `None` drops the tag.
    pub generic: Option<Noun>,
    pub nouns: Nouns,
}

/// A second tag that gives an object a more exact noun: `leisure=pitch` + `sport=soccer`.
pub struct Refinement {
    pub key: &'static str,
    /// The values of `key` that are refined; empty: all.
    pub values: Vec<&'static str>,
    /// The key that refines.
    pub by: &'static str,
    pub nouns: Nouns,
}

/// Keys that are known and tell nothing about what a satellite sees.
pub struct NotVisible {
    /// Keys under one of these prefixes speak of what is gone or not yet there.
    pub gone_prefixes: Vec<&'static str>,
    /// Families of keys.
    pub prefixes: Vec<&'static str>,
    /// Single keys, sorted.
    pub keys: Vec<&'static str>,
}

/// Keys in the order in which they name an object that has several.
pub static OBJECT_KEYS: LazyLock<Vec<ObjectKey>> = LazyLock::new(|| {
    let of_key = |(key, lines): (&'static str, Lines)| {
        let (generic, values): (Lines, Lines) = lines.into_iter().partition(|line| line[1] == "*");
        let generic = generic.first().map(|line| noun(&line[2..]));
        ObjectKey { key, generic, nouns: values.iter().map(|line| (line[1], noun(&line[2..]))).collect() }
    };
    group(include_str!("../../data/objects.tsv"), |line| line[0]).into_iter().map(of_key).collect()
});

/// Refinements; the first that applies names the object.
pub static REFINEMENTS: LazyLock<Vec<Refinement>> = LazyLock::new(|| {
    let of_object = |((object, by), lines): ((&'static str, &'static str), Lines)| {
        let (key, values) = object.split_once('=').unwrap_or((object, "*"));
        let shared = lines.iter().find(|line| line[3] == "as").and_then(|line| object_key(line[4]));
        let nouns = || lines.iter().map(|line| (line[2], noun(&line[3..]))).collect();
        Refinement {
            key,
            values: values.split('|').filter(|&value| value != "*").collect(),
            by,
            nouns: shared.map_or_else(nouns, |object| object.nouns.clone()),
        }
    };
    let lines = group(include_str!("../../data/refinements.tsv"), |line| (line[0], line[1]));
    lines.into_iter().map(of_object).collect()
});

/// Keys that nothing is to be seen of.
pub static NOT_VISIBLE: LazyLock<NotVisible> = LazyLock::new(|| {
    let lines = group(include_str!("../../data/not_visible.tsv"), |line| line[0]);
    let of = |kind: &str| {
        let lines = lines.iter().filter(|(found, _)| *found == kind).flat_map(|(_, lines)| lines);
        lines.map(|line| line[1]).collect()
    };
    NotVisible { gone_prefixes: of("gone"), prefixes: of("prefix"), keys: of("key") }
});

type Words = Vec<(&'static str, Vec<(&'static str, &'static str)>)>;

static ATTRIBUTES: LazyLock<Words> = LazyLock::new(|| pairs(include_str!("../../data/attributes.tsv")));
static FOREIGN: LazyLock<Words> = LazyLock::new(|| pairs(include_str!("../../data/foreign.tsv")));

/// The word for what a tag says about an object besides its name: "gabled" for `roof:shape=gabled`.
pub fn attribute(key: &str, value: &str) -> Option<&'static str> {
    find(&ATTRIBUTES.iter().find(|(of, _)| *of == key)?.1, value)
}

/// OpenStreetMap's value for a word of another language under this key.
pub fn english(key: &str, value: &str) -> Option<&'static str> {
    find(&FOREIGN.iter().find(|(of, _)| *of == key)?.1, value)
}

/// The entry of `value` in a sorted list.
pub fn find<T: Copy>(sorted: &[(&'static str, T)], value: &str) -> Option<T> {
    sorted.binary_search_by(|(entry, _)| (*entry).cmp(value)).ok().map(|index| sorted[index].1)
}

pub fn object_key(key: &str) -> Option<&'static ObjectKey> {
    OBJECT_KEYS.iter().find(|object| object.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tags;
    use crate::clean::clean_tags;

    fn assert_sorted<T>(name: &str, list: &[(&str, T)]) {
        for pair in list.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{name}: {} before {}", pair[0].0, pair[1].0);
        }
    }

    fn assert_plain(words: &str) {
        let plain = |c: char| c.is_ascii_lowercase() || c == '-' || c == ' ';
        assert!(words.chars().all(plain) && words == words.trim() && !words.contains("  "), "{words:?}");
    }

    #[test]
    fn every_list_is_sorted() {
        OBJECT_KEYS.iter().for_each(|entry| assert_sorted(entry.key, &entry.nouns));
        REFINEMENTS.iter().for_each(|entry| assert_sorted(entry.by, &entry.nouns));
        ATTRIBUTES.iter().chain(FOREIGN.iter()).for_each(|(key, words)| assert_sorted(key, words));
        assert!(NOT_VISIBLE.keys.is_sorted());
    }

    #[test]
    fn every_word_is_plain_english_text() {
        let nouns = OBJECT_KEYS
            .iter()
            .flat_map(|entry| entry.nouns.iter().map(|(_, noun)| *noun).chain(entry.generic))
            .chain(REFINEMENTS.iter().flat_map(|entry| entry.nouns.iter().map(|(_, noun)| *noun)));
        for noun in nouns {
            match noun {
                Noun::Count(words) | Noun::Mass(words) | Noun::Plural(words) => assert_plain(words),
                Noun::Hidden => {}
            }
        }
        ATTRIBUTES.iter().flat_map(|(_, words)| words).for_each(|(_, word)| assert_plain(word));
    }

    #[test]
    fn refinements_refine_known_objects() {
        for refinement in REFINEMENTS.iter() {
            let object = object_key(refinement.key).expect(refinement.key);
            for value in &refinement.values {
                assert!(find(&object.nouns, value).is_some(), "{}={value}", refinement.key);
            }
        }
        let pitch = REFINEMENTS.iter().find(|refinement| refinement.values == ["pitch"]).unwrap();
        assert_eq!(find(&pitch.nouns, "soccer"), Some(Noun::Count("soccer pitch")));
    }

    #[test]
    fn every_part_of_the_table_is_read() {
        assert!(OBJECT_KEYS.len() > 20 && REFINEMENTS.len() > 20);
        let NotVisible { gone_prefixes, prefixes, keys } = &*NOT_VISIBLE;
        assert!([gone_prefixes, prefixes, keys].iter().all(|list| list.len() > 5));
        for key in ["surface", "roof:shape", "roof:material", "crossing"] {
            assert!(ATTRIBUTES.iter().any(|(of, words)| *of == key && words.len() > 3), "{key}");
        }
    }

    #[test]
    fn words_of_other_languages_are_lower_case_and_lead_to_known_values() {
        for (key, words) in FOREIGN.iter() {
            for (foreign, value) in words {
                assert_eq!(foreign.to_lowercase(), *foreign);
                let clean = |value: &str| clean_tags(&Tags::from([((*key).to_owned(), value.to_owned())]));
                assert_eq!(clean(foreign), clean(value), "{key}={foreign}");
                assert_eq!(clean(value).get(*key).map(String::as_str), Some(*value), "{key}={value} is not known");
            }
        }
    }
}
