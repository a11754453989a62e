//! One text for an image that is searched with. The model sees the image and a prompt, and no tags.

use models::captioning::CaptionRequest;
use models::language::generate::GenerationSettings;
use rayon::prelude::*;

use super::super::{Images, QueryText, Writer};
use super::Network;
use super::session::{Session, seed_of};
use crate::ahead::prepared_ahead;
use crate::stage::{StageContext, StageError};

const NAME: &str = "query_texts";

pub(super) struct QueryWriter {
    session: Session,
    settings: GenerationSettings,
    prompt: String,
}

impl QueryWriter {
    pub(super) fn open(network: &Network, context: &StageContext<'_>) -> Result<Self, StageError> {
        let session = Session::open(network, NAME, context)?;
        let settings = session.decoding()?;
        Ok(Self { session, settings, prompt: context.spec.text_retrieval.query_prompt.clone() })
    }

    fn request(&self, image_id: &str, image: &[u8]) -> Result<CaptionRequest, String> {
        let request = self.session.request(&self.session.decode(image)?, &self.prompt, &self.settings)?;
        Ok(CaptionRequest { seed: seed_of(&self.settings, image_id, None), ..request })
    }
}

impl Writer<QueryText> for QueryWriter {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<QueryText, String>>, StageError> {
        let Images { tags, bytes } = images;
        let mut written = Vec::with_capacity(tags.len());
        prepared_ahead(
            tags.len(),
            self.session.images_at_once(),
            |rows| rows.into_par_iter().map(|row| self.request(tags[row].image_id, bytes[row])).collect::<Vec<_>>(),
            |_, requests| {
                self.session.check_stop()?;
                let asked: Vec<CaptionRequest> = requests.iter().flatten().cloned().collect();
                let mut said = self.session.ask(&asked, &self.settings)?.into_iter();
                written.extend(requests.into_iter().map(|request| {
                    request?;
                    let answer = said.next().unwrap_or_else(|| Err("no answer came".into()))?;
                    Ok(QueryText::heard(&answer.text.unwrap_or_default(), &self.prompt, 1))
                }));
                Ok(())
            },
        )?;
        Ok(written)
    }
}
