//! Trains a small CLIP from scratch on a folder of captioned images and reports its recall on the test split:
//!
//! ```text
//! cargo run --release --example real_trial -- FOLDER [batch=64] [settings.learning_rate=0.001] [model.vision.layers=4] ...
//! ```
//!
//! FOLDER holds `images/` and `captions.jsonl` with {"file", "split", "captions"} lines. Any field of [`Trial`] can be
//! set by its path. A tenth of the train split, by hash, chooses the epoch; the test split is read once, at the end.

mod data;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use data::{Pair, Pairs, Views};
use models::clip::{Clip, ClipConfig};
use models::ops::l2_normalise;
use models::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use training::batch::BoxError;
use training::optimiser::AdamWSettings;
use training::pretrain::{Cadence, Event, Loss, Settings, Trainer};
use training::recall::{DEFAULT_BLOCK_ROWS, Gallery, Protocol, RecallReport, evaluate};
use training::schedule::Schedule;

/// Everything that a trial can change.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    seed: u64,
    /// Most tokens of the vocabulary that is made from the train captions.
    vocabulary: usize,
    batch: usize,
    /// Passes over the images between two validations: what the trainer calls an epoch.
    passes: usize,
    views: Views,
    model: ClipConfig,
    settings: Settings,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            seed: 1,
            vocabulary: 1600,
            batch: 128,
            passes: 5,
            views: Views::default(),
            model: ClipConfig::preset("small").expect("a preset"),
            settings: Settings {
                epochs: 20,
                learning_rate: 1e-3,
                schedule: Schedule::WarmupCosine { warmup_steps: 100 },
                optimiser: AdamWSettings::default(),
                loss: Loss::InfoNce { label_smoothing: 0.0 },
                ema_decay: 0.99,
                ..Settings::default()
            },
        }
    }
}

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("which folder? it holds images/ and captions.jsonl")?);
    let mut trial = serde_json::to_value(Trial::default())?;
    for argument in arguments {
        let (path, value) =
            argument.split_once('=').ok_or_else(|| format!("{argument} is not of the form path=value"))?;
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        *trial.pointer_mut(&pointer).ok_or_else(|| format!("a trial has no {path}"))? = value;
    }
    run(&folder, serde_json::from_value(trial)?)
}

fn run(folder: &Path, mut trial: Trial) -> Result<(), BoxError> {
    let start = Instant::now();
    let pairs = Pairs::read(folder, trial.model.vision.image_size)?;
    let tokenizer = Tokenizer::train(pairs.train.iter().flat_map(|pair| &pair.captions), trial.vocabulary)?;
    trial.model.text.vocab_size = tokenizer.vocab_size();
    let clip = Clip::init(&trial.model, trial.seed, &Device::Cpu, DType::F32)?;
    println!(
        "{} train, {} validation, {} test images, {} tokens, {:.2} M parameters, read in {:.1} s",
        pairs.train.len(),
        pairs.validation.len(),
        pairs.test.len(),
        tokenizer.vocab_size(),
        clip.parameters().num_elements() as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
    let mut source = data::Source::new(&pairs.train, &tokenizer, &trial)?;
    let mut trainer = Trainer::new(clip, trial.settings.clone())?;
    let best = std::cell::RefCell::new((f64::MIN, None));
    let mut validate = |clip: &Clip, _: usize| -> Result<f64, BoxError> {
        let metric = recall(clip, &tokenizer, &pairs.validation, 1)?.exact.pessimistic.mean_recall;
        if metric > best.borrow().0 {
            *best.borrow_mut() = (metric, Some(clip.frozen()?));
        }
        Ok(metric)
    };
    let (mut losses, training_start) = (Vec::new(), Instant::now());
    let mut observe = |event: &Event| match event {
        Event::Step(progress) => losses.push(progress.loss),
        Event::Saved => {}
        Event::EpochEnd(end) => {
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            let seconds = training_start.elapsed().as_secs_f64();
            println!("{seconds:6.0} s  epoch {:3}  loss {mean:.3}  validation mR {:.2}", end.epoch, end.metric);
            losses.clear();
        }
    };
    let summary =
        trainer.fit(&mut source, &mut validate, None, Cadence::default(), &AtomicBool::new(false), &mut observe)?;
    println!(
        "trained in {:.0} s ({:.0} CPU s), {:.0} pairs/s, waited {:.1} s",
        summary.seconds,
        cpu_seconds(),
        summary.position.samples as f64 / summary.seconds,
        summary.wait_seconds
    );
    let chosen = best.into_inner().1.ok_or("no epoch was validated")?;
    for (name, views) in [("test", 1), ("test, mean of 8 views", 8)] {
        let report = recall(&chosen, &tokenizer, &pairs.test, views)?;
        let figures = report.exact.pessimistic;
        println!(
            "{name}: mR {:.2} (optimistic {:.2}, group {:.2}), i2t {:.2} {:.2} {:.2}, t2i {:.2} {:.2} {:.2}, {} x {}",
            figures.mean_recall,
            report.exact.optimistic.mean_recall,
            report.group.pessimistic.mean_recall,
            figures.i2t.at_1,
            figures.i2t.at_5,
            figures.i2t.at_10,
            figures.t2i.at_1,
            figures.t2i.at_5,
            figures.t2i.at_10,
            report.image_gallery,
            report.caption_gallery
        );
    }
    Ok(())
}

/// Recall on one split; images are embedded as the mean of `views` of their 8 flips and turns.
fn recall(clip: &Clip, tokenizer: &Tokenizer, pairs: &[Pair], views: usize) -> Result<RecallReport, BoxError> {
    let side = clip.config().vision.image_size;
    let (mut image_nd, mut text_md) = (Vec::new(), Vec::new());
    for chunk in pairs.chunks(128) {
        let mut sum: Option<Tensor> = None;
        for view in 0..views {
            let pixels: Vec<f32> = chunk.iter().flat_map(|pair| pair.pixels(side, view)).collect();
            let pixels = Tensor::from_vec(pixels, (chunk.len(), 3, side, side), &Device::Cpu)?;
            let embedding = l2_normalise(&clip.encode_image(&pixels)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + embedding)?,
                None => embedding,
            });
        }
        let sum = sum.ok_or("needs at least one view")?;
        image_nd.extend(l2_normalise(&sum)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let captions: Vec<(u32, &String)> =
        (0..).zip(pairs).flat_map(|(row, pair)| pair.captions.iter().map(move |caption| (row, caption))).collect();
    let length = clip.config().text.context_length;
    for chunk in captions.chunks(512) {
        let ids = chunk.iter().map(|(_, caption)| tokenizer.encode(caption, length)).collect::<Result<Vec<_>, _>>()?;
        let ids = Tensor::from_vec(ids.concat(), (chunk.len(), length), &Device::Cpu)?;
        text_md.extend(l2_normalise(&clip.encode_text(&ids)?)?.flatten_all()?.to_vec1::<f32>()?);
    }
    let gallery = Gallery {
        image_nd: &image_nd,
        text_md: &text_md,
        dim: clip.config().embed_dim,
        own_image_m: &captions.iter().map(|&(row, _)| row).collect::<Vec<_>>(),
        image_keys_n: &pairs.iter().map(|pair| pair.image_key).collect::<Vec<_>>(),
        caption_keys_m: &captions.iter().map(|(_, caption)| data::key(caption.as_bytes())).collect::<Vec<_>>(),
    };
    Ok(evaluate(&gallery, Protocol::Standard, DEFAULT_BLOCK_ROWS)?.report)
}

/// Processor time of this process, of all threads; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}
