//! Structured captions that InstructBLIP is asked for.

use std::collections::BTreeMap;

use manifests::build::{InstructBlipSpec, StructuredSpec};
use models::instructblip::CaptionRequest;
use models::language::generate::{GenerationSettings, Nucleus};
use rayon::prelude::*;
use wording::{VARIANTS, Variants, parse_answer};

use super::{NAME, Written};
use crate::ahead::prepared_ahead;
use crate::captions::{Known, TagWords};
use crate::instructblip::{Describer, prompt_of, seed_of};
use crate::stage::{Opening, StageError};

pub(super) struct Asked {
    describer: Describer,
    spec: StructuredSpec,
    base: GenerationSettings,
}

/// An image with what was said about it so far.
struct Dialogue {
    row: usize,
    request: CaptionRequest,
    prompt: String,
    heard: Heard,
}

/// What came of an image's answers.
#[derive(Debug, Default)]
struct Heard {
    variants: Variants,
    attempts: usize,
    /// What was wrong with answers, and how often.
    problems: BTreeMap<String, usize>,
    /// A reason why answers could not be computed, where any could not.
    broken: Option<String>,
}

impl Heard {
    fn hear(&mut self, answer: Result<String, String>, prompt: &str) {
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
    fn wanted(&self, most_attempts: usize) -> usize {
        self.variants.missing().min(most_attempts.saturating_sub(self.attempts))
    }

    /// A row without any variant is broken only where nothing could be computed.
    fn written(self) -> Result<Written, String> {
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
        Ok(Written { variants: self.variants.into_inner(), attempts: self.attempts, flagged })
    }
}

impl Asked {
    pub(super) fn open(opening: &Opening<'_>) -> Result<Self, StageError> {
        let describer = Describer::open(NAME, opening)?;
        let blip = &opening.spec.caption.instructblip;
        let base = describer.valid(decoding(blip))?;
        Ok(Self { describer, spec: blip.structured.clone(), base })
    }

    pub(super) fn write(
        &self,
        known: &[Known<'_>],
        images: &[&[u8]],
    ) -> Result<Vec<Result<Written, String>>, StageError> {
        let mut written = Vec::with_capacity(known.len());
        prepared_ahead(
            known.len(),
            // every image is asked about several times
            (self.describer.images_at_once() / VARIANTS).max(1),
            |rows| rows.into_par_iter().map(|row| self.begin(row, &known[row], images[row])).collect::<Vec<_>>(),
            |_, mut dialogues| {
                self.talk(&mut dialogues, known)?;
                written.extend(dialogues.into_iter().map(|d| d.and_then(|d| d.heard.written())));
                Ok(())
            },
        )?;
        Ok(written)
    }

    fn begin(&self, row: usize, known: &Known<'_>, image: &[u8]) -> Result<Dialogue, String> {
        let rgb = self.describer.decode(image)?;
        let words = TagWords::of(known)?;
        let prompt = prompt_of(&self.spec.prompt, &self.spec.prompt_without_tags, words.scene());
        let request = self.describer.request(&rgb, &prompt, &self.base)?;
        Ok(Dialogue { row, request, prompt, heard: Heard::default() })
    }

    /// Asks in rounds, all images together, until each has its variants or no attempts are left.
    fn talk(&self, dialogues: &mut [Result<Dialogue, String>], known: &[Known<'_>]) -> Result<(), StageError> {
        for round in 0.. {
            self.describer.check_stop()?;
            let settings = warmer(&self.base, round);
            let mut asked: Vec<(&mut Dialogue, usize)> = dialogues
                .iter_mut()
                .flatten()
                .map(|d| {
                    let wanted = d.heard.wanted(self.spec.attempts);
                    (d, wanted)
                })
                .filter(|(_, wanted)| *wanted > 0)
                .collect();
            if asked.is_empty() {
                return Ok(());
            }
            let requests: Vec<CaptionRequest> = asked
                .iter()
                .flat_map(|(d, wanted)| {
                    let attempts = d.heard.attempts..d.heard.attempts + wanted;
                    attempts.map(|attempt| CaptionRequest {
                        seed: seed_of(&settings, known[d.row].image_id, Some(attempt)),
                        ..d.request.clone()
                    })
                })
                .collect();
            let mut answers = self.describer.ask(&requests, &settings)?.into_iter();
            for (dialogue, wanted) in &mut asked {
                let Dialogue { heard, prompt, .. } = &mut **dialogue;
                for answer in answers.by_ref().take(*wanted) {
                    heard.attempts += 1;
                    heard.hear(answer, prompt);
                }
            }
        }
        Ok(())
    }
}

fn decoding(blip: &InstructBlipSpec) -> GenerationSettings {
    let spec = &blip.structured;
    GenerationSettings {
        num_beams: 1,
        max_new_tokens: spec.max_new_tokens,
        min_length: blip.min_length,
        // a penalty would forbid the quotes and braces of JSON
        repetition_penalty: 1.0,
        sampling: Some(Nucleus { top_p: spec.top_p, temperature: spec.temperature, seed: blip.seed }),
        ..GenerationSettings::default()
    }
}

/// Each round is twice as warm, up to 1: what said the same at a low temperature would go on to.
fn warmer(base: &GenerationSettings, round: u32) -> GenerationSettings {
    let sampling = base.sampling.map(|nucleus| {
        let most = nucleus.temperature.max(1.0);
        Nucleus { temperature: (nucleus.temperature * 2f64.powi(round.min(64) as i32)).min(most), ..nucleus }
    });
    GenerationSettings { sampling, ..base.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Answer with one JSON object.";

    fn object(text: &str) -> Result<String, String> {
        Ok(format!("{{\"one_sentence\": \"{text}.\", \"feature\": \"{text}\", \"caption\": \"It shows {text}.\"}}"))
    }

    fn hear(heard: &mut Heard, answer: Result<String, String>) {
        heard.attempts += 1;
        heard.hear(answer, PROMPT);
    }

    #[test]
    fn five_distinct_answers_are_a_whole_row() {
        let mut heard = Heard::default();
        assert_eq!(heard.wanted(10), 5);
        ["lakes", "roads", "roofs"].iter().for_each(|text| hear(&mut heard, object(text)));
        hear(&mut heard, object("Lakes"));
        hear(&mut heard, Ok("a lake".into()));
        assert_eq!((heard.wanted(10), heard.wanted(6), heard.wanted(5)), (2, 1, 0));
        hear(&mut heard, object("trees"));
        hear(&mut heard, object("fields"));
        assert_eq!(heard.wanted(10), 0);
        let written = heard.written().unwrap();
        assert_eq!((written.variants.len(), written.attempts, written.flagged), (5, 7, None));
    }

    #[test]
    fn a_row_that_never_gets_five_says_why() {
        let mut heard = Heard::default();
        hear(&mut heard, object("lakes"));
        hear(&mut heard, object("lakes"));
        hear(&mut heard, Ok(String::new()));
        hear(&mut heard, Err("no number".into()));
        let written = heard.written().unwrap();
        let why = written.flagged.unwrap();
        assert_eq!(written.variants.len(), 1);
        assert_eq!(
            why,
            "has 1 of 5 variants after 4 answers: 1 could not be computed, 1 repeated another, 1 said nothing"
        );
        let mut broken = Heard::default();
        (0..3).for_each(|_| hear(&mut broken, Err("out of memory".into())));
        assert_eq!(broken.written().unwrap_err(), "out of memory");
    }

    #[test]
    fn later_rounds_are_warmer_up_to_one() {
        let base = decoding(&InstructBlipSpec::default());
        base.validate().unwrap();
        let temperature = |round| warmer(&base, round).sampling.unwrap().temperature;
        assert_eq!((temperature(0), temperature(1), temperature(2)), (0.2, 0.4, 0.8));
        assert_eq!((temperature(3), temperature(99)), (1.0, 1.0));
        warmer(&base, 99).validate().unwrap();
    }
}
