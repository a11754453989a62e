//! How fast two ranks add tensors over loopback, beside a plain copy of the same bytes.
//!
//! `cargo run --release -p ranks --example all_reduce_rate`

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use ranks::{Tcp, loopback_world};
use training::communicator::Communicator;

const ROUNDS: u32 = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let meshes = loopback_world(2, Duration::from_secs(60))?;
    let mut ranks = meshes.into_iter().map(Tcp::new);
    let (Some(mut first), Some(mut second)) = (ranks.next(), ranks.next()) else { return Ok(()) };
    println!("MiB    all_reduce_sum      copy");
    for mib in [0, 1, 4, 16, 64] {
        // 4 bytes stand for the time of a round trip
        let len = (mib << 18).max(1);
        let other = std::thread::spawn(move || {
            let time = rounds(&mut second, len);
            (second, time)
        });
        let time = rounds(&mut first, len)?;
        let joined = other.join().map_err(|_| "the other rank panicked")?;
        second = joined.0;
        joined.1?;
        let rate = |time: Duration| (len * 4) as f64 / time.as_secs_f64() / 1e9;
        let copy = copy(len);
        println!("{mib:3} {:8.3} ms {:6.2} GB/s  {:6.2} GB/s", time.as_secs_f64() * 1e3, rate(time), rate(copy));
    }
    Ok(())
}

/// The middle one of the times that an operation takes.
fn rounds(rank: &mut Tcp, len: usize) -> training::Result<Duration> {
    let mine = Tensor::ones(len, DType::F32, &Device::Cpu)?;
    let mut times = Vec::new();
    for step in 0..ROUNDS {
        rank.at_step(step.into());
        rank.barrier()?;
        let begin = Instant::now();
        std::hint::black_box(rank.all_reduce_sum(&mine)?);
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn copy(len: usize) -> Duration {
    let from = vec![1f32; len];
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        // into fresh memory, as a sum is
        std::hint::black_box(from.clone());
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
