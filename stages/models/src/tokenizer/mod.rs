//! Captions to token ids.

mod clip_bpe;
mod export;
mod hugging_face;
mod train;

pub use hugging_face::{BertNormalizer, TextTokenizer};

use crate::{ModelError, Result};
use std::io::Write;
use std::path::Path;

/// The library panics on some files: on what is no JSON after a sound beginning, for one.
fn parse(json: &[u8]) -> std::result::Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|error| error.to_string())?;
    std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string()))
        .unwrap_or_else(|_| Err("the tokenizers library cannot read it; its message is above".to_owned()))
}

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Longer vocabularies are not read: a bound against hostile files.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Longer than any context.
const MAX_PADDING: usize = 1 << 16;

/// A vocabulary with CLIP's frame: start, tokens, end, padding.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` with the tokens `<|startoftext|>` and `<|endoftext|>`. Padding is the file's own, or 0
    /// as in open_clip; see [`with_pad_id`](Self::with_pad_id).
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Malformed`] for a file that is too long, no `tokenizer.json`, or without
    /// the tokens.
    pub fn from_file(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(ModelError::io(path))?.len();
        if size > MAX_TOKENIZER_BYTES {
            return Err(ModelError::malformed(path, format!("longer than {MAX_TOKENIZER_BYTES} bytes")));
        }
        let json = std::fs::read(path).map_err(ModelError::io(path))?;
        Self::from_json(&json).map_err(|error| ModelError::malformed(path, error))
    }

    /// Reads OpenAI's vocabulary: `bpe_simple_vocab_16e6.txt.gz`, or a `vocab.json` with `merges.txt` beside it.
    ///
    /// Texts are put into NFC and lower case and white space is collapsed; unlike open_clip, neither HTML entities
    /// nor wrongly decoded UTF-8 are repaired.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Malformed`] for a file that holds no such vocabulary.
    pub fn from_clip_bpe(path: &Path) -> Result<Self> {
        let json = clip_bpe::tokenizer_json(path)?;
        Self::from_json(json.to_string().as_bytes()).map_err(|error| ModelError::malformed(path, error))
    }

    /// Makes a vocabulary of at most `vocab_size` tokens from captions: their words in lower case if seen twice, by
    /// frequency, and pieces of words down to single characters for all others. The result depends on the multiset of
    /// captions alone.
    ///
    /// The start and end tokens have the two largest ids, so that [`Eot::Argmax`](crate::clip::Eot::Argmax) holds;
    /// padding is 0. A configuration has to be given [`vocab_size`](Self::vocab_size).
    ///
    /// # Errors
    /// [`ModelError::Config`] if `vocab_size` has no room for single characters.
    pub fn train<S: AsRef<str>>(captions: impl IntoIterator<Item = S>, vocab_size: usize) -> Result<Self> {
        let json = train::tokenizer_json(captions, vocab_size)?;
        Self::from_json(json.to_string().as_bytes())
    }

    fn from_json(json: &[u8]) -> Result<Self> {
        let refused = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        let mut inner = parse(json).map_err(ModelError::Tokenizer)?;
        // A caption that spells out "<|endoftext|>" shall not end there.
        inner.set_encode_special_tokens(true);
        inner.with_truncation(None).map_err(refused)?;
        let id = |token: &str| {
            let missing = || ModelError::Tokenizer(format!("the vocabulary has no token {token}"));
            inner.token_to_id(token).ok_or_else(missing)
        };
        let (start, end) = (id(START)?, id(END)?);
        if let Some(padding) = inner.get_padding() {
            check_padding(padding)?;
        }
        let pad = inner.get_padding().map_or(0, |padding| padding.pad_id);
        Ok(Self { inner, start, end, pad })
    }

    /// The same vocabulary with another padding id: 0 in open_clip, the end token in Hugging Face's CLIP.
    pub fn with_pad_id(mut self, pad: u32) -> Self {
        self.pad = pad;
        let padding = tokenizers::PaddingParams {
            pad_id: pad,
            pad_token: self.inner.id_to_token(pad).unwrap_or_default(),
            ..Default::default()
        };
        self.inner.with_padding(Some(padding));
        self
    }

    /// Exactly `context_length` ids: start, tokens, end, padding. A text that is too long loses its last tokens, never
    /// its end.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a context without room for start and end, [`ModelError::Tokenizer`] with the
    /// library's words.
    pub fn encode(&self, text: &str, context_length: usize) -> Result<Vec<u32>> {
        if context_length < 2 {
            return Err(ModelError::Input(format!(
                "a context length of {context_length} has no room for start and end"
            )));
        }
        let mut ids = Vec::with_capacity(context_length);
        ids.push(self.start);
        ids.extend(self.tokens(text)?.into_iter().take(context_length - 2));
        ids.push(self.end);
        ids.resize(context_length, self.pad);
        Ok(ids)
    }

    /// Tokens of a text, without start, end and padding.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's words.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.tokens(text)?.len())
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_attention_mask());
        Ok(tokens.filter(|&(&id, &mask)| mask == 1 && id != self.start && id != self.end).map(|(&id, _)| id).collect())
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Id of `<|startoftext|>`.
    pub fn start_id(&self) -> u32 {
        self.start
    }

    /// Id of `<|endoftext|>`.
    pub fn end_id(&self) -> u32 {
        self.end
    }

    /// Id that fills a text up to the context length.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// Writes a `tokenizer.json`, readable by Hugging Face's library too.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.json(true)?;
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = Path::new(&draft);
        let written = std::fs::File::create(draft).and_then(|mut file| {
            file.write_all(json.as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(draft, path)).map_err(|error| {
            _ = std::fs::remove_file(draft);
            ModelError::io(path)(error)
        })
    }

    /// A hexadecimal digest (blake3) of vocabulary and rules.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's words.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for id in [self.start, self.end, self.pad] {
            hasher.update(&id.to_le_bytes());
        }
        hasher.update(self.json(false)?.as_bytes());
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn json(&self, pretty: bool) -> Result<String> {
        self.inner.to_string(pretty).map_err(|error| ModelError::Tokenizer(error.to_string()))
    }
}

/// The library pads a text to whatever length the file claims, and divides by what it claims.
fn check_padding(padding: &tokenizers::PaddingParams) -> Result<()> {
    let length = match padding.strategy {
        tokenizers::PaddingStrategy::BatchLongest => 0,
        tokenizers::PaddingStrategy::Fixed(length) => length,
    };
    match padding.pad_to_multiple_of {
        Some(multiple) if !(1..=MAX_PADDING).contains(&multiple) => {
            Err(ModelError::Tokenizer(format!("padding to a multiple of {multiple} is not within 1..={MAX_PADDING}")))
        }
        _ if length > MAX_PADDING => {
            Err(ModelError::Tokenizer(format!("padding to {length} tokens is more than {MAX_PADDING}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: [&str; 4] = [
        "Many planes are parked next to a long building in an airport.",
        "Some planes are parked near a long runway.",
        "a green lawn is between the road and the port .",
        "the road leads to a green lawn near the airport",
    ];

    fn trained() -> Tokenizer {
        Tokenizer::train(CAPTIONS, 400).unwrap()
    }

    /// The library panics here by itself.
    #[test]
    fn a_vocabulary_that_is_no_json_further_on_is_an_error() {
        let json = trained().json(true).unwrap();
        for place in ["\"decoder\": {", "\"prefix\": "] {
            assert!(json.contains(place), "{json}");
            let damaged = json.replacen(place, &format!("{place}]"), 1);
            assert!(Tokenizer::from_json(damaged.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_text_is_framed_padded_and_truncated() {
        let tokenizer = trained();
        let (start, end, pad) = (tokenizer.start_id(), tokenizer.end_id(), tokenizer.pad_id());
        let ids = tokenizer.encode("Planes are parked", 8).unwrap();
        assert_eq!(ids.len(), 8);
        assert_eq!((ids[0], ids[4]), (start, end));
        assert_eq!(ids[5..], [pad; 3]);
        assert_eq!((tokenizer.count("Planes are parked").unwrap(), tokenizer.count(" ").unwrap()), (3, 0));
        let cut = tokenizer.encode("planes are parked", 4).unwrap();
        assert_eq!(cut, [start, ids[1], ids[2], end]);
        assert_eq!(tokenizer.encode("", 3).unwrap(), [start, end, pad]);
        assert!(tokenizer.encode("planes", 1).is_err());
    }

    #[test]
    fn end_is_the_largest_id() {
        let tokenizer = trained();
        assert_eq!(tokenizer.end_id() as usize + 1, tokenizer.vocab_size());
        assert_eq!(tokenizer.start_id() + 1, tokenizer.end_id());
        assert_eq!(tokenizer.pad_id(), 0);
        assert!(tokenizer.vocab_size() <= 400);
    }

    #[test]
    fn known_words_are_one_token_and_unknown_ones_are_not_lost() {
        let tokenizer = trained();
        let tokens = |text: &str| {
            let ids = tokenizer.encode(text, 40).unwrap();
            ids.into_iter().skip(1).take_while(|&id| id != tokenizer.end_id()).collect::<Vec<_>>()
        };
        assert_eq!(tokens("AIRPORT").len(), 1);
        assert_eq!(tokens("green lawn").len(), 2);
        // "portland" was never seen, its characters were.
        let unknown = tokenizer.inner.token_to_id("<|unk|>").unwrap();
        assert!(tokens("portland").len() > 1 && !tokens("portland").contains(&unknown));
        assert_ne!(tokens("portland"), tokens("landport"));
        assert_eq!(tokens("漢"), [unknown]);
    }

    #[test]
    fn a_caption_cannot_end_itself() {
        let tokenizer = trained();
        let ids = tokenizer.encode("planes <|endoftext|> road", 40).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == tokenizer.end_id()).count(), 1);
        let road = tokenizer.encode("road", 3).unwrap()[1];
        assert!(ids.contains(&road));
    }

    #[test]
    fn training_does_not_depend_on_the_order_of_captions() {
        let reversed = Tokenizer::train(CAPTIONS.iter().rev(), 400).unwrap();
        assert_eq!(trained().digest().unwrap(), reversed.digest().unwrap());
        let other = Tokenizer::train(&CAPTIONS[1..], 400).unwrap();
        assert_ne!(trained().digest().unwrap(), other.digest().unwrap());
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let saved = trained().with_pad_id(1);
        saved.save(&path).unwrap();
        let loaded = Tokenizer::from_file(&path).unwrap();
        assert_eq!(loaded.pad_id(), 1);
        assert_eq!(saved.digest().unwrap(), loaded.digest().unwrap());
        assert_eq!(saved.encode(CAPTIONS[0], 20).unwrap(), loaded.encode(CAPTIONS[0], 20).unwrap());
    }

    #[test]
    fn files_that_are_no_tokenizers_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        assert!(matches!(Tokenizer::from_file(&path), Err(ModelError::Io { .. })));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Tokenizer::from_file(&path), Err(ModelError::Malformed { .. })));
        assert!(Tokenizer::train(CAPTIONS, 10).is_err());
    }
}
