//! Captions per second of an InstructBLIP with random weights, in Hugging Face's layout.
//!
//! `tests/peers/caption_peer.py` captions the same inputs with the same weights in transformers; both print the first ids.

use candle_core::Tensor;
use clap::{Args, ValueEnum};
use models::captioning::{CaptionRequest, Captioner, Instruction};
use models::instructblip::InstructBlip;
use models::language::generate::GenerationSettings;
use std::error::Error;
use std::path::PathBuf;

use crate::checkpoint::{self, MIDDLE, QUERIES, VICUNA_7B};
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
    println!("{} parameters", checkpoint::write(&options.folder, &size, options.precision.dtype())?);
    Ok(())
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
    let first = best_of(&device, rounds, || Ok(blip.caption(&requests, &one, batch.into())?))?;
    let mut ids = Vec::new();
    let all = best_of(&device, rounds, || {
        ids = blip.caption(&requests, &settings, batch.into())?.swap_remove(0).ids;
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
