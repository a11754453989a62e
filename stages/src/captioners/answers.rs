//! Structured captions of one image, collected from answers until there are five.

use std::collections::BTreeMap;

use wording::{VARIANTS, Variants, parse_answer};

use super::StructuredCaption;

/// What came of an image's answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    variants: Variants,
    pub(super) attempts: usize,
    /// What was wrong with answers, and how often.
    problems: BTreeMap<String, usize>,
    /// A reason why answers could not be computed, where any could not.
    broken: Option<String>,
}

impl Answers {
    pub(super) fn add(&mut self, answer: Result<String, String>, prompt: &str) {
        self.attempts += 1;
        let problem = match answer {
            Err(why) => {
                let problem = "could not be computed".to_owned();
                self.broken.get_or_insert(why);
                Some(problem)
            }
            Ok(answer) => match parse_answer(&answer, prompt) {
                Err(why) => Some(why.to_string()),
                // an answer may hold several
                Ok(variants) => {
                    let new = variants.into_iter().map(|variant| self.variants.add(variant)).filter(|new| *new).count();
                    (new == 0).then(|| "repeated another".to_owned())
                }
            },
        };
        if let Some(problem) = problem {
            *self.problems.entry(problem).or_default() += 1;
        }
    }

    /// Answers to ask for now: as many as variants are missing, while attempts are left.
    pub(super) fn wanted(&self, most_attempts: usize) -> usize {
        self.variants.missing().min(most_attempts.saturating_sub(self.attempts))
    }

    /// A row without any variant is broken only where nothing could be computed.
    pub(super) fn written(self) -> Result<StructuredCaption, String> {
        let reasons: Vec<String> = self.problems.iter().map(|(why, count)| format!("{count} {why}")).collect();
        let failed = self.problems.get("could not be computed").copied().unwrap_or(0);
        if let Some(why) = self.broken.filter(|_| failed == self.attempts) {
            return Err(why);
        }
        let flagged = (self.variants.missing() > 0).then(|| {
            format!(
                "has {} of {VARIANTS} variants after {} answers: {}",
                self.variants.len(),
                self.attempts,
                reasons.join(", ")
            )
        });
        Ok(StructuredCaption { variants: self.variants.into_inner(), attempts: self.attempts, flagged, served: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Answer with one JSON object.";

    fn object(text: &str) -> Result<String, String> {
        Ok(format!("{{\"one_sentence\": \"{text}.\", \"feature\": \"{text}\", \"caption\": \"It shows {text}.\"}}"))
    }

    fn hear(answers: &mut Answers, answer: Result<String, String>) {
        answers.add(answer, PROMPT);
    }

    #[test]
    fn five_distinct_answers_are_a_whole_row() {
        let mut answers = Answers::default();
        assert_eq!(answers.wanted(10), 5);
        ["lakes", "roads", "roofs"].iter().for_each(|text| hear(&mut answers, object(text)));
        hear(&mut answers, object("Lakes"));
        hear(&mut answers, Ok("a lake".into()));
        assert_eq!((answers.wanted(10), answers.wanted(6), answers.wanted(5)), (2, 1, 0));
        hear(&mut answers, object("trees"));
        hear(&mut answers, object("fields"));
        assert_eq!(answers.wanted(10), 0);
        let written = answers.written().unwrap();
        assert_eq!((written.variants.len(), written.attempts, written.flagged), (5, 7, None));
    }

    #[test]
    fn a_row_that_never_gets_five_says_why() {
        let mut answers = Answers::default();
        hear(&mut answers, object("lakes"));
        hear(&mut answers, object("lakes"));
        hear(&mut answers, Ok(String::new()));
        hear(&mut answers, Err("no number".into()));
        let written = answers.written().unwrap();
        let why = written.flagged.unwrap();
        assert_eq!(written.variants.len(), 1);
        assert_eq!(
            why,
            "has 1 of 5 variants after 4 answers: 1 could not be computed, 1 repeated another, 1 said nothing"
        );
        let mut broken = Answers::default();
        (0..3).for_each(|_| hear(&mut broken, Err("out of memory".into())));
        assert_eq!(broken.written().unwrap_err(), "out of memory");
    }
}
