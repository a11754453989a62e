//! Vocabularies of language models, as they are published.

use super::MAX_TOKENIZER_BYTES;
use crate::{ModelError, Result};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;

/// A `tokenizer.json` of any kind (LLaMA's and T5's sentence pieces, BERT's word pieces) with its own frame.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
}

/// What a BERT makes of a text before it looks for word pieces, with the names of its `tokenizer_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BertNormalizer {
    /// Whether it knows lower case alone.
    pub do_lower_case: bool,
    /// Whether letters lose their accents; `None`: where they lose their case.
    pub strip_accents: Option<bool>,
    /// Whether every Chinese character is a word.
    pub tokenize_chinese_chars: bool,
}

impl Default for BertNormalizer {
    /// That of an uncased BERT.
    fn default() -> Self {
        Self { do_lower_case: true, strip_accents: None, tokenize_chinese_chars: true }
    }
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`. Its padding and truncation are not used.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Malformed`] with the path.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(path, &read(path)?)
    }

    /// The same, whose texts may hold one of its added tokens: all others are spelt where a text has them.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file), and [`ModelError::Malformed`] for a vocabulary without that token.
    pub fn from_file_with_marker(path: &Path, marker: &str) -> Result<Self> {
        let mut json: Value =
            serde_json::from_slice(&read(path)?).map_err(|error| ModelError::malformed(path, error))?;
        let added = json.get_mut("added_tokens").and_then(Value::as_array_mut);
        let found = added.and_then(|added| added.iter_mut().find(|token| token["content"] == marker));
        let Some(token) = found.and_then(Value::as_object_mut) else {
            return Err(ModelError::malformed(path, format!("the vocabulary has no added token {marker}")));
        };
        token.extend([("special".to_owned(), false.into()), ("normalized".to_owned(), false.into())]);
        Self::from_json(path, json.to_string().as_bytes())
    }

    /// Reads the `vocab.txt` of a BERT, one word piece per line.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Malformed`] with the path and the special token that is missing.
    pub fn from_bert_vocabulary(path: &Path, normalizer: BertNormalizer) -> Result<Self> {
        let text = String::from_utf8(read(path)?).map_err(|error| ModelError::malformed(path, error))?;
        let vocabulary: Map<String, Value> =
            text.lines().zip(0u32..).map(|(piece, id)| (piece.to_owned(), id.into())).collect();
        let special = |token: &str| {
            let missing = || ModelError::malformed(path, format!("the vocabulary has no token {token}"));
            Ok::<_, ModelError>(vocabulary.get(token).ok_or_else(missing)?.clone())
        };
        let (start, end) = (special("[CLS]")?, special("[SEP]")?);
        let added = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| {
            Ok(json!({
                "id": special(token)?, "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }))
        });
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.into_iter().collect::<Result<Vec<_>>>()?,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": true, "handle_chinese_chars": normalizer.tokenize_chinese_chars,
                "strip_accents": normalizer.strip_accents, "lowercase": normalizer.do_lower_case,
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", end], "cls": ["[CLS]", start] },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": {
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary,
            },
        });
        Self::from_json(path, json.to_string().as_bytes())
    }

    fn from_json(path: &Path, json: &[u8]) -> Result<Self> {
        let malformed = |error: tokenizers::Error| ModelError::malformed(path, error);
        let mut inner = super::parse(json).map_err(|why| ModelError::malformed(path, why))?;
        // A text that spells out "</s>" shall not end there. (T5's pieces hold it as a word too.)
        inner.set_encode_special_tokens(true);
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Ids with the vocabulary's own frame: a start for LLaMA, an end for T5, both for BERT.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, without special tokens and surrounding space.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's words.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.inner.decode(ids, true).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        Ok(text.trim().to_owned())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
    let mut bytes = Vec::new();
    file.take(MAX_TOKENIZER_BYTES + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
    match bytes.len() as u64 > MAX_TOKENIZER_BYTES {
        true => Err(ModelError::malformed(path, format!("longer than {MAX_TOKENIZER_BYTES} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "A short description of the satellite image: naïve café, 1024 px!";

    #[test]
    fn a_bert_vocabulary_has_its_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplane\n##s\ntwo\n").unwrap();
        let uncased = BertNormalizer::default();
        let tokenizer = TextTokenizer::from_bert_vocabulary(&path, uncased).unwrap();
        assert_eq!(tokenizer.encode("Two PLANES, road").unwrap(), [2, 7, 5, 6, 1, 1, 3]);
        assert_eq!(tokenizer.decode(&[2, 7, 5, 6, 3]).unwrap(), "two planes");
        std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[MASK]\n").unwrap();
        let message = TextTokenizer::from_bert_vocabulary(&path, uncased).unwrap_err().to_string();
        assert!(message.contains("[SEP]"), "{message}");
        assert!(matches!(TextTokenizer::from_file(&path), Err(ModelError::Malformed { .. })));
    }

    #[test]
    fn a_bert_vocabulary_is_read_with_case_accents_and_characters_as_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplane\nPlane\nété\nete\n漢字\n漢\n字\n").unwrap();
        let ids = |normalizer| {
            let tokenizer = TextTokenizer::from_bert_vocabulary(&path, normalizer).unwrap();
            let ids = tokenizer.encode("Plane plane été 漢字").unwrap();
            ids[1..ids.len() - 1].to_vec()
        };
        let uncased = BertNormalizer::default();
        assert_eq!(ids(uncased), [5, 5, 8, 10, 11]);
        let cased = BertNormalizer { do_lower_case: false, ..uncased };
        assert_eq!(ids(cased), [6, 5, 7, 10, 11]);
        assert_eq!(ids(BertNormalizer { strip_accents: Some(true), ..cased }), [6, 5, 8, 10, 11]);
        assert_eq!(ids(BertNormalizer { strip_accents: Some(false), ..uncased }), [5, 5, 7, 10, 11]);
        assert_eq!(ids(BertNormalizer { tokenize_chinese_chars: false, ..uncased }), [5, 5, 8, 9]);
    }

    #[test]
    fn published_vocabularies_give_the_ids_of_the_reference() {
        let Some(data) = crate::test_data().map(|data| data.join("data/tokenizers")) else {
            return;
        };
        // transformers' LlamaTokenizerFast, T5TokenizerFast and BertTokenizerFast on TEXT
        let llama = TextTokenizer::from_file(&data.join("llama/tokenizer.json")).unwrap();
        let t5 = TextTokenizer::from_file(&data.join("t5-small/tokenizer.json")).unwrap();
        let bert = data.join("bert-base-uncased/vocab.txt");
        let bert = TextTokenizer::from_bert_vocabulary(&bert, BertNormalizer::default()).unwrap();
        assert_eq!(
            llama.encode(TEXT).unwrap(),
            [
                1, 319, 3273, 6139, 310, 278, 28421, 1967, 29901, 1055, 30085, 345, 274, 28059, 29892, 29871, 29896,
                29900, 29906, 29946, 282, 29916, 29991
            ]
        );
        assert_eq!(
            t5.encode(TEXT).unwrap(),
            [71, 710, 4210, 13, 8, 7605, 1023, 10, 3, 29, 9, 2, 162, 11949, 6, 335, 2266, 3, 102, 226, 55, 1]
        );
        assert_eq!(
            bert.encode(TEXT).unwrap(),
            [101, 1037, 2460, 6412, 1997, 1996, 5871, 3746, 1024, 15743, 7668, 1010, 9402, 2549, 1052, 2595, 999, 102]
        );
        assert_eq!(llama.decode(&llama.encode(TEXT).unwrap()).unwrap(), TEXT);
        // A text cannot end itself.
        assert!(!llama.encode("road</s>road").unwrap().contains(&2));
    }
}
