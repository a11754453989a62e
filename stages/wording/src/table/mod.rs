//! The word table: which tags can be seen from above, and what they are called. Data only.
//!
//! To teach the crate a word, add a line here; [`crate::unknown_tags`] counts what is missing.
//! All value lists are sorted, because they are searched by bisection (a test keeps them so).

mod attributes;
mod foreign;
mod not_visible;
mod objects;
mod refinements;

pub use attributes::{MARKINGS, ROOF_MATERIALS, ROOF_SHAPES, SURFACES};
pub use foreign::english;
pub use not_visible::{LIFECYCLE_PREFIXES, NOT_VISIBLE_KEYS, NOT_VISIBLE_PREFIXES};
pub use objects::OBJECT_KEYS;
pub use refinements::REFINEMENTS;

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
pub type Nouns = &'static [(&'static str, Noun)];

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
    pub values: &'static [&'static str],
    /// The key that refines.
    pub by: &'static str,
    pub nouns: Nouns,
}

/// The entry of `value` in a sorted list.
pub fn find<T: Copy>(sorted: &'static [(&'static str, T)], value: &str) -> Option<T> {
    sorted.binary_search_by(|(entry, _)| (*entry).cmp(value)).ok().map(|index| sorted[index].1)
}

pub fn object_key(key: &str) -> Option<&'static ObjectKey> {
    OBJECT_KEYS.iter().find(|object| object.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        OBJECT_KEYS.iter().for_each(|entry| assert_sorted(entry.key, entry.nouns));
        REFINEMENTS.iter().for_each(|entry| assert_sorted(entry.by, entry.nouns));
        assert_sorted("surface", SURFACES);
        assert_sorted("roof:shape", ROOF_SHAPES);
        assert_sorted("roof:material", ROOF_MATERIALS);
        assert_sorted("crossing", MARKINGS);
        assert!(NOT_VISIBLE_KEYS.is_sorted());
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
        for list in [SURFACES, ROOF_SHAPES, ROOF_MATERIALS, MARKINGS] {
            list.iter().for_each(|(_, words)| assert_plain(words));
        }
    }

    #[test]
    fn refinements_refine_known_objects() {
        for refinement in REFINEMENTS {
            let object = object_key(refinement.key).expect(refinement.key);
            for value in refinement.values {
                assert!(find(object.nouns, value).is_some(), "{}={value}", refinement.key);
            }
        }
    }
}
