//! What the rate examples share: the device by environment, clocks, peak memory.
//!
//! `DEVICE` (`cpu`, `cuda:0` …) and `PRECISION` (`f32`, `bf16`, `f16`) choose where and in what type a network runs.
#![allow(dead_code)] // each example uses its part

use candle_core::{DType, Device};
use std::error::Error;
use std::time::Instant;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Device and type that the environment names.
pub fn place() -> Result<(Device, DType), Box<dyn Error>> {
    let named = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let device = match named("DEVICE", "cpu").split_once(':') {
        None => Device::Cpu,
        Some((_, ordinal)) => Device::new_cuda(ordinal.parse()?)?,
    };
    let dtype = match named("PRECISION", "f32").as_str() {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        other => return Err(format!("PRECISION = {other}: f32, bf16 or f16").into()),
    };
    Ok((device, dtype))
}

/// Wall time, and the processor time of all threads, which says more where others are at work.
#[derive(Clone, Copy)]
pub struct Seconds {
    pub wall: f64,
    pub cpu: f64,
}

impl Seconds {
    pub fn times(self, factor: f64) -> Self {
        Self { wall: self.wall * factor, cpu: self.cpu * factor }
    }
}

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} s ({:.3} s of processor time)", self.wall, self.cpu)
    }
}

/// What `work` takes; a device that works on its own is waited for.
pub fn seconds<T, E: Into<Box<dyn Error>>>(
    device: &Device,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(Seconds, T), Box<dyn Error>> {
    device.synchronize()?;
    let (wall, cpu) = (Instant::now(), processor_seconds());
    let result = work().map_err(Into::into)?;
    device.synchronize()?;
    Ok((Seconds { wall: wall.elapsed().as_secs_f64(), cpu: processor_seconds() - cpu }, result))
}

/// The fastest of several rounds, after one that warms up.
pub fn best_of<T>(
    device: &Device,
    rounds: usize,
    mut round: impl FnMut() -> Result<T, Box<dyn Error>>,
) -> Result<Seconds, Box<dyn Error>> {
    round()?;
    let mut best = Seconds { wall: f64::INFINITY, cpu: f64::INFINITY };
    for _ in 0..rounds {
        let (taken, _) = seconds(device, &mut round)?;
        best = Seconds { wall: best.wall.min(taken.wall), cpu: best.cpu.min(taken.cpu) };
    }
    Ok(best)
}

/// Processor time of this process, NaN where the system does not tell.
fn processor_seconds() -> f64 {
    /// Of `/proc`, on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, user and system time are the 12th and 13th field.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: Option<Vec<f64>> = fields.map(|field| field.parse().ok()).collect();
    match ticks.as_deref() {
        Some([user, system]) => (user + system) / TICKS_PER_SECOND,
        _ => f64::NAN,
    }
}

/// The most memory that this process has held, in GiB, where the system tells.
pub fn print_peak_memory() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    if let Some(kib) = kib {
        println!("peak memory {:.2} GiB", kib / f64::from(1 << 20));
    }
}
