//! Structured captions of one image, collected from answers until there are five.

use std::collections::BTreeMap;

use manifests::words::count;
use wording::{VARIANTS, Variants, parse_answer, whole_objects};

use super::StructuredCaption;

/// What was said.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) text: String,
    /// The limit of tokens cut it off.
    pub(super) is_cut: bool,
}

/// What came of an image's answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) prompt: String,
    /// What of the prompt are the image's tags.
    tags: Option<String>,
    variants: Variants,
    pub(super) attempts: usize,
    /// What was wrong with answers, and how often.
    problems: BTreeMap<String, usize>,
    /// A reason why answers could not be computed, where any could not.
    broken: Option<String>,
}

impl Answers {
    /// None yet to a prompt with these tags in plain words.
    pub(super) fn to(prompt: String, tags: Option<&str>) -> Self {
        Self { prompt, tags: tags.map(str::to_owned), ..Self::default() }
    }

    pub(super) fn add(&mut self, answer: Result<Heard, String>) {
        self.attempts += 1;
        let problem = match answer {
            Err(why) => {
                let problem = "could not be computed".to_owned();
                self.broken.get_or_insert(why);
                Some(problem)
            }
            Ok(Heard { text, is_cut }) => {
                let text = if is_cut { whole_objects(&text) } else { text.as_str() };
                // an answer may hold several
                let (variants, problem) = parse_answer(text, &self.prompt, self.tags.as_deref());
                let new = variants.into_iter().map(|variant| self.variants.add(variant)).filter(|new| *new).count();
                match problem {
                    _ if is_cut => Some("reached the limit of tokens".to_owned()),
                    Some(problem) => Some(problem.to_string()),
                    None => (new == 0).then(|| "repeated another".to_owned()),
                }
            }
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
            let (few, after) = (self.variants.len(), count(self.attempts, "answer"));
            // answers may be good and too few
            let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
            format!("has {few} of {VARIANTS} variants after {after}{reasons}")
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

    fn to_prompt() -> Answers {
        Answers::to(PROMPT.into(), None)
    }

    fn hear(answers: &mut Answers, answer: Result<String, String>) {
        answers.add(answer.map(|text| Heard { text, is_cut: false }));
    }

    #[test]
    fn five_distinct_answers_are_a_whole_row() {
        let mut answers = to_prompt();
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
        let mut answers = to_prompt();
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
        let mut broken = to_prompt();
        (0..3).for_each(|_| hear(&mut broken, Err("out of memory".into())));
        assert_eq!(broken.written().unwrap_err(), "out of memory");
        let mut few = to_prompt();
        hear(&mut few, object("lakes"));
        assert_eq!(few.written().unwrap().flagged.as_deref(), Some("has 1 of 5 variants after 1 answer"));
    }

    #[test]
    fn half_an_object_is_no_variant() {
        let mut answers = to_prompt();
        let [one, two, three] = ["lakes", "roads", "roofs"].map(|text| object(text).unwrap());
        let text = format!("[{one}, {two}, {}", three.trim_end_matches("s.\"}"));
        answers.add(Ok(Heard { text, is_cut: true }));
        let written = answers.written().unwrap();
        assert_eq!(written.variants.len(), 2, "{written:?}");
        let why = "has 2 of 5 variants after 1 answer: 1 reached the limit of tokens";
        assert_eq!(written.flagged.as_deref(), Some(why));
    }
}
