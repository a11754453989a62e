//! Our numbers and texts beside those of transformers.
//!
//! A golden folder holds a checkpoint as it is published, `io.safetensors` and `generation.json`: see
//! `tests/make_llava_goldens.py`, which writes them. `URBANCROSS_GOLDENS=DIR` checks every such folder within DIR.

use super::Llava;
use crate::captioning::{CaptionRequest, Captioner};
use crate::checkpoint::{Checkpoint, read_json};
use crate::language::BatchLimits;
use crate::language::generate::GenerationSettings;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CPU: &Device = &Device::Cpu;

pub(super) struct Golden {
    pub(super) llava: Llava,
    io: Checkpoint,
    prompts: Vec<String>,
    cases: serde_json::Map<String, Value>,
}

fn furthest(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    flat(ours).iter().zip(flat(theirs)).fold(0.0f64, |off, (a, b)| off.max((a - b).abs()))
}

impl Golden {
    pub(super) fn open(folder: &Path, dtype: DType) -> Self {
        let json: Value = read_json(&folder.join("generation.json")).unwrap();
        let prompts = json["prompts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        Self {
            llava: Llava::load(folder, CPU, dtype).unwrap(),
            io: Checkpoint::open(&folder.join("io.safetensors")).unwrap(),
            prompts: prompts.collect(),
            cases: json["cases"].as_object().unwrap().clone(),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor {
        self.io.load(name).unwrap()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.tensor(name).to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(super) fn requests(&self) -> Vec<CaptionRequest> {
        let pixels = self.tensor("pixel_values");
        let request = |(row, prompt): (usize, &String)| CaptionRequest {
            pixel_values_chw: pixels.get(row).unwrap(),
            instruction: self.llava.instruction(prompt).unwrap(),
            seed: None,
        };
        self.prompts.iter().enumerate().map(request).collect()
    }

    /// The processor's: the ids of prompts with as many places for the image as it has tokens, and its view of a picture.
    fn inputs(&self, name: &str) {
        let image_id = self.llava.config().image_id;
        for (row, request) in self.requests().iter().enumerate() {
            let expanded = request.instruction.prompt_ids.iter().flat_map(|&id| {
                let times = if id == image_id { self.llava.config().image_tokens() } else { 1 };
                std::iter::repeat_n(id, times)
            });
            assert_eq!(expanded.collect::<Vec<_>>(), self.ids(&format!("input_ids.{row}")), "{name}: prompt {row}");
        }
        let picture = self.tensor("picture");
        let &[height, width, 3] = picture.dims() else { panic!("{:?}", picture.dims()) };
        let data = picture.flatten_all().unwrap().to_vec1().unwrap();
        let rgb = pixels::Rgb { width: width as u32, height: height as u32, data };
        let ours = self.llava.pixel_values(&rgb).unwrap();
        let off = furthest(&ours, &self.tensor("pixel_values").get(0).unwrap());
        // one step of a byte, where two resamplers round otherwise
        assert!(off < 0.016, "{name}: pixels off by {off}");
    }

    fn logits_off(&self, row: usize) -> f64 {
        let request = &self.requests()[row];
        let prompt_ld = self.llava.prompts(&[request]).unwrap().remove(0);
        let positions: Vec<u32> = (0..prompt_ld.dims()[0] as u32).collect();
        let ours = self.llava.language.logits(&prompt_ld, &positions).unwrap();
        furthest(&ours, &self.tensor(&format!("logits.{row}")).squeeze(0).unwrap())
    }

    fn numbers(&self, name: &str, bound: f64) {
        let seen = self.llava.encode_images(&self.tensor("pixel_values")).unwrap();
        let off = furthest(&seen, &self.tensor("image_features"));
        assert!(off <= bound, "{name}: image features off by {off:e}");
        for row in 0..self.prompts.len() {
            let off = self.logits_off(row);
            assert!(off <= bound, "{name}: logits of prompt {row} off by {off:e}");
        }
    }

    fn texts(&self, name: &str) {
        for (case, wanted) in &self.cases {
            let settings = GenerationSettings {
                num_beams: wanted["num_beams"].as_u64().unwrap_or(1) as usize,
                max_new_tokens: wanted["max_new_tokens"].as_u64().unwrap() as usize,
                repetition_penalty: wanted["repetition_penalty"].as_f64().unwrap_or(1.0),
                ..GenerationSettings::default()
            };
            let ours = self.llava.caption(&self.requests(), &settings, BatchLimits::from(2)).unwrap();
            for (row, ours) in ours.iter().enumerate() {
                let mut theirs = self.ids(&format!("ids.{case}.{row}"));
                theirs.truncate(theirs.iter().position(|&id| id == 2).map_or(theirs.len(), |end| end + 1));
                assert_eq!(ours.ids, theirs, "{name}: {case} of prompt {row}");
                assert!(ours.text.is_some());
            }
        }
    }
}

fn check(folder: &Path) {
    let name = folder.display().to_string();
    let golden = Golden::open(folder, DType::F32);
    golden.inputs(&name);
    golden.numbers(&name, 1e-4);
    golden.texts(&name);
    // candle's own operations, as other devices have them
    let wide = Golden::open(folder, DType::F64);
    wide.numbers(&name, 1e-4);
    wide.texts(&name);
    // random weights amplify what narrow numbers lose
    Golden::open(folder, DType::F16).numbers(&name, 0.1);
    Golden::open(folder, DType::BF16).numbers(&name, 0.8);
}

/// Sub-folders with a LLaVA and its inputs and outputs.
fn golden_folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| {
        let config: Value = read_json(&folder.join("config.json")).unwrap_or_default();
        folder.join("io.safetensors").is_file() && config["model_type"] == "llava"
    });
    folders.sort();
    folders
}

pub(super) fn committed() -> Vec<PathBuf> {
    golden_folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"))
}

#[test]
fn committed_goldens() {
    assert!(committed().len() >= 2, "{:?}", committed());
    committed().iter().for_each(|folder| check(folder));
}

#[test]
fn goldens_named_by_the_environment() {
    match std::env::var_os("URBANCROSS_GOLDENS") {
        None => println!("skipped: URBANCROSS_GOLDENS names no folder with goldens"),
        Some(parent) => {
            let folders = golden_folders(Path::new(&parent));
            println!("{} LLaVA goldens in {}", folders.len(), Path::new(&parent).display());
            folders.iter().for_each(|folder| check(folder));
        }
    }
}
