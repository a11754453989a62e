//! Clocks and memory.

use candle_core::Device;
use std::error::Error;
use std::time::Instant;

use crate::Place;

/// What the device is, and a number that it has computed.
pub(crate) fn describe(place: &Place) -> crate::Result {
    let device = place.device()?;
    let ones = candle_core::Tensor::ones(1 << 20, candle_core::DType::F32, &device)?;
    let sum = ones.sum_all()?.to_scalar::<f32>()?;
    println!("{}: {:?}, sum of a million ones {sum}", place.device, device.location());
    print_peak_memory(&device);
    match ranks::nccl_problem(&device) {
        Some(problem) => println!("nccl cannot be used: {problem}"),
        None => println!("nccl can be used"),
    }
    match sum == 1_048_576.0 {
        true => Ok(()),
        false => Err("the device cannot add".into()),
    }
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

/// The most memory that this process has held, on the host and on the device, where they tell.
pub fn print_peak_memory(device: &Device) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    if let Some(kib) = kib {
        println!("peak memory {:.2} GiB", kib / f64::from(1 << 20));
    }
    if let Some(memory) = models::device::memory(device) {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        println!("peak memory on the device {:.2} GiB, {:.2} GiB free", gib(memory.peak), gib(memory.free));
    }
}

/// Lets a profiler that waits for it see what the GPU does from now on, or no longer.
pub fn profile(visible: bool) {
    #[cfg(feature = "cuda")]
    {
        use candle_core::cuda::cudarc::driver::{profiler_start, profiler_stop};
        // without a profiler there is nothing to switch on
        let _ = if visible { profiler_start() } else { profiler_stop() };
    }
    #[cfg(not(feature = "cuda"))]
    let _ = visible;
}
