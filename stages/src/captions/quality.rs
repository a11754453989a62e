//! How good a generated caption is, as far as its words tell.

use std::collections::HashSet;

use manifests::build::CaptionQualitySpec;

/// Measures of one caption.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quality {
    pub(super) words: usize,
    /// Share of word triples that stood in the caption before.
    pub(super) repetition: f64,
    /// Share of the tags' words that the caption mentions; 1 where there are no tags.
    pub(super) tag_coverage: f64,
    /// Times that the caption was written.
    pub(super) attempts: usize,
}

/// Words that carry nothing of a tag.
const FILLERS: [&str; 14] =
    ["a", "an", "and", "by", "for", "from", "image", "in", "of", "on", "satellite", "surrounded", "the", "with"];

/// Words of a prompt that stand at a caption's start when the model repeats its instruction.
const LEAK_WORDS: usize = 5;

impl Quality {
    /// `tags`: the tags in plain words, as they were prompted.
    pub(super) fn of(caption: &str, tags: Option<&str>, attempts: usize) -> Self {
        let words = words_of(caption);
        let triples: Vec<&[String]> = words.windows(3).collect();
        let distinct: HashSet<&[String]> = triples.iter().copied().collect();
        let repetition = if triples.is_empty() { 0.0 } else { 1.0 - distinct.len() as f64 / triples.len() as f64 };
        let said: HashSet<String> = words.iter().map(|w| stem(w)).collect();
        let wanted: HashSet<String> = tags
            .map(words_of)
            .unwrap_or_default()
            .iter()
            .filter(|w| !FILLERS.contains(&w.as_str()))
            .map(|w| stem(w))
            .collect();
        let tag_coverage = if wanted.is_empty() {
            1.0
        } else {
            wanted.iter().filter(|w| said.contains(*w)).count() as f64 / wanted.len() as f64
        };
        Self { words: words.len(), repetition, tag_coverage, attempts }
    }

    /// What is wrong with the caption, by the spec's thresholds; `None`: nothing.
    pub(super) fn problem(&self, caption: &str, prompt: &str, limits: &CaptionQualitySpec) -> Option<String> {
        let (said, asked) = (words_of(caption), words_of(prompt));
        if asked.len() >= LEAK_WORDS && said.starts_with(&asked[..LEAK_WORDS]) {
            return Some("repeats its instruction".into());
        }
        if self.words < limits.min_words {
            return Some(format!("has {} words, fewer than {}", self.words, limits.min_words));
        }
        if self.repetition > limits.max_repetition {
            return Some(format!(
                "repeats {:.2} of its word triples, more than {}",
                self.repetition, limits.max_repetition
            ));
        }
        if self.tag_coverage < limits.min_tag_coverage {
            return Some(format!(
                "mentions {:.2} of its tags, less than {}",
                self.tag_coverage, limits.min_tag_coverage
            ));
        }
        None
    }
}

fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Singular and plural count as one word.
fn stem(word: &str) -> String {
    let cut = word.strip_suffix("es").filter(|w| w.ends_with(['s', 'x', 'h'])).or_else(|| word.strip_suffix('s'));
    cut.filter(|w| w.len() >= 3).unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Please give a comprehensive and detailed description of the satellite image.";

    fn problem(caption: &str, tags: Option<&str>) -> Option<String> {
        let limits = CaptionQualitySpec { min_tag_coverage: 0.5, ..CaptionQualitySpec::default() };
        Quality::of(caption, tags, 1).problem(caption, PROMPT, &limits)
    }

    #[test]
    fn good_captions_pass() {
        let tags = Some("a soccer pitch, surrounded by two residential roads");
        assert_eq!(problem("A soccer pitch beside a residential road and two houses.", tags), None);
        assert_eq!(problem("A lake with a wooded shore.", None), None);
    }

    #[test]
    fn each_fault_is_named() {
        assert!(problem("a lake", None).unwrap().contains("2 words"));
        assert!(problem("a road and a road and a road and a road and a road", None).unwrap().contains("triples"));
        assert!(problem("a wide field of yellow rape", Some("a soccer pitch")).unwrap().contains("mentions 0.00"));
        assert!(problem("please give a comprehensive and detailed lake", None).unwrap().contains("instruction"));
    }

    #[test]
    fn measures_are_shares() {
        let quality = Quality::of("churches and boxes near one church", Some("a church, a bus stop"), 2);
        assert_eq!((quality.words, quality.repetition, quality.attempts), (6, 0.0, 2));
        assert!((quality.tag_coverage - 1.0 / 3.0).abs() < 1e-9, "{}", quality.tag_coverage);
        let repeated = Quality::of("a b c a b c", None, 1);
        assert!((repeated.repetition - 0.25).abs() < 1e-9, "{}", repeated.repetition);
    }
}
