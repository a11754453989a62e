//! Who writes the captions, and what they must be.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Captioner {
    /// Plain English from the geo-tags (no weights).
    Geotags,
    /// The captions that came with the images.
    Given,
    Instructblip,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSpec {
    pub captioner: Captioner,
    pub instructblip: InstructBlipSpec,
}

impl Default for CaptionSpec {
    fn default() -> Self {
        Self { captioner: Captioner::Geotags, instructblip: InstructBlipSpec::default() }
    }
}

/// InstructBLIP prompted by the geo-tags; decoding with transformers' names and the model card's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructBlipSpec {
    /// Folder with config, weights and tokenizers: here, in a store or on the hub, such as
    /// `Salesforce/instructblip-vicuna-7b`.
    pub weights: String,
    /// GGUF file with a quantised LLaMA, named like `weights`; empty: the language model of `weights`.
    pub language_gguf: String,
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    pub num_beams: usize,
    pub max_new_tokens: usize,
    pub min_length: usize,
    pub repetition_penalty: f64,
    pub length_penalty: f64,
    /// Below 1: nucleus sampling in place of beams.
    pub top_p: f64,
    pub temperature: f64,
    pub seed: u64,
    /// Images captioned at a time: memory, not words.
    pub images_per_batch: usize,
    pub quality: CaptionQualitySpec,
}

/// What a generated caption must be. One that is not is written once more by sampling, then kept and flagged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionQualitySpec {
    pub min_words: usize,
    /// Greatest share of word triples that stood in the caption before.
    pub max_repetition: f64,
    /// Least share of the tags' words that the caption mentions.
    pub min_tag_coverage: f64,
}

impl Default for CaptionQualitySpec {
    fn default() -> Self {
        Self { min_words: 4, max_repetition: 0.3, min_tag_coverage: 0.0 }
    }
}

impl Default for InstructBlipSpec {
    fn default() -> Self {
        Self {
            weights: String::new(),
            language_gguf: String::new(),
            prompt: "Please give a comprehensive and detailed description of the satellite image and its geographical \
                     tags: {tags}."
                .into(),
            prompt_without_tags: "Please give a comprehensive and detailed description of the satellite image.".into(),
            num_beams: 5,
            max_new_tokens: 256,
            min_length: 1,
            repetition_penalty: 1.5,
            length_penalty: 1.0,
            top_p: 1.0,
            temperature: 1.0,
            seed: 0,
            images_per_batch: 8,
            quality: CaptionQualitySpec::default(),
        }
    }
}
