//! Training samples per second of all ranks together, optimiser and collectives included.
//!
//! ```text
//! train_rate [PRESET] [GLOBAL_BATCH] [STEPS]
//! ```
//!
//! Alone it is one rank; with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set it is one of several over TCP, or over
//! NCCL with `BACKEND=nccl`, also where WORLD_SIZE is 1. `DEVICE` (`cpu`, `cuda:0` …) and `PRECISION` (`f32`, `bf16`)
//! choose where and in what type the towers run, `RAYON_NUM_THREADS` the threads of each rank. `IN_PARTS=1` leaves each
//! rank a part of the optimiser's state. The median step counts: the first ones warm up.

use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candle_core::{DType, Device};
use models::clip::{Clip, ClipConfig};
use ranks::{Backend, Place};
use training::batch::{BatchSource, BoxError, PairBatch};
use training::communicator::{Communicator, Solo};
use training::contrastive::{Contrastive, Loss};
use training::trainer::{Event, Execution, Fit, Settings, Trainer};

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

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| args.get(index).map_or(Ok(default), |arg| arg.parse());
    let preset = args.first().map_or("small", String::as_str);
    let (global_batch, steps) = (number(1, 32)?, number(2, 12)?);
    let place = Place::from_environment(&|name| std::env::var(name).ok())?;
    let named = |name: &str| std::env::var(name).unwrap_or_default();
    let device = match named("DEVICE").split_once(':') {
        None => Device::Cpu,
        Some((_, ordinal)) => Device::new_cuda(ordinal.parse()?)?,
    };
    let dtype = if named("PRECISION") == "bf16" { DType::BF16 } else { DType::F32 };
    let backend = if named("BACKEND") == "nccl" { Backend::Nccl } else { Backend::Tcp };
    let mut ranks: Box<dyn Communicator> = match &place {
        Some(place) => ranks::open(place, backend, &device, Duration::from_secs(120))?,
        None => Box::new(Solo),
    };
    let config = ClipConfig::preset(preset).ok_or("unknown preset")?;
    let clip = Clip::init(&config, 1, &device, dtype)?;
    let parameters = clip.parameters().num_elements();
    let rows = global_batch / ranks.world_size();
    let first = (ranks.rank() * rows) as u64;
    let (side, length) = (config.vision.image_size, config.text.context_length);
    let noise = |i: usize| ((i.wrapping_mul(2_654_435_761)) % 1000) as f32 / 500.0 - 1.0;
    let batch = PairBatch {
        pixel_values_bchw: (0..rows * 3 * side * side).map(noise).collect(),
        input_ids_bl: (0..rows * length).map(|i| (1 + i % (config.text.vocab_size - 1)) as u32).collect(),
        image_keys: (first..first + rows as u64).collect(),
        caption_keys: (first..first + rows as u64).collect(),
        valid: vec![true; rows],
        ..PairBatch::default()
    };
    let settings = Settings { epochs: 1, ..Settings::default() };
    let objective = Contrastive::new(Loss::InfoNce { label_smoothing: 0.0 })?;
    let mut trainer = Trainer::new(clip, settings, Box::new(objective))?;
    let mut seconds = Vec::new();
    let world_size = ranks.world_size();
    trainer.fit(Fit {
        ranks: ranks.as_mut(),
        source: &mut Noise { batch, steps },
        validate: &mut |_, _, _| Ok(0.0),
        folder: None,
        execution: Execution { shard_optimiser: named("IN_PARTS") == "1", ..Execution::default() },
        stop: &AtomicBool::new(false),
        observe: &mut |event| {
            if let Event::Step(progress) = event {
                seconds.push(progress.seconds);
            }
        },
    })?;
    if first == 0 {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!(
            "{preset} ({:.1} M parameters), {world_size} ranks, batch {global_batch}: {:.2} samples/s{}",
            parameters as f64 / 1e6,
            global_batch as f64 / median,
            peak_memory().map_or(String::new(), |mib| format!(", rank 0 held at most {mib} MiB")),
        );
    }
    Ok(())
}

/// Most memory that this process has held so far, in MiB; Linux says.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib >> 10)
}
