//! Captions per second of an InstructBLIP with random weights, in Hugging Face's layout.
//!
//! `tests/peers/caption_peer.py` captions the same inputs with the same weights in transformers; both print the first ids.

use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use models::instructblip::{CaptionRequest, InstructBlip, Instruction};
use models::language::generate::GenerationSettings;
use models::parameters::{Declaration, Init, Parameters};
use std::error::Error;
use std::path::{Path, PathBuf};

use crate::measure::{best_of, print_peak_memory, seconds};
use crate::{Place, Precision};

#[derive(Debug, Args)]
pub(crate) struct WriteOptions {
    folder: PathBuf,
    #[arg(default_value = "middle")]
    size: SizeName,
    #[arg(long, help = "Of the language model, in place of its own")]
    layers: Option<usize>,
    #[arg(long, env = "PRECISION", default_value = "f32")]
    precision: Precision,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SizeName {
    /// ViT 12 x 768, Q-Former 6 x 512, LLaMA 12 x 1024, vocabulary 32,000, no end token
    Middle,
    /// The true shape
    #[value(name = "vicuna-7b")]
    Vicuna7b,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    folder: PathBuf,
    #[arg(default_value_t = 1)]
    beams: usize,
    #[arg(default_value_t = 8)]
    batch: usize,
    #[arg(default_value_t = 48)]
    tokens: usize,
    #[arg(default_value_t = 2)]
    rounds: usize,
}

pub(crate) fn write(options: &WriteOptions) -> Result<(), Box<dyn Error>> {
    let mut size = match options.size {
        SizeName::Middle => MIDDLE,
        SizeName::Vicuna7b => VICUNA_7B,
    };
    size.llama.2 = options.layers.unwrap_or(size.llama.2);
    write_checkpoint(&options.folder, &size, options.precision.dtype())
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let Options { place, folder, beams, batch, tokens, rounds } = options;
    let (num_beams, batch, tokens, rounds) = (*beams, *batch, *tokens, *rounds);
    let (device, dtype) = (place.device()?, place.precision.dtype());
    let (loading, blip) = seconds(&device, || InstructBlip::load(folder, &device, dtype))?;
    println!("loaded in {loading}, {} threads", rayon::current_num_threads());
    let side = blip.config().vision.image_size;
    let requests: Vec<CaptionRequest> = (0..batch)
        .map(|row| {
            let first = row * 3 * side * side;
            let pixels = (first..first + 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
            Ok(CaptionRequest {
                pixel_values_chw: Tensor::from_vec(pixels, (3, side, side), &device)?,
                instruction: Instruction {
                    qformer_ids: (0..12).map(|i| 1000 + 31 * i).collect(),
                    prompt_ids: (0..16).map(|i| 1000 + 37 * i).collect(),
                },
                seed: None,
            })
        })
        .collect::<Result<_, candle_core::Error>>()?;
    let settings = GenerationSettings { num_beams, max_new_tokens: tokens, ..GenerationSettings::default() };
    let one = GenerationSettings { max_new_tokens: 1, ..settings.clone() };
    let first = best_of(&device, rounds, || Ok(blip.caption(&requests, &one, batch)?))?;
    let mut ids = Vec::new();
    let all = best_of(&device, rounds, || {
        ids = blip.caption(&requests, &settings, batch)?.swap_remove(0).ids;
        Ok(())
    })?;
    println!("first ids {:?}", &ids[..ids.len().min(12)]);
    println!(
        "{num_beams} beams, batch {batch}, {tokens} tokens: {:.1} tokens/s, {all}",
        (batch * tokens) as f64 / all.wall
    );
    let step = (all.wall - first.wall) * 1e3 / (tokens - 1).max(1) as f64;
    println!("image, prompt and first token {first}; then {step:.1} ms per step");
    if let Ok(bandwidth) = std::env::var("BANDWIDTH_GB_S") {
        // the weights of the language model, and the keys and values of half the text, once for each step
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let of = |key: &str| config["text_config"][key].as_u64().ok_or("config.json lacks a size");
        let (width, hidden, layers) = (of("hidden_size")?, of("intermediate_size")?, of("num_hidden_layers")?);
        let weights = layers * (4 * width * width + 3 * width * hidden) + of("vocab_size")? * width;
        let positions = (QUERIES + 16 + tokens / 2) as u64;
        let cache = (batch * num_beams) as u64 * positions * 2 * width * layers;
        let bytes = (weights + cache) * dtype.size_in_bytes() as u64;
        let floor = bytes as f64 / (bandwidth.parse::<f64>()? * 1e6);
        println!("bandwidth floor {floor:.2} ms per step, {:.1} times that were taken", step / floor);
    }
    print_peak_memory(&device);
    Ok(())
}

/// Width, width between, layers, heads.
type Tower = (usize, usize, usize, usize);

/// Sizes of the three networks.
pub(crate) struct Size {
    vision: Tower,
    qformer: Tower,
    llama: Tower,
}

pub(crate) const SMALL: Size = Size { vision: (128, 256, 2, 4), qformer: (64, 128, 2, 4), llama: (128, 256, 3, 4) };
const MIDDLE: Size = Size { vision: (768, 3072, 12, 12), qformer: (512, 2048, 6, 8), llama: (1024, 2816, 12, 16) };
/// Salesforce/instructblip-vicuna-7b.
const VICUNA_7B: Size =
    Size { vision: (1408, 6144, 39, 16), qformer: (768, 3072, 12, 12), llama: (4096, 11008, 32, 32) };
const QFORMER_VOCABULARY: usize = 30_523;
const VOCABULARY: usize = 32_000;
const QUERIES: usize = 32;
const PATCH: usize = 14;
const SIDE: usize = 224;

/// Writes a checkpoint with random weights.
pub(crate) fn write_checkpoint(folder: &Path, size: &Size, dtype: DType) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let tower = |(width, hidden, layers, heads): (usize, usize, usize, usize)| {
        serde_json::json!({
            "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        })
    };
    let mut config = serde_json::json!({
        "model_type": "instructblip", "architectures": ["InstructBlipForConditionalGeneration"],
        "num_query_tokens": QUERIES, "image_token_index": VOCABULARY - 1,
        "vision_config": tower(size.vision), "qformer_config": tower(size.qformer), "text_config": tower(size.llama),
    });
    config["vision_config"]["image_size"] = SIDE.into();
    config["vision_config"]["patch_size"] = PATCH.into();
    config["qformer_config"]["vocab_size"] = QFORMER_VOCABULARY.into();
    config["qformer_config"]["encoder_hidden_size"] = size.vision.0.into();
    for (key, value) in [
        ("model_type", "llama".into()),
        ("architectures", serde_json::json!(["LlamaForCausalLM"])),
        ("vocab_size", VOCABULARY.into()),
        ("max_position_embeddings", 512.into()),
        ("bos_token_id", 1.into()),
        ("pad_token_id", 0.into()),
        ("eos_token_id", serde_json::Value::Null),
    ] {
        config["text_config"][key] = value;
    }
    std::fs::write(folder.join("config.json"), serde_json::to_string_pretty(&config)?)?;
    let parameters = Parameters::init(&declarations(size), 1, &Device::Cpu, dtype)?;
    println!("{} parameters", parameters.num_elements());
    Ok(parameters.save_safetensors(&folder.join("model.safetensors"))?)
}

struct Declarations(Vec<Declaration>);

impl Declarations {
    fn push(&mut self, name: &str, shape: &[usize], init: Init) {
        self.0.push(Declaration { name: name.to_owned(), shape: shape.to_vec(), init });
    }

    fn weight(&mut self, name: &str, shape: &[usize]) {
        self.push(name, shape, Init::Normal { standard_deviation: 0.03 });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.weight(&format!("{name}.weight"), &[outputs, inputs]);
        self.push(&format!("{name}.bias"), &[outputs], Init::Constant(0.0));
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(&format!("{name}.weight"), &[width], Init::Constant(1.0));
        self.push(&format!("{name}.bias"), &[width], Init::Constant(0.0));
    }
}

fn declarations(size: &Size) -> Vec<Declaration> {
    let mut list = Declarations(Vec::new());
    vision(&mut list, size.vision);
    qformer(&mut list, size.qformer, size.vision.0);
    list.linear("language_projection", size.llama.0, size.qformer.0);
    llama(&mut list, size.llama);
    list.0
}

fn vision(list: &mut Declarations, (width, hidden, layers, _): Tower) {
    list.weight("vision_model.embeddings.class_embedding", &[1, 1, width]);
    list.weight("vision_model.embeddings.position_embedding", &[1, (SIDE / PATCH).pow(2) + 1, width]);
    list.weight("vision_model.embeddings.patch_embedding.weight", &[width, 3, PATCH, PATCH]);
    list.push("vision_model.embeddings.patch_embedding.bias", &[width], Init::Constant(0.0));
    for layer in 0..layers {
        let name = |part: &str| format!("vision_model.encoder.layers.{layer}.{part}");
        list.norm(&name("layer_norm1"), width);
        list.norm(&name("layer_norm2"), width);
        list.linear(&name("self_attn.qkv"), 3 * width, width);
        list.linear(&name("self_attn.projection"), width, width);
        list.linear(&name("mlp.fc1"), hidden, width);
        list.linear(&name("mlp.fc2"), width, hidden);
    }
    list.norm("vision_model.post_layernorm", width);
}

fn qformer(list: &mut Declarations, (width, hidden, layers, _): Tower, image_width: usize) {
    list.weight("query_tokens", &[1, QUERIES, width]);
    list.weight("qformer.embeddings.word_embeddings.weight", &[QFORMER_VOCABULARY, width]);
    list.weight("qformer.embeddings.position_embeddings.weight", &[512, width]);
    list.norm("qformer.embeddings.layernorm", width);
    for layer in 0..layers {
        let name = |part: &str| format!("qformer.encoder.layer.{layer}.{part}");
        for (block, inputs) in [("attention", width), ("crossattention", image_width)] {
            if block == "crossattention" && layer % 2 == 1 {
                continue;
            }
            list.linear(&name(&format!("{block}.attention.query")), width, width);
            list.linear(&name(&format!("{block}.attention.key")), width, inputs);
            list.linear(&name(&format!("{block}.attention.value")), width, inputs);
            list.linear(&name(&format!("{block}.output.dense")), width, width);
            list.norm(&name(&format!("{block}.output.LayerNorm")), width);
        }
        for suffix in ["", "_query"] {
            list.linear(&name(&format!("intermediate{suffix}.dense")), hidden, width);
            list.linear(&name(&format!("output{suffix}.dense")), width, hidden);
            list.norm(&name(&format!("output{suffix}.LayerNorm")), width);
        }
    }
}

fn llama(list: &mut Declarations, (width, hidden, layers, _): Tower) {
    list.weight("language_model.lm_head.weight", &[VOCABULARY, width]);
    list.weight("language_model.model.embed_tokens.weight", &[VOCABULARY, width]);
    list.push("language_model.model.norm.weight", &[width], Init::Constant(1.0));
    for layer in 0..layers {
        let name = |part: &str| format!("language_model.model.layers.{layer}.{part}.weight");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            list.push(&name(norm), &[width], Init::Constant(1.0));
        }
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            list.weight(&name(&format!("self_attn.{part}")), &[width, width]);
        }
        list.weight(&name("mlp.gate_proj"), &[hidden, width]);
        list.weight(&name("mlp.up_proj"), &[hidden, width]);
        list.weight(&name("mlp.down_proj"), &[width, hidden]);
    }
}
