//! Training pairs per second of all ranks together, optimiser and collectives included.
//!
//! Alone it is one rank; with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set it is one of several over TCP, or over
//! NCCL, also where WORLD_SIZE is 1. `RAYON_NUM_THREADS` sets the threads of each rank. A GPU's steps are looked at in
//! groups of a few, since each look waits for the device; the median group counts: the first one warms up.

use choices::Preset;
use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use models::clip::{Clip, ClipConfig};
use ranks::{Backend, RankInfo};
use training::batch::{BatchSource, BoxError, PairBatch, SegmentBatch};
use training::communicator::{Communicator, Solo};
use training::contrastive::{Contrastive, Loss};
use training::trainer::{Event, Execution, Fit, Settings, Trainer};

use crate::measure::{print_peak_memory, profile};

/// The same slice of noise at every step.
struct Noise {
    batch: PairBatch,
    steps: usize,
}

impl BatchSource for Noise {
    fn steps_per_epoch(&self) -> usize {
        self.steps
    }

    fn batch(&mut self, _: usize, _: usize) -> Result<PairBatch, BoxError> {
        Ok(self.batch.clone())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    at: crate::Place,
    #[arg(default_value = "small")]
    preset: Preset,
    #[arg(default_value_t = 32, help = "Of all ranks together")]
    global_batch: usize,
    #[arg(default_value_t = 12)]
    steps: usize,
    #[arg(long, env = "SEGMENTS", default_value_t = 0, help = "Segments of each image")]
    segments: usize,
    #[arg(long, help = "Keep only what goes from block to block, and compute the rest again")]
    recompute: bool,
    #[arg(long, env = "IN_PARTS", default_value_t = 0, help = "1: each rank keeps a part of the optimiser's state")]
    in_parts: u8,
    #[arg(long, env = "BACKEND", default_value = "tcp", help = "tcp or nccl")]
    backend: String,
    #[arg(long, help = "Seconds of each part of the steps; none overlaps then")]
    phases: bool,
    #[arg(long, help = "Let a profiler see the last step only")]
    profile: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let Options { preset, global_batch, steps, .. } = options;
    let (global_batch, steps) = (*global_batch, *steps);
    let place = RankInfo::from_environment(&|name| std::env::var(name).ok())?;
    let (device, dtype) = (options.at.device()?, options.at.precision.dtype());
    let backend = if options.backend == "nccl" { Backend::Nccl } else { Backend::Tcp };
    let mut ranks: Box<dyn Communicator> = match &place {
        Some(place) => ranks::open(place, backend, &device, Duration::from_secs(120))?,
        None => Box::new(Solo),
    };
    let config = ClipConfig::preset(*preset);
    let clip = Clip::init(&config, 1, &device, dtype)?;
    let parameters = clip.parameters().num_elements();
    let rows = global_batch / ranks.world_size();
    let first = (ranks.rank() * rows) as u64;
    let (side, length) = (config.vision.image_size, config.text.context_length);
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8) as u8;
    let batch = PairBatch {
        pixels_bhwc: (0..rows * 3 * side * side).map(noise).collect(),
        input_ids_bl: (0..rows * length).map(|i| (1 + i % (config.text.vocab_size - 1)) as u32).collect(),
        image_keys: (first..first + rows as u64).collect(),
        caption_keys: (first..first + rows as u64).collect(),
        valid: vec![true; rows],
        segments: (options.segments > 0).then(|| SegmentBatch {
            pixels_shwc: (0..rows * options.segments * 3 * side * side).map(noise).collect(),
            row_of_segment: (0..rows * options.segments).map(|segment| (segment / options.segments) as u32).collect(),
            weights: vec![1.0; rows * options.segments],
        }),
        ..PairBatch::default()
    };
    // a GPU is looked at in three groups of steps, unless each step has to end for itself
    let look_every_steps = if device.is_cpu() || options.profile { 1 } else { (steps / 3).max(1) };
    let settings = Settings { epochs: 1, ..Settings::default() };
    let objective = Contrastive::new(Loss::InfoNce { label_smoothing: 0.0 })?;
    let mut trainer = Trainer::new(clip, settings, Box::new(objective))?;
    let (mut seconds, mut phases) = (Vec::new(), None);
    let world_size = ranks.world_size();
    trainer.fit(Fit {
        ranks: ranks.as_mut(),
        source: &mut Noise { batch, steps },
        validate: &mut |_, _, _| Ok(0.0),
        folder: None,
        execution: Execution {
            shard_optimiser: options.in_parts == 1,
            recompute: options.recompute,
            look_every_steps,
            time_phases: options.phases,
            ..Execution::default()
        },
        stop: &AtomicBool::new(false),
        observe: &mut |event| match event {
            Event::Step(progress) => {
                seconds.push(progress.seconds);
                if options.profile && seconds.len() + 1 == steps {
                    profile(true);
                }
            }
            Event::EpochEnd(end) => phases = end.phases,
            _ => {}
        },
    })?;
    profile(false);
    if first == 0 {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!(
            "{preset} ({:.1} M parameters), {world_size} ranks, batch {global_batch}, {} segments each: {:.2} samples/s, \
             {median:.4} s a step",
            parameters as f64 / 1e6,
            options.segments,
            global_batch as f64 / median,
        );
        if let Some(phases) = phases {
            let each = phases.named().map(|(name, all)| format!("{name} {:.4}", all / steps as f64));
            println!("seconds a step: {}", each.join(", "));
        }
        print_peak_memory(&device);
    }
    Ok(())
}
