//! `config.json` of Hugging Face's InstructBLIP, with transformers' defaults where a value is left out.

use crate::frozen_vit::{MAX_LAYERS, MAX_TOKENS, VitShape, tower};
use crate::language::config::{end_ids, in_range, positive, refuse};
use crate::language::{LlamaConfig, T5Config};
use crate::ops::Activation;
use crate::{ModelError, Result};
use serde::Deserialize;
use std::path::Path;

/// Everything that tells one InstructBLIP from another, weights apart.
#[derive(Clone, Debug, PartialEq)]
pub struct InstructBlipConfig {
    /// The image tower.
    pub vision: VisionConfig,
    /// What reads the image for the language model.
    pub qformer: QFormerConfig,
    /// What writes the text.
    pub language: LanguageConfig,
    /// Queries of the Q-Former, and so tokens of an image in the prompt.
    pub num_query_tokens: usize,
    /// Ids that end a text.
    pub end_ids: Vec<u32>,
    /// The id that transformers puts before what a decoder wrote, and that an encoder-decoder starts from.
    pub start_id: Option<u32>,
}

/// EVA-CLIP's ViT (Sun et al., 2023).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the hidden layer of an MLP.
    pub intermediate_size: usize,
    /// Number of Transformer blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Side of the square input in pixels.
    pub image_size: usize,
    /// Side of the square that becomes one token, in pixels.
    pub patch_size: usize,
    /// Activation of the MLPs, by transformers' name.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Whether queries and values have a bias (keys have none).
    pub qkv_bias: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1408,
            intermediate_size: 6144,
            num_hidden_layers: 39,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            hidden_act: "gelu".to_owned(),
            layer_norm_eps: 1e-6,
            qkv_bias: true,
        }
    }
}

impl VisionConfig {
    pub(crate) fn shape(&self) -> VitShape {
        VitShape {
            width: self.hidden_size,
            hidden: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            image_size: self.image_size,
            patch_size: self.patch_size,
            epsilon: self.layer_norm_eps,
            activation: Activation::Gelu,
        }
    }

    /// Tokens of one image, with the class token.
    pub fn tokens(&self) -> usize {
        self.shape().tokens()
    }
}

/// A BERT with queries and cross-attention (Li et al., "BLIP-2", 2023).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct QFormerConfig {
    /// Rows of the table of the instruction's word pieces.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of Transformer blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Width of the hidden layer of an MLP.
    pub intermediate_size: usize,
    /// Activation of the MLPs, by transformers' name.
    pub hidden_act: String,
    /// Longest instruction in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Every so many layers the queries look at the image, beginning with the first.
    pub cross_attention_frequency: usize,
    /// Width of the image tokens.
    pub encoder_hidden_size: usize,
}

impl Default for QFormerConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            max_position_embeddings: 512,
            layer_norm_eps: 1e-12,
            cross_attention_frequency: 2,
            encoder_hidden_size: 1408,
        }
    }
}

/// Which language model writes the text.
#[derive(Clone, Debug, PartialEq)]
pub enum LanguageConfig {
    /// A decoder alone: Vicuna.
    Llama(LlamaConfig),
    /// An encoder and a decoder: Flan-T5.
    T5(T5Config),
}

impl LanguageConfig {
    /// Width of its embeddings.
    pub fn width(&self) -> usize {
        match self {
            LanguageConfig::Llama(config) => config.hidden_size,
            LanguageConfig::T5(config) => config.d_model,
        }
    }

    /// Rows of the language model's embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            LanguageConfig::Llama(config) => config.vocab_size,
            LanguageConfig::T5(config) => config.vocab_size,
        }
    }
}

/// The file as it is.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    #[serde(default)]
    vision_config: VisionConfig,
    #[serde(default)]
    qformer_config: QFormerConfig,
    text_config: serde_json::Value,
    #[serde(default = "default_queries")]
    num_query_tokens: usize,
}

fn default_queries() -> usize {
    32
}

/// What generation reads of `text_config`.
#[derive(Deserialize)]
struct RawText {
    model_type: String,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    bos_token_id: Option<u32>,
    /// Absent is not `null`: then the kind of network has a default.
    #[serde(default, deserialize_with = "end_ids")]
    eos_token_id: Option<Vec<u32>>,
}

impl InstructBlipConfig {
    /// Reads the content of `config.json`; `path` is where it came from.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for another network, [`ModelError::Config`] with a value that does not fit.
    pub fn from_json(path: &Path, json: serde_json::Value) -> Result<Self> {
        let another = |reason: String| ModelError::AnotherModel { path: path.to_owned(), reason };
        let malformed = |error: serde_json::Error| ModelError::malformed(path, error);
        let raw: Raw = serde_json::from_value(json).map_err(malformed)?;
        if raw.model_type != "instructblip" {
            return Err(another(format!("model_type is {:?}, \"instructblip\" is wanted", raw.model_type)));
        }
        let text: RawText = serde_json::from_value(raw.text_config.clone()).map_err(malformed)?;
        let (language, default_end) = match text.model_type.as_str() {
            "llama" => (LanguageConfig::Llama(serde_json::from_value(raw.text_config).map_err(malformed)?), 2),
            "t5" => (LanguageConfig::T5(serde_json::from_value(raw.text_config).map_err(malformed)?), 1),
            other => return Err(another(format!("a language model of type {other:?}; llama and t5 are supported"))),
        };
        let start_id = match &language {
            LanguageConfig::T5(config) => Some(config.decoder_start_token_id),
            // The authors' tokenizer had </s> for a start, and transformers keeps to that for their checkpoints.
            LanguageConfig::Llama(_) if is_authors_own(&text) => Some(2),
            LanguageConfig::Llama(_) => Some(text.bos_token_id.unwrap_or(1)),
        };
        let config = Self {
            // transformers sets this width, whatever the file says.
            qformer: QFormerConfig { encoder_hidden_size: raw.vision_config.hidden_size, ..raw.qformer_config },
            vision: raw.vision_config,
            num_query_tokens: raw.num_query_tokens,
            end_ids: text.eos_token_id.unwrap_or(vec![default_end]),
            start_id,
            language,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the numbers describe a network.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        let (v, q) = (&self.vision, &self.qformer);
        v.shape().validate("vision_config")?;
        tower("qformer_config", q.hidden_size, q.intermediate_size, q.num_hidden_layers, q.num_attention_heads)?;
        in_range("qformer_config.vocab_size", q.vocab_size, 1 << 22)?;
        in_range("qformer_config.max_position_embeddings", q.max_position_embeddings, MAX_TOKENS)?;
        in_range("qformer_config.cross_attention_frequency", q.cross_attention_frequency, MAX_LAYERS)?;
        positive("qformer_config.layer_norm_eps", q.layer_norm_eps)?;
        in_range("num_query_tokens", self.num_query_tokens, MAX_TOKENS)?;
        for (name, activation) in [("vision_config", &v.hidden_act), ("qformer_config", &q.hidden_act)] {
            if activation != "gelu" {
                return refuse(format!("{name}.hidden_act = {activation:?}, InstructBLIP's is \"gelu\""));
            }
        }
        match &self.language {
            LanguageConfig::Llama(config) => config.validate(),
            LanguageConfig::T5(config) => config.validate(),
        }
    }
}

fn is_authors_own(text: &RawText) -> bool {
    let architectures = text.architectures.as_deref().unwrap_or_default();
    architectures.first().is_some_and(|architecture| architecture == "LLaMAForCausalLM")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: serde_json::Value) -> Result<InstructBlipConfig> {
        InstructBlipConfig::from_json(Path::new("config.json"), json)
    }

    fn vicuna() -> serde_json::Value {
        json!({"model_type": "instructblip", "text_config": {"model_type": "llama"}})
    }

    #[test]
    fn left_out_values_are_those_of_the_published_network() {
        let config = read(vicuna()).unwrap();
        assert_eq!(
            (config.num_query_tokens, config.vision.tokens(), config.qformer.encoder_hidden_size),
            (32, 257, 1408)
        );
        assert_eq!((config.language.width(), config.end_ids, config.start_id), (4096, vec![2], Some(1)));
        let mut json = vicuna();
        json["text_config"]["architectures"] = json!(["LLaMAForCausalLM"]);
        json["text_config"]["eos_token_id"] = json!([2, 7]);
        let config = read(json).unwrap();
        assert_eq!((config.end_ids, config.start_id), (vec![2, 7], Some(2)));
        let mut json = vicuna();
        json["text_config"]["eos_token_id"] = json!(null);
        assert!(read(json).unwrap().end_ids.is_empty());
    }

    #[test]
    fn values_that_describe_no_network_are_named() {
        let broken = |pointer: (&str, &str), value: serde_json::Value, expected: &str| {
            let mut json = vicuna();
            json[pointer.0][pointer.1] = value;
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        broken(("vision_config", "num_attention_heads"), json!(15), "num_attention_heads = 15");
        broken(("vision_config", "patch_size"), json!(0), "patch_size = 0");
        broken(("vision_config", "image_size"), json!(225), "225");
        broken(("vision_config", "hidden_size"), json!(1u64 << 40), "hidden_size");
        broken(("vision_config", "hidden_act"), json!("relu"), "relu");
        broken(("qformer_config", "cross_attention_frequency"), json!(0), "cross_attention_frequency = 0");
        broken(("qformer_config", "layer_norm_eps"), json!(0.0), "layer_norm_eps = 0");
        broken(("text_config", "model_type"), json!("opt"), "opt");
        broken(("text_config", "num_hidden_layers"), json!(-1), "-1");
        let message = read(json!({"model_type": "clip", "text_config": {}})).unwrap_err().to_string();
        assert!(message.contains("clip"), "{message}");
    }
}
