//! Structured captions that InstructBLIP is asked for.

use std::collections::BTreeMap;

use manifests::spec::{InstructBlipSpec, StructuredSpec};
use models::instructblip::CaptionRequest;
use models::language::generate::{GenerationSettings, Nucleus};
use rayon::prelude::*;
use wording::{VARIANTS, Variants, parse_answer};

use super::super::tags::TagWords;
use super::super::{ImageTags, Images, StructuredCaption, Writer};
use super::session::{Session, prompt_of, seed_of};
use crate::ahead::prepared_ahead;
use crate::stage::{StageContext, StageError};

const NAME: &str = "structured_captions";

pub(super) struct VariantWriter {
    session: Session,
    spec: StructuredSpec,
    base: GenerationSettings,
}

/// An image with what was said about it so far.
struct Dialogue {
    row: usize,
    request: CaptionRequest,
    prompt: String,
    answers: Answers,
}

/// What came of an image's answers.
#[derive(Debug, Default)]
struct Answers {
    variants: Variants,
    attempts: usize,
    /// What was wrong with answers, and how often.
    problems: BTreeMap<String, usize>,
    /// A reason why answers could not be computed, where any could not.
    broken: Option<String>,
}

impl Answers {
    fn add(&mut self, answer: Result<String, String>, prompt: &str) {
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
    fn written(self) -> Result<StructuredCaption, String> {
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
        Ok(StructuredCaption { variants: self.variants.into_inner(), attempts: self.attempts, flagged })
    }
}

impl VariantWriter {
    pub(super) fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open(NAME, context)?;
        let blip = &context.spec.caption.instructblip;
        let base = session.valid(decoding(blip))?;
        Ok(Self { session, spec: blip.structured.clone(), base })
    }

    fn begin(&self, row: usize, known: &ImageTags<'_>, image: &[u8]) -> Result<Dialogue, String> {
        let rgb = self.session.decode(image)?;
        let words = TagWords::of(known)?;
        let prompt = prompt_of(&self.spec.prompt, &self.spec.prompt_without_tags, words.scene());
        let request = self.session.request(&rgb, &prompt, &self.base)?;
        Ok(Dialogue { row, request, prompt, answers: Answers::default() })
    }

    /// Asks in rounds, all images together, until each has its variants or no attempts are left.
    fn talk(&self, dialogues: &mut [Result<Dialogue, String>], known: &[ImageTags<'_>]) -> Result<(), StageError> {
        for round in 0.. {
            self.session.check_stop()?;
            let settings = warmer(&self.base, round);
            let mut asked: Vec<(&mut Dialogue, usize)> = dialogues
                .iter_mut()
                .flatten()
                .map(|d| {
                    let wanted = d.answers.wanted(self.spec.attempts);
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
                    let attempts = d.answers.attempts..d.answers.attempts + wanted;
                    attempts.map(|attempt| CaptionRequest {
                        seed: seed_of(&settings, known[d.row].image_id, Some(attempt)),
                        ..d.request.clone()
                    })
                })
                .collect();
            let mut said = self.session.ask(&requests, &settings)?.into_iter();
            for (dialogue, wanted) in &mut asked {
                let Dialogue { answers, prompt, .. } = &mut **dialogue;
                for answer in said.by_ref().take(*wanted) {
                    answers.attempts += 1;
                    answers.add(answer, prompt);
                }
            }
        }
        Ok(())
    }
}

impl Writer<StructuredCaption> for VariantWriter {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<StructuredCaption, String>>, StageError> {
        let Images { tags, bytes } = images;
        let mut written = Vec::with_capacity(tags.len());
        prepared_ahead(
            tags.len(),
            // every image is asked about several times
            (self.session.images_at_once() / VARIANTS).max(1),
            |rows| rows.into_par_iter().map(|row| self.begin(row, &tags[row], bytes[row])).collect::<Vec<_>>(),
            |_, mut dialogues| {
                self.talk(&mut dialogues, tags)?;
                written.extend(dialogues.into_iter().map(|d| d.and_then(|d| d.answers.written())));
                Ok(())
            },
        )?;
        Ok(written)
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

    fn hear(answers: &mut Answers, answer: Result<String, String>) {
        answers.attempts += 1;
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
