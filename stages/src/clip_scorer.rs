//! An external CLIP that scores how well texts fit images; it is never trained here.

use std::path::Path;

use models::ModelError;
use models::clip::Clip;
use models::tokenizer::Tokenizer;
use pixels::Rgb;

use crate::device::{dtype, opening_error};
use crate::image_embeddings::encode_views;
use crate::stage::{StageContext, StageError};
use crate::text_embeddings::{TOKENIZER_FILE, encode_texts, folder_of};

/// Field of the spec that names it.
pub(crate) const CLIP_FIELD: &str = "caption.score.clip";

/// What CLIPScore puts before each text (Hessel et al. 2021).
const PREFIX: &str = "A photo depicts ";

pub(crate) struct ClipScorer {
    stage: &'static str,
    clip: Clip,
    tokenizer: Tokenizer,
}

impl ClipScorer {
    pub(crate) fn open(stage: &'static str, context: &StageContext<'_>) -> Result<Self, StageError> {
        let configuration = |why: String| StageError::Configuration { stage, why: format!("{CLIP_FIELD}: {why}") };
        let checkpoint = context.weights(stage, CLIP_FIELD)?;
        let device = context.device(stage)?;
        let opening = |e: ModelError| opening_error(stage, &device, format!("{CLIP_FIELD}: {e}"), &e);
        let clip = Clip::load(checkpoint, &device, dtype(context.spec)).and_then(|clip| clip.frozen());
        let (clip, tokenizer) = (clip.map_err(opening)?, tokenizer_in(folder_of(checkpoint)).map_err(opening)?);
        let (has, knows) = (tokenizer.vocab_size(), clip.config().text.vocab_size);
        if has > knows {
            return Err(configuration(format!("its vocabulary has {has} entries, its text tower {knows}")));
        }
        Ok(Self { stage, clip, tokenizer })
    }

    /// Side of the views that it looks at.
    pub(crate) fn side_px(&self) -> u32 {
        self.clip.config().vision.image_size as u32
    }

    /// L2-normalised vectors of square views of [`Self::side_px`].
    pub(crate) fn images(&self, views: &[&Rgb]) -> Result<Vec<Vec<f32>>, StageError> {
        encode_views(self.stage, &self.clip, views)
    }

    /// L2-normalised vectors of texts behind CLIPScore's prefix.
    pub(crate) fn texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, StageError> {
        let texts: Vec<String> = texts.iter().map(|text| format!("{PREFIX}{text}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        encode_texts(self.stage, &self.clip, &self.tokenizer, &texts)
    }
}

/// `tokenizer.json`, or OpenAI's own files, whichever lies beside the weights.
pub(crate) fn tokenizer_of(folder: &Path) -> Result<Tokenizer, String> {
    tokenizer_in(folder).map_err(|e| e.to_string())
}

fn tokenizer_in(folder: &Path) -> Result<Tokenizer, ModelError> {
    let json = folder.join(TOKENIZER_FILE);
    if json.is_file() {
        return Tokenizer::from_file(&json);
    }
    let bpe = ["vocab.json", "bpe_simple_vocab_16e6.txt.gz"].map(|name| folder.join(name));
    match bpe.iter().find(|path| path.is_file()) {
        Some(path) => Tokenizer::from_clip_bpe(path),
        None => Err(ModelError::Malformed {
            path: folder.to_owned(),
            reason: format!("it has neither {TOKENIZER_FILE} nor vocab.json with merges.txt"),
        }),
    }
}

/// CLIPScore: 2.5 max(cos(image, "A photo depicts " + caption), 0) (Hessel et al. 2021, Eq. 1).
pub(crate) fn clip_score(cosine: f32) -> f32 {
    2.5 * cosine.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_score_is_scaled_and_never_negative() {
        assert_eq!(clip_score(0.4), 1.0);
        assert_eq!(clip_score(1.0), 2.5);
        assert_eq!(clip_score(-0.3), 0.0);
    }
}
