//! Structured captions: several texts of three fields for an image, which text can be searched with text
//! (TRSLLaVA, arXiv 2512.10596). Written from tags here, or read out of a language model's answers.

mod answer;
mod compose;
mod object;

pub use answer::{AnswerProblem, parse_answer, whole_objects};
pub use compose::{variants_from_scene, variants_from_tags};

use crate::normalise::normalise_caption;

/// Variants that every image is to have.
pub const VARIANTS: usize = 5;

/// Longest field in characters.
pub const MAX_FIELD_CHARS: usize = 600;

/// One description of an image in three fields, none empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The whole image in one sentence.
    pub one_sentence: String,
    /// What stands out.
    pub feature: String,
    /// A longer description.
    pub caption: String,
}

/// A field of a [`Variant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// [`Variant::one_sentence`].
    OneSentence,
    /// [`Variant::feature`].
    Feature,
    /// [`Variant::caption`].
    Caption,
}

impl Field {
    /// All, in the order in which they stand in a text.
    pub const ALL: [Field; 3] = [Field::OneSentence, Field::Feature, Field::Caption];
}

impl Variant {
    /// The one string that is embedded, of these fields.
    pub fn text_of(&self, fields: &[Field]) -> String {
        let lines = Field::ALL.into_iter().filter(|field| fields.contains(field)).map(|field| match field {
            Field::OneSentence => format!("ONE_SENTENCE: {}", self.one_sentence),
            Field::Feature => format!("FEATURE: {}", self.feature),
            Field::Caption => format!("CAPTION: {}", self.caption),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The one string that is embedded, of all fields.
    pub fn embedding_text(&self) -> String {
        self.text_of(&Field::ALL)
    }

    /// Key under which two variants count as equal: letters, digits and words, not case or punctuation.
    pub fn key(&self) -> String {
        [&self.one_sentence, &self.feature, &self.caption].map(|field| normalise_caption(field)).join("\n")
    }
}

/// Variants kept so far, no two equal, at most [`VARIANTS`].
#[derive(Debug, Default)]
pub struct Variants {
    kept: Vec<Variant>,
    keys: std::collections::HashSet<String>,
}

impl Variants {
    /// `false` when an equal one is there, or five are.
    pub fn add(&mut self, variant: Variant) -> bool {
        let new = self.kept.len() < VARIANTS && self.keys.insert(variant.key());
        if new {
            self.kept.push(variant);
        }
        new
    }

    /// How many variants are still wanted, of [`VARIANTS`].
    pub fn missing(&self) -> usize {
        VARIANTS - self.kept.len()
    }

    /// The variants, in the order in which they were added.
    pub fn into_inner(self) -> Vec<Variant> {
        self.kept
    }

    /// How many variants there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(one_sentence: &str, caption: &str) -> Variant {
        Variant { one_sentence: one_sentence.into(), feature: "a lake".into(), caption: caption.into() }
    }

    #[test]
    fn a_variant_is_embedded_as_one_string() {
        let text = variant("A lake.", "A lake with a pier.").embedding_text();
        assert_eq!(text, "ONE_SENTENCE: A lake.\nFEATURE: a lake\nCAPTION: A lake with a pier.");
    }

    #[test]
    fn five_are_kept_and_none_twice() {
        let mut variants = Variants::default();
        assert!(variants.add(variant("A lake.", "x")) && !variants.add(variant("a  LAKE", "x!")));
        assert!(variants.add(variant("A lake.", "y")), "one field is enough of a difference");
        (0..5).for_each(|i| _ = variants.add(variant(&format!("lake {i}"), "z")));
        assert_eq!((variants.len(), variants.missing()), (5, 0));
        assert!(!variants.add(variant("a sixth", "z")));
        // fields do not run into each other
        assert_ne!(variant("a b", "c").key(), Variant { feature: "b a lake".into(), ..variant("a", "c") }.key());
    }
}
