//! A server, as a stage asks it: images and prompts in, answers out.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use chat::{Answer, AnswerForm, Model, Question, Silence};
use manifests::plan::Usage;
use manifests::spec::{CaptionServerSpec, ImageDetail};
use pixels::DecodeLimits;

use super::super::prompt::seed_of;
use crate::images::limits;
use crate::stage::{StageContext, StageError};

/// The server of a spec.
pub(super) struct Session {
    stage: &'static str,
    server: Arc<dyn chat::Server>,
    spec: CaptionServerSpec,
    limits: DecodeLimits,
    used: Mutex<Usage>,
}

/// How one kind of text is drawn.
pub(super) struct Drawing {
    pub(super) model: Model,
    pub(super) form: AnswerForm,
}

/// What the server said of one image; `Err` says why it said nothing.
pub(super) type Said = Result<Answer, String>;

impl Session {
    pub(super) fn open(stage: &'static str, context: &StageContext<'_>) -> Result<Self, StageError> {
        let Some(server) = context.server.clone() else {
            return Err(StageError::Configuration { stage, why: "it asks a server, and none was handed to it".into() });
        };
        let spec = context.spec.caption.server.clone();
        Ok(Self { stage, server, spec, limits: limits(context.spec), used: Mutex::default() })
    }

    pub(super) fn spec(&self) -> &CaptionServerSpec {
        &self.spec
    }

    /// Texts of any form.
    pub(super) fn words(&self) -> Drawing {
        Drawing { model: self.model(self.spec.temperature, self.spec.max_tokens), form: AnswerForm::Words }
    }

    pub(super) fn model(&self, temperature: f64, max_tokens: usize) -> Model {
        let detail = match self.spec.detail {
            ImageDetail::Unsaid => "",
            ImageDetail::Low => "low",
            ImageDetail::High => "high",
            ImageDetail::Auto => "auto",
        };
        let token_limit = self.spec.token_limit;
        let (name, top_p) = (self.spec.model.clone(), self.spec.top_p);
        Model { name, detail: detail.into(), temperature, top_p, max_tokens, token_limit }
    }

    /// A question about an image; `attempt` draws other words.
    pub(super) fn question(
        &self,
        drawing: &Drawing,
        image_id: &str,
        image: &[u8],
        prompt: &str,
        attempt: usize,
    ) -> Result<Question, String> {
        let seed = seed_of(self.spec.seed, image_id, Some(attempt));
        let shown = self.shown(image)?;
        Question::new(&drawing.model, image_id, &shown, prompt, &drawing.form, Some(seed))
    }

    /// What every server can read: other formats become PNG.
    fn shown<'i>(&self, image: &'i [u8]) -> Result<Cow<'i, [u8]>, String> {
        if chat::media_type(image).is_some() {
            return Ok(Cow::Borrowed(image));
        }
        let rgb = pixels::decode(image, &self.limits).map_err(|e| e.to_string())?;
        Ok(Cow::Owned(pixels::encode_png(&rgb)))
    }

    /// Answers in order. A refusal is none.
    pub(super) fn ask(&self, questions: Vec<Question>) -> Result<Vec<Said>, StageError> {
        let stage = self.stage;
        let answers = self.server.ask(questions).map_err(|silence| match silence {
            Silence::Wrong(why) => StageError::Configuration { stage, why: format!("caption.server: {why}") },
            Silence::Unreachable(why) => StageError::Unreachable { stage, why: format!("caption.server: {why}") },
            Silence::Stopped => StageError::Stopped,
        })?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().flatten().for_each(|answer| *used += answer.usage);
        let said = answers.into_iter().map(|answer| match answer? {
            Answer { refusal: Some(why), .. } => Err(format!("the model refuses: {why}")),
            answer => Ok(answer),
        });
        Ok(said.collect())
    }

    /// What was asked for since the last call.
    pub(super) fn usage(&self) -> Usage {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// As a column has it.
pub(super) fn served(answer: &Answer) -> Option<String> {
    Some(answer.served.clone()).filter(|served| !served.is_empty())
}
