//! Structured captions that a server is asked for, all five in one request.

use chat::{AnswerForm, Question};
use manifests::plan::Usage;
use manifests::spec::JsonMode;
use rayon::prelude::*;
use serde_json::json;
use wording::VARIANTS;

use super::super::answers::{Answers, Heard};
use super::super::prompt::prompt_of;
use super::super::tags::TagWords;
use super::super::{ImageTags, Images, StructuredCaption, Writer};
use super::session::{Drawing, Session, served};
use crate::stage::{StageContext, StageError};

pub(super) struct VariantWriter {
    session: Session,
    form: AnswerForm,
}

/// An image with what was said about it so far.
struct Dialogue {
    row: usize,
    answers: Answers,
    served: Option<String>,
    /// Why it is not asked about again.
    failed: Option<String>,
}

impl VariantWriter {
    pub(super) fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open("structured_captions", context)?;
        let form = match session.spec().structured.json {
            JsonMode::Schema => AnswerForm::Object("structured_captions", schema()),
            JsonMode::Object => AnswerForm::AnyObject,
            JsonMode::Prompt => AnswerForm::Words,
        };
        Ok(Self { session, form })
    }

    fn begin(&self, row: usize, known: &ImageTags<'_>) -> Result<Dialogue, String> {
        let (spec, words) = (&self.session.spec().structured, TagWords::of(known)?);
        let prompt = prompt_of(&spec.prompt, &spec.prompt_without_tags, words.scene());
        Ok(Dialogue { row, answers: Answers::to(prompt, words.scene()), served: None, failed: None })
    }

    /// Each round is warmer, up to 1: what said the same at a low temperature would go on to.
    fn drawing(&self, round: usize) -> Drawing {
        let spec = &self.session.spec().structured;
        let warmer = spec.temperature.max(0.1) * 2f64.powi(round.min(8) as i32);
        let temperature = if round == 0 { spec.temperature } else { warmer.min(spec.temperature.max(1.0)) };
        Drawing { model: self.session.model(temperature, spec.max_tokens), form: self.form.clone() }
    }
}

impl Writer<StructuredCaption> for VariantWriter {
    /// Asks in rounds, all images together, until each has its variants or no attempts are left.
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<StructuredCaption, String>>, StageError> {
        let mut dialogues: Vec<Result<Dialogue, String>> =
            images.tags.iter().enumerate().map(|(row, known)| self.begin(row, known)).collect();
        for round in 0..self.session.spec().structured.attempts {
            let is_open = |d: &&mut Dialogue| d.failed.is_none() && d.answers.wanted(usize::MAX) > 0;
            let mut open: Vec<&mut Dialogue> = dialogues.iter_mut().flatten().filter(is_open).collect();
            if open.is_empty() {
                break;
            }
            let drawing = self.drawing(round);
            let questions: Vec<Result<Question, String>> = open
                .par_iter()
                .map(|d| {
                    let (id, bytes) = (images.tags[d.row].image_id, images.bytes[d.row]);
                    self.session.question(&drawing, id, bytes, &d.answers.prompt, round)
                })
                .collect();
            for (dialogue, answer) in open.iter_mut().zip(self.session.ask_all(questions)?) {
                let Dialogue { answers, served: by, failed, .. } = &mut **dialogue;
                // a refusal is final, and so is what was tried again and again
                *failed = answer.as_ref().err().cloned();
                *by = answer.as_ref().ok().and_then(served).or(by.take());
                answers.add(answer.map(|answer| Heard { text: answer.text, is_cut: answer.is_cut }));
            }
        }
        let written = dialogues.into_iter().map(|dialogue| {
            let Dialogue { answers, served, failed, .. } = dialogue?;
            let written = answers.written()?;
            match failed {
                Some(why) if written.variants.is_empty() => Err(why),
                _ => Ok(StructuredCaption { served, ..written }),
            }
        });
        Ok(written.collect())
    }

    fn usage(&self) -> Usage {
        self.session.usage()
    }
}

/// Five objects of three texts, as strict as servers can be.
fn schema() -> serde_json::Value {
    let text = json!({ "type": "string" });
    let variant = json!({
        "type": "object",
        "properties": { "one_sentence": text, "feature": text, "caption": text },
        "required": ["one_sentence", "feature", "caption"],
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "properties": {
            "variants": { "type": "array", "items": variant, "minItems": VARIANTS, "maxItems": VARIANTS },
        },
        "required": ["variants"],
        "additionalProperties": false,
    })
}
