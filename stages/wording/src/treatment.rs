//! What is done to a caption before a network reads it, as the evaluations of published models do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a template takes the caption up.
const PLACE: &str = "{}";
/// Characters that a treatment without punctuation removes, as PIR's evaluation does.
const REMOVED: &str = ",.'!?\"()*#:;~";
/// Longest template that makes sense, in bytes.
const MOST_TEMPLATE: usize = 1000;

/// What becomes of letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Letters {
    /// They stay.
    #[default]
    AsIs,
    /// All are small.
    Lower,
    /// The first of a caption is large and all others are small, as RemoteCLIP's evaluation has it.
    Capitalize,
}

/// What is done to each caption. Without anything said, nothing.
///
/// ```
/// use wording::TextTreatment;
/// let treatment: TextTreatment = "capitalize+no-punctuation".parse()?;
/// assert_eq!(treatment.apply("a Road, wide ."), "A road wide");
/// assert_eq!(treatment.with_template("a satellite image. {}")?.apply("a road"), "a satellite image. A road");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextTreatment {
    /// What becomes of letters.
    pub letters: Letters,
    /// `,.'!?"()*#:;~` are removed, `-` and `/` become blanks, and blanks in a row one.
    pub no_punctuation: bool,
    /// A text with `{}` where the caption goes; empty: the caption alone.
    pub template: String,
}

impl TextTreatment {
    /// The same with a template around each caption.
    ///
    /// # Errors
    /// A template without a place for the caption, or with two, or a very long one.
    pub fn with_template(mut self, template: &str) -> Result<Self, String> {
        match template.matches(PLACE).count() {
            1 if template.len() <= MOST_TEMPLATE => self.template = template.to_owned(),
            1 => return Err(format!("the template has more than {MOST_TEMPLATE} bytes")),
            places => {
                return Err(format!(
                    "the template {template:?} has {places} places {PLACE} for the caption and needs one, as in \
                     \"a satellite image. {PLACE}\""
                ));
            }
        }
        Ok(self)
    }

    /// The text that a network reads in place of a caption.
    pub fn apply(&self, caption: &str) -> String {
        let mut text = match self.no_punctuation {
            false => caption.to_owned(),
            true => {
                let kept = caption.chars().filter(|c| !REMOVED.contains(*c));
                let blanked: String = kept.map(|c| if matches!(c, '-' | '/') { ' ' } else { c }).collect();
                blanked.split_whitespace().collect::<Vec<_>>().join(" ")
            }
        };
        text = match self.letters {
            Letters::AsIs => text,
            Letters::Lower => text.to_lowercase(),
            Letters::Capitalize => capitalized(&text),
        };
        if self.template.is_empty() { text } else { self.template.replacen(PLACE, &text, 1) }
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &characters.as_str().to_lowercase()
}

impl FromStr for TextTreatment {
    type Err = String;

    /// Words of `as-is`, `lower`, `capitalize`, `no-punctuation`, joined by `+`.
    fn from_str(words: &str) -> Result<Self, String> {
        let mut treatment = Self::default();
        for word in words.split('+').map(str::trim) {
            match word {
                "as-is" => {}
                "no-punctuation" => treatment.no_punctuation = true,
                "lower" | "capitalize" if treatment.letters != Letters::AsIs => {
                    return Err("captions cannot be in small letters and capitalized at once: name one".into());
                }
                "lower" => treatment.letters = Letters::Lower,
                "capitalize" => treatment.letters = Letters::Capitalize,
                other => {
                    return Err(format!(
                        "{other:?} is nothing that can be done to captions; there are as-is, lower, capitalize and \
                         no-punctuation, joined by +"
                    ));
                }
            }
        }
        Ok(treatment)
    }
}

impl fmt::Display for TextTreatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = match self.letters {
            Letters::AsIs => None,
            Letters::Lower => Some("lower"),
            Letters::Capitalize => Some("capitalize"),
        };
        let words: Vec<&str> = letters.into_iter().chain(self.no_punctuation.then_some("no-punctuation")).collect();
        f.write_str(&if words.is_empty() { "as-is".to_owned() } else { words.join("+") })?;
        if self.template.is_empty() { Ok(()) } else { write!(f, " in {:?}", self.template) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_become_what_the_evaluations_read() {
        let of = |words: &str, caption: &str| words.parse::<TextTreatment>().unwrap().apply(caption);
        let caption = "Many Planes are parked, next to a long-building . ";
        assert_eq!(of("as-is", caption), caption);
        assert_eq!(of("lower", caption), "many planes are parked, next to a long-building . ");
        // Python's str.capitalize
        assert_eq!(of("capitalize", "a BIG Road ."), "A big road .");
        assert_eq!(of("capitalize", ""), "");
        assert_eq!(of("capitalize", "éCOLE"), "École");
        assert_eq!(of("no-punctuation", caption), "Many Planes are parked next to a long building");
        assert_eq!(of("no-punctuation+lower", "It's (a) T/F; ok?"), "its a t f ok");
        // a caption that looks like a template stays a caption
        let with = TextTreatment::default().with_template("x {} y").unwrap();
        assert_eq!(with.apply("{}"), "x {} y");
    }

    #[test]
    fn what_is_no_treatment_says_what_there_is() {
        for (words, said) in [("upper", "capitalize"), ("", "as-is"), ("lower+capitalize", "name one")] {
            let why = words.parse::<TextTreatment>().unwrap_err();
            assert!(why.contains(said), "{why}");
        }
        for template in ["a satellite image", "{} and {}", &"x".repeat(2000)] {
            assert!(TextTreatment::default().with_template(template).is_err());
        }
        let all: TextTreatment = "no-punctuation+lower".parse().unwrap();
        assert_eq!(all.with_template("of {}").unwrap().to_string(), "lower+no-punctuation in \"of {}\"");
        assert_eq!(TextTreatment::default().to_string(), "as-is");
    }
}
