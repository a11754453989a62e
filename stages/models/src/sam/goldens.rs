//! Our numbers beside those of the original code and of transformers.
//!
//! A golden folder holds `config.json` (image size, encoder, prompts), `weights_manifest.json` (names, shapes and rules
//! of weights that are computed, not stored), an image and `io.safetensors`; or a checkpoint in transformers' layout and
//! `io.safetensors`, as `tests/make_sam_goldens.py` writes it. `URBANCROSS_GOLDENS=DIR` checks every such folder in DIR.

use super::prompt_encoder::floats;
use super::{EncoderConfig, LowResMask, MaskOutputs, PointLabel, Prompt, Sam, SamConfig, layout};
use crate::checkpoint::Checkpoint;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn coordinate(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

/// u for element `index` of the tensor `name`, in [-1, 1).
fn uniform(name: &str, index: u32) -> f32 {
    let fnv = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut h = index.wrapping_mul(2_654_435_761).wrapping_add(fnv);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    (((h >> 8) as f64 / f64::from(1 << 24) - 0.5) * 2.0) as f32
}

/// A rule like `u`, `0.5*u` or `1+0.1u` as offset and factor.
fn rule(text: &str) -> (f32, f32) {
    let (offset, factor) = text.split_once('+').map_or((0.0, text), |(offset, rest)| (offset.parse().unwrap(), rest));
    let factor = factor.strip_suffix('u').expect("a rule ends in u").trim_end_matches('*');
    (offset, if factor.is_empty() { 1.0 } else { factor.parse().unwrap() })
}

fn weights(folder: &Path) -> BTreeMap<String, Tensor> {
    let manifest = json(&folder.join("weights_manifest.json"));
    let tensor = |(name, entry): (&String, &Value)| {
        let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(number).collect();
        let (offset, factor) = rule(entry["rule"].as_str().unwrap());
        let count = shape.iter().product::<usize>() as u32;
        let values: Vec<f32> = (0..count).map(|index| offset + factor * uniform(name, index)).collect();
        (name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    manifest.as_object().unwrap().iter().map(tensor).collect()
}

/// As a part of the largest value.
fn largest_difference(ours: &[f32], theirs: &[f32]) -> f32 {
    let scale = theirs.iter().fold(0.0f32, |scale, x| scale.max(x.abs()));
    ours.iter().zip(theirs).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / scale
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = largest_difference(ours, theirs);
    assert!(worst <= tolerance, "{what}: off by {worst:e} of the largest value");
    assert!(ours.iter().all(|x| x.is_finite()), "{what} is not finite");
}

/// Every `step`-th row and column of square planes.
fn thin(values: &[f32], side: usize, step: usize) -> Vec<f32> {
    let at = |plane: &[f32]| -> Vec<f32> {
        (0..side)
            .step_by(step)
            .flat_map(|y| (0..side).step_by(step).map(move |x| y * side + x))
            .map(|i| plane[i])
            .collect()
    };
    values.chunks_exact(side * side).flat_map(at).collect()
}

/// `[S, S, D]` to `[D, S, S]`
fn channels_first(x: &Tensor) -> Vec<f32> {
    floats(&x.permute((2, 0, 1)).unwrap().contiguous().unwrap()).unwrap()
}

fn check_masks(what: &str, masks: &[LowResMask], iou: &[f32], logits: &[f32]) {
    let found: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
    assert_close(&format!("{what}: predicted iou"), &found, iou, 1e-3);
    let found: Vec<f32> = masks.iter().flat_map(|mask| &mask.logits).copied().collect();
    let (ours, theirs) = (found.len() / masks.len(), logits.len() / masks.len());
    let step = (ours / theirs).isqrt();
    assert_close(&format!("{what}: logits"), &thin(&found, ours.isqrt(), step), logits, 1e-3);
}

struct Io(Checkpoint);

impl Io {
    fn open(folder: &Path) -> Self {
        Self(Checkpoint::open(&folder.join("io.safetensors")).unwrap())
    }

    fn values(&self, name: &str) -> Vec<f32> {
        floats(&self.0.load(name).unwrap()).unwrap()
    }
}

fn prompts(config: &Value) -> [(&'static str, Prompt); 2] {
    let points = config["points"].as_array().unwrap().iter().zip(config["labels"].as_array().unwrap());
    let points = points.map(|(point, label)| {
        let label = if label == 1 { PointLabel::Foreground } else { PointLabel::Background };
        ([coordinate(&point[0]), coordinate(&point[1])], label)
    });
    let point = Prompt { points_xy: points.collect(), ..Prompt::default() };
    let corners = std::array::from_fn(|i| coordinate(&config["box"][i]));
    [("point", point), ("box", Prompt { box_xyxy: Some(corners), ..Prompt::default() })]
}

/// The weights that the reference really used.
///
/// The original TinyViT looks its attention biases up when it is put into evaluation mode and keeps the result. Where
/// weights were loaded after that, as `build_sam_vit_t` does, the network still works with the biases of a new one,
/// which are zero. Whether a golden was made before or after a second `eval()` is not written in it: its embedding tells.
fn weights_in_use(
    mut tensors: BTreeMap<String, Tensor>,
    matches: impl Fn(&BTreeMap<String, Tensor>) -> bool,
) -> BTreeMap<String, Tensor> {
    let is_tiny = tensors.keys().any(|name| name.ends_with("attention_biases"));
    if is_tiny && !matches(&tensors) {
        let biases = tensors.iter_mut().filter(|(name, _)| name.ends_with("attention_biases"));
        biases.for_each(|(_, tensor)| *tensor = tensor.zeros_like().unwrap());
        println!("this golden was made with attention biases that were looked up before the weights were loaded");
    }
    tensors
}

/// A folder whose weights follow a rule.
fn check_manifest(folder: &Path) {
    let name = folder.display();
    let written = json(&folder.join("config.json"));
    let tensors = weights(folder);
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let mut config = layout::config_of(&shapes).unwrap();
    if let EncoderConfig::Vit(vit) = &config.encoder {
        assert_eq!(config.image_size, number(&written["image_size"]));
        let sizes = [vit.width, vit.depth, vit.heads, vit.window];
        let names = ["embed_dim", "depth", "num_heads", "window_size"];
        assert_eq!(sizes, names.map(|name| number(&written[name])));
    }
    config.image_size = number(&written["image_size"]);
    let bytes = std::fs::read(folder.join(format!("input_{}.png", config.image_size))).unwrap();
    let image = pixels::decode(&bytes, &pixels::DecodeLimits::default()).unwrap();
    let io = Io::open(folder);
    let (side, theirs) = (config.embedding_side(), io.values("image_embedding_s4"));
    let embed = |tensors: &BTreeMap<String, Tensor>| {
        let sam = Sam::from_tensors(&config, tensors, &Device::Cpu, DType::F32).unwrap();
        let embeddings = sam.embed_images(&sam.pixel_values(std::slice::from_ref(&image)).unwrap()).unwrap();
        let values = channels_first(embeddings[0].tensor());
        (sam, embeddings, values)
    };
    let tensors =
        weights_in_use(tensors, |tensors| largest_difference(&thin(&embed(tensors).2, side, 4), &theirs) < 1e-3);
    let (sam, embeddings, ours) = embed(&tensors);
    assert_close(&format!("{name}: embedding"), &thin(&ours, side, 4), &theirs, 1e-3);
    let sum: f64 = ours.iter().map(|&x| f64::from(x)).sum();
    let theirs = f64::from(io.values("image_embedding_sum")[0]);
    assert!((sum - theirs).abs() < 1e-3 * theirs.abs() + 1e-6 * ours.len() as f64, "{name}: sum {sum} beside {theirs}");

    for (kind, prompt) in prompts(&written["prompts"]) {
        let (sparse, _) = sam.prompt_encoder.sparse(std::slice::from_ref(&prompt)).unwrap();
        assert_close(&format!("{name}: {kind}"), &sparse, &io.values(&format!("{kind}_sparse")), 1e-5);
        let predict = |outputs| sam.predict(&embeddings[0], std::slice::from_ref(&prompt), outputs, None).unwrap();
        for (outputs, part, step) in
            [(MaskOutputs::Multi, kind.to_owned(), 2), (MaskOutputs::Single, format!("{kind}_single"), 4)]
        {
            let (iou, logits) = (io.values(&format!("{part}_iou")), io.values(&format!("{part}_lowres_s{step}")));
            check_masks(&format!("{name}: {part}"), &predict(outputs), &iou, &logits);
        }
    }
}

/// A checkpoint of transformers.
fn check_checkpoint(folder: &Path) {
    let name = folder.display();
    let sam = Sam::load(folder, &Device::Cpu, DType::F32).unwrap();
    let io = Io::open(folder);
    let pixels = io.0.load("pixel_values").unwrap();
    let embeddings = sam.embed_images(&pixels).unwrap();
    let ours: Vec<f32> = embeddings.iter().flat_map(|embedding| channels_first(embedding.tensor())).collect();
    assert_close(&format!("{name}: embedding"), &ours, &io.values("image_embeddings"), 1e-4);

    let point = |xy: &[f32], label: f32| {
        ([xy[0], xy[1]], if label > 0.5 { PointLabel::Foreground } else { PointLabel::Background })
    };
    // [P, K, 2] and [P, K], for the first image.
    let (points, labels) = (io.values("points"), io.values("labels"));
    let count = io.0.load("points").unwrap().dims()[1];
    let prompts: Vec<Prompt> = points
        .chunks_exact(2 * count)
        .zip(labels.chunks_exact(count))
        .map(|(points, labels)| Prompt {
            points_xy: points.chunks_exact(2).zip(labels).map(|(xy, &label)| point(xy, label)).collect(),
            ..Prompt::default()
        })
        .collect();
    let predict = |prompts: &[Prompt], outputs| sam.predict(&embeddings[0], prompts, outputs, None).unwrap();
    let check = |what: &str, masks: &[LowResMask]| {
        let (iou, logits) = (io.values(&format!("{what}_iou")), io.values(&format!("{what}_logits")));
        check_masks(&format!("{name}: {what}"), masks, &iou, &logits);
    };
    check("points_multi", &predict(&prompts, MaskOutputs::Multi));
    check("points_single", &predict(&prompts, MaskOutputs::Single));
    let boxes = io.values("boxes");
    let boxed: Vec<Prompt> = boxes
        .chunks_exact(4)
        .map(|corners| Prompt { box_xyxy: Some([corners[0], corners[1], corners[2], corners[3]]), ..Prompt::default() })
        .collect();
    check("boxes_multi", &predict(&boxed, MaskOutputs::Multi));
    let masked = |prompts: &[Prompt]| -> Vec<Prompt> {
        prompts.iter().map(|prompt| Prompt { mask_logits: Some(io.values("mask")), ..prompt.clone() }).collect()
    };
    check("masked_multi", &predict(&masked(&prompts), MaskOutputs::Multi));
}

fn golden_folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("io.safetensors").is_file() && (is_manifest(folder) || is_checkpoint(folder)));
    folders.sort();
    folders
}

fn is_manifest(folder: &Path) -> bool {
    folder.join("weights_manifest.json").is_file()
}

fn is_checkpoint(folder: &Path) -> bool {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    serde_json::from_str::<Value>(&config).is_ok_and(|config| config["model_type"] == "sam")
}

fn check(folder: &Path) {
    if is_manifest(folder) { check_manifest(folder) } else { check_checkpoint(folder) }
}

#[test]
fn rules_and_hashes_are_read() {
    assert_eq!(rule("u"), (0.0, 1.0));
    assert_eq!(rule("0.05u"), (0.0, 0.05));
    assert_eq!(rule("0.25*u"), (0.0, 0.25));
    assert_eq!(rule("1+0.1u"), (1.0, 0.1));
    // First values of in-house `first4_u.json`.
    let name = "image_encoder.pos_embed";
    let expected =
        [-0.832_074_642_181_396_5, 0.931_859_970_092_773_4, 0.996_264_934_539_794_9, -0.702_546_834_945_678_7];
    assert_eq!([0, 1, 2, 3].map(|index| f64::from(uniform(name, index))), expected);
}

#[test]
fn committed_goldens() {
    let folders = golden_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"));
    assert!(!folders.is_empty());
    folders.iter().for_each(|folder| check(folder));
}

#[test]
fn in_house_vit() {
    if let Some(data) = crate::test_data() {
        check(&data.join("goldens/sam_vit_random"));
    }
}

#[test]
fn in_house_mobile_sam() {
    if let Some(data) = crate::test_data() {
        check(&data.join("goldens/mobile_sam_random"));
    }
}

#[test]
fn goldens_named_by_the_environment() {
    match std::env::var_os("URBANCROSS_GOLDENS") {
        None => println!("skipped: URBANCROSS_GOLDENS names no folder with goldens"),
        Some(parent) => {
            let folders = golden_folders(Path::new(&parent));
            println!("{} Segment Anything goldens in {}", folders.len(), Path::new(&parent).display());
            folders.iter().for_each(|folder| check(folder));
        }
    }
}

#[test]
fn what_shapes_say_is_the_configuration() {
    for name in ["vit-b", "mobile"] {
        let mut config = SamConfig::preset(name).unwrap();
        if let EncoderConfig::Vit(vit) = &mut config.encoder {
            (vit.width, vit.heads, vit.mlp_width) = (24, 2, 48);
        }
        let shapes = Sam::random_tensors(&config, 1).unwrap();
        let shapes = shapes.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
        assert_eq!(layout::config_of(&shapes).unwrap(), config);
        assert!(layout::config_of(&BTreeMap::new()).unwrap_err().contains("mask_tokens"));
    }
}
