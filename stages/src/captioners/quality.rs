//! How good a generated caption is, as far as its words tell.

use std::collections::HashSet;

use manifests::spec::CaptionQualitySpec;

/// Why an image has no caption where both tries came to nothing.
pub(super) const SAYS_NOTHING: &str = "the model says nothing, asked twice";

/// Measures of one caption.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Quality {
    pub(crate) words: usize,
    /// Share of word triples that stood in the caption before.
    pub(crate) repetition: f64,
    /// Share of the tags' words that the caption mentions; 1 where there are no tags.
    pub(crate) tag_coverage: f64,
    /// Times that the caption was written.
    pub(crate) attempts: usize,
}

/// A caption as it was written, and what is to be said against it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Draft {
    pub(crate) caption: String,
    pub(crate) quality: Quality,
    pub(crate) clip_score: Option<f64>,
    pub(crate) problem: Option<String>,
}

impl Draft {
    /// The better of two tries, counted as two. A second try without a problem is; of two with problems the one that
    /// CLIPScore prefers, or else the second unless it is empty.
    pub(crate) fn or_better(mut self, second: Draft) -> Draft {
        let fits_less = |a: &Draft, b: &Draft| a.clip_score.zip(b.clip_score).map(|(a, b)| a < b);
        let keeps_first = second.problem.is_some()
            && (second.caption.is_empty() || (!self.caption.is_empty() && fits_less(&second, &self) == Some(true)));
        if keeps_first {
            self.quality.attempts = second.quality.attempts;
            return self;
        }
        second
    }
}

/// What a caption is measured against.
pub(crate) struct Judgement<'a> {
    /// The tags in plain words, as they were prompted.
    pub(crate) tags: Option<&'a str>,
    pub(crate) prompt: &'a str,
    pub(crate) limits: &'a CaptionQualitySpec,
    pub(crate) min_clip_score: f64,
}

impl Judgement<'_> {
    pub(crate) fn of(&self, caption: String, clip_score: Option<f64>, attempts: usize) -> Draft {
        let quality = Quality::of(&caption, self.tags, attempts);
        let low = clip_score.filter(|score| *score < self.min_clip_score);
        let problem = quality
            .problem(&caption, self.prompt, self.limits)
            .or_else(|| Some(format!("has a CLIPScore of {:.3}, less than {}", low?, self.min_clip_score)));
        Draft { caption, quality, clip_score, problem }
    }
}

/// Words that carry nothing of a tag.
const FILLERS: [&str; 14] =
    ["a", "an", "and", "by", "for", "from", "image", "in", "of", "on", "satellite", "surrounded", "the", "with"];

/// Words of a prompt that stand at a caption's start when the model repeats its instruction.
const LEAK_WORDS: usize = 5;

impl Quality {
    /// `tags`: the tags in plain words, as they were prompted.
    pub(crate) fn of(caption: &str, tags: Option<&str>, attempts: usize) -> Self {
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
    pub(crate) fn problem(&self, caption: &str, prompt: &str, limits: &CaptionQualitySpec) -> Option<String> {
        let (said, asked) = (words_of(caption), words_of(prompt));
        if asked.len() >= LEAK_WORDS && said.starts_with(&asked[..LEAK_WORDS]) {
            return Some("repeats its instruction".into());
        }
        // one without a word is none
        let least = limits.min_words.max(1);
        if self.words < least {
            return Some(format!("has {} words, fewer than {least}", self.words));
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
        let any = CaptionQualitySpec { min_words: 0, ..CaptionQualitySpec::default() };
        assert!(Quality::of("...", None, 1).problem("...", PROMPT, &any).unwrap().contains("fewer than 1"));
    }

    #[test]
    fn the_better_of_two_tries_is_kept() {
        let limits = CaptionQualitySpec::default();
        let judged = |caption: &str, clip_score, attempts| {
            Judgement { tags: None, prompt: PROMPT, limits: &limits, min_clip_score: 0.5 }.of(
                caption.into(),
                clip_score,
                attempts,
            )
        };
        let good = "a lake with a wooded shore";
        assert_eq!(judged(good, Some(0.5), 1).problem, None);
        assert!(judged(good, Some(0.4), 1).problem.unwrap().contains("CLIPScore of 0.400"));
        let kept = |first: Draft, second: Draft| {
            let kept = first.or_better(second);
            assert_eq!(kept.quality.attempts, 2);
            kept.caption
        };
        // the second passes; both are weak and CLIPScore decides; without it the second; never an empty one
        assert_eq!(kept(judged("a b", Some(0.4), 1), judged(good, Some(0.6), 2)), good);
        assert_eq!(kept(judged(good, Some(0.4), 1), judged("a pond", Some(0.3), 2)), good);
        assert_eq!(kept(judged(good, Some(0.2), 1), judged("a pond", Some(0.3), 2)), "a pond");
        assert_eq!(kept(judged("a b", None, 1), judged("a pond", None, 2)), "a pond");
        assert_eq!(kept(judged("a b", None, 1), judged("", None, 2)), "a b");
        assert_eq!(kept(judged("", Some(0.4), 1), judged("a pond", Some(0.3), 2)), "a pond");
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
