//! OpenStreetMap tags into the plain English that captioners and text encoders understand.
//!
//! A captioner given raw tags repeats what it does not understand ("tracktype is grade2") or takes a word
//! for its other meaning (a golf driving range for a road): UrbanCross, appendix A.1.3. So tags are first
//! cut down to what can be seen from above ([`clean_tags`]) and then named from one closed word table:
//!
//! ```
//! use wording::{Tags, caption};
//! let tags = |pairs: &[(&str, &str)]| -> Tags { pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() };
//! let pitch = tags(&[("leisure", "pitch"), ("sport", "soccer"), ("name", "Jahnplatz")]);
//! let road = tags(&[("highway", "residential")]);
//! assert_eq!(
//!     caption(&pitch, &[road.clone(), road]).as_deref(),
//!     Some("a satellite image of a soccer pitch, surrounded by two residential roads"),
//! );
//! ```
//!
//! Because the table is closed, no text that somebody typed into a map reaches a caption; what the table does
//! not know is dropped and can be counted ([`unknown_tags`]). Everything here is a pure function of its
//! arguments: no clock, no store, no randomness, no dependence on the order of the surrounding objects.

mod caption;
mod clean;
mod colour;
mod english;
mod grammar;
mod grounding;
mod normalise;
mod object;
mod phrases;
mod plain_text;
mod structured;
mod table;
mod title;
mod treatment;

use std::collections::BTreeMap;

pub use caption::{MAX_CAPTION_CHARS, MAX_SURROUNDING_KINDS, caption, kind, phrase};
pub use clean::{DropReason, UnknownTag, clean_tags, unknown_tags};
pub use grammar::{geotags_text, skyscript_title};
pub use grounding::{Grounding, grounding};
pub use normalise::normalise_caption;
pub use phrases::{MAX_PHRASES, phrases};
pub use plain_text::{LineProblem, written_line};
pub use structured::{
    AnswerProblem, Field, MAX_FIELD_CHARS, VARIANTS, Variant, Variants, parse_answer, variants_from_scene,
    variants_from_tags, whole_objects,
};
pub use title::caption_from_title;
pub use treatment::{Letters, TextTreatment};

/// The tags of one OpenStreetMap object.
pub type Tags = BTreeMap<String, String>;

#[cfg(test)]
pub(crate) fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
