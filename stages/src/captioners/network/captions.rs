//! Captions that a network writes: it sees the image and is told the geo-tags.

use models::captioning::{self, CaptionRequest};
use models::language::generate::{GenerationSettings, Nucleus};
use pixels::Rgb;
use rayon::prelude::*;

use super::super::prompt::{one_line, prompt_of};
use super::super::quality::{Draft, Judgement, SAYS_NOTHING};
use super::super::tags::TagWords;
use super::super::{Caption, ImageTags, Images, Writer};
use super::Network;
use super::session::{Session, seed_of};
use crate::ahead::prepared_ahead;
use crate::clip_scorer::{ClipScorer, clip_score};
use crate::segment_scores::cosine;
use crate::stage::{StageContext, StageError};

const NAME: &str = "captions";

pub(super) struct CaptionWriter {
    session: Session,
    /// Says how well captions fit, where the spec wants a least CLIPScore.
    judge: Option<ClipScorer>,
    min_clip_score: f64,
    first: GenerationSettings,
    again: GenerationSettings,
}

/// An image made ready: what it shows and what is said about it.
struct Question {
    row: usize,
    request: CaptionRequest,
    prompt: String,
    /// The tags as they were prompted.
    tags: Option<String>,
    dropped_tags: Vec<String>,
    /// As the judge sees the image.
    view: Option<Rgb>,
}

impl CaptionWriter {
    pub(super) fn open(network: &Network, context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open(network, NAME, context)?;
        let first = session.decoding()?;
        let again = session.valid(retry(&first, session.spec().seed))?;
        let judge = context.spec.caption.writes_by_clip_score().then(|| ClipScorer::open(NAME, context)).transpose()?;
        Ok(Self { session, judge, min_clip_score: context.spec.caption.score.min_clip_score, first, again })
    }

    fn question(&self, row: usize, known: &ImageTags<'_>, image: &[u8]) -> Result<Question, String> {
        let rgb = self.session.decode(image)?;
        let words = TagWords::of(known)?;
        let tags = words.scene().map(str::to_owned);
        let spec = self.session.spec();
        let prompt = known.with_regions(prompt_of(&spec.prompt, &spec.prompt_without_tags, tags.as_deref()));
        let mut request = self.session.request(&rgb, &prompt, &self.first)?;
        request.seed = seed_of(&self.first, known.image_id, None);
        let view = self.judge.as_ref().map(|judge| pixels::clip_view(&rgb, judge.side_px()));
        Ok(Question { row, request, prompt, tags, dropped_tags: words.dropped_tags, view })
    }

    fn answer(
        &self,
        questions: Vec<Result<Question, String>>,
        known: &[ImageTags<'_>],
    ) -> Result<Vec<Result<Caption, String>>, StageError> {
        let asked: Vec<&Question> = questions.iter().flatten().collect();
        let vectors = match &self.judge {
            Some(judge) => judge.images(&asked.iter().filter_map(|q| q.view.as_ref()).collect::<Vec<_>>())?,
            None => Vec::new(),
        };
        let all: Vec<usize> = (0..asked.len()).collect();
        let requests: Vec<CaptionRequest> = asked.iter().map(|q| q.request.clone()).collect();
        let mut drafts = self.drafts(&asked, &all, &vectors, self.session.ask(&requests, &self.first)?, 1)?;

        let weak: Vec<usize> =
            all.into_iter().filter(|&i| drafts[i].as_ref().is_ok_and(|draft| draft.problem.is_some())).collect();
        if !weak.is_empty() {
            let requests: Vec<CaptionRequest> = weak
                .iter()
                .map(|&i| CaptionRequest {
                    seed: seed_of(&self.again, known[asked[i].row].image_id, None),
                    ..asked[i].request.clone()
                })
                .collect();
            let seconds = self.drafts(&asked, &weak, &vectors, self.session.ask(&requests, &self.again)?, 2)?;
            for (i, second) in weak.into_iter().zip(seconds) {
                // the first caption stands where the second try fails
                if let (Ok(first), Ok(second)) = (&mut drafts[i], second) {
                    *first = std::mem::take(first).or_better(second);
                }
            }
        }
        let mut drafts = drafts.into_iter();
        Ok(questions
            .into_iter()
            .map(|question| {
                let (question, draft) = (question?, drafts.next().ok_or("the captioner gave no answer")??);
                if draft.caption.is_empty() {
                    return Err(SAYS_NOTHING.to_owned());
                }
                Ok(Caption {
                    captions: vec![draft.caption],
                    dropped_tags: question.dropped_tags,
                    quality: vec![draft.quality],
                    flagged: draft.problem,
                    served: None,
                })
            })
            .collect())
    }

    /// Judges the texts of the questions with these numbers.
    fn drafts(
        &self,
        asked: &[&Question],
        numbers: &[usize],
        vectors: &[Vec<f32>],
        said: Vec<Result<captioning::Caption, String>>,
        attempts: usize,
    ) -> Result<Vec<Result<Draft, String>>, StageError> {
        let line = |said: captioning::Caption| one_line(&said.text.unwrap_or_default());
        let texts: Vec<Result<String, String>> = said.into_iter().map(|said| said.map(line)).collect();
        let mut clip_scores = vec![None; texts.len()];
        if let Some(judge) = &self.judge {
            let lines: Vec<&str> = texts.iter().map(|t| t.as_deref().unwrap_or_default()).collect();
            for ((score, text), &i) in clip_scores.iter_mut().zip(judge.texts(&lines)?).zip(numbers) {
                *score = Some(f64::from(clip_score(cosine(&vectors[i], &text))));
            }
        }
        let judged = texts.into_iter().zip(numbers).zip(clip_scores).map(|((text, &i), clip_score)| {
            let judgement = Judgement {
                tags: asked[i].tags.as_deref(),
                prompt: &asked[i].prompt,
                limits: &self.session.spec().quality,
                min_clip_score: self.min_clip_score,
            };
            Ok(judgement.of(text?, clip_score, attempts))
        });
        Ok(judged.collect())
    }
}

impl Writer<Caption> for CaptionWriter {
    /// A caption for each image. One that fails its checks is written once more by sampling; the better one is kept,
    /// and flagged if it fails too.
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<Caption, String>>, StageError> {
        let Images { tags, bytes } = images;
        let mut written = Vec::with_capacity(tags.len());
        prepared_ahead(
            tags.len(),
            self.session.images_at_once(),
            |rows| rows.into_par_iter().map(|row| self.question(row, &tags[row], bytes[row])).collect::<Vec<_>>(),
            |_, questions| {
                self.session.check_stop()?;
                written.extend(self.answer(questions, tags)?);
                Ok(())
            },
        )?;
        Ok(written)
    }
}

/// The second try: sampling, with a stronger penalty for what was said.
fn retry(first: &GenerationSettings, seed: u64) -> GenerationSettings {
    GenerationSettings {
        num_beams: 1,
        repetition_penalty: first.repetition_penalty.max(1.0) * 1.2,
        sampling: Some(Nucleus { top_k: 0, top_p: 0.9, temperature: 1.0, seed: seed.wrapping_add(1) }),
        ..first.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_try_draws_other_words() {
        let first = GenerationSettings::model_card();
        let again = retry(&first, 7);
        again.validate().unwrap();
        assert_eq!((again.num_beams, again.max_new_tokens), (1, first.max_new_tokens));
        assert!(again.repetition_penalty > first.repetition_penalty);
        assert_ne!(seed_of(&again, "a", None), seed_of(&again, "b", None));
    }
}
