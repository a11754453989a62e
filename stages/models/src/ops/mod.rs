//! Differentiable operations.
//!
//! On the CPU (f32 and f64) they run kernels of ours with exact backward passes: vector instructions are chosen at
//! run time, rows are spread over rayon's threads, and sums are taken in an order that does not depend on the number
//! of threads. On other devices and in other types they are composed of candle's differentiable operations,
//! which take sums and exponentials in f32 where the type is f16 or bf16.

pub(crate) mod activation;
mod attention;
mod backward;
mod block;
mod byte_products;
mod conv;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod depthwise;
mod dropout;
mod embedding;
pub(crate) mod graph;
pub(crate) mod half;
mod image_conv;
pub mod inference;
pub(crate) mod inverted_bottleneck;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod matrix;
mod normalise;
mod patches;
mod pool;
mod positions;
pub(crate) mod real;
mod select;
mod stem;
mod tiles;
mod unfold;
pub(crate) mod window_attention;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

pub use activation::{Activation, activation};
pub use attention::attention;
pub use backward::backward_from;
pub use block::{Block, transformer_block};
pub use byte_products::{byte_products, widest};
pub use conv::conv2d;
#[cfg(feature = "cuda")]
pub use cuda::{AdamWParameter, AdamWStep, adamw, move_averages, norm};
pub use depthwise::depthwise_conv;
pub use dropout::Dropout;
pub use embedding::embedding;
pub use image_conv::image_conv2d;
pub use inverted_bottleneck::{InvertedBottleneck, inverted_bottleneck};
pub use layer_norm::layer_norm;
pub use linear::{linear, project};
pub use normalise::l2_normalise;
pub use patches::patches;
pub use pool::mean_pool;
pub use positions::add_positions;
pub use select::select_rows;
pub use stem::{StemStage, stem_stage};
pub use window_attention::{RelativePositions, window_attention};

/// The epsilon of every CLIP.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

#[cfg(test)]
mod testing;

/// Whether CPU kernels of ours may run. `URBANCROSS_CPU_KERNELS=off` makes the CPU take the very compositions that a GPU
/// takes: slow, and the way to test those where there is no GPU.
pub fn cpu_kernels() -> bool {
    CPU_KERNELS.load(Ordering::Relaxed)
}

/// Whether GPU kernels of ours take this tensor, of f32 or half precision on a GPU. `URBANCROSS_GPU_KERNELS=off`: none, but
/// compositions of candle's operations.
#[cfg(feature = "cuda")]
pub fn gpu_kernels(tensor: &candle_core::Tensor) -> bool {
    cuda::applies(tensor)
}

/// Switches them for the whole process, so that one run can measure both.
pub fn use_cpu_kernels(on: bool) {
    CPU_KERNELS.store(on, Ordering::Relaxed);
}

static CPU_KERNELS: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(std::env::var_os("URBANCROSS_CPU_KERNELS").is_none_or(|value| value != "off")));
