//! Trainings of a few steps: a network that is small, batches with every case that batches have.

use choices::{Preset, SegmentTower};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::{DType, Device};
use models::clip::{Clip, ClipConfig, Eot, Pool, Stem};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use training::adapt;
use training::batch::{BatchSource, BoxError, Domains, PairBatch, SegmentBatch};
use training::communicator::{Communicator, Solo, Threads};
use training::contrastive::{Contrastive, Loss};
use training::objective::Objective;
use training::optimiser::AdamWSettings;
use training::trainer::{Event, Execution, Fit, Settings, Trainer};

use crate::check::{Checks, values};
use crate::{Place, Result};

const SIDE: usize = 32;
const LENGTH: usize = 8;
const IMAGES: usize = 8;
const CAPTIONS: usize = 2;
const STEPS: usize = 6;

/// What is learnt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Learnt {
    Contrast,
    Adaptation,
}

/// A training by one rank and by two on one device, which have to come to what the CPU comes to in f64, and every time
/// to the same to the last bit: what differs is a race.
pub(crate) fn run(place: &Place, times: usize) -> Result {
    let device = place.device()?;
    let mut checks = Checks::default();
    for learnt in [Learnt::Contrast, Learnt::Adaptation] {
        let reference = solo(learnt, &Device::Cpu, DType::F64, &mut Solo)?;
        for (dtype, bound) in [(DType::F32, 1e-3), (DType::BF16, 0.1)] {
            let found = solo(learnt, &device, dtype, &mut Solo)?;
            checks.at_most(&format!("{learnt:?} {dtype:?}, one rank"), found.difference(&reference), bound);
            found.print_beside(&reference);
        }
        let mut first: Option<Outcome> = None;
        for time in 0..times {
            let found = two_ranks(learnt, &device)?;
            match &first {
                None => {
                    checks.at_most(&format!("{learnt:?}, two ranks"), found.difference(&reference), 1e-3);
                    first = Some(found);
                }
                Some(first) if *first == found => {}
                Some(first) => {
                    let differs = first.difference(&found);
                    checks.fails(
                        &format!("{learnt:?}, two ranks, time {time}"),
                        format!("another result, {differs:.1e}"),
                    );
                }
            }
        }
    }
    checks.finish()
}

fn two_ranks(learnt: Learnt, device: &Device) -> Result<Outcome> {
    let world = Threads::world(2, Duration::from_secs(60));
    let outcomes: Vec<Result<Outcome, String>> = std::thread::scope(|scope| {
        let ranks: Vec<_> = world
            .into_iter()
            .map(|mut rank| scope.spawn(move || solo(learnt, device, DType::F32, &mut rank).map_err(|e| e.to_string())))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|_| Err("a rank panicked".to_owned()))).collect()
    });
    let mut outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    if outcomes[0] != outcomes[1] {
        return Err("two ranks have come to different weights".into());
    }
    Ok(outcomes.swap_remove(0))
}

/// What a training has come to.
#[derive(PartialEq)]
pub(crate) struct Outcome {
    losses: Vec<f64>,
    norms: Vec<f64>,
    weights: Vec<(String, Vec<f64>)>,
}

impl Outcome {
    fn print_beside(&self, other: &Self) {
        let row = |name: &str, ours: &[f64], theirs: &[f64]| {
            let pairs = ours.iter().zip(theirs).map(|(a, b)| format!("{a:.5} ({b:.5})"));
            println!("     {name} {}", pairs.collect::<Vec<_>>().join(" "));
        };
        row("losses", &self.losses, &other.losses);
        row("norms", &self.norms, &other.norms);
    }

    /// The largest difference of losses beside the largest loss, or of gradient norms beside the largest norm. Weights
    /// follow Adam, which makes full steps of gradients that are nothing but rounding: they are compared between runs of
    /// one kind only.
    pub(crate) fn difference(&self, other: &Self) -> f64 {
        let of = |ours: &[f64], theirs: &[f64]| {
            let size = theirs.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let pairs = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / size);
            // NaN stays
            pairs.fold(0.0, |most, x| if x <= most { most } else { x })
        };
        match self.losses.len() == other.losses.len() {
            true => of(&self.losses, &other.losses) + of(&self.norms, &other.norms),
            false => f64::INFINITY,
        }
    }
}

/// One rank's part of a training.
pub(crate) fn solo(learnt: Learnt, device: &Device, dtype: DType, ranks: &mut dyn Communicator) -> Result<Outcome> {
    let config = config()?;
    let clip = Clip::init(&config, 1, device, dtype)?;
    let objective: Box<dyn Objective> = match learnt {
        Learnt::Contrast => Box::new(Contrastive::new(Loss::InfoNce { label_smoothing: 0.1 })?),
        Learnt::Adaptation => {
            let settings = adapt::Settings { discriminator_hidden: 16, ..adapt::Settings::default() };
            let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            Box::new(adapt::Adaptation::in_precision(settings, config.embed_dim, device, wide)?)
        }
    };
    let settings = Settings {
        epochs: 1,
        learning_rate: 1e-3,
        optimiser: AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() },
        segment_tower: SegmentTower::Shared,
        ema_decay: 0.9,
        dropout: 0.1,
        seed: 5,
        ..Settings::default()
    };
    let mut trainer = Trainer::new(clip, settings, objective)?;
    let (rank, world_size) = (ranks.rank(), ranks.world_size());
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    trainer.fit(Fit {
        ranks,
        source: &mut Slice { rank, world_size, two_domains: matches!(learnt, Learnt::Adaptation) },
        validate: &mut |_, _, _| Ok(0.0),
        folder: None,
        execution: Execution { bucket_bytes: 10_000, look_every_steps: 4, ..Execution::default() },
        stop: &AtomicBool::new(false),
        observe: &mut |event| {
            if let Event::Step(progress) = event {
                losses.push(progress.loss);
                norms.push(progress.gradient_norm);
            }
        },
    })?;
    let weights = trainer.averaged().parameters().iter().map(|(name, var)| Ok((name.to_owned(), values(var)?)));
    Ok(Outcome { weights: weights.collect::<Result<_>>()?, losses, norms })
}

fn config() -> Result<ClipConfig> {
    let mut config = ClipConfig::preset(Preset::Tiny);
    config.embed_dim = 16;
    (config.vision.image_size, config.vision.patch_size) = (SIDE, 8);
    (config.vision.stem, config.vision.pool) = (Stem::Patch, Pool::Cls);
    (config.vision.width, config.vision.layers, config.vision.heads) = (32, 2, 4);
    (config.text.width, config.text.layers, config.text.heads) = (32, 2, 4);
    (config.text.context_length, config.text.vocab_size, config.text.eot) = (LENGTH, 12, Eot::Argmax);
    Ok(config)
}

/// Noise with duplicates, invalid rows and rows without segments; the slice of one rank.
struct Slice {
    rank: usize,
    world_size: usize,
    two_domains: bool,
}

impl BatchSource for Slice {
    fn steps_per_epoch(&self) -> usize {
        STEPS
    }

    fn batch(&mut self, _: usize, step: usize) -> Result<PairBatch, BoxError> {
        let batch = global_batch(step);
        if !self.two_domains {
            return Ok(batch.parts(self.world_size).swap_remove(self.rank));
        }
        // a rank has its slice of the sources and of the targets
        let images = batch.parts(IMAGES);
        let (sources, targets) = images.split_at(IMAGES / 2);
        let own = |domain: &[PairBatch]| -> Vec<PairBatch> {
            let count = domain.len() / self.world_size;
            domain[self.rank * count..][..count].to_vec()
        };
        let (sources, targets) = (own(sources), own(targets));
        let first_target = sources.len();
        Ok(put_together(&[sources, targets].concat(), first_target))
    }
}

fn put_together(images: &[PairBatch], first_target: usize) -> PairBatch {
    let mut all = PairBatch::default();
    let (mut of_row, mut domains) = (Vec::new(), Domains::default());
    for (nth, image) in images.iter().enumerate() {
        all.pixels_bhwc.extend(&image.pixels_bhwc);
        all.input_ids_bl.extend(&image.input_ids_bl);
        all.image_keys.extend(&image.image_keys);
        all.caption_keys.extend(&image.caption_keys);
        all.valid.extend(&image.valid);
        for key in &image.caption_keys {
            of_row.push(nth as u32);
            domains.target_b.push(nth >= first_target);
            domains.weights_b.push(0.3 + (key % 5) as f64 / 3.0);
        }
    }
    (all.image_of_row, all.domains) = (Some(of_row), Some(domains));
    all
}

fn global_batch(step: usize) -> PairBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(step as u64);
    let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let image = 3 * SIDE * SIDE;
    let mut pixels = |count: usize| -> Vec<u8> { noise(count).iter().map(|x| (128.0 + 70.0 * x) as u8).collect() };
    let mut pixels_bhwc = pixels(IMAGES * image);
    // image 6 is image 1 again
    pixels_bhwc.copy_within(image..2 * image, 6 * image);
    // the last two images have no segment
    let row_of_segment: Vec<u32> = vec![0, 0, 2, 4, 6, 6, 8, 10];
    let pixels_shwc = pixels(row_of_segment.len() * image);
    let weights = noise(row_of_segment.len()).iter().map(|weight| weight.abs()).collect();
    let rows = IMAGES * CAPTIONS;
    let caption =
        |row: usize| (0..LENGTH).map(move |i| if i + 1 == LENGTH { 11 } else { ((row * 7 + i * 3) % 11) as u32 });
    PairBatch {
        pixels_bhwc,
        image_of_row: Some((0..rows).map(|row| (row / CAPTIONS) as u32).collect()),
        input_ids_bl: (0..rows).flat_map(caption).collect(),
        image_keys: (0..rows).map(|row| [0, 1, 2, 3, 4, 5, 1, 7][row / CAPTIONS]).collect(),
        caption_keys: (0..rows as u64).map(|row| if row == 9 { 3 } else { row }).collect(),
        valid: (0..rows).map(|row| row != 5 && row != 15).collect(),
        segments: Some(SegmentBatch { pixels_shwc, row_of_segment, weights }),
        domains: None,
    }
}
