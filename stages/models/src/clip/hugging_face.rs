//! Hugging Face's `CLIPModel`: its `config.json`, and how it is written.

use super::config::{ClipConfig, Eot, INIT_LOGIT_SCALE, Pool, Stem, TextConfig, VisionConfig};
use super::names::{Stored, in_hugging_face};
use crate::checkpoint::write_json;
use crate::ops::{Activation, LAYER_NORM_EPSILON};
use crate::parameters::{Parameters, save_tensors};
use crate::preprocessing::Preprocessing;
use crate::{ModelError, Result};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// transformers reads this end token as "the largest id", for the sake of OpenAI's first configuration files.
const ARGMAX_EOS: u32 = 2;

/// Fields of `config.json` that matter here; defaults are those of `CLIPConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    projection_dim: usize,
    logit_scale_init_value: f64,
    text_config: Text,
    vision_config: Vision,
}

#[derive(Deserialize)]
#[serde(default)]
struct Text {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    eos_token_id: u32,
}

#[derive(Deserialize)]
#[serde(default)]
struct Vision {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            projection_dim: 512,
            logit_scale_init_value: INIT_LOGIT_SCALE,
            text_config: Text::default(),
            vision_config: Vision::default(),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: LAYER_NORM_EPSILON,
            eos_token_id: 49_407,
        }
    }
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: LAYER_NORM_EPSILON,
        }
    }
}

pub(super) fn read_config(path: &Path, json: serde_json::Value) -> Result<ClipConfig> {
    match json.get("model_type").and_then(|kind| kind.as_str()) {
        Some("clip") => {}
        other => {
            return Err(ModelError::AnotherModel {
                path: path.to_owned(),
                reason: format!("model_type is {}, clip is wanted", other.unwrap_or("missing")),
            });
        }
    }
    let config: Config = serde_json::from_value(json).map_err(|error| ModelError::malformed(path, error))?;
    let (t, v) = (config.text_config, config.vision_config);
    let unsupported = |what: String| ModelError::AnotherModel { path: path.to_owned(), reason: what };
    if t.hidden_act != v.hidden_act {
        return Err(unsupported(format!("hidden_act {} for texts and {} for images", t.hidden_act, v.hidden_act)));
    }
    let activation = match v.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => {
            return Err(unsupported(format!("hidden_act {other}, quick_gelu or gelu are known")));
        }
    };
    if [t.layer_norm_eps, v.layer_norm_eps].iter().any(|eps| (eps - LAYER_NORM_EPSILON).abs() > 1e-9) {
        return Err(unsupported(format!("layer_norm_eps is not {LAYER_NORM_EPSILON}")));
    }
    if v.num_channels != 3 {
        return Err(unsupported(format!("{} channels, 3 are known", v.num_channels)));
    }
    let preprocessing = Preprocessing::beside(path, v.image_size)?;
    let config = ClipConfig {
        embed_dim: config.projection_dim,
        vision: VisionConfig {
            image_size: v.image_size,
            patch_size: v.patch_size,
            width: v.hidden_size,
            layers: v.num_hidden_layers,
            heads: v.num_attention_heads,
            mlp_ratio: v.intermediate_size as f64 / v.hidden_size.max(1) as f64,
            stem: Stem::Patch,
            pool: Pool::Cls,
        },
        text: TextConfig {
            context_length: t.max_position_embeddings,
            vocab_size: t.vocab_size,
            width: t.hidden_size,
            layers: t.num_hidden_layers,
            heads: t.num_attention_heads,
            mlp_ratio: t.intermediate_size as f64 / t.hidden_size.max(1) as f64,
            eot: if t.eos_token_id == ARGMAX_EOS { Eot::Argmax } else { Eot::Id(t.eos_token_id) },
        },
        activation,
        image_mean: preprocessing.mean,
        image_std: preprocessing.std,
        init_logit_scale: config.logit_scale_init_value,
    };
    config.validate()?;
    Ok(config)
}

pub(super) fn save(config: &ClipConfig, parameters: &Parameters, folder: &Path) -> Result<()> {
    let (t, v) = (&config.text, &config.vision);
    let unsupported = |reason: &str| ModelError::Unsupported { format: "Hugging Face", reason: reason.to_owned() };
    if !config.is_plain_vit() {
        return Err(unsupported("the image tower is no plain vision Transformer with a class token"));
    }
    let eos = match t.eot {
        Eot::Argmax => ARGMAX_EOS,
        Eot::Id(ARGMAX_EOS) => {
            return Err(unsupported("transformers takes the end token 2 for the largest id"));
        }
        Eot::Id(id) => id,
        Eot::LastNonPad(_) => {
            return Err(unsupported("transformers does not look for the last token before padding"));
        }
    };
    let act = match config.activation {
        Activation::QuickGelu => "quick_gelu",
        Activation::Gelu => "gelu",
    };
    std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    write_json(
        &folder.join("config.json"),
        &json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": config.embed_dim,
            "logit_scale_init_value": config.init_logit_scale,
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": t.vocab_size,
                "hidden_size": t.width,
                "intermediate_size": t.mlp_width(),
                "projection_dim": config.embed_dim,
                "num_hidden_layers": t.layers,
                "num_attention_heads": t.heads,
                "max_position_embeddings": t.context_length,
                "hidden_act": act,
                "layer_norm_eps": LAYER_NORM_EPSILON,
                "eos_token_id": eos,
                // those of OpenAI's vocabulary, unless they are named
                "bos_token_id": null,
                "pad_token_id": null,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": v.width,
                "intermediate_size": v.mlp_width(),
                "projection_dim": config.embed_dim,
                "num_hidden_layers": v.layers,
                "num_attention_heads": v.heads,
                "image_size": v.image_size,
                "patch_size": v.patch_size,
                "hidden_act": act,
                "layer_norm_eps": LAYER_NORM_EPSILON,
            },
        }),
    )?;
    write_json(
        &folder.join("preprocessor_config.json"),
        &json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "size": { "shortest_edge": v.image_size },
            // 3 = bicubic
            "resample": 3,
            "do_center_crop": true,
            "crop_size": { "height": v.image_size, "width": v.image_size },
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": config.image_mean,
            "image_std": config.image_std,
        }),
    )?;
    let mut tensors = Vec::new();
    for (name, variable) in parameters.iter() {
        split(name, &variable.as_detached_tensor(), &mut tensors)?;
    }
    save_tensors(&folder.join("model.safetensors"), tensors)
}

/// Puts a variable of ours into `tensors` under transformers' names.
fn split(name: &str, tensor: &Tensor, tensors: &mut Vec<(String, Tensor)>) -> Result<()> {
    match in_hugging_face(name) {
        Stored::AsIs(name) => tensors.push((name, tensor.clone())),
        Stored::Transposed(name) => tensors.push((name, tensor.t()?.contiguous()?)),
        Stored::Parts(names) => {
            let parts = tensor.chunk(names.len(), 0)?;
            tensors.extend(names.into_iter().zip(parts));
        }
        // only Long-CLIP has two tables
        Stored::Spliced { head, .. } => tensors.push((head, tensor.clone())),
    }
    Ok(())
}
