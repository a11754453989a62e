//! One text for an image that is searched with. The server sees the image and a prompt, and no tags.

use manifests::plan::Usage;
use rayon::prelude::*;

use super::super::{Images, QueryText, Writer};
use super::session::{Drawing, Session, served};
use crate::stage::{StageContext, StageError};

pub(super) struct QueryWriter {
    session: Session,
    drawing: Drawing,
    prompt: String,
}

impl QueryWriter {
    pub(super) fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open("query_texts", context)?;
        let drawing = session.words();
        Ok(Self { session, drawing, prompt: context.spec.text_retrieval.query_prompt.clone() })
    }
}

impl Writer<QueryText> for QueryWriter {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<QueryText, String>>, StageError> {
        let Images { tags, bytes } = images;
        let question =
            |row: usize| self.session.question(&self.drawing, tags[row].image_id, bytes[row], &self.prompt, 1);
        let answers = self.session.ask_all((0..tags.len()).into_par_iter().map(question).collect())?;
        let written = answers.into_iter().map(|answer| {
            let answer = answer?;
            Ok(QueryText { served: served(&answer), ..QueryText::heard(&answer.text, &self.prompt, 1) })
        });
        Ok(written.collect())
    }

    fn usage(&self) -> Usage {
        self.session.usage()
    }
}
