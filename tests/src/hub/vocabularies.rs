//! Vocabularies of the published kinds with a few hundred entries.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Words of captions and prompts; all others are spelt.
const WORDS: &str = "a an and the of in is its on by with to at there this image satellite description detailed \
    comprehensive give please geographical tags road roads street residential house houses building buildings school \
    park grass water river lake field farmland forest trees parking pitch track surrounded near service path";

fn table(tokens: impl IntoIterator<Item = String>) -> Map<String, Value> {
    let mut table = Map::new();
    for token in tokens {
        let id = table.len();
        table.entry(token).or_insert_with(|| id.into());
    }
    table
}

/// Every printable character of ASCII.
fn characters() -> impl Iterator<Item = char> {
    ('!'..='~').filter(|c| !c.is_ascii_uppercase())
}

fn special(id: usize, content: &str) -> Value {
    json!({
        "id": id, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// LLaMA's sentence pieces: bytes for what is not spelt, `<s>` before a text.
pub(super) fn llama() -> Value {
    let frame = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let spelt = ('!'..='~').chain(['▁']).map(String::from);
    let words = WORDS.split_whitespace().map(|word| format!("▁{word}"));
    let vocabulary = table(frame.into_iter().chain(bytes).chain(spelt).chain(words).chain(["[PAD]".to_owned()]));
    let pad = vocabulary.len() - 1;
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>"), special(pad, "[PAD]")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary, "merges": [],
        },
    })
}

/// The lines of an uncased BERT's `vocab.txt`, with the token that InstructBLIP's Q-Former adds.
pub(super) fn bert() -> Vec<String> {
    let frame = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let spelt = characters().flat_map(|c| [c.to_string(), format!("##{c}")]);
    let words = WORDS.split_whitespace().map(str::to_owned);
    let mut lines: Vec<String> = frame.into_iter().chain(spelt).collect();
    let words: Vec<String> = words.filter(|word| !lines.contains(word)).collect();
    lines.extend(words);
    lines.push("[DEC]".to_owned());
    lines
}

/// The `tokenizer.json` of those lines.
pub(super) fn bert_json(lines: &[String]) -> Value {
    let added: Vec<Value> = (0..5).chain([lines.len() - 1]).map(|id| special(id, &lines[id])).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": table(lines.iter().cloned()),
        },
    })
}

/// CLIP's byte pairs: `vocab.json` and `merges.txt` with no merges but those of `a</w>` and its like.
pub(super) fn write_clip(folder: &Path) {
    // one printable character per byte, as OpenAI has them
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let moved = (256..).take((0..256).filter(|byte| !printable(byte)).count());
    let characters: Vec<String> =
        (0..256).filter(printable).chain(moved).filter_map(char::from_u32).map(String::from).collect();
    let ending = characters.iter().map(|c| format!("{c}</w>"));
    let merges = ["t h", "th e</w>", "a n", "o f</w>", "r o", "ro a", "roa d</w>"];
    let merged = merges.iter().map(|pair| pair.replace(' ', ""));
    let frame = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let vocabulary = table(characters.iter().cloned().chain(ending).chain(merged).chain(frame));
    std::fs::write(folder.join("vocab.json"), Value::Object(vocabulary).to_string()).expect("a file");
    std::fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).expect("a file");
}
