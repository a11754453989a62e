//! Structured captions that a network is asked for.

use manifests::spec::InstructBlipSpec;
use models::captioning::{Caption, CaptionRequest};
use models::language::generate::{GenerationSettings, Nucleus};
use rayon::prelude::*;
use wording::VARIANTS;

use super::super::answers::{Answers, Heard};
use super::super::prompt::prompt_of;
use super::super::tags::TagWords;
use super::super::{ImageTags, Images, StructuredCaption, Writer};
use super::Network;
use super::session::{Session, seed_of};
use crate::ahead::prepared_ahead;
use crate::stage::{StageContext, StageError};

const NAME: &str = "structured_captions";
/// Tokens that an answer may be asked to have: it ends with its JSON, however long captions must be.
pub(super) const LEAST_TOKENS: usize = 1;

pub(super) struct VariantWriter {
    session: Session,
    /// Answers that are asked for at once about one image.
    answers_at_once: usize,
    base: GenerationSettings,
}

/// An image with what was said about it so far.
struct Dialogue {
    row: usize,
    request: CaptionRequest,
    answers: Answers,
}

impl VariantWriter {
    pub(super) fn open(network: &Network, context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open(network, NAME, context)?;
        let base = session.valid(decoding(session.spec()))?;
        Ok(Self { session, answers_at_once: VARIANTS.div_ceil(network.variants_an_answer.max(1)), base })
    }

    fn begin(&self, row: usize, known: &ImageTags<'_>, image: &[u8]) -> Result<Dialogue, String> {
        let rgb = self.session.decode(image)?;
        let words = TagWords::of(known)?;
        let spec = &self.session.spec().structured;
        let prompt = prompt_of(&spec.prompt, &spec.prompt_without_tags, words.scene());
        let request = self.session.request(&rgb, &prompt, &self.base)?;
        Ok(Dialogue { row, request, answers: Answers::to(prompt, words.scene()) })
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
                    let wanted = d.answers.wanted(self.session.spec().structured.attempts).min(self.answers_at_once);
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
                for answer in said.by_ref().take(*wanted) {
                    let heard = |said: Caption| Heard { text: said.text.unwrap_or_default(), is_cut: said.is_cut };
                    dialogue.answers.add(answer.map(heard));
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
            // an image may be asked about several times
            (self.session.images_at_once() / self.answers_at_once).max(1),
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

fn decoding(all: &InstructBlipSpec) -> GenerationSettings {
    let spec = &all.structured;
    GenerationSettings {
        num_beams: 1,
        max_new_tokens: spec.max_new_tokens,
        min_length: all.min_length.min(LEAST_TOKENS),
        // a penalty would forbid the quotes and braces of JSON
        repetition_penalty: 1.0,
        sampling: Some(Nucleus { top_k: 0, top_p: spec.top_p, temperature: spec.temperature, seed: all.seed }),
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

    #[test]
    fn later_rounds_are_warmer_up_to_one() {
        let base = decoding(&InstructBlipSpec::default());
        base.validate().unwrap();
        let temperature = |round| warmer(&base, round).sampling.unwrap().temperature;
        assert_eq!((temperature(0), temperature(1), temperature(2)), (0.2, 0.4, 0.8));
        assert_eq!((temperature(3), temperature(99)), (1.0, 1.0));
        warmer(&base, 99).validate().unwrap();
    }

    #[test]
    fn answers_need_not_be_as_long_as_captions() {
        let least = |min_length| decoding(&InstructBlipSpec { min_length, ..InstructBlipSpec::default() }).min_length;
        assert_eq!((least(0), least(1), least(200)), (0, 1, 1));
    }
}
