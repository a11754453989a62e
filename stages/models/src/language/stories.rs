//! A real trained LLaMA, whose greedy text others have published: llama2.c's stories260K.

use super::generate::{GenerationSettings, Generator};
use super::weights::Weights;
use super::{Llama, LlamaConfig};
use crate::checkpoint::Checkpoint;
use crate::ops::inference::RotaryLayout;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// llama2.c's legacy format: seven numbers, then f32 tensors of one kind for all layers.
fn read_bin(path: &Path) -> (LlamaConfig, BTreeMap<String, Tensor>) {
    let bytes = std::fs::read(path).unwrap();
    let header: Vec<usize> =
        bytes[..28].chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize).collect();
    let values: Vec<f32> = bytes[28..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let [width, hidden, layers, heads, kv_heads, vocabulary, positions] = header[..] else { panic!("{header:?}") };
    let config = LlamaConfig {
        vocab_size: vocabulary,
        hidden_size: width,
        intermediate_size: hidden,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: Some(kv_heads),
        max_position_embeddings: positions,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        ..LlamaConfig::default()
    };
    let kv_width = kv_heads * width / heads;
    let (mut at, mut tensors) = (0, BTreeMap::new());
    let mut take = |name: String, shape: &[usize]| {
        let count: usize = shape.iter().product();
        tensors.insert(name, Tensor::from_slice(&values[at..at + count], shape, &Device::Cpu).unwrap());
        at += count;
    };
    take("model.embed_tokens.weight".to_owned(), &[vocabulary, width]);
    for (part, shape) in [
        ("input_layernorm", vec![width]),
        ("self_attn.q_proj", vec![width, width]),
        ("self_attn.k_proj", vec![kv_width, width]),
        ("self_attn.v_proj", vec![kv_width, width]),
        ("self_attn.o_proj", vec![width, width]),
        ("post_attention_layernorm", vec![width]),
        ("mlp.gate_proj", vec![hidden, width]),
        ("mlp.down_proj", vec![width, hidden]),
        ("mlp.up_proj", vec![hidden, width]),
    ] {
        (0..layers).for_each(|layer| take(format!("model.layers.{layer}.{part}.weight"), &shape));
    }
    take("model.norm.weight".to_owned(), &[width]);
    (config, tensors)
}

/// llama2.c's tokenizer: the longest piece, then pieces of f32 score, i32 length and bytes.
fn pieces(path: &Path, count: usize) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut at = 4;
    let pieces = (0..count).map(|_| {
        let length = i32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        at += 8 + length;
        let piece = &bytes[at - length..at];
        // A single byte is written as <0x0A>.
        match piece.strip_prefix(b"<0x").and_then(|hex| hex.strip_suffix(b">")) {
            Some(hex) => vec![u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()],
            None => piece.to_vec(),
        }
    });
    pieces.collect()
}

fn llama(folder: &Path, layout: RotaryLayout) -> Llama {
    let (config, mut tensors) = read_bin(&folder.join("stories260K.bin"));
    if layout == RotaryLayout::Halves {
        // As transformers' conversion script permutes them: pairs become halves.
        for layer in 0..config.num_hidden_layers {
            for part in ["q_proj", "k_proj"] {
                let name = format!("model.layers.{layer}.self_attn.{part}.weight");
                let (outputs, inputs) = tensors[&name].dims2().unwrap();
                let half = config.head_width() / 2;
                let by_pair = tensors[&name].reshape((outputs / 2 / half, half, 2, inputs)).unwrap();
                let by_half = by_pair.transpose(1, 2).unwrap().reshape((outputs, inputs)).unwrap();
                tensors.insert(name, by_half);
            }
        }
    }
    let checkpoint = Checkpoint::from_tensors(tensors, folder);
    Llama::new(config, &Weights::new(&checkpoint, &Device::Cpu, DType::F32), layout).unwrap()
}

fn greedy(llama: &Llama, tokens: usize, batch: usize) -> Vec<Vec<u32>> {
    let settings = GenerationSettings { max_new_tokens: tokens, ..GenerationSettings::default() };
    let generator = Generator::new(settings, &[]).unwrap();
    let prompts = |numbers: &[usize]| numbers.iter().map(|_| llama.embed(&[1])).collect();
    generator.run(&mut llama.session().unwrap(), batch, batch, prompts).unwrap()
}

#[test]
fn the_story_is_told_as_published() {
    let Some(folder) = crate::test_data().map(|data| data.join("data/stories260k")) else {
        return;
    };
    let expected = std::fs::read_to_string(folder.join("expected_greedy_200.txt")).unwrap();
    for layout in [RotaryLayout::Pairs, RotaryLayout::Halves] {
        let llama = llama(&folder, layout);
        let pieces = pieces(&folder.join("tok512.bin"), llama.config().vocab_size);
        for ids in greedy(&llama, 200, 3) {
            assert_eq!(ids.len(), 200);
            let text: Vec<u8> = ids.iter().flat_map(|&id| pieces[id as usize].clone()).collect();
            assert_eq!(String::from_utf8_lossy(&text).trim(), expected.trim(), "{layout:?}");
        }
    }
}

#[test]
fn a_quantised_story_begins_the_same() {
    let Some(folder) = crate::test_data().map(|data| data.join("data/stories260k")) else {
        return;
    };
    let (config, tensors) = read_bin(&folder.join("stories260K.bin"));
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.up_proj", "ffn_up"),
        ("model.layers", "blk"),
    ];
    let tensors: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let name = names.iter().fold(name, |name, (theirs, gguf)| name.replace(theirs, gguf));
            // Rows of 172 numbers are no multiple of a block.
            let whole_blocks = tensor.rank() == 2 && tensor.dims()[1].is_multiple_of(32);
            let dtype = if whole_blocks { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let number = |value: usize| Value::U32(value as u32);
    let metadata = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.embedding_length", number(config.hidden_size)),
        ("llama.feed_forward_length", number(config.intermediate_size)),
        ("llama.block_count", number(config.num_hidden_layers)),
        ("llama.attention.head_count", number(config.num_attention_heads)),
        ("llama.attention.head_count_kv", number(config.kv_heads())),
        ("llama.context_length", number(config.max_position_embeddings)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |metadata: &[(&str, Value)]| {
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut std::fs::File::create(file.path()).unwrap(), &metadata, &tensors).unwrap();
    };
    write(&metadata);
    let quantised = Llama::load_gguf(file.path(), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(quantised.config().kv_heads(), 4);
    let (ours, exact) = (greedy(&quantised, 20, 1), greedy(&llama(&folder, RotaryLayout::Pairs), 20, 1));
    assert_eq!(ours, exact);

    let mut other = metadata;
    other[3].1 = number(6);
    write(&other);
    let error = Llama::load_gguf(file.path(), &Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(error.contains("blk.5.attn_norm.weight"), "{error}");
    other[0].1 = Value::String("falcon".to_owned());
    write(&other);
    let error = Llama::load_gguf(file.path(), &Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(error.contains("falcon"), "{error}");
}
