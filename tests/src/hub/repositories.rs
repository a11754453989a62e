//! What lies in each repository.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use device_check::checkpoint::{self, Size, Tower};
use models::clip::{Clip, ClipConfig};
use models::sam::{DecoderConfig, EncoderConfig, Sam, SamConfig, VitConfig};
use models::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::vocabularies;

/// Writes the files of a repository into a folder.
type Write = fn(&Path);

pub(super) const ALL: [(&str, Write); 4] = [
    ("Salesforce/instructblip-vicuna-7b", instructblip),
    ("facebook/sam-vit-huge", sam),
    ("llava-hf/llava-1.5-7b-hf", llava),
    ("openai/clip-vit-large-patch14", clip),
];

/// `config.json` of openai/clip-vit-large-patch14.
pub const PUBLISHED_CLIP: &str = include_str!("clip-vit-large-patch14.json");

const CPU: &Device = &Device::Cpu;

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("a file");
}

/// The configuration as it is published, with the sizes of a small network. A field that is not there is none of that
/// configuration.
fn narrowed(published: &str, sizes: &[(&str, Value)]) -> Value {
    let mut config: Value = serde_json::from_str(published).expect("a configuration");
    for (field, value) in sizes {
        *config.pointer_mut(field).expect(field) = value.clone();
    }
    config
}

fn instructblip(folder: &Path) {
    instructblip_of(folder, (16, 32, 2, 2), (16, 32, 2, 2), (32, 48, 2, 2));
}

/// InstructBLIP as it is published, with random weights and networks of these sizes.
pub fn instructblip_of(folder: &Path, vision: Tower, qformer: Tower, llama: Tower) {
    std::fs::create_dir_all(folder).expect("a folder");
    let (language, lines) = (vocabularies::llama(), vocabularies::bert());
    let vocabulary = language["model"]["vocab"].as_object().expect("a vocabulary").len();
    let size = Size { vision, qformer, llama, vocabulary, qformer_vocabulary: lines.len() };
    let mut sizes = vec![
        ("/text_config/vocab_size", vocabulary.into()),
        ("/qformer_config/vocab_size", lines.len().into()),
        ("/qformer_config/encoder_hidden_size", size.vision.0.into()),
    ];
    for (fields, tower) in [(VISION_SIZES, size.vision), (QFORMER_SIZES, size.qformer), (TEXT_SIZES, size.llama)] {
        sizes.extend(fields.into_iter().zip([tower.0, tower.1, tower.2, tower.3].map(Value::from)));
    }
    checkpoint::write(folder, &size, DType::F32).expect("a checkpoint");
    split_into_shards(folder, 4);
    // over the one that came with the weights
    write_json(&folder.join("config.json"), &narrowed(include_str!("instructblip-vicuna-7b.json"), &sizes));
    write_json(&folder.join("tokenizer.json"), &language);
    let qformer = folder.join("qformer_tokenizer");
    std::fs::create_dir_all(&qformer).expect("a folder");
    write_json(&qformer.join("tokenizer.json"), &vocabularies::bert_json(&lines));
    std::fs::write(qformer.join("vocab.txt"), lines.join("\n")).expect("a file");
    write_json(&qformer.join("tokenizer_config.json"), &json!({ "tokenizer_class": "BertTokenizer" }));
    write_json(&folder.join("tokenizer_config.json"), &json!({ "tokenizer_class": "LlamaTokenizer" }));
    write_json(
        &folder.join("preprocessor_config.json"),
        &json!({
            "image_processor_type": "BlipImageProcessor", "processor_class": "InstructBlipProcessor",
            "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
            "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
            "resample": 3, "rescale_factor": 1.0 / 255.0, "size": { "height": 224, "width": 224 },
        }),
    );
    write_json(
        &folder.join("generation_config.json"),
        &json!({
            "_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.31.0.dev0",
        }),
    );
}

fn llava(folder: &Path) {
    crate::networks::llava(folder);
}

const VISION_SIZES: [&str; 4] = [
    "/vision_config/hidden_size",
    "/vision_config/intermediate_size",
    "/vision_config/num_hidden_layers",
    "/vision_config/num_attention_heads",
];
const QFORMER_SIZES: [&str; 4] = [
    "/qformer_config/hidden_size",
    "/qformer_config/intermediate_size",
    "/qformer_config/num_hidden_layers",
    "/qformer_config/num_attention_heads",
];
const TEXT_SIZES: [&str; 4] = [
    "/text_config/hidden_size",
    "/text_config/intermediate_size",
    "/text_config/num_hidden_layers",
    "/text_config/num_attention_heads",
];
const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Spreads `model.safetensors` over files with an index, as large networks are published.
fn split_into_shards(folder: &Path, shards: usize) {
    let whole = folder.join("model.safetensors");
    let tensors: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(&whole, CPU).expect("weights").into_iter().collect();
    let (mut map, each) = (serde_json::Map::new(), tensors.len().div_ceil(shards));
    let tensors: Vec<_> = tensors.into_iter().collect();
    for (number, part) in tensors.chunks(each).enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        let part: HashMap<String, Tensor> = part.iter().cloned().collect();
        candle_core::safetensors::save(&part, folder.join(&name)).expect("a shard");
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    write_json(&folder.join("model.safetensors.index.json"), &index);
    std::fs::remove_file(whole).expect("the whole file");
}

fn sam(folder: &Path) {
    let vit = VitConfig {
        patch_size: 16,
        width: 16,
        depth: 4,
        heads: 2,
        mlp_width: 32,
        window: 14,
        global_blocks: vec![0, 1, 2, 3],
    };
    let small = SamConfig {
        image_size: 64,
        encoder: EncoderConfig::Vit(vit.clone()),
        decoder: DecoderConfig { width: 32, heads: 2, mlp_width: 32, iou_head_width: 16, ..DecoderConfig::default() },
    };
    let sizes = [
        ("/vision_config/hidden_size", vit.width.into()),
        ("/vision_config/num_hidden_layers", vit.depth.into()),
        ("/vision_config/num_attention_heads", vit.heads.into()),
        ("/vision_config/mlp_dim", vit.mlp_width.into()),
        ("/vision_config/global_attn_indexes", json!(vit.global_blocks)),
        ("/vision_config/image_size", small.image_size.into()),
        ("/vision_config/output_channels", small.decoder.width.into()),
        ("/vision_config/num_pos_feats", (small.decoder.width / 2).into()),
        ("/prompt_encoder_config/hidden_size", small.decoder.width.into()),
        ("/prompt_encoder_config/image_size", small.image_size.into()),
        ("/prompt_encoder_config/image_embedding_size", small.embedding_side().into()),
        ("/mask_decoder_config/hidden_size", small.decoder.width.into()),
        ("/mask_decoder_config/num_attention_heads", small.decoder.heads.into()),
        ("/mask_decoder_config/mlp_dim", small.decoder.mlp_width.into()),
        ("/mask_decoder_config/iou_head_hidden_dim", small.decoder.iou_head_width.into()),
    ];
    let mut tensors = Sam::random_tensors(&small, 1).expect("weights");
    make_masks_decided(&mut tensors);
    Sam::save_hugging_face(&small, &tensors, folder).expect("a folder");
    write_json(&folder.join("config.json"), &narrowed(include_str!("sam-vit-huge.json"), &sizes));
}

/// Random masks are alike, and neither good nor stable in the decoder's eyes: all of them would be filtered away.
fn make_masks_decided(tensors: &mut BTreeMap<String, Tensor>) {
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.starts_with("mask_decoder.")) {
        let is_last = name.ends_with("layers.2.weight") || name.ends_with("layers.2.bias");
        *tensor = if is_last && name.contains("iou_prediction_head") {
            let value = if name.ends_with("bias") { 0.95 } else { 0.0 };
            Tensor::full(value as f32, tensor.shape(), CPU).expect("a tensor")
        } else if is_last {
            tensor.affine(1e4, 0.0).expect("a tensor")
        } else if tensor.rank() >= 2 {
            tensor.affine(2.5, 0.0).expect("a tensor")
        } else {
            continue;
        };
    }
}

fn clip(folder: &Path) {
    vocabularies::write_clip(folder);
    let tokenizer = Tokenizer::from_clip_bpe(&folder.join("vocab.json")).expect("a vocabulary");
    let tokenizer = tokenizer.clone().with_pad_id(tokenizer.end_id());
    tokenizer.save(&folder.join("tokenizer.json")).expect("a file");
    let sizes = [
        ("/projection_dim", 16.into()),
        ("/text_config/vocab_size", tokenizer.vocab_size().into()),
        ("/text_config/hidden_size", 32.into()),
        ("/text_config/intermediate_size", 64.into()),
        ("/text_config/num_hidden_layers", 2.into()),
        ("/text_config/num_attention_heads", 2.into()),
        ("/text_config/projection_dim", 16.into()),
        ("/vision_config/hidden_size", 32.into()),
        ("/vision_config/intermediate_size", 64.into()),
        ("/vision_config/num_hidden_layers", 2.into()),
        ("/vision_config/num_attention_heads", 2.into()),
        ("/vision_config/projection_dim", 16.into()),
        ("/vision_config/image_size", 56.into()),
    ];
    let config = narrowed(PUBLISHED_CLIP, &sizes);
    let weights = folder.join("model.safetensors");
    write_json(&folder.join("config.json"), &config);
    let read = ClipConfig::beside(&weights).expect("a configuration").expect("a configuration");
    let clip = Clip::init(&read, 1, CPU, DType::F32).expect("a network");
    clip.save_hugging_face(folder).expect("a folder");
    let mut tensors = candle_core::safetensors::load(&weights, CPU).expect("weights");
    make_pairs_alike(&mut tensors);
    // constants that are published with the weights
    for (tower, length) in [("text", read.text.context_length), ("vision", read.vision.tokens())] {
        let name = format!("{tower}_model.embeddings.position_ids");
        tensors.insert(name, Tensor::arange(0, length as i64, CPU).and_then(|ids| ids.unsqueeze(0)).expect("ids"));
    }
    candle_core::safetensors::save(&tensors, &weights).expect("a file");
    // over the one that came with the weights
    write_json(&folder.join("config.json"), &config);
    write_json(
        &folder.join("preprocessor_config.json"),
        &json!({
            "crop_size": 56, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3, "size": 56,
        }),
    );
    write_json(&folder.join("tokenizer_config.json"), &json!({ "tokenizer_class": "CLIPTokenizer" }));
}

/// Images and texts of a random network have nothing in common, and no segment would pass for what its caption says.
fn make_pairs_alike(tensors: &mut HashMap<String, Tensor>) {
    for name in ["vision_model.post_layernorm.bias", "text_model.final_layer_norm.bias"] {
        let bias = tensors.get_mut(name).expect(name);
        *bias = Tensor::full(2f32, bias.shape(), CPU).expect("a tensor");
    }
    let projection = tensors["visual_projection.weight"].clone();
    tensors.insert("text_projection.weight".to_owned(), projection);
}
