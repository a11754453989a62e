//! Our numbers and texts beside those of transformers.
//!
//! A golden folder holds a checkpoint (`config.json` + `model.safetensors`) and `io.safetensors`: inputs, hidden
//! states, logits, and generated ids as `greedy_ids` and `beam5_ids` (the settings of InstructBLIP's model card; as many
//! new tokens as there are columns less one) or as `ids.NAME` by the settings NAME of `generation.json`.
//! `tests/make_instructblip_goldens.py` writes them. `URBANCROSS_GOLDENS=DIR` checks every such folder within DIR.

use super::{InstructBlip, Language};
use crate::captioning::{CaptionRequest, Captioner, Instruction};
use crate::checkpoint::{Checkpoint, read_json};
use crate::language::generate::{EarlyStopping, GenerationSettings};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CPU: &Device = &Device::Cpu;

/// Inputs of a golden folder with padding taken away.
pub(super) struct Golden {
    pub(super) blip: InstructBlip,
    io: Checkpoint,
    text_config: Value,
}

fn rows(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn kept(ids: &[u32], mask: &[u32]) -> Vec<u32> {
    ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect()
}

fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let off = flat(ours).iter().zip(flat(theirs)).fold(0.0f64, |off, (a, b)| off.max((a - b).abs()));
    assert!(off <= 1e-4, "{what}: off by {off:e}");
}

impl Golden {
    pub(super) fn open(folder: &Path) -> Self {
        let config: Value = read_json(&folder.join("config.json")).unwrap();
        let io = Checkpoint::open(&folder.join("io.safetensors")).unwrap();
        let blip = InstructBlip::load(folder, CPU, DType::F32).unwrap();
        Self { blip, io, text_config: config["text_config"].clone() }
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor {
        self.io.load(name).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.io.shape(name).is_some()
    }

    pub(super) fn requests(&self) -> Vec<CaptionRequest> {
        let pixels = self.tensor("pixel_values");
        let ids = |ids: &str, mask: &str| {
            let (ids, mask) = (rows(&self.tensor(ids)), rows(&self.tensor(mask)));
            ids.iter().zip(&mask).map(|(ids, mask)| kept(ids, mask)).collect::<Vec<_>>()
        };
        let qformer = ids("qformer_input_ids", "qformer_attention_mask");
        let prompts = ids("input_ids", "attention_mask");
        let instructions = qformer.into_iter().zip(prompts);
        let instructions = instructions.map(|(qformer_ids, prompt_ids)| Instruction { qformer_ids, prompt_ids });
        let requests = instructions.enumerate().map(|(row, instruction)| CaptionRequest {
            pixel_values_chw: pixels.get(row).unwrap(),
            instruction,
            seed: None,
        });
        requests.collect()
    }

    fn hidden_states(&self, name: &str) {
        let (ids, mask) = (self.tensor("qformer_input_ids"), self.tensor("qformer_attention_mask"));
        let mask = mask.to_dtype(DType::U8).unwrap();
        let image = self.blip.encode_image(&self.tensor("pixel_values")).unwrap();
        assert_close(&format!("{name}: vision"), &image, &self.tensor("vision_last_hidden"));
        let hidden = self.blip.query(&image, &ids, &mask).unwrap();
        assert_close(&format!("{name}: Q-Former"), &hidden, &self.tensor("qformer_last_hidden"));
    }

    /// Logits of the plain forward pass, which counts padding among the positions; compared where there is none.
    fn logits(&self, name: &str) {
        let theirs = self.tensor("logits");
        let (ids, mask) = (self.tensor("qformer_input_ids"), self.tensor("qformer_attention_mask"));
        let mask = mask.to_dtype(DType::U8).unwrap();
        let queries_bqd = self.blip.encode(&self.tensor("pixel_values"), &ids, &mask).unwrap();
        let (ids, mask) = (rows(&self.tensor("input_ids")), rows(&self.tensor("attention_mask")));
        let count = self.blip.config().num_query_tokens as u32;
        for (row, (ids, mask)) in ids.iter().zip(&mask).enumerate() {
            let prompt = self.blip.language.embed(&kept(ids, mask)).unwrap();
            let prompt = Tensor::cat(&[queries_bqd.get(row).unwrap(), prompt], 0).unwrap();
            let theirs = theirs.get(row).unwrap();
            match &self.blip.language {
                Language::Llama(llama) => {
                    let text = (count..).zip(mask).filter(|(_, mask)| **mask == 1).map(|(position, _)| position);
                    let positions: Vec<u32> = (0..count).chain(text).collect();
                    let ours = llama.logits(&prompt, &positions).unwrap();
                    let theirs = theirs.index_select(&Tensor::new(positions, CPU).unwrap(), 0).unwrap();
                    assert_close(&format!("{name}: logits of row {row}"), &ours, &theirs);
                }
                Language::T5(t5) => {
                    let decoder_ids = &rows(&self.tensor("decoder_input_ids"))[row];
                    let ours = t5.logits(&prompt, decoder_ids).unwrap();
                    assert_close(&format!("{name}: logits of row {row}"), &ours, &theirs);
                }
            }
        }
    }

    fn texts(&self, name: &str, ids: &str, settings: &GenerationSettings) {
        let theirs = rows(&self.tensor(ids));
        let ours = self.blip.caption(&self.requests(), settings, theirs.len().into()).unwrap();
        let end = self.blip.config().end_ids.first().copied();
        let pad = self.text_config["pad_token_id"].as_u64().map(|id| id as u32).or(end).unwrap_or(0);
        for (row, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let mut ids = vec![self.blip.config().start_id.unwrap()];
            ids.extend(&ours.ids);
            ids.resize(theirs.len().max(ids.len()), pad);
            assert_eq!(&ids, theirs, "{name}: row {row} of {settings:?}");
        }
    }

    fn published_cases(&self, name: &str) {
        if self.has("greedy_ids") {
            // `min_length` counted the prompt there, so it forbade nothing.
            let max_new_tokens = self.tensor("greedy_ids").dims()[1] - 1;
            self.texts(name, "greedy_ids", &GenerationSettings { max_new_tokens, ..Default::default() });
        }
        if self.has("beam5_ids") {
            let max_new_tokens = self.tensor("beam5_ids").dims()[1] - 1;
            let settings = GenerationSettings { max_new_tokens, min_length: 0, ..GenerationSettings::model_card() };
            self.texts(name, "beam5_ids", &settings);
        }
    }

    fn own_cases(&self, name: &str, folder: &Path) {
        let path = folder.join("generation.json");
        if !path.is_file() {
            return;
        }
        let cases: serde_json::Map<String, Value> = read_json(&path).unwrap();
        for (case, wanted) in &cases {
            self.texts(name, &format!("ids.{case}"), &self.settings(wanted));
        }
    }

    /// Settings in transformers' words.
    fn settings(&self, wanted: &Value) -> GenerationSettings {
        let number = |key: &str, default: f64| wanted[key].as_f64().unwrap_or(default);
        let history = usize::from(matches!(self.blip.language, Language::T5(_)));
        let min_new_tokens = number("min_new_tokens", 0.0) as usize;
        GenerationSettings {
            num_beams: number("num_beams", 1.0) as usize,
            max_new_tokens: number("max_new_tokens", 20.0) as usize,
            min_length: if min_new_tokens > 0 { history + min_new_tokens } else { 0 },
            repetition_penalty: number("repetition_penalty", 1.0),
            length_penalty: number("length_penalty", 1.0),
            early_stopping: match &wanted["early_stopping"] {
                Value::Bool(true) => EarlyStopping::Immediate,
                Value::String(_) => EarlyStopping::Never,
                _ => EarlyStopping::Heuristic,
            },
            sampling: None,
        }
    }
}

fn check(folder: &Path) {
    let name = folder.display().to_string();
    let golden = Golden::open(folder);
    golden.hidden_states(&name);
    golden.logits(&name);
    golden.published_cases(&name);
    golden.own_cases(&name, folder);
}

/// Sub-folders with an InstructBLIP and its inputs and outputs.
pub(super) fn golden_folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| {
        let config: Value = read_json(&folder.join("config.json")).unwrap_or_default();
        folder.join("io.safetensors").is_file() && config["model_type"] == "instructblip"
    });
    folders.sort();
    folders
}

pub(super) fn committed() -> Vec<PathBuf> {
    golden_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"))
}

#[test]
fn committed_goldens() {
    assert!(committed().len() >= 4, "{:?}", committed());
    committed().iter().for_each(|folder| check(folder));
}

#[test]
fn in_house_goldens() {
    if let Some(data) = crate::test_data() {
        let folders = golden_folders(&data.join("goldens"));
        assert!(folders.len() >= 2, "{folders:?}");
        folders.iter().for_each(|folder| check(folder));
    }
}

#[test]
fn goldens_named_by_the_environment() {
    match std::env::var_os("URBANCROSS_GOLDENS") {
        None => println!("skipped: URBANCROSS_GOLDENS names no folder with goldens"),
        Some(parent) => {
            let folders = golden_folders(Path::new(&parent));
            println!("{} InstructBLIP goldens in {}", folders.len(), Path::new(&parent).display());
            folders.iter().for_each(|folder| check(folder));
        }
    }
}
