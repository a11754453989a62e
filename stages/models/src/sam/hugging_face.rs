//! transformers' `SamModel`: its `config.json`, and how it is written.

use super::config::{DecoderConfig, EncoderConfig, PIXEL_MEAN, PIXEL_STD, SamConfig, VitConfig};
use super::names::{PLACES, PLACES_COPY, hugging_face_name};
use crate::checkpoint::{read_json, write_json};
use crate::parameters::save_tensors;
use crate::{ModelError, Result};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Fields of `config.json` that matter here; defaults are those of `SamConfig`.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    #[serde(default)]
    vision_config: Vision,
    #[serde(default)]
    prompt_encoder_config: PromptEncoder,
    #[serde(default)]
    mask_decoder_config: Decoder,
}

#[derive(Deserialize)]
#[serde(default)]
struct Vision {
    hidden_size: usize,
    output_channels: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    qkv_bias: bool,
    mlp_ratio: f64,
    mlp_dim: Option<usize>,
    use_abs_pos: bool,
    use_rel_pos: bool,
    window_size: usize,
    global_attn_indexes: Vec<usize>,
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            output_channels: 256,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 1024,
            patch_size: 16,
            hidden_act: "gelu".to_owned(),
            qkv_bias: true,
            mlp_ratio: 4.0,
            mlp_dim: None,
            use_abs_pos: true,
            use_rel_pos: true,
            window_size: 14,
            global_attn_indexes: vec![2, 5, 8, 11],
        }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct PromptEncoder {
    mask_input_channels: usize,
}

impl Default for PromptEncoder {
    fn default() -> Self {
        Self { mask_input_channels: DecoderConfig::default().mask_channels }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Decoder {
    hidden_size: usize,
    hidden_act: String,
    mlp_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    attention_downsample_rate: usize,
    num_multimask_outputs: usize,
    iou_head_depth: usize,
    iou_head_hidden_dim: usize,
    layer_norm_eps: f64,
}

impl Default for Decoder {
    fn default() -> Self {
        let d = DecoderConfig::default();
        Self {
            hidden_size: d.width,
            hidden_act: "relu".to_owned(),
            mlp_dim: d.mlp_width,
            num_hidden_layers: d.depth,
            num_attention_heads: d.heads,
            attention_downsample_rate: d.attention_downsample,
            num_multimask_outputs: d.multimask_outputs,
            iou_head_depth: d.iou_head_depth,
            iou_head_hidden_dim: d.iou_head_width,
            layer_norm_eps: 1e-6,
        }
    }
}

pub(super) fn read_config(path: &Path) -> Result<SamConfig> {
    let config: Config = read_json(path)?;
    let another = |reason: String| ModelError::AnotherModel { path: path.to_owned(), reason };
    if config.model_type != "sam" {
        return Err(another(format!("model_type is {}, sam is wanted", config.model_type)));
    }
    let (v, d) = (config.vision_config, config.mask_decoder_config);
    if !v.use_abs_pos || !v.use_rel_pos || !v.qkv_bias || v.num_channels != 3 {
        return Err(another("an image encoder without positions, biases or three channels".to_owned()));
    }
    if v.hidden_act != "gelu" || d.hidden_act != "relu" {
        return Err(another(format!("hidden_act {} and {}, gelu and relu are known", v.hidden_act, d.hidden_act)));
    }
    if d.iou_head_depth != 3 {
        return Err(another(format!("an iou head of {} layers, 3 are known", d.iou_head_depth)));
    }
    if v.output_channels != d.hidden_size {
        return Err(another(format!("{} output_channels for a decoder of {}", v.output_channels, d.hidden_size)));
    }
    let config = SamConfig {
        image_size: v.image_size,
        encoder: EncoderConfig::Vit(VitConfig {
            patch_size: v.patch_size,
            width: v.hidden_size,
            depth: v.num_hidden_layers,
            heads: v.num_attention_heads,
            mlp_width: v.mlp_dim.unwrap_or((v.hidden_size as f64 * v.mlp_ratio) as usize),
            window: v.window_size,
            global_blocks: v.global_attn_indexes,
        }),
        decoder: DecoderConfig {
            width: d.hidden_size,
            depth: d.num_hidden_layers,
            heads: d.num_attention_heads,
            mlp_width: d.mlp_dim,
            attention_downsample: d.attention_downsample_rate,
            multimask_outputs: d.num_multimask_outputs,
            iou_head_depth: d.iou_head_depth,
            iou_head_width: d.iou_head_hidden_dim,
            mask_channels: config.prompt_encoder_config.mask_input_channels,
            layer_norm_epsilon: d.layer_norm_eps,
        },
    };
    config.validate()?;
    Ok(config)
}

pub(super) fn save(config: &SamConfig, tensors: &BTreeMap<String, Tensor>, folder: &Path) -> Result<()> {
    let unsupported = |reason: &str| ModelError::Unsupported { format: "Hugging Face", reason: reason.to_owned() };
    let EncoderConfig::Vit(v) = &config.encoder else {
        return Err(unsupported("transformers has no SAM with a TinyViT"));
    };
    let d = &config.decoder;
    if d.iou_head_depth != 3 {
        return Err(unsupported("heads of another depth than 3"));
    }
    std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let written = json!({
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": {
            "model_type": "sam_vision_model",
            "hidden_size": v.width,
            "output_channels": d.width,
            "num_hidden_layers": v.depth,
            "num_attention_heads": v.heads,
            "image_size": config.image_size,
            "patch_size": v.patch_size,
            "window_size": v.window,
            "global_attn_indexes": v.global_blocks,
            "mlp_dim": v.mlp_width,
            "num_pos_feats": d.width / 2,
        },
        "prompt_encoder_config": {
            "hidden_size": d.width,
            "image_size": config.image_size,
            "patch_size": v.patch_size,
            "image_embedding_size": config.embedding_side(),
            "mask_input_channels": d.mask_channels,
        },
        "mask_decoder_config": {
            "hidden_size": d.width,
            "mlp_dim": d.mlp_width,
            "num_hidden_layers": d.depth,
            "num_attention_heads": d.heads,
            "attention_downsample_rate": d.attention_downsample,
            "num_multimask_outputs": d.multimask_outputs,
            "iou_head_depth": d.iou_head_depth,
            "iou_head_hidden_dim": d.iou_head_width,
            "layer_norm_eps": d.layer_norm_epsilon,
        },
    });
    let preprocessor = json!({
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "longest_edge": config.image_size },
        // 2 = bilinear
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": PIXEL_MEAN.map(|mean| mean / 255.0),
        "image_std": PIXEL_STD.map(|deviation| deviation / 255.0),
        "do_pad": true,
        "pad_size": { "height": config.image_size, "width": config.image_size },
        "mask_size": { "longest_edge": config.mask_side() },
        "mask_pad_size": { "height": config.mask_side(), "width": config.mask_side() },
    });
    for (name, json) in [("config.json", written), ("preprocessor_config.json", preprocessor)] {
        write_json(&folder.join(name), &json)?;
    }
    let mut renamed: BTreeMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| (hugging_face_name(name), tensor.clone())).collect();
    if let Some(places) = tensors.get(PLACES.0) {
        renamed.insert(PLACES_COPY.to_owned(), places.copy()?);
    }
    save_tensors(&folder.join("model.safetensors"), renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_network_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let reason = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_config(&path).unwrap_err().to_string()
        };
        assert!(reason(r#"{"model_type": "sam2"}"#).contains("sam2"));
        assert!(
            reason(r#"{"model_type": "sam", "vision_config": {"hidden_act": "relu"}}"#).contains("hidden_act relu")
        );
        assert!(reason(r#"{"model_type": "sam", "vision_config": {"use_rel_pos": false}}"#).contains("positions"));
        assert!(reason("{").contains("config.json"));
        std::fs::write(&path, r#"{"model_type": "sam"}"#).unwrap();
        let mut expected = SamConfig::preset("vit-b").unwrap();
        expected.decoder.layer_norm_epsilon = 1e-6;
        assert_eq!(read_config(&path).unwrap(), expected);
    }
}
