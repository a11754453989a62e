//! OpenAI's byte-pair vocabulary, as distributed with CLIP.

use super::{END, START};
use crate::{ModelError, Result};
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;

/// Both forms of the published vocabulary stay below 4 MB.
const MAX_BYTES: u64 = 64 << 20;

/// `bpe_simple_vocab_16e6.txt` holds more merges than CLIP uses.
const MERGES: usize = 49_152 - 256 - 2;

const END_OF_WORD: &str = "</w>";

/// The content of a `tokenizer.json` for this vocabulary.
pub(super) fn tokenizer_json(path: &Path) -> Result<Value> {
    let (vocabulary, merges) = if path.extension().is_some_and(|extension| extension == "json") {
        let vocabulary: Map<String, Value> =
            serde_json::from_str(&read_text(path)?).map_err(|error| ModelError::malformed(path, error))?;
        let merges = path.with_file_name("merges.txt");
        (vocabulary, parse_merges(&merges, &read_text(&merges)?)?)
    } else {
        let merges = parse_merges(path, &read_text(path)?)?;
        (vocabulary(&merges), merges)
    };
    let special = |token: &str| {
        let missing = || ModelError::malformed(path, format!("the vocabulary has no token {token}"));
        let id = vocabulary.get(token).ok_or_else(missing)?;
        Ok::<_, ModelError>(json!({
            "id": id, "content": token, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }))
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(START)?, special(END)?],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "NFC" },
                { "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " },
                { "type": "Lowercase" },
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": { "Regex": "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+" },
                    "behavior": "Removed",
                    "invert": true,
                },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ],
        },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": null,
            "end_of_word_suffix": END_OF_WORD, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": merges,
        },
    }))
}

fn read_text(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
    let mut reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(flate2::read::GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut text = String::new();
    reader.by_ref().take(MAX_BYTES + 1).read_to_string(&mut text).map_err(ModelError::io(path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ModelError::malformed(path, format!("longer than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Pairs, one per line, behind a line with the version.
fn parse_merges(path: &Path, text: &str) -> Result<Vec<[String; 2]>> {
    let lines = text.lines().enumerate().skip(1).take(MERGES).filter(|(_, line)| !line.is_empty());
    let pairs = lines.map(|(number, line)| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok([left.to_owned(), right.to_owned()]),
        _ => Err(ModelError::malformed(path, format!("line {} is no pair: {line:?}", number + 1))),
    });
    pairs.collect()
}

/// Ids in the order of OpenAI's `SimpleTokenizer`: bytes, bytes that end a word, merges, start, end.
fn vocabulary(merges: &[[String; 2]]) -> Map<String, Value> {
    let bytes: Vec<String> = byte_characters().into_iter().map(String::from).collect();
    let ending: Vec<String> = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}")).collect();
    let merged = merges.iter().map(|pair| pair.concat());
    let special = [START, END].map(str::to_owned);
    let tokens = bytes.iter().cloned().chain(ending).chain(merged).chain(special);
    tokens.zip(0u32..).map(|(token, id)| (token, id.into())).collect()
}

/// One printable character per byte (`bytes_to_unicode`): printable bytes stand for themselves and come first.
fn byte_characters() -> Vec<char> {
    let is_printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let printable = (0..256).filter(is_printable);
    let moved = (256..).take(256 - printable.clone().count());
    printable.chain(moved).filter_map(char::from_u32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;

    #[test]
    fn a_small_vocabulary_has_openais_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bpe.txt");
        std::fs::write(&path, "#version: 0.2\np l\npl a\npla ne</w>\nn e</w>\n").unwrap();
        let tokenizer = Tokenizer::from_clip_bpe(&path).unwrap();
        assert_eq!(tokenizer.vocab_size(), 518);
        assert_eq!((tokenizer.start_id(), tokenizer.end_id(), tokenizer.pad_id()), (516, 517, 0));
        // '!' is byte 33, the first printable one; '</w>' shifts by 256.
        assert_eq!(tokenizer.encode("!", 3).unwrap(), [516, 256, 517]);
        // p l, pl a, n e</w>, and only then pla ne</w>: the third merge, token 514.
        assert_eq!(tokenizer.encode(" PLANE\n", 5).unwrap(), [516, 514, 517, 0, 0]);
        // "pla" does not end a word with a merge: p l a</w>.
        assert_eq!(tokenizer.encode("pla ne", 6).unwrap(), [516, 512, 64 + 256, 515, 517, 0]);
    }

    #[test]
    fn lines_that_are_no_pairs_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bpe.txt");
        std::fs::write(&path, "#version: 0.2\np l\nplane\n").unwrap();
        let message = Tokenizer::from_clip_bpe(&path).unwrap_err().to_string();
        assert!(message.contains("line 3"), "{message}");
    }

    #[test]
    fn openais_vocabulary_gives_the_ids_of_the_reference() {
        let Some(data) = crate::test_data() else {
            return;
        };
        let golden = std::fs::read_to_string(data.join("goldens/clip_tiny/inputs.json")).unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        let bpe = Tokenizer::from_clip_bpe(&data.join("data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")).unwrap();
        let json = Tokenizer::from_file(&data.join("data/tokenizers/clip/tokenizer.json")).unwrap();
        assert_eq!((bpe.vocab_size(), bpe.start_id(), bpe.end_id()), (49_408, 49_406, 49_407));
        for (text, ids) in golden["texts"].as_array().unwrap().iter().zip(golden["token_ids"].as_array().unwrap()) {
            let mut expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            expected.resize(77, 0);
            assert_eq!(bpe.encode(text.as_str().unwrap(), 77).unwrap(), expected);
            assert_eq!(json.encode(text.as_str().unwrap(), 77).unwrap(), expected);
        }
        for text in ["it's 1024 px, naïve café!?", "a 漢字 sign…\u{a0}end"] {
            assert_eq!(bpe.encode(text, 77).unwrap(), json.encode(text, 77).unwrap(), "{text}");
        }
    }
}
