//! A captioner behind an address: any server of chat completions that takes images.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::caption_instructblip::{CaptionQualitySpec, MOST_TOKENS};
use super::check::Problems;
use crate::address;

/// `[caption.server]`: a server of chat completions (vLLM, llama.cpp, a cloud) that writes captions. Its key, where it
/// wants one, is read from the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionServerSpec {
    /// Address up to the version, such as `http://127.0.0.1:8000/v1`. Another address of the same model changes no row.
    pub url: String,
    /// The model, as the server calls it.
    pub model: String,
    /// What the server must say that answered (model, or its fingerprint), such as `gpt-4.1-2025-04-14`; empty: not
    /// looked at. Another revision makes captions again.
    pub revision: String,
    /// Variable of the environment that holds the key, such as `OPENAI_API_KEY`; empty: no key is sent.
    pub key_env: String,
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    /// How closely the model looks.
    pub detail: ImageDetail,
    /// Temperature of sampling; 0 takes the most likely tokens.
    pub temperature: f64,
    /// Sampling takes the most likely tokens that make up this share; 1: all.
    pub top_p: f64,
    /// Tokens of a caption at most.
    pub max_tokens: usize,
    /// The field of a request that says so.
    pub token_limit: TokenLimitField,
    /// Seed of sampling; servers keep to it as well as they can.
    pub seed: u64,
    /// What a caption must be.
    pub quality: CaptionQualitySpec,
    /// How structured captions are asked for.
    pub structured: ServerStructuredSpec,
    /// Requests under way at a time.
    pub requests_at_once: usize,
    /// Requests begun in a minute at most; 0: no bound but the server's own.
    pub requests_per_minute: u32,
    /// Seconds until an answer must be there.
    pub timeout_seconds: u64,
    /// Tries of a request whose server fails.
    pub tries: u32,
    /// Price of a million tokens of prompts and images, in any currency: `run` and `plan` add it up.
    pub price_per_million_tokens_in: f64,
    /// Price of a million tokens of answers.
    pub price_per_million_tokens_out: f64,
}

/// How closely a model looks at an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageDetail {
    /// As the server likes; nothing is said.
    Unsaid,
    /// A small view.
    Low,
    /// All pixels.
    High,
    /// By the image's size.
    Auto,
}

/// The name of the bound on an answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// What every server knows.
    MaxTokens,
    /// What OpenAI's newer models insist on.
    MaxCompletionTokens,
}

/// How a server is held to JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JsonMode {
    /// By a JSON Schema.
    Schema,
    /// Some object; the prompt says which.
    Object,
    /// By the prompt alone.
    Prompt,
}

/// How a server is asked for structured captions: for all five in one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerStructuredSpec {
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    /// How the server is held to JSON.
    pub json: JsonMode,
    /// Temperature of sampling.
    pub temperature: f64,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Answers asked for at most, until five variants are valid and distinct.
    pub attempts: usize,
}

/// Temperatures that servers take.
const WARMEST: f64 = 2.0;

impl CaptionServerSpec {
    /// Is one named?
    pub fn is_named(&self) -> bool {
        !self.url.is_empty() || !self.model.is_empty()
    }

    /// What it would cost.
    pub fn price(&self, tokens_in: u64, tokens_out: u64) -> f64 {
        (tokens_in as f64 * self.price_per_million_tokens_in + tokens_out as f64 * self.price_per_million_tokens_out)
            / 1e6
    }

    /// Does anybody know prices?
    pub fn has_prices(&self) -> bool {
        self.price_per_million_tokens_in > 0.0 || self.price_per_million_tokens_out > 0.0
    }

    pub(super) fn check(&self, is_asked: bool, problems: &mut Problems) {
        let mut of = problems.section("caption.server");
        let has_host = ["http://", "https://"]
            .iter()
            .any(|scheme| self.url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')));
        if is_asked && self.url.is_empty() {
            of.refuse("url", &self.url, "name the server up to its version, such as http://127.0.0.1:8000/v1");
        } else if !self.url.is_empty() && !has_host {
            of.refuse("url", &self.url, "write http://HOST:PORT/v1 or https://HOST/v1");
        }
        if let Some(secret) = address::secret_in(&self.url) {
            // not repeated: it is a secret
            problems.add(format!(
                "caption.server.url holds {secret}: put the key into a variable of the environment and name that in \
                 caption.server.key_env"
            ));
        }
        let mut of = problems.section("caption.server");
        if is_asked && self.model.is_empty() {
            of.refuse("model", &self.model, "name the model as the server calls it");
        }
        let is_variable = |name: &str| {
            name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        if !is_variable(&self.key_env) || self.key_env.len() > 100 {
            // it may be the key itself
            problems.add(
                "caption.server.key_env is no name of a variable: name the variable that holds the key, such as \
                 OPENAI_API_KEY, and never the key",
            );
        }
        let mut of = problems.section("caption.server");
        of.prompts(&self.prompt, &self.prompt_without_tags);
        of.within("temperature", self.temperature, 0.0..=WARMEST, "0 takes the most likely tokens");
        of.within("top_p", self.top_p, super::check::positive(1.0), "1 draws from all tokens");
        of.count("max_tokens", self.max_tokens, MOST_TOKENS);
        of.count("requests_at_once", self.requests_at_once, 1024);
        of.within("requests_per_minute", self.requests_per_minute, 0..=1_000_000, "0 sets no bound");
        of.within("timeout_seconds", self.timeout_seconds, 1..=3600, "");
        of.within("tries", self.tries, 1..=100, "");
        for (name, price) in [
            ("price_per_million_tokens_in", self.price_per_million_tokens_in),
            ("price_per_million_tokens_out", self.price_per_million_tokens_out),
        ] {
            of.within(name, price, 0.0..=1e9, "0: not known");
        }
        let mut of = problems.section("caption.server.structured");
        of.prompts(&self.structured.prompt, &self.structured.prompt_without_tags);
        of.within("temperature", self.structured.temperature, 0.0..=WARMEST, "0 takes the most likely tokens");
        of.count("max_tokens", self.structured.max_tokens, MOST_TOKENS);
        of.count("attempts", self.structured.attempts, 20);
        self.quality.check("caption.server.quality", problems);
    }
}

impl Default for CaptionServerSpec {
    fn default() -> Self {
        const RULES: &str = "Name only what is visible, in one or two plain sentences.";
        Self {
            url: String::new(),
            model: String::new(),
            revision: String::new(),
            key_env: String::new(),
            prompt: format!("Describe this satellite image, which the map knows as: {{tags}}. {RULES}"),
            prompt_without_tags: format!("Describe this satellite image. {RULES}"),
            detail: ImageDetail::Unsaid,
            temperature: 0.2,
            top_p: 1.0,
            max_tokens: 256,
            token_limit: TokenLimitField::MaxTokens,
            seed: 0,
            quality: CaptionQualitySpec::default(),
            structured: ServerStructuredSpec::default(),
            requests_at_once: 8,
            requests_per_minute: 0,
            timeout_seconds: 120,
            tries: 6,
            price_per_million_tokens_in: 0.0,
            price_per_million_tokens_out: 0.0,
        }
    }
}

impl Default for ServerStructuredSpec {
    fn default() -> Self {
        const RULES: &str = "North is at the top. Name only what is visible, and say sizes in words such as small, \
                             large, long or narrow. Answer with one JSON object {\"variants\": [...]} that holds exactly \
                             five objects, no two alike, each with three texts: \"one_sentence\", \"feature\" and \
                             \"caption\".";
        Self {
            prompt: format!("Describe this satellite image, which the map knows as: {{tags}}. {RULES}"),
            prompt_without_tags: format!("Describe this satellite image. {RULES}"),
            json: JsonMode::Schema,
            temperature: 0.3,
            max_tokens: 1800,
            attempts: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(spec: CaptionServerSpec) -> String {
        let mut problems = Problems::default();
        spec.check(true, &mut problems);
        problems.into_result().err().unwrap_or_default()
    }

    fn named() -> CaptionServerSpec {
        CaptionServerSpec {
            url: "http://127.0.0.1:8000/v1".into(),
            model: "llava".into(),
            ..CaptionServerSpec::default()
        }
    }

    #[test]
    fn a_server_is_named_by_address_and_model() {
        assert_eq!(wrong(named()), "");
        let nothing = wrong(CaptionServerSpec::default());
        assert!(nothing.contains("caption.server.url") && nothing.contains("caption.server.model"), "{nothing}");
        for url in ["llava", "ftp://host/v1", "http://", "https:///v1"] {
            assert!(wrong(CaptionServerSpec { url: url.into(), ..named() }).contains("https://HOST/v1"), "{url}");
        }
    }

    #[test]
    fn only_tags_are_filled_into_prompts() {
        let asks = |prompt: &str, without: &str| {
            wrong(CaptionServerSpec { prompt: prompt.into(), prompt_without_tags: without.into(), ..named() })
        };
        assert_eq!(asks("A {tags} and JSON such as {\"a\": {\"b\": 1}} {} { }", "nothing"), "");
        let unknown = asks("Taken in {year}: {tags}", "nothing");
        assert!(unknown.contains("caption.server.prompt") && unknown.contains("{year} would be read"), "{unknown}");
        assert!(asks("{tags} or { tags }", "").contains("{ tags } would be read"));
        assert!(asks("x {tag}", "").contains("{tags} is what is filled in"));
        assert!(asks("x", "with {tags}").contains("caption.server.prompt_without_tags"));
    }

    #[test]
    fn a_key_in_the_spec_is_refused_and_not_repeated() {
        for spec in [
            CaptionServerSpec { url: "https://me:hunter2@host/v1".into(), ..named() },
            CaptionServerSpec { url: "https://host/v1?api_key=hunter2".into(), ..named() },
            CaptionServerSpec { key_env: "sk-hunter2".into(), ..named() },
        ] {
            let why = wrong(spec);
            assert!(why.contains("key_env") && !why.contains("hunter2"), "{why}");
        }
        assert_eq!(wrong(CaptionServerSpec { key_env: "OPENAI_API_KEY".into(), ..named() }), "");
    }

    #[test]
    fn prices_are_of_millions() {
        let spec = CaptionServerSpec { price_per_million_tokens_in: 2.0, price_per_million_tokens_out: 8.0, ..named() };
        assert!((spec.price(1_500_000, 250_000) - 5.0).abs() < 1e-12);
        assert!(spec.has_prices() && !named().has_prices());
    }
}
