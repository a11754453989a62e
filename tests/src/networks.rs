//! Small networks with random weights, written as they are published.

use std::path::{Path, PathBuf};

use models::clip::{Clip, ClipConfig};
use models::tokenizer::Tokenizer;
use serde_json::json;

/// The committed golden network: a grouped-query LLaMA behind a small Q-Former.
const INSTRUCTBLIP: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/instructblip_llama_grouped");
const LANGUAGE_WORDS: u32 = 48;
const QFORMER_WORDS: u32 = 30;

/// An InstructBLIP without tokenizers.
pub fn instructblip_without_tokenizers(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(INSTRUCTBLIP).join(name), folder.join(name)).expect("a committed network");
    }
}

/// Vocabularies of an InstructBLIP: `says` spells what it writes; every text that is put in is one unknown word.
pub fn instructblip_tokenizers(folder: &Path, says: impl Fn(u32) -> String) {
    word_level(&folder.join("tokenizer.json"), LANGUAGE_WORDS, says);
    word_level(&folder.join("qformer_tokenizer/tokenizer.json"), QFORMER_WORDS, |i| format!("word{i}"));
}

/// An InstructBLIP that writes `word0`, `word1` and so on at random.
pub fn instructblip(folder: &Path) -> PathBuf {
    instructblip_without_tokenizers(folder);
    instructblip_tokenizers(folder, |i| format!("word{i}"));
    folder.to_owned()
}

/// The committed golden LLaVA, in the layout of llava-hf.
const LLAVA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/llava_default");
const LLAVA_WORDS: u32 = 403;
const LLAVA_IMAGE: u32 = 397;

/// A LLaVA as it is published, with a vocabulary that spells most of what it is asked.
pub fn llava(folder: &Path) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    for entry in std::fs::read_dir(LLAVA).expect("a committed network") {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("a file");
        if name != "io.safetensors" && name != "generation.json" {
            std::fs::copy(from, folder.join(name)).expect("a committed network");
        }
    }
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("a configuration");
    // no weights depend on it, and prompts are longer than those of the goldens
    config["text_config"]["max_position_embeddings"] = json!(2048);
    std::fs::write(path, config.to_string()).expect("a file");
    folder.to_owned()
}

/// The vocabulary of a LLaVA: `says` spells what it writes; what stands around the image in a prompt is one unknown word each.
pub fn llava_tokenizer(folder: &Path, says: impl Fn(u32) -> String) {
    let image = json!({
        "id": LLAVA_IMAGE, "content": "<image>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    let says = |i: u32| if i == LLAVA_IMAGE { "<image>".to_owned() } else { says(i) };
    words(&folder.join("tokenizer.json"), LLAVA_WORDS, says, json!([image]));
}

/// A vocabulary of whole words.
pub fn word_level(path: &Path, words: u32, says: impl Fn(u32) -> String) {
    self::words(path, words, says, json!([]));
}

fn words(path: &Path, words: u32, says: impl Fn(u32) -> String, added_tokens: serde_json::Value) {
    let word = |i: u32| if i == 3 { "[UNK]".to_owned() } else { says(i) };
    let vocab: serde_json::Map<_, _> = (0..words).map(|i| (word(i), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, tokenizer.to_string()).expect("a file");
}

/// A CLIP of 32 pixels and 24 tokens with a vocabulary of its own.
pub fn clip(folder: &Path, seed: u64) {
    let words = "a photo depicts of two residential roads road house school pitch surrounded by water field and trees";
    let tokenizer = Tokenizer::train([words; 3], 120).expect("a vocabulary");
    let mut config = ClipConfig::preset(choices::Preset::Tiny);
    config.vision.image_size = 32;
    config.text.context_length = 24;
    config.text.vocab_size = tokenizer.vocab_size();
    let clip = Clip::init(&config, seed, &candle_core::Device::Cpu, candle_core::DType::F32).expect("a network");
    clip.save(folder).expect("a folder");
    tokenizer.save(&folder.join("tokenizer.json")).expect("a file");
}
