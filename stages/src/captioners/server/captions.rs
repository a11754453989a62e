//! Captions by a server: it sees the image and is told the geo-tags.

use chat::{Answer, Question};
use manifests::plan::Usage;
use rayon::prelude::*;

use super::super::prompt::{prompt_of, said};
use super::super::quality::{Draft, Judgement, SAYS_NOTHING};
use super::super::tags::TagWords;
use super::super::{Caption, ImageTags, Images, Writer};
use super::session::{Drawing, Said, Session, served};
use crate::stage::{StageContext, StageError};

pub(super) struct CaptionWriter {
    session: Session,
    first: Drawing,
    again: Drawing,
}

/// An image with what was prompted.
struct Asked {
    row: usize,
    prompt: String,
    words: TagWords,
}

/// A draft, and the model that the server says it is.
type Answered = (Draft, Option<String>);

impl CaptionWriter {
    pub(super) fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open("captions", context)?;
        let (first, mut again) = (session.words(), session.words());
        again.model.temperature = again.model.temperature.max(0.7);
        Ok(Self { session, first, again })
    }

    fn begin(&self, row: usize, known: &ImageTags<'_>) -> Result<Asked, String> {
        let (spec, words) = (self.session.spec(), TagWords::of(known)?);
        let prompt = known.with_regions(prompt_of(&spec.prompt, &spec.prompt_without_tags, words.scene()));
        Ok(Asked { row, prompt, words })
    }

    /// One try for some images: a draft of each, with who wrote it.
    fn drafts(
        &self,
        asked: &[&Asked],
        images: &Images<'_>,
        attempt: usize,
    ) -> Result<Vec<Result<Answered, String>>, StageError> {
        let drawing = if attempt == 1 { &self.first } else { &self.again };
        let questions: Vec<Result<Question, String>> = asked
            .par_iter()
            .map(|asked| {
                let (id, bytes) = (images.tags[asked.row].image_id, images.bytes[asked.row]);
                self.session.question(drawing, id, bytes, &asked.prompt, attempt)
            })
            .collect();
        let answers = self.session.ask_all(questions)?;
        Ok(asked.iter().zip(answers).map(|(asked, said)| Ok(self.judged(asked, &said?, attempt))).collect())
    }

    fn judged(&self, asked: &Asked, answer: &Answer, attempt: usize) -> (Draft, Option<String>) {
        let spec = self.session.spec();
        let judgement =
            Judgement { tags: asked.words.scene(), prompt: &asked.prompt, limits: &spec.quality, min_clip_score: 0.0 };
        let mut draft = judgement.of(said(&answer.text, &asked.prompt), None, attempt);
        if answer.is_cut {
            draft.problem.get_or_insert(format!("was cut off after {} tokens", spec.max_tokens));
        }
        (draft, served(answer))
    }
}

impl Writer<Caption> for CaptionWriter {
    /// A caption for each image. One that fails its checks is written once more, warmer; the better one is kept, and
    /// flagged if it fails too.
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<Caption, String>>, StageError> {
        let begun: Vec<Result<Asked, String>> =
            images.tags.iter().enumerate().map(|(row, known)| self.begin(row, known)).collect();
        let asked: Vec<&Asked> = begun.iter().flatten().collect();
        let mut drafts = self.drafts(&asked, images, 1)?;
        let weak: Vec<usize> =
            (0..drafts.len()).filter(|&i| drafts[i].as_ref().is_ok_and(|(draft, _)| draft.problem.is_some())).collect();
        let again: Vec<&Asked> = weak.iter().map(|&i| asked[i]).collect();
        for (i, second) in weak.into_iter().zip(self.drafts(&again, images, 2)?) {
            // the first caption stands where the second try fails
            if let (Ok((first, by)), Ok((second, by_second))) = (&mut drafts[i], second) {
                let better = std::mem::take(first).or_better(second.clone());
                if better == second {
                    *by = by_second;
                }
                *first = better;
            }
        }
        let mut drafts = drafts.into_iter();
        let written = begun.into_iter().map(|asked| {
            let (asked, (draft, served)) = (asked?, drafts.next().ok_or("the server gave no answer")??);
            if draft.caption.is_empty() {
                return Err(SAYS_NOTHING.to_owned());
            }
            Ok(Caption {
                captions: vec![draft.caption],
                dropped_tags: asked.words.dropped_tags,
                quality: vec![draft.quality],
                flagged: draft.problem,
                served,
            })
        });
        Ok(written.collect())
    }

    fn usage(&self) -> Usage {
        self.session.usage()
    }
}

impl Session {
    /// As [`Session::ask`], for questions of which some cannot be asked.
    pub(super) fn ask_all(&self, questions: Vec<Result<Question, String>>) -> Result<Vec<Said>, StageError> {
        let mut refused = Vec::with_capacity(questions.len());
        let mut asked = Vec::with_capacity(questions.len());
        for question in questions {
            refused.push(question.map(|question| asked.push(question)).err());
        }
        let mut answers = self.ask(asked)?.into_iter();
        let all = refused.into_iter().map(|refused| match refused {
            Some(why) => Err(why),
            None => answers.next().unwrap_or_else(|| Err("the server gave no answer".into())),
        });
        Ok(all.collect())
    }
}
