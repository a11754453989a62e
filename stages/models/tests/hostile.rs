//! Files from strangers: whatever their bytes, they are read or refused, and what they claim takes no memory.
//!
//! Random damage to sound files, and the files of `hostile/`, each of which once did harm or is made to.

use choices::Preset;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use models::clip::{Clip, ClipConfig, Pool, SeenPreset, Stem};
use models::instructblip::InstructBlip;
use models::language::Llama;
use models::parameters::Parameters;
use models::sam::Sam;
use models::tokenizer::{BertNormalizer, TextTokenizer, Tokenizer};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use torch_writer::{Saved, archive, contiguous, pickle};

#[path = "support/torch_writer.rs"]
mod torch_writer;

/// Sound files here are of some kilobytes; libraries keep buffers of some hundred.
const MOST_BYTES: usize = 8 << 20;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Notes the largest piece of memory that a thread has asked for.
struct Noting;

// SAFETY: every call is passed on to the system's allocator unchanged; the note is in a thread-local cell that needs
// neither allocation nor destructor.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// Runs `read` on a file with these bytes, in a folder of its own; how it ended, in words.
fn answer(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> models::Result<()>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    LARGEST.set(0);
    let answer = read(&path);
    let largest = LARGEST.get();
    assert!(largest <= MOST_BYTES, "{name} of {} bytes asked for {largest} at once: {answer:?}", bytes.len());
    answer.map_or_else(|error| error.to_string(), |()| "read".to_owned())
}

fn tiny() -> ClipConfig {
    let mut config = ClipConfig::preset(Preset::Tiny);
    config.embed_dim = 4;
    (config.vision.image_size, config.vision.patch_size) = (8, 4);
    (config.vision.stem, config.vision.pool) = (Stem::Patch, Pool::Cls);
    (config.vision.width, config.vision.layers, config.vision.heads) = (4, 1, 2);
    (config.text.width, config.text.layers, config.text.heads) = (4, 1, 2);
    (config.text.context_length, config.text.vocab_size) = (4, 6);
    config
}

/// Every reader of a file of this kind.
fn read(path: &Path) -> models::Result<()> {
    let (cpu, name) = (&Device::Cpu, path.file_name().unwrap().to_string_lossy().into_owned());
    if name.ends_with(".gguf") {
        return Llama::load_gguf(path, cpu, DType::F32).map(drop);
    }
    if name.ends_with(".pth") {
        let _ = Clip::load_file(path, &tiny(), cpu, DType::F32);
        let _ = SeenPreset::of_file(path);
        return Sam::load(path, cpu, DType::F32).map(drop);
    }
    if name.ends_with(".safetensors") {
        let _ = SeenPreset::of_file(path);
        let _ = Clip::load_file(path, &tiny(), cpu, DType::F32);
        let _ = Sam::load(path, cpu, DType::F32);
        let _ = InstructBlip::load(path.parent().unwrap(), cpu, DType::F32);
        return Parameters::load_safetensors(path, cpu, DType::F32).map(drop);
    }
    if name.ends_with("tokenizer.json") {
        if let Ok(tokenizer) = TextTokenizer::from_file(path) {
            let _ = tokenizer.encode("a long, long road ☃").and_then(|ids| tokenizer.decode(&ids));
        }
        return Tokenizer::from_file(path)?.encode("a long, long road ☃", 8).map(drop);
    }
    if name.ends_with("vocab.txt") {
        return TextTokenizer::from_bert_vocabulary(path, BertNormalizer::default())?.encode("a long road").map(drop);
    }
    if name.ends_with("bpe.txt") {
        return Tokenizer::from_clip_bpe(path)?.encode("a long road", 8).map(drop);
    }
    assert!(name.ends_with("config.json"), "{name} is no kind of file that is read here");
    let folder = path.parent().unwrap();
    std::fs::write(folder.join("model.safetensors"), &*CLIP_WEIGHTS).unwrap();
    std::fs::copy(path, folder.join("generation_config.json")).unwrap();
    let _ = Sam::load(folder, cpu, DType::F32);
    let _ = InstructBlip::load(folder, cpu, DType::F32);
    let _ = Llama::load(folder, cpu, DType::F32);
    let _ = models::language::GenerationConfig::read(folder);
    Clip::load(folder, cpu, DType::F32).map(drop)
}

static CLIP_WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Clip::init(&tiny(), 1, &Device::Cpu, DType::F32).unwrap().save(folder.path()).unwrap();
    std::fs::read(folder.path().join("model.safetensors")).unwrap()
});

/// Configurations of all that have one: ours, open_clip's, and Hugging Face's of CLIP, SAM, InstructBLIP and LLaMA.
static CONFIGS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let clip = Clip::init(&tiny(), 1, &Device::Cpu, DType::F32).unwrap();
    clip.save(folder.path()).unwrap();
    clip.save_open_clip(&folder.path().join("open_clip")).unwrap();
    clip.save_hugging_face(&folder.path().join("hugging_face")).unwrap();
    let text = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    let sam = r#"{"model_type":"sam","vision_config":{"hidden_size":4,"num_hidden_layers":1,"num_attention_heads":2,
        "image_size":32,"patch_size":16,"mlp_ratio":2.0,"window_size":2,"global_attn_indexes":[0],"output_channels":8},
        "prompt_encoder_config":{"mask_input_channels":4},"mask_decoder_config":{"hidden_size":8,"num_hidden_layers":1,
        "num_attention_heads":2,"mlp_dim":8,"iou_head_depth":3,"iou_head_hidden_dim":8}}"#;
    let language = r#"{"model_type":"llama","vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
        "num_attention_heads":2,"max_position_embeddings":16,"rms_norm_eps":1e-6,"rope_theta":10000.0}"#;
    let blip = format!(
        r#"{{"model_type":"instructblip","num_query_tokens":2,"text_config":{language},"vision_config":{{
        "hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":2,"image_size":8,"patch_size":4}},
        "qformer_config":{{"hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":2,
        "vocab_size":8,"max_position_embeddings":8,"cross_attention_frequency":2}}}}"#
    );
    let generation = r#"{"num_beams":5,"max_new_tokens":256,"do_sample":true,"top_p":0.9,"temperature":1.0}"#;
    vec![
        ("config.json", text("config.json")),
        ("open_clip_config.json", text("open_clip/open_clip_config.json")),
        ("config.json", text("hugging_face/config.json")),
        ("config.json", sam.to_owned()),
        ("config.json", blip),
        ("config.json", language.to_owned()),
        ("config.json", generation.to_owned()),
    ]
});

fn gguf() -> Vec<u8> {
    let tensor = |dims: &[usize]| {
        let zeros = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        QTensor::quantize(&zeros, GgmlDType::F32).unwrap()
    };
    let numbers = [
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.embedding_length", 4),
        ("llama.feed_forward_length", 4),
        ("llama.block_count", 1),
        ("llama.context_length", 16),
        ("general.alignment", 32),
    ];
    let mut metadata: Vec<(&str, Value)> = numbers.map(|(name, value)| (name, Value::U32(value))).into();
    metadata.push(("general.architecture", Value::String("llama".to_owned())));
    metadata.push(("tokenizer.ggml.tokens", Value::Array(vec![Value::String("a".to_owned()); 6])));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let tensors = [
        ("token_embd.weight", tensor(&[6, 4])),
        ("output_norm.weight", tensor(&[4])),
        ("blk.0.attn_norm.weight", tensor(&[4])),
        ("blk.0.attn_q.weight", tensor(&[4, 4])),
        ("blk.0.attn_k.weight", tensor(&[2, 4])),
        ("blk.0.attn_v.weight", tensor(&[2, 4])),
        ("blk.0.attn_output.weight", tensor(&[4, 4])),
        ("blk.0.ffn_norm.weight", tensor(&[4])),
        ("blk.0.ffn_gate.weight", tensor(&[4, 4])),
        ("blk.0.ffn_up.weight", tensor(&[4, 4])),
        ("blk.0.ffn_down.weight", tensor(&[4, 4])),
    ];
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

/// `torch.save` of one tensor.
fn pth() -> Vec<u8> {
    let tensor = Saved {
        name: "mask_decoder.iou.weight0".to_owned(),
        storage: "FloatStorage",
        key: 0,
        elements: 8,
        offset: 0,
        shape: vec![2, 3],
        strides: contiguous(&[2, 3]),
    };
    archive(&pickle(&[tensor], None), &[(0, vec![0; 32])])
}

fn tokenizer() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let captions = ["a long road beside a long lawn", "a lawn beside the road"];
    Tokenizer::train(captions, 80).unwrap().with_pad_id(0).save(&path).unwrap();
    std::fs::read(path).unwrap()
}

const BERT: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nlong\nroad\n##s\n";
const BPE: &str = "#version: 0.2\nl o\nlo n\nlon g</w>\nr o\n";

/// What is done to a file: bytes set, and its end cut off.
type Damage = (Vec<(Index, u8)>, Option<Index>);

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8);
    (bytes, proptest::option::weighted(0.2, any::<Index>()))
}

fn damaged(sound: &[u8], (bytes, cut): Damage) -> Vec<u8> {
    let mut broken = sound.to_vec();
    for (place, value) in bytes {
        let place = place.index(broken.len());
        broken[place] = value;
    }
    if let Some(cut) = cut {
        broken.truncate(cut.index(broken.len()));
    }
    broken
}

/// A text in which one number is another.
fn with_number(text: &str, which: Index, number: &str) -> String {
    let is_number = |at: &usize| {
        let (before, here) = (text[..*at].chars().next_back(), text[*at..].chars().next());
        let starts = before.is_some_and(|c| matches!(c, ':' | '[' | ',' | ' '));
        starts && here.is_some_and(|c| c.is_ascii_digit() || c == '-')
    };
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).filter(is_number).collect();
    let start = starts[which.index(starts.len())];
    let rest = &text[start..];
    let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
    format!("{}{number}{}", &text[..start], &rest[end..])
}

const NUMBERS: [&str; 10] =
    ["0", "1", "-1", "3", "65536", "1048576", "4294967295", "18446744073709551615", "1e308", "0.5"];

#[test]
fn sound_files_are_read() {
    for (name, bytes) in [
        ("model.gguf", gguf()),
        ("model.safetensors", CLIP_WEIGHTS.clone()),
        ("tokenizer.json", tokenizer()),
        ("vocab.txt", BERT.into()),
        ("bpe.txt", BPE.into()),
    ] {
        assert_eq!(answer(name, &bytes, read), "read", "{name}");
    }
    let (name, own) = &CONFIGS[0];
    assert_eq!(answer(name, own.as_bytes(), read), "read");
    // one tensor is no network, but it was found
    let message = answer("sam.pth", &pth(), read);
    assert!(message.contains("mask_decoder.mask_tokens.weight"), "{message}");
}

/// Each file of the corpus is refused, in words.
#[test]
fn files_that_did_harm_are_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    assert!(files.len() >= 8, "{files:?}");
    for path in files {
        // NAME.of.ending: what is in it, then what it is called where it is read
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let called = name.split_once('.').unwrap().1;
        let message = answer(called, &std::fs::read(&path).unwrap(), read);
        assert_ne!(message, "read", "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, rng_seed: RngSeed::Fixed(24), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_binary_files_are_answered(damage in damage(), kind in 0..3usize) {
        let (name, sound) =
            [("model.gguf", gguf as fn() -> _), ("model.safetensors", || CLIP_WEIGHTS.clone()), ("sam.pth", pth)][kind];
        answer(name, &damaged(&sound(), damage), read);
    }

    #[test]
    fn damaged_vocabularies_are_answered(damage in damage(), which in any::<Index>(), number in 0..NUMBERS.len()) {
        let json = tokenizer();
        answer("tokenizer.json", &damaged(&json, damage.clone()), read);
        let numbers = with_number(std::str::from_utf8(&json).unwrap(), which, NUMBERS[number]);
        answer("tokenizer.json", numbers.as_bytes(), read);
        answer("vocab.txt", &damaged(BERT.as_bytes(), damage.clone()), read);
        answer("bpe.txt", &damaged(BPE.as_bytes(), damage), read);
    }

    #[test]
    fn damaged_configurations_are_answered(damage in damage(), which in any::<Index>(), number in 0..NUMBERS.len()) {
        for (name, config) in CONFIGS.iter() {
            answer(name, &damaged(config.as_bytes(), damage.clone()), read);
            answer(name, with_number(config, which, NUMBERS[number]).as_bytes(), read);
        }
    }
}
