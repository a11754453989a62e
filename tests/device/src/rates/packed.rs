//! Rate of the packed product on the CPU, for the shapes of a captioner of middle size.
//!
//! Rows x inputs x outputs, with other weights each time, as a network has them; and with weights that f16 holds. Both
//! kernels alternately: that of few rows, and that of many rows, which differs where the processor has matrix tiles.

use crate::measure::seconds;
use candle_core::{DType, Device, Tensor};
use models::ops::inference::{PackedLinear, Rows};
use std::error::Error;

/// Products of one shape.
const ROUNDS: usize = 60;

/// Weights together beyond any cache.
const MAX_WEIGHTS: usize = 100_000_000;

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let device = Device::Cpu;
    for dtype in [DType::F32, DType::F16] {
        for (rows, inputs, outputs) in [
            (257, 768, 3072),
            (257, 3072, 768),
            (257, 768, 2304),
            (2056, 768, 3072),
            (384, 1024, 2816),
            (40, 1024, 2816),
            (8, 1024, 2816),
        ] {
            let x = Tensor::rand(-1f32, 1., (rows, inputs), &device)?;
            let w = Tensor::rand(-1f32, 1., (outputs, inputs), &device)?.to_dtype(dtype)?;
            let count = (MAX_WEIGHTS / (inputs * outputs)).clamp(1, 24);
            let layers = (0..count).map(|_| PackedLinear::new(&w, None)).collect::<Result<Vec<_>, _>>()?;
            let kinds = [Rows::Few, Rows::Many];
            let mut walls = [const { Vec::new() }; 2];
            for round in 0..ROUNDS {
                for (turn, (kind, walls)) in kinds.into_iter().zip(&mut walls).enumerate() {
                    let layer = &layers[(2 * round + turn) % count];
                    walls.push(seconds(&device, || layer.forward(&x, kind))?.0.wall);
                }
            }
            let gflop = 2e-9 * (rows * inputs * outputs) as f64;
            for (kind, walls) in kinds.into_iter().zip(&mut walls) {
                walls.sort_by(f64::total_cmp);
                let (best, middle) = (gflop / walls[0], gflop / walls[ROUNDS / 2]);
                println!(
                    "{dtype:?} {rows} x {inputs} x {outputs}, {kind:?}: {best:.1} GFLOP/s at best, {middle:.1} in the middle"
                );
            }
        }
    }
    Ok(())
}
