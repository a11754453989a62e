//! Images per second and training pairs per second of a CLIP.
//!
//! A training pair goes through both towers, the contrastive loss and the backward pass; the optimiser is not counted.
//! `tests/peers/clip_peer.py` prints the same for open_clip on PyTorch. `RAYON_NUM_THREADS` sets the number of threads.

use candle_core::{D, DType, Device, Tensor};
use choices::Preset;
use clap::Args;
use models::clip::{Clip, ClipConfig};
use models::ops::l2_normalise;
use std::error::Error;
use std::time::Instant;

use crate::Place;
use crate::measure::{best_of, print_peak_memory};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[arg(default_value = "vit-b-32")]
    preset: Preset,
    #[arg(default_value_t = 32)]
    batch: usize,
    #[arg(default_value_t = 77, help = "Length of each text, start and end included")]
    tokens: usize,
    #[arg(default_value_t = 3)]
    rounds: usize,
    #[arg(default_value = "image,text,train", help = "What to measure")]
    parts: String,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let Options { place, preset, batch, tokens, rounds, parts } = options;
    let (batch, rounds) = (*batch, *rounds);
    let (device, dtype) = (place.device()?, place.precision.dtype());
    let config = ClipConfig::preset(*preset);
    let tokens = (*tokens).clamp(2, config.text.context_length);
    let clip = Clip::init(&config, 1, &device, dtype)?;
    let (pixels, ids) = inputs(&config, batch, tokens, &device)?;
    println!(
        "{preset}: {} parameters, batch {batch}, texts of {tokens} tokens, {} threads",
        clip.parameters().num_elements(),
        rayon::current_num_threads()
    );

    let embedder = clip.without_gradients()?;
    if parts.contains("image") {
        let seconds = best_of(&device, rounds, || Ok(embedder.encode_image(&pixels)?))?;
        println!("encode_image {:.2} images/s", batch as f64 / seconds.wall);
    }
    if parts.contains("text") {
        let seconds = best_of(&device, rounds, || Ok(embedder.encode_text(&ids)?))?;
        println!("encode_text {:.2} texts/s", batch as f64 / seconds.wall);
    }
    if !parts.contains("train") {
        return Ok(());
    }
    let mut forward = f64::INFINITY;
    let seconds = best_of(&device, rounds, || {
        let start = Instant::now();
        let loss = loss(&clip, &pixels, &ids)?;
        forward = forward.min(start.elapsed().as_secs_f64());
        Ok(loss.backward()?)
    })?;
    print_peak_memory(&device);
    println!("train_step {:.2} samples/s ({:.3} s, forward {forward:.3} s)", batch as f64 / seconds.wall, seconds.wall);
    Ok(())
}

fn inputs(
    config: &ClipConfig,
    batch: usize,
    tokens: usize,
    device: &Device,
) -> Result<(Tensor, Tensor), Box<dyn Error>> {
    let side = config.vision.image_size;
    let pixels = (0..batch * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
    let vocabulary = config.text.vocab_size as u32;
    let ids = (0..batch * config.text.context_length).map(|i| match i % config.text.context_length {
        0 => vocabulary - 2,
        position if position + 1 < tokens => (i as u32 * 31) % (vocabulary - 2),
        position if position + 1 == tokens => vocabulary - 1,
        _ => 0,
    });
    Ok((
        Tensor::from_vec(pixels, (batch, 3, side, side), device)?,
        Tensor::from_vec(ids.collect::<Vec<_>>(), (batch, config.text.context_length), device)?,
    ))
}

fn loss(clip: &Clip, pixels: &Tensor, ids: &Tensor) -> Result<Tensor, Box<dyn Error>> {
    let image_bd = l2_normalise(&clip.encode_image(pixels)?.to_dtype(DType::F32)?)?;
    let text_bd = l2_normalise(&clip.encode_text(ids)?.to_dtype(DType::F32)?)?;
    let logits = image_bd.matmul(&text_bd.t()?)?.broadcast_mul(&clip.logit_scale().exp()?)?;
    let truth = Tensor::eye(logits.dim(0)?, logits.dtype(), logits.device())?;
    let cross_entropy = |logits: &Tensor| {
        let log_sum = logits.exp()?.sum(D::Minus1)?.log()?;
        (log_sum - (logits * &truth)?.sum(D::Minus1)?)?.mean_all()
    };
    Ok(((cross_entropy(&logits)? + cross_entropy(&logits.t()?.contiguous()?)?)? / 2.0)?)
}
