//! open_clip's `open_clip_config.json`; its weights bear the names that ours have anyway.

use super::config::{
    ClipConfig, Eot, INIT_LOGIT_SCALE, OPENAI_IMAGE_MEAN, OPENAI_IMAGE_STD, Pool, Stem, TextConfig, VisionConfig,
};
use crate::checkpoint::{read_json, write_json};
use crate::ops::Activation;
use crate::parameters::Parameters;
use crate::{ModelError, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Options that change nothing in the network of a plain CLIP, or only its training.
const WITHOUT_EFFECT: &[&str] = &[
    "attn_pooler_heads",
    "attn_pooler_queries",
    "custom_text",
    "final_ln_after_pool",
    "hf_model_pretrained",
    "hf_pooler_type",
    "hf_proj_type",
    "hf_tokenizer_name",
    "nonscalar_logit_scale",
    "output_tokens",
    "pad_id",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "tokenizer_kwargs",
    "tokenizer_mode",
];

/// One object of the configuration; whatever nobody asked for in the end makes it another model.
struct Section<'a> {
    path: &'a Path,
    name: &'static str,
    fields: Map<String, Value>,
}

impl<'a> Section<'a> {
    fn new(path: &'a Path, name: &'static str, value: Option<Value>) -> Result<Self> {
        match value {
            Some(Value::Object(fields)) => Ok(Self { path, name, fields }),
            _ => Err(ModelError::malformed(path, format!("{name} is missing or no object"))),
        }
    }

    fn another(&self, key: &str, value: &Value) -> ModelError {
        ModelError::AnotherModel {
            path: self.path.to_owned(),
            reason: format!("{}.{key} = {value} makes a network that is not known here", self.name),
        }
    }

    fn take<T: serde::de::DeserializeOwned>(&mut self, key: &str, default: Option<T>) -> Result<T> {
        match (self.fields.remove(key), default) {
            (Some(value), _) => {
                // A list of sizes is an image that is no square.
                serde_json::from_value(value.clone()).map_err(|_| self.another(key, &value))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(ModelError::malformed(self.path, format!("{}.{key} is missing", self.name))),
        }
    }

    /// Refuses every field that is left and not at rest.
    fn finish(self) -> Result<()> {
        let at_rest = |key: &str, value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => {
                matches!(
                    (key, text.as_str()),
                    ("pos_embed_type", "learnable") | ("block_type", "default") | ("proj_type", "linear")
                )
            }
            _ => false,
        };
        let left = self.fields.iter().filter(|(key, _)| !WITHOUT_EFFECT.contains(&key.as_str()));
        match left.into_iter().find(|(key, value)| !at_rest(key, value)) {
            Some((key, value)) => Err(self.another(key, value)),
            None => Ok(()),
        }
    }
}

pub(super) fn read_config(path: &Path) -> Result<ClipConfig> {
    let mut json: Value = read_json(path)?;
    let preprocess = json.get_mut("preprocess_cfg").map(Value::take).unwrap_or_default();
    let model = json.get_mut("model_cfg").map(Value::take).unwrap_or(json);
    let mut top = Section::new(path, "model_cfg", Some(model))?;
    let mut v = Section::new(path, "vision_cfg", top.fields.remove("vision_cfg"))?;
    let mut t = Section::new(path, "text_cfg", top.fields.remove("text_cfg"))?;

    let vision = match v.fields.get("layers") {
        Some(Value::Array(_)) => resnet(&mut v)?,
        _ => vit(&mut v)?,
    };
    let eos: u32 = t.take("eos_id", Some(2))?;
    let text = TextConfig {
        context_length: t.take("context_length", Some(77))?,
        vocab_size: t.take("vocab_size", Some(49_408))?,
        width: t.take("width", Some(512))?,
        layers: t.take("layers", Some(12))?,
        heads: t.take("heads", Some(8))?,
        mlp_ratio: t.take("mlp_ratio", Some(4.0))?,
        eot: match t.take("pool_type", Some("argmax".to_owned()))?.as_str() {
            "argmax" => Eot::Argmax,
            "eos" => Eot::Id(eos),
            other => return Err(t.another("pool_type", &other.into())),
        },
    };
    // a picture is taken by its shorter side, and resampled as Pillow's bicubic filter does
    for (key, known) in [("resize_mode", "shortest"), ("interpolation", "bicubic")] {
        if let Some(other) = preprocess.get(key).and_then(Value::as_str).filter(|other| *other != known) {
            return Err(ModelError::Config(format!(
                "{}: preprocess_cfg.{key} = {other:?} is not supported; only {known:?} is",
                path.display()
            )));
        }
    }
    let quick_gelu: bool = top.take("quick_gelu", Some(false))?;
    let channels = |key: &str, default| match preprocess.get(key) {
        Some(value) => serde_json::from_value(value.clone()).map_err(|error| ModelError::malformed(path, error)),
        None => Ok(default),
    };
    let config = ClipConfig {
        embed_dim: top.take("embed_dim", None)?,
        vision,
        text,
        activation: if quick_gelu { Activation::QuickGelu } else { Activation::Gelu },
        image_mean: channels("mean", OPENAI_IMAGE_MEAN)?,
        image_std: channels("std", OPENAI_IMAGE_STD)?,
        init_logit_scale: top.take::<Option<f64>>("init_logit_scale", Some(None))?.unwrap_or(INIT_LOGIT_SCALE),
    };
    v.finish()?;
    t.finish()?;
    top.finish()?;
    config.validate()?;
    Ok(config)
}

/// A vision Transformer.
fn vit(v: &mut Section<'_>) -> Result<VisionConfig> {
    let width: usize = v.take("width", Some(768))?;
    let head_width: usize = v.take("head_width", Some(64))?;
    Ok(VisionConfig {
        image_size: v.take("image_size", Some(224))?,
        patch_size: v.take("patch_size", Some(16))?,
        width,
        layers: v.take("layers", Some(12))?,
        heads: width / head_width.max(1),
        mlp_ratio: v.take("mlp_ratio", Some(4.0))?,
        stem: Stem::Patch,
        pool: match v.take("pool_type", Some("tok".to_owned()))?.as_str() {
            "tok" => Pool::Cls,
            other => return Err(v.another("pool_type", &other.into())),
        },
    })
}

/// A list of layers is CLIP's ResNet, which knows neither patches nor an MLP.
fn resnet(v: &mut Section<'_>) -> Result<VisionConfig> {
    let blocks: Vec<usize> = v.take("layers", None)?;
    let (width, head_width) = (v.take("width", Some(64))?, v.take("head_width", Some(64))?);
    v.fields.remove("patch_size");
    v.fields.remove("mlp_ratio");
    Ok(VisionConfig::resnet(v.take("image_size", Some(224))?, width, blocks, head_width))
}

/// open_clip reads the tokenizer of a local folder from that folder as soon as the configuration names any; without a
/// name it takes OpenAI's vocabulary, whatever the network was trained with.
const TOKENIZER_BESIDE: &str = "tokenizer.json";

pub(super) fn save(config: &ClipConfig, parameters: &Parameters, folder: &Path) -> Result<()> {
    let (t, v) = (&config.text, &config.vision);
    let unsupported = |reason: &str| ModelError::Unsupported { format: "open_clip", reason: reason.to_owned() };
    if !config.is_plain_vit() {
        return Err(unsupported("the image tower is no plain vision Transformer with a class token"));
    }
    let mut text = json!({
        "context_length": t.context_length,
        "vocab_size": t.vocab_size,
        "width": t.width,
        "heads": t.heads,
        "layers": t.layers,
        "mlp_ratio": t.mlp_ratio,
        "hf_tokenizer_name": TOKENIZER_BESIDE,
    });
    match t.eot {
        Eot::Argmax => {}
        Eot::Id(id) => {
            text["pool_type"] = "eos".into();
            text["eos_id"] = id.into();
        }
        Eot::LastNonPad(_) => {
            return Err(unsupported("open_clip does not look for the last token before padding"));
        }
    }
    std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    write_json(
        &folder.join("open_clip_config.json"),
        &json!({
            "model_cfg": {
                "embed_dim": config.embed_dim,
                "quick_gelu": config.activation == Activation::QuickGelu,
                "init_logit_scale": config.init_logit_scale,
                "vision_cfg": {
                    "image_size": v.image_size,
                    "layers": v.layers,
                    "width": v.width,
                    "head_width": v.width / v.heads,
                    "mlp_ratio": v.mlp_ratio,
                    "patch_size": v.patch_size,
                },
                "text_cfg": text,
            },
            "preprocess_cfg": {
                "mean": config.image_mean,
                "std": config.image_std,
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        }),
    )?;
    parameters.save_safetensors(&folder.join("open_clip_model.safetensors"))
}
