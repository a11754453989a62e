//! Search by a trained model: a text or a picture becomes a vector of length one, and the best images are those whose
//! vectors are closest to it.

mod quantised;
mod shortlist;
mod top;

use models::dual_encoder::DualEncoder;
use models::tokenizer::Tokenizer;
use pixels::DecodeLimits;

use crate::encoder::Encoder;
use crate::images::limits;
use crate::network::{Network, load_network};
use crate::sentences::Sentences;
use crate::stage::{StageContext, StageError};
use crate::text_embeddings::{encode_texts, load_tokenizer};
use crate::train_rows::TrainRow;

pub use quantised::{Quantised, QuantisedQuery, quantise};
pub use shortlist::Shortlist;
pub use top::{Scored, Top, similarity};

const NAME: &str = "search";

/// Longer texts are not even cut into tokens.
const MOST_TEXT_BYTES: usize = 64 << 10;
/// Words of a text that is too long that are shown, the last ones that would be read.
const SHOWN_WORDS: usize = 4;

/// A model that turns queries into vectors, as the stages and evaluations that embed do.
pub struct QueryEncoder(Model);

enum Model {
    /// Trained on pictures and texts.
    Pictures(OfPictures),
    /// A sentence encoder, which finds what was written about pictures.
    Sentences(Sentences),
}

struct OfPictures {
    network: Network,
    tokenizer: Tokenizer,
    limits: DecodeLimits,
    average_over_turns: bool,
}

impl QueryEncoder {
    /// Loads the model that the context names.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for a folder without a model or vocabulary, or a device that is not there.
    pub fn open(context: &StageContext<'_>) -> Result<Self, StageError> {
        Ok(Self(Model::Pictures(OfPictures {
            network: load_network(NAME, context)?,
            tokenizer: load_tokenizer(NAME, context)?,
            limits: limits(context.spec),
            average_over_turns: context.spec.evaluate.average_over_turns,
        })))
    }

    /// Loads the sentence encoder that the spec names.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for a folder without one, or a device that is not there.
    pub fn open_sentences(context: &StageContext<'_>) -> Result<Self, StageError> {
        Ok(Self(Model::Sentences(Sentences::open(NAME, context)?)))
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for a text without a word, or with more tokens than the model reads: whatever is
    /// behind them would be searched for in vain.
    pub fn text(&self, text: &str) -> Result<Vec<f32>, StageError> {
        let check = |tokens: usize, count: &dyn Fn(&str) -> models::Result<usize>| {
            check_text(text, tokens, |text| count(text).map_err(|e| e.to_string()))
                .map_err(|why| StageError::Configuration { stage: NAME, why })
        };
        match &self.0 {
            Model::Sentences(sentences) => {
                check(sentences.max_tokens(), &|text| sentences.count(text))?;
                sentences.query(text)
            }
            Model::Pictures(OfPictures { network, tokenizer, .. }) => {
                check(network.context_length(), &|text| tokenizer.count(text))?;
                let vectors = encode_texts(NAME, network, tokenizer, &[text])?;
                let failed = || StageError::Compute { stage: NAME, why: "the text has no vector".into() };
                vectors.into_iter().next().ok_or_else(failed)
            }
        }
    }

    /// The vector of an encoded picture.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for bytes that are no picture that a build would take, or a sentence encoder.
    pub fn picture(&self, shown: &str, bytes: Vec<u8>) -> Result<Vec<f32>, StageError> {
        let refused = |why: String| StageError::Configuration { stage: NAME, why };
        let Model::Pictures(model) = &self.0 else {
            return Err(refused(format!("{shown}: a sentence encoder reads texts; search by a text")));
        };
        // its own error would name the row, of which there is none
        pixels::decode(&bytes, &model.limits).map_err(|e| refused(format!("{shown}: {e}")))?;
        let encoder = Encoder {
            stage: NAME,
            network: &model.network,
            tokenizer: &model.tokenizer,
            limits: model.limits,
            average_over_turns: model.average_over_turns,
        };
        let row = TrainRow {
            image_id: shown.to_owned(),
            bytes,
            bytes_digest: String::new(),
            captions: Vec::new(),
            segments: Vec::new(),
            embedded: None,
        };
        let encoded = encoder.encode(vec![row])?.into_iter().next();
        encoded
            .map(|row| row.embedding)
            .ok_or_else(|| StageError::Compute { stage: NAME, why: format!("{shown} has no vector") })
    }
}

/// Refuses a text that a model which reads `context_length` tokens, start and end among them, does not read whole.
fn check_text(text: &str, context_length: usize, count: impl Fn(&str) -> Result<usize, String>) -> Result<(), String> {
    if text.len() > MOST_TEXT_BYTES {
        return Err(format!("the text has {} bytes; search for a sentence or two", text.len()));
    }
    let empty = "the text is empty: say what is to be found, such as \"two tennis courts beside a road\"";
    // what an encoder wants before a query has tokens of its own
    if text.trim().is_empty() {
        return Err(empty.into());
    }
    let room = context_length.saturating_sub(2);
    match count(text)? {
        0 => Err(empty.into()),
        tokens if tokens <= room => Ok(()),
        tokens => {
            // where the model would stop reading
            let words: Vec<&str> = text.split_whitespace().collect();
            let fits = |words: &[&str]| count(&words.join(" ")).is_ok_and(|tokens| tokens <= room);
            let read = last_that_fits(words.len(), |end| fits(&words[..end]));
            let last = words[..read].iter().rev().take(SHOWN_WORDS).rev().copied().collect::<Vec<_>>().join(" ");
            let until = if last.is_empty() { String::new() } else { format!(", up to \"{last}\"") };
            Err(format!(
                "the text is too long: it has {tokens} tokens, and this model reads {room}{until}; say it in fewer words"
            ))
        }
    }
}

/// The largest number up to `most` that fits, where all below one that fits do too; 0 if none does.
fn last_that_fits(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<usize, String> {
        Ok(text.split_whitespace().count())
    }

    #[test]
    fn a_text_that_would_be_cut_is_refused_with_the_place() {
        assert_eq!(check_text("two parking lots beside a stadium", 8, words), Ok(()));
        let why = check_text("two parking lots beside a big stadium", 8, words).unwrap_err();
        assert!(why.contains("7 tokens, and this model reads 6, up to \"lots beside a big\""), "{why}");
        let why = check_text("stadium", 2, words).unwrap_err();
        assert!(why.contains("reads 0; say it"), "{why}");
    }

    #[test]
    fn texts_without_words_and_books_are_refused() {
        let behind_a_prefix = |text: &str| words(&format!("query: {text}"));
        for text in ["", "  ", "\u{a0}\n"] {
            assert!(check_text(text, 8, behind_a_prefix).unwrap_err().contains("is empty"), "{text:?}");
        }
        assert!(check_text("\u{0}", 8, |_| Ok(0)).unwrap_err().contains("is empty"), "it has no token");
        assert!(check_text(&"a".repeat(MOST_TEXT_BYTES + 1), 8, |_| panic!("not counted")).is_err());
    }
}
