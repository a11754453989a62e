//! Operations of frozen networks: no backward pass.
//!
//! On the CPU in f32 they run kernels of ours, elsewhere candle's operations. candle's own fused inference operations
//! cut a gradient without a word; these refuse a tensor that asks for one. Every number of a row is computed in an
//! order that depends on that row alone, so no result changes with the rest of the batch or the number of threads.

mod cross_attention;
mod feed_forward;
mod log_softmax;
mod packed;
mod paged_attention;
mod residual_norm;
mod rms_norm;
mod rotary;

pub use cross_attention::cross_attention;
pub use feed_forward::{Gate, gated};
pub use log_softmax::log_softmax_rows;
pub use packed::{PackedLinear, Rows};
pub use paged_attention::{AttentionMask, AttentionPaths, DistanceBias, PathQueries, paged_attention};
pub use residual_norm::residual_norm;
pub use rms_norm::rms_norm;
pub use rotary::{RotaryLayout, RotaryTable, rotary};

use super::graph::with_views;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

/// Whether the kernels of this folder apply.
pub(crate) fn has_inference_kernel(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32 && super::cpu_kernels()
}

fn refuse_gradients(name: &str, args: &[&Tensor]) -> Result<()> {
    match args.iter().any(|arg| arg.track_op()) {
        true => bail!("{name} has no backward pass; give it detached tensors"),
        false => Ok(()),
    }
}

/// Runs a kernel over contiguous f32 slices.
fn on_cpu(args: &[&Tensor], dims: &[usize], kernel: impl FnOnce(&[&[f32]]) -> Vec<f32>) -> Result<Tensor> {
    let args = args.iter().map(|arg| arg.contiguous()).collect::<Result<Vec<_>>>()?;
    let out = with_views::<f32, _>(&args, |views| {
        let slices: Vec<&[f32]> = views.iter().map(|view| view.data).collect();
        Ok(kernel(&slices))
    })?;
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// Less work than this many elements is not worth waking another thread.
const ELEMENTS_PER_TASK: usize = 16 * 1024;

/// Calls `f(row, out)` for every row of `width` elements.
fn for_each_row(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows_per_task = ELEMENTS_PER_TASK.div_ceil(width.max(1));
    out.par_chunks_mut(width.max(1)).with_min_len(rows_per_task).enumerate().for_each(|(row, out)| f(row, out));
}
