//! `[caption.instructblip]`: InstructBLIP on this machine, and what all captioners that look have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Problems, positive};

/// InstructBLIP prompted by the geo-tags; decoding with transformers' names and the model card's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Where the settings of decoding come from.
    pub decoding: Decoding,
    /// Beams of the search; 1 decodes greedily.
    pub num_beams: usize,
    /// Tokens of a caption at most.
    pub max_new_tokens: usize,
    /// Tokens of a caption at least.
    pub min_length: usize,
    /// Above 1: tokens that stand in the caption already become less likely.
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
    /// How structured captions are asked for.
    pub structured: StructuredSpec,
}

/// Bounds that keep a batch's memory within reason.
const MOST_BEAMS: usize = 256;
pub(super) const MOST_TOKENS: usize = 1 << 16;
const WARMEST: f64 = 100.0;

impl InstructBlipSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        self.check_as("caption.instructblip", 5, problems);
    }

    /// Checks a section whose images want so many answers at least.
    pub(super) fn check_as(&self, section: &str, answers: usize, problems: &mut Problems) {
        let mut of = problems.section(section);
        of.prompts(&self.prompt, &self.prompt_without_tags);
        of.within("num_beams", self.num_beams, 1..=MOST_BEAMS, "1 decodes greedily");
        of.count("max_new_tokens", self.max_new_tokens, MOST_TOKENS);
        of.within("min_length", self.min_length, 0..=self.max_new_tokens, "that is max_new_tokens");
        of.within("repetition_penalty", self.repetition_penalty, positive(100.0), "1 penalises nothing");
        of.within("length_penalty", self.length_penalty, -100.0..=100.0, "1 is the mean over the length");
        of.within("top_p", self.top_p, positive(1.0), "1 searches by beams");
        of.within("temperature", self.temperature, positive(WARMEST), "1 is the model's own");
        of.count("images_per_batch", self.images_per_batch, 4096);
        of.within("cache_mib", self.cache_mib, 0..=1 << 24, "0 takes what is free");
        self.quality.check(&format!("{section}.quality"), problems);
        self.structured.check(&format!("{section}.structured"), answers, problems);
    }
}

/// Whose settings captions are decoded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// Those of the build spec.
    Spec,
    /// Those of the checkpoint's `generation_config.json`, as far as it has them; the spec's for the rest.
    Checkpoint,
}

/// How InstructBLIP is asked for structured captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StructuredSpec {
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
    /// Answers asked for at most, of which five have to be valid and distinct.
    pub attempts: usize,
}

impl StructuredSpec {
    /// More answers for one image are not waited for.
    pub const MAX_ATTEMPTS: usize = 100;

    fn check(&self, section: &str, answers: usize, problems: &mut Problems) {
        let mut of = problems.section(section);
        of.prompts(&self.prompt, &self.prompt_without_tags);
        of.within("temperature", self.temperature, positive(WARMEST), "1 is the model's own");
        of.within("top_p", self.top_p, positive(1.0), "1 draws from all tokens");
        of.count("max_new_tokens", self.max_new_tokens, MOST_TOKENS);
        let why = if answers == 1 { "an answer may hold all five" } else { "every image wants five answers" };
        of.within("attempts", self.attempts, answers..=Self::MAX_ATTEMPTS, why);
    }
}

impl Default for StructuredSpec {
    fn default() -> Self {
        const RULES: &str = "North is at the top. Name only what is visible, and say sizes in words such as small, \
                             large, long or narrow. Answer with one JSON object with three texts: \"one_sentence\", \
                             \"feature\" and \"caption\".";
        Self {
            prompt: format!("Describe this satellite image, which the map knows as: {{tags}}. {RULES}"),
            prompt_without_tags: format!("Describe this satellite image. {RULES}"),
            temperature: 0.2,
            top_p: 0.95,
            max_new_tokens: 192,
            attempts: 10,
        }
    }
}

/// What a generated caption must be. One that is not is written once more by sampling, then kept and flagged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionQualitySpec {
    /// Least number of words.
    pub min_words: usize,
    /// Greatest share of word triples that stood in the caption before.
    pub max_repetition: f64,
    /// Least share of the tags' words that the caption mentions.
    pub min_tag_coverage: f64,
}

impl CaptionQualitySpec {
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        let mut of = problems.section(path);
        of.within("min_words", self.min_words, 0..=10_000, "0 takes any caption");
        of.share("max_repetition", self.max_repetition);
        of.share("min_tag_coverage", self.min_tag_coverage);
    }
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
            decoding: Decoding::Spec,
            num_beams: 5,
            max_new_tokens: 256,
            min_length: 1,
            repetition_penalty: 1.5,
            length_penalty: 1.0,
            top_p: 1.0,
            temperature: 1.0,
            seed: 0,
            images_per_batch: 8,
            cache_mib: 0,
            quality: CaptionQualitySpec::default(),
            structured: StructuredSpec::default(),
        }
    }
}
