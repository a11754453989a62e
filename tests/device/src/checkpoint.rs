//! Checkpoints of any size with random weights, in Hugging Face's layout: an InstructBLIP, a LLaVA, a sentence encoder.

use std::path::Path;

use candle_core::{DType, Device};
use models::parameters::{Declaration, Init, Parameters};

use crate::Result;

/// Width, width between, layers, heads.
pub type Tower = (usize, usize, usize, usize);

/// Sizes of the three networks.
#[derive(Clone, Debug)]
pub struct Size {
    /// The image encoder.
    pub vision: Tower,
    /// The Q-Former.
    pub qformer: Tower,
    /// The language model.
    pub llama: Tower,
    /// Entries of the Q-Former's vocabulary.
    pub qformer_vocabulary: usize,
    /// Entries of the language model's.
    pub vocabulary: usize,
}

/// The vocabularies are the true ones.
const fn size(vision: Tower, qformer: Tower, llama: Tower) -> Size {
    Size { vision, qformer, llama, qformer_vocabulary: 30_523, vocabulary: 32_000 }
}

pub(crate) const SMALL: Size = size((128, 256, 2, 4), (64, 128, 2, 4), (128, 256, 3, 4));
pub(crate) const MIDDLE: Size = size((768, 3072, 12, 12), (512, 2048, 6, 8), (1024, 2816, 12, 16));
/// Salesforce/instructblip-vicuna-7b.
pub(crate) const VICUNA_7B: Size = size((1408, 6144, 39, 16), (768, 3072, 12, 12), (4096, 11008, 32, 32));
pub(crate) const QUERIES: usize = 32;
const PATCH: usize = 14;
const SIDE: usize = 224;

/// Writes `config.json` and `model.safetensors` with random weights into a folder; the number of parameters.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(folder: &Path, size: &Size, dtype: DType) -> Result<usize> {
    std::fs::create_dir_all(folder)?;
    let tower = |(width, hidden, layers, heads): (usize, usize, usize, usize)| {
        serde_json::json!({
            "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        })
    };
    let mut config = serde_json::json!({
        "model_type": "instructblip", "architectures": ["InstructBlipForConditionalGeneration"],
        "num_query_tokens": QUERIES, "image_token_index": size.vocabulary - 1,
        "vision_config": tower(size.vision), "qformer_config": tower(size.qformer), "text_config": tower(size.llama),
    });
    config["vision_config"]["image_size"] = SIDE.into();
    config["vision_config"]["patch_size"] = PATCH.into();
    config["qformer_config"]["vocab_size"] = size.qformer_vocabulary.into();
    config["qformer_config"]["encoder_hidden_size"] = size.vision.0.into();
    for (key, value) in [
        ("model_type", "llama".into()),
        ("architectures", serde_json::json!(["LlamaForCausalLM"])),
        ("vocab_size", size.vocabulary.into()),
        ("max_position_embeddings", 512.into()),
        ("bos_token_id", 1.into()),
        ("pad_token_id", 0.into()),
        ("eos_token_id", serde_json::Value::Null),
    ] {
        config["text_config"][key] = value;
    }
    std::fs::write(folder.join("config.json"), serde_json::to_string_pretty(&config)?)?;
    let parameters = Parameters::init(&declarations(size), 1, &Device::Cpu, dtype)?;
    parameters.save_safetensors(&folder.join("model.safetensors"))?;
    Ok(parameters.num_elements())
}

/// The id that stands for the image in a LLaVA's prompts.
pub(crate) const IMAGE_ID: u32 = SMALL.vocabulary as u32 - 1;

/// Writes a LLaVA 1.5 with the towers of [`SMALL`] into a folder.
pub(crate) fn write_llava(folder: &Path) -> Result {
    let ((seen, seen_hidden, seen_layers, seen_heads), (width, hidden, layers, heads)) = (SMALL.vision, SMALL.llama);
    let config = serde_json::json!({
        "model_type": "llava", "image_token_index": IMAGE_ID,
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": seen, "intermediate_size": seen_hidden,
            "num_hidden_layers": seen_layers, "num_attention_heads": seen_heads, "image_size": SIDE, "patch_size": PATCH,
        },
        "text_config": {
            "model_type": "llama", "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": SMALL.vocabulary,
            "max_position_embeddings": 512, "eos_token_id": null,
        },
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut list = Declarations(Vec::new());
    let at = |part: &str| format!("vision_tower.vision_model.{part}");
    list.weight(&at("embeddings.class_embedding"), &[seen]);
    list.weight(&at("embeddings.position_embedding.weight"), &[(SIDE / PATCH).pow(2) + 1, seen]);
    list.weight(&at("embeddings.patch_embedding.weight"), &[seen, 3, PATCH, PATCH]);
    list.norm(&at("pre_layrnorm"), seen);
    for layer in 0..seen_layers {
        let name = |part: &str| at(&format!("encoder.layers.{layer}.{part}"));
        list.norm(&name("layer_norm1"), seen);
        list.norm(&name("layer_norm2"), seen);
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&name(&format!("self_attn.{part}")), seen, seen);
        }
        list.linear(&name("mlp.fc1"), seen_hidden, seen);
        list.linear(&name("mlp.fc2"), seen, seen_hidden);
    }
    list.linear("multi_modal_projector.linear_1", width, seen);
    list.linear("multi_modal_projector.linear_2", width, width);
    llama(&mut list, &SMALL);
    let parameters = Parameters::init(&list.0, 1, &Device::Cpu, DType::F32)?;
    Ok(parameters.save_safetensors(&folder.join("model.safetensors"))?)
}

/// Words that the sentence encoder knows, behind its frame.
pub(crate) const WORDS: usize = 250;

/// Writes a BERT that reads `w0 w1 …` into a folder.
pub(crate) fn write_sentence_encoder(folder: &Path, (width, hidden, layers, heads): Tower) -> Result {
    let frame = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let vocabulary: Vec<String> = frame.into_iter().chain((0..WORDS).map(|word| format!("w{word}"))).collect();
    let positions = 128;
    let config = serde_json::json!({
        "model_type": "bert", "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocabulary.len(), "max_position_embeddings": positions,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    std::fs::write(folder.join("vocab.txt"), vocabulary.join("\n"))?;
    let mut list = Declarations(Vec::new());
    for (table, rows) in [("word", vocabulary.len()), ("position", positions), ("token_type", 2)] {
        list.weight(&format!("embeddings.{table}_embeddings.weight"), &[rows, width]);
    }
    list.norm("embeddings.LayerNorm", width);
    for layer in 0..layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            list.linear(&name(&format!("attention.{part}")), width, width);
        }
        list.norm(&name("attention.output.LayerNorm"), width);
        list.linear(&name("intermediate.dense"), hidden, width);
        list.linear(&name("output.dense"), width, hidden);
        list.norm(&name("output.LayerNorm"), width);
    }
    let parameters = Parameters::init(&list.0, 1, &Device::Cpu, DType::F32)?;
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
    qformer(&mut list, size);
    list.linear("language_projection", size.llama.0, size.qformer.0);
    llama(&mut list, size);
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

fn qformer(list: &mut Declarations, size: &Size) {
    let ((width, hidden, layers, _), image_width) = (size.qformer, size.vision.0);
    list.weight("query_tokens", &[1, QUERIES, width]);
    list.weight("qformer.embeddings.word_embeddings.weight", &[size.qformer_vocabulary, width]);
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

fn llama(list: &mut Declarations, size: &Size) {
    let (width, hidden, layers, _) = size.llama;
    list.weight("language_model.lm_head.weight", &[size.vocabulary, width]);
    list.weight("language_model.model.embed_tokens.weight", &[size.vocabulary, width]);
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
