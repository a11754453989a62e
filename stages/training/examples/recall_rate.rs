//! Rate and peak memory of recall, both ways, on random embeddings:
//! `cargo run --release --example recall_rate -- [ROWS] [DIM]`. Its peer is `tests/peers/recall_peer.py`.

use std::time::Instant;

use choices::Protocol;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use training::recall::{DEFAULT_BLOCK_ROWS, Gallery, evaluate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let rows = arguments.next().transpose()?.unwrap_or(20_000);
    let dim = arguments.next().transpose()?.unwrap_or(512);
    let image_nd = unit_rows(rows, dim, 0);
    let text_md = unit_rows(rows, dim, 1);
    let own_image_m: Vec<u32> = (0..rows as u32).collect();
    let keys: Vec<u64> = (0..rows as u64).collect();
    let gallery = Gallery {
        image_nd: &image_nd,
        text_md: &text_md,
        dim,
        own_image_m: &own_image_m,
        image_keys_n: &keys,
        caption_keys_m: &keys,
    };
    let before_mib = peak_mib()?;
    let start = Instant::now();
    let report = evaluate(&gallery, Protocol::Standard, DEFAULT_BLOCK_ROWS)?.report;
    let seconds = start.elapsed().as_secs_f64();
    let gflops = 2.0 * (rows * rows * dim) as f64 / seconds / 1e9;
    println!(
        "rust: {rows} x {rows} x {dim}: {seconds:.2} s ({gflops:.0} GFLOP/s), {:.0} MiB beyond the embeddings, mR {:.4}",
        peak_mib()? - before_mib,
        report.exact.pessimistic.mean_recall
    );
    Ok(())
}

fn unit_rows(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values: Vec<f32> = (0..rows * dim).map(|_| rng.random::<f32>() - 0.5).collect();
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    values
}

/// Peak resident memory of this process; 0 where the system does not tell.
fn peak_mib() -> Result<f64, Box<dyn std::error::Error>> {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return Ok(0.0);
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
