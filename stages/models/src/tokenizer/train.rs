//! A small vocabulary made from captions: whole words first, pieces of words for the rest.

use super::{END, START};
use crate::{ModelError, Result};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

const PAD: &str = "<|pad|>";
const UNKNOWN: &str = "<|unk|>";
/// Marks a piece that does not begin a word.
const CONTINUES: &str = "##";

const SPECIAL_TOKENS: usize = 4;
/// Smaller vocabularies cannot spell anything.
const MIN_VOCABULARY: usize = 64;
/// A word seen once teaches nothing that its pieces do not.
const MIN_WORD_COUNT: u64 = 2;
const PIECE_LENGTHS: std::ops::RangeInclusive<usize> = 2..=6;
/// Longer words are cut short when pieces are counted: a bound against hostile captions.
const MAX_WORD_LENGTH: usize = 64;

/// Trains on captions and returns the content of a `tokenizer.json`.
pub(super) fn tokenizer_json<S: AsRef<str>>(captions: impl IntoIterator<Item = S>, vocab_size: usize) -> Result<Value> {
    if vocab_size < MIN_VOCABULARY {
        return Err(ModelError::Config(format!(
            "a vocabulary of {vocab_size} tokens is too small, at least {MIN_VOCABULARY} are needed"
        )));
    }
    let words = count_words(captions)?;
    let budget = vocab_size - SPECIAL_TOKENS;
    let characters = characters(&words, budget / 4);
    let left = budget - characters.len();
    let (words, rare) = frequent_words(words, left - left / 8);
    let pieces = pieces(&rare, left - words.len(), &words);
    Ok(describe(characters.into_iter().chain(pieces).chain(words)))
}

fn count_words<S: AsRef<str>>(captions: impl IntoIterator<Item = S>) -> Result<BTreeMap<String, u64>> {
    let refused = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
    let rules = tokenizers::Tokenizer::from_bytes(describe(std::iter::empty()).to_string()).map_err(refused)?;
    let (Some(normalizer), Some(pre_tokenizer)) = (rules.get_normalizer(), rules.get_pre_tokenizer()) else {
        return Err(ModelError::Tokenizer("the rules of splitting were not understood".to_owned()));
    };
    let mut counts = BTreeMap::new();
    for caption in captions {
        let mut text = NormalizedString::from(caption.as_ref());
        normalizer.normalize(&mut text).map_err(refused)?;
        let mut text = PreTokenizedString::from(text);
        pre_tokenizer.pre_tokenize(&mut text).map_err(refused)?;
        for (word, _, _) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.to_owned(), 1);
                }
            }
        }
    }
    Ok(counts)
}

/// The most frequent characters, each as the beginning and as the continuation of a word.
fn characters(words: &BTreeMap<String, u64>, most: usize) -> Vec<String> {
    let mut counts = BTreeMap::<char, u64>::new();
    for (word, count) in words {
        for character in word.chars() {
            *counts.entry(character).or_default() += count;
        }
    }
    let by_frequency = sorted_by_score(counts);
    let tokens = by_frequency.into_iter().flat_map(|c| [c.to_string(), format!("{CONTINUES}{c}")]);
    tokens.take(most).collect()
}

/// Splits words into those that become tokens and the rest with its counts.
fn frequent_words(mut words: BTreeMap<String, u64>, most: usize) -> (Vec<String>, BTreeMap<String, u64>) {
    let known = words.iter().filter(|(word, count)| **count >= MIN_WORD_COUNT && word.chars().nth(1).is_some());
    let mut chosen = sorted_by_score(known.map(|(word, count)| (word.clone(), *count)));
    chosen.truncate(most);
    for word in &chosen {
        words.remove(word);
    }
    (chosen, words)
}

/// The pieces that spare most tokens in writing the rare words.
fn pieces(rare: &BTreeMap<String, u64>, most: usize, words: &[String]) -> Vec<String> {
    let mut spared = BTreeMap::<String, u64>::new();
    for (word, count) in rare {
        let characters: Vec<char> = word.chars().take(MAX_WORD_LENGTH).collect();
        for start in 0..characters.len() {
            for length in PIECE_LENGTHS {
                let Some(piece) = characters.get(start..start + length) else {
                    break;
                };
                let prefix = if start == 0 { "" } else { CONTINUES };
                let piece: String = prefix.chars().chain(piece.iter().copied()).collect();
                *spared.entry(piece).or_default() += count * (length as u64 - 1);
            }
        }
    }
    let words: BTreeSet<&String> = words.iter().collect();
    // A piece that spares one token once is the word itself under another name.
    let useful = spared.into_iter().filter(|(piece, spared)| *spared >= 4 && !words.contains(piece));
    let mut chosen = sorted_by_score(useful);
    chosen.truncate(most);
    chosen
}

/// Highest score first, equal scores in the order of the keys.
fn sorted_by_score<K: Ord + Clone>(scores: impl IntoIterator<Item = (K, u64)>) -> Vec<K> {
    let mut entries: Vec<(K, u64)> = scores.into_iter().collect();
    entries.sort_by(|(a, a_score), (b, b_score)| (Reverse(a_score), a).cmp(&(Reverse(b_score), b)));
    entries.into_iter().map(|(key, _)| key).collect()
}

/// A word-piece tokenizer with these tokens between the special ones.
fn describe(tokens: impl Iterator<Item = String>) -> Value {
    let mut vocabulary = Map::new();
    let ordered = [PAD, UNKNOWN].map(str::to_owned).into_iter().chain(tokens);
    for token in ordered.chain([START, END].map(str::to_owned)) {
        let id = vocabulary.len();
        vocabulary.entry(token).or_insert(id.into());
    }
    let special: Vec<Value> = [PAD, UNKNOWN, START, END]
        .iter()
        .map(|&token| {
            json!({
                "id": vocabulary[token], "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": PAD,
        },
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": false, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": CONTINUES, "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": CONTINUES,
            "max_input_chars_per_word": 256, "vocab": vocabulary,
        },
    })
}
