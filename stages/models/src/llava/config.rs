//! `config.json` of Hugging Face's LLaVA, with transformers' defaults where a value is left out.

use crate::frozen_vit::{MAX_LAYERS, MAX_WIDTH, VitShape};
use crate::language::LlamaConfig;
use crate::language::config::{end_ids, in_range, refuse};
use crate::ops::Activation;
use crate::{ModelError, Result};
use serde::Deserialize;
use std::path::Path;

/// Everything that tells one LLaVA from another, weights apart.
#[derive(Clone, Debug, PartialEq)]
pub struct LlavaConfig {
    /// The image tower.
    pub vision: LlavaVisionConfig,
    /// What writes the text.
    pub language: LlamaConfig,
    /// Blocks of the image tower that are run: features are read behind the last of them.
    pub feature_layers: usize,
    /// Whether the class token is left out of the features.
    pub drops_class_token: bool,
    /// Whether the projection of the features has biases.
    pub projector_bias: bool,
    /// The id that stands for the image in a prompt.
    pub image_id: u32,
    /// Ids that end a text, unless `generation_config.json` names others.
    pub end_ids: Vec<u32>,
}

/// OpenAI's CLIP ViT (Radford et al., 2021).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct LlavaVisionConfig {
    model_type: String,
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
}

impl Default for LlavaVisionConfig {
    fn default() -> Self {
        Self {
            model_type: "clip_vision_model".to_owned(),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// The file as it is.
#[derive(Deserialize)]
struct Raw {
    #[serde(default = "published_vision")]
    vision_config: LlavaVisionConfig,
    #[serde(default = "published_text")]
    text_config: serde_json::Value,
    #[serde(default = "published_image_id", alias = "image_token_id")]
    image_token_index: u32,
    #[serde(default = "gelu")]
    projector_hidden_act: String,
    #[serde(default = "yes")]
    multimodal_projector_bias: bool,
    /// One layer, or several whose features stand beside each other.
    vision_feature_layer: Option<serde_json::Value>,
    vision_feature_select_strategy: Option<String>,
}

/// What generation reads of `text_config`.
#[derive(Deserialize)]
struct RawText {
    #[serde(default = "llama")]
    model_type: String,
    #[serde(default, deserialize_with = "end_ids")]
    eos_token_id: Option<Vec<u32>>,
}

fn published_vision() -> LlavaVisionConfig {
    LlavaVisionConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        image_size: 336,
        patch_size: 14,
        ..LlavaVisionConfig::default()
    }
}

fn published_text() -> serde_json::Value {
    serde_json::json!({})
}

fn published_image_id() -> u32 {
    32_000
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn llama() -> String {
    "llama".to_owned()
}

fn yes() -> bool {
    true
}

impl LlavaConfig {
    /// Reads the content of `config.json`; `path` is where it came from.
    ///
    /// # Errors
    /// [`ModelError::AnotherModel`] for another network, [`ModelError::Config`] with a value that does not fit.
    pub fn from_json(path: &Path, json: serde_json::Value) -> Result<Self> {
        let another = |reason: String| ModelError::AnotherModel { path: path.to_owned(), reason };
        let malformed = |error: serde_json::Error| ModelError::malformed(path, error);
        let model_type = json.get("model_type").and_then(|kind| kind.as_str()).unwrap_or_default();
        if model_type != "llava" {
            return Err(another(format!(
                "model_type is {model_type:?}, \"llava\" is wanted: LLaVA 1.5 as llava-hf publishes it"
            )));
        }
        let raw: Raw = serde_json::from_value(json).map_err(malformed)?;
        let text: RawText = serde_json::from_value(raw.text_config.clone()).map_err(malformed)?;
        if text.model_type != "llama" {
            return Err(another(format!("a language model of type {:?}; llama is supported", text.model_type)));
        }
        if raw.vision_config.model_type != "clip_vision_model" {
            let kind = raw.vision_config.model_type;
            return Err(another(format!("an image tower of type {kind:?}; clip_vision_model is supported")));
        }
        if raw.projector_hidden_act != "gelu" {
            refuse(format!("projector_hidden_act = {:?}, LLaVA's is \"gelu\"", raw.projector_hidden_act))?;
        }
        let config = Self {
            feature_layers: feature_layers(raw.vision_feature_layer.as_ref(), raw.vision_config.num_hidden_layers)?,
            drops_class_token: match raw.vision_feature_select_strategy.as_deref() {
                None | Some("default") => true,
                Some("full") => false,
                Some(other) => {
                    let message = format!("vision_feature_select_strategy = {other:?}, default or full are known");
                    return Err(ModelError::Config(message));
                }
            },
            vision: raw.vision_config,
            language: serde_json::from_value(raw.text_config).map_err(malformed)?,
            projector_bias: raw.multimodal_projector_bias,
            image_id: raw.image_token_index,
            end_ids: text.eos_token_id.unwrap_or(vec![2]),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the numbers describe a network.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the value that does not fit.
    pub fn validate(&self) -> Result<()> {
        in_range("vision_config.num_hidden_layers", self.vision.num_hidden_layers, MAX_LAYERS)?;
        in_range("blocks up to vision_feature_layer", self.feature_layers, self.vision.num_hidden_layers)?;
        self.shape()?.validate("vision_config")?;
        self.language.validate()?;
        in_range("text_config.hidden_size", self.language.hidden_size, MAX_WIDTH)?;
        match (self.image_id as usize) < self.language.vocab_size {
            true => Ok(()),
            false => refuse(format!(
                "image_token_index = {} is not in the vocabulary of {}",
                self.image_id, self.language.vocab_size
            )),
        }
    }

    /// Tokens of an image in a prompt.
    pub fn image_tokens(&self) -> usize {
        let patches = (self.vision.image_size / self.vision.patch_size.max(1)).pow(2);
        patches + usize::from(!self.drops_class_token)
    }

    /// The image tower as far as it is run.
    pub(super) fn shape(&self) -> Result<VitShape> {
        let v = &self.vision;
        let activation = match v.hidden_act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => {
                let message = format!("vision_config.hidden_act = {other:?}, quick_gelu or gelu are known");
                return Err(ModelError::Config(message));
            }
        };
        Ok(VitShape {
            width: v.hidden_size,
            hidden: v.intermediate_size,
            layers: self.feature_layers,
            heads: v.num_attention_heads,
            image_size: v.image_size,
            patch_size: v.patch_size,
            epsilon: v.layer_norm_eps,
            activation,
        })
    }
}

/// Blocks before the hidden state of this number, which is counted from what goes into the first one, or from the end.
fn feature_layers(layer: Option<&serde_json::Value>, layers: usize) -> Result<usize> {
    let number = match layer {
        None => Some(-2),
        // of one layer it is the same
        Some(serde_json::Value::Array(several)) if several.len() == 1 => several[0].as_i64(),
        Some(one) => one.as_i64(),
    };
    let blocks = number.and_then(|number| match number {
        0.. => usize::try_from(number).ok(),
        _ => layers.saturating_add(1).checked_sub(usize::try_from(number.unsigned_abs()).ok()?),
    });
    match (blocks, layer) {
        (Some(blocks), _) if (1..=layers).contains(&blocks) => Ok(blocks),
        (_, layer) => Err(ModelError::Config(format!(
            "vision_feature_layer = {}, one of {layers} blocks is wanted",
            layer.unwrap_or(&serde_json::Value::Null)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: serde_json::Value) -> Result<LlavaConfig> {
        LlavaConfig::from_json(Path::new("config.json"), json)
    }

    /// llava-hf/llava-1.5-7b-hf, as far as it is read.
    fn published() -> serde_json::Value {
        json!({
            "model_type": "llava", "image_token_index": 32_000, "projector_hidden_act": "gelu",
            "text_config": {
                "model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32_064,
            },
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
                "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
            },
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        })
    }

    #[test]
    fn the_published_network_is_read() {
        let config = read(published()).unwrap();
        assert_eq!((config.image_tokens(), config.feature_layers, config.image_id), (576, 23, 32_000));
        assert_eq!((config.language.hidden_size, config.end_ids.as_slice()), (4096, &[2][..]));
        assert_eq!(config.shape().unwrap().activation, Activation::QuickGelu);
        // later versions of transformers write other names, and lists
        let mut later = published();
        later["image_token_id"] = later["image_token_index"].take();
        later.as_object_mut().unwrap().remove("image_token_index");
        later["vision_feature_layer"] = json!([-2]);
        assert_eq!(read(later).unwrap(), config);
        let bare = read(json!({"model_type": "llava", "text_config": {"vocab_size": 32_064}})).unwrap();
        assert_eq!(bare.vision, config.vision);
    }

    #[test]
    fn features_are_read_behind_the_block_that_is_named() {
        let layers = |value: serde_json::Value| feature_layers(Some(&value), 24).map_err(|e| e.to_string());
        assert_eq!((layers(json!(-1)), layers(json!(24)), layers(json!(1))), (Ok(24), Ok(24), Ok(1)));
        for bad in [json!(0), json!(25), json!(-25), json!([-2, -5]), json!(i64::MIN), json!("last")] {
            assert!(layers(bad.clone()).unwrap_err().contains("vision_feature_layer"), "{bad}");
        }
    }

    #[test]
    fn values_that_describe_no_network_are_named() {
        let broken = |pointer: &str, value: serde_json::Value, expected: &str| {
            let mut json = published();
            let (section, field) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(section).unwrap()[field] = value;
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        broken("/model_type", json!("llava_next"), "llava_next");
        broken("/text_config/model_type", json!("mistral"), "mistral");
        broken("/vision_config/model_type", json!("siglip_vision_model"), "siglip");
        broken("/vision_config/num_hidden_layers", json!(0), "vision_feature_layer = -2, one of 0 blocks");
        broken("/vision_config/num_hidden_layers", json!(u64::MAX), "vision");
        broken("/vision_config/patch_size", json!(0), "patch_size = 0");
        broken("/vision_config/image_size", json!(337), "337");
        broken("/projector_hidden_act", json!("relu"), "relu");
        broken("/image_token_index", json!(32_064), "32064");
        broken("/vision_feature_select_strategy", json!("some"), "some");
        broken("/text_config/hidden_size", json!(1u64 << 40), "hidden_size");
        assert!(read(json!([])).is_err() && read(json!({})).is_err());
    }
}
