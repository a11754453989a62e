//! `[caption.llava]`: LLaVA on this machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::caption_instructblip::{CaptionQualitySpec, Decoding, InstructBlipSpec, StructuredSpec};
use super::caption_server::ServerStructuredSpec;
use super::check::Problems;

/// LLaVA prompted by the geo-tags; decoding with transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LlavaSpec {
    /// Folder with config, weights and vocabulary: here, in a store or on the hub, in the layout of
    /// `llava-hf/llava-1.5-7b-hf`.
    pub weights: String,
    /// GGUF file with a quantised LLaMA, named like `weights`; empty: the language model of `weights`.
    pub language_gguf: String,
    /// `{tags}` stands for the image's geo-tags in plain words. The chat around it is the model's own.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    /// Beams of the search; 1 decodes greedily.
    pub num_beams: usize,
    /// Tokens of a caption at most.
    pub max_new_tokens: usize,
    /// Above 1: tokens that stand in the prompt or in the caption already become less likely.
    pub repetition_penalty: f64,
    /// Exponent of the length by which a beam's score is divided; above 0 longer captions gain.
    pub length_penalty: f64,
    /// Below 1: nucleus sampling in place of beams.
    pub top_p: f64,
    /// Temperature of sampling; 1 is the model's own.
    pub temperature: f64,
    /// Seed of sampling.
    pub seed: u64,
    /// Images captioned at a time: memory, not words.
    pub images_per_batch: usize,
    /// Memory for keys and values; fewer images are captioned at a time where they need more. 0: what is free on a
    /// GPU, no bound on a CPU. Memory, not words.
    pub cache_mib: u64,
    /// What a caption must be.
    pub quality: CaptionQualitySpec,
    /// How structured captions are asked for: all five in one answer.
    pub structured: LlavaStructuredSpec,
}

impl Default for LlavaSpec {
    fn default() -> Self {
        const RULES: &str = "Name only what is visible, in one or two plain sentences.";
        Self {
            weights: "llava-hf/llava-1.5-7b-hf".into(),
            language_gguf: String::new(),
            prompt: format!("Describe this satellite image, which the map knows as: {{tags}}. {RULES}"),
            prompt_without_tags: format!("Describe this satellite image. {RULES}"),
            num_beams: 1,
            max_new_tokens: 256,
            repetition_penalty: 1.0,
            length_penalty: 1.0,
            top_p: 1.0,
            temperature: 1.0,
            seed: 0,
            images_per_batch: 8,
            cache_mib: 0,
            quality: CaptionQualitySpec::default(),
            structured: LlavaStructuredSpec::default(),
        }
    }
}

/// How LLaVA is asked for structured captions: for all five in one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LlavaStructuredSpec {
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    /// Temperature of sampling; 1 is the model's own.
    pub temperature: f64,
    /// Sampling takes the most likely tokens that make up this share; 1: all.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// Answers asked for at most, until five variants are valid and distinct.
    pub attempts: usize,
}

impl Default for LlavaStructuredSpec {
    fn default() -> Self {
        let ServerStructuredSpec { prompt, prompt_without_tags, .. } = ServerStructuredSpec::default();
        Self { prompt, prompt_without_tags, temperature: 0.2, top_p: 0.95, max_new_tokens: 1024, attempts: 4 }
    }
}

impl LlavaSpec {
    /// The same in InstructBLIP's words, which whoever asks a network on this machine reads.
    pub(super) fn as_instructblip(&self) -> InstructBlipSpec {
        let structured = &self.structured;
        InstructBlipSpec {
            weights: self.weights.clone(),
            language_gguf: self.language_gguf.clone(),
            prompt: self.prompt.clone(),
            prompt_without_tags: self.prompt_without_tags.clone(),
            decoding: Decoding::Spec,
            num_beams: self.num_beams,
            max_new_tokens: self.max_new_tokens,
            min_length: 0,
            repetition_penalty: self.repetition_penalty,
            length_penalty: self.length_penalty,
            top_p: self.top_p,
            temperature: self.temperature,
            seed: self.seed,
            images_per_batch: self.images_per_batch,
            cache_mib: self.cache_mib,
            quality: self.quality,
            structured: StructuredSpec {
                prompt: structured.prompt.clone(),
                prompt_without_tags: structured.prompt_without_tags.clone(),
                temperature: structured.temperature,
                top_p: structured.top_p,
                max_new_tokens: structured.max_new_tokens,
                attempts: structured.attempts,
            },
        }
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        self.as_instructblip().check_as("caption.llava", 1, problems);
        let structured = &self.structured;
        for (field, prompt) in [
            ("caption.llava.prompt", &self.prompt),
            ("caption.llava.prompt_without_tags", &self.prompt_without_tags),
            ("caption.llava.structured.prompt", &structured.prompt),
            ("caption.llava.structured.prompt_without_tags", &structured.prompt_without_tags),
        ] {
            if prompt.contains("<image>") {
                problems.add(format!(
                    "{field} = {prompt:?}: the image's place is put before it; take <image> out of the words"
                ));
            }
        }
    }
}
