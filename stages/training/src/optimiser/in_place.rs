//! AdamW in place, for tensors in host memory.
//!
//! An update is bound by memory: operation by operation it would read and write each parameter some forty times, and
//! allocate as often. Here the moments take two reads and a write each, the weights three reads and a write.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Values per task: enough to be worth one, few enough for a cache.
const CHUNK: usize = 1 << 14;

/// What one step does to one parameter, with the corrections for young moments worked in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    /// Factor of the gradient: clipping.
    pub(super) clip: f64,
    /// Learning rate over the correction of the first moment.
    pub(super) rate: f64,
    /// Factor of the root of the second moment: its correction.
    pub(super) spread: f64,
    pub(super) epsilon: f64,
    /// Factor of the weights: decay.
    pub(super) kept: f64,
}

/// Whether [`update`] can take these tensors.
pub(super) fn can_update(weights: &Tensor, gradient: &Tensor) -> bool {
    models::ops::cpu_kernels()
        && weights.device().is_cpu()
        && weights.dtype() == gradient.dtype()
        && matches!(weights.dtype(), DType::F32 | DType::F64)
        && weights.is_contiguous()
}

/// Moves `weights` and both moments by one step. All four are of one shape and type; the first three share no storage.
pub(super) fn update(weights: &Tensor, gradient: &Tensor, moments: [&Tensor; 2], update: &Update) -> Result<()> {
    let gradient = gradient.contiguous()?;
    let [first, second] = moments;
    first.inplace_op2(&gradient, &Moment { decay: update.beta1, clip: update.clip, squared: false })?;
    second.inplace_op2(&gradient, &Moment { decay: update.beta2, clip: update.clip, squared: true })?;
    weights.inplace_op3(first, second, update)
}

/// Sum of squares, added up in double precision and always in the same order.
pub(super) fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    let (storage, layout) = gradient.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("sum of squares of a tensor elsewhere") };
    let sums: Vec<f64> = match storage {
        CpuStorage::F32(values) => sums(within(values, layout)?, f64::from),
        CpuStorage::F64(values) => sums(within(values, layout)?, |value| value),
        _ => bail!("sum of squares of {:?}", gradient.dtype()),
    };
    Ok(sums.iter().sum())
}

fn sums<T: Copy + Sync>(values: &[T], wide: impl Fn(T) -> f64 + Sync) -> Vec<f64> {
    values.par_chunks(CHUNK).map(|chunk| chunk.iter().map(|&value| wide(value).powi(2)).sum()).collect()
}

/// moment ← decay · moment + (1 − decay) · (clip · gradient) or its square.
struct Moment {
    decay: f64,
    clip: f64,
    squared: bool,
}

fn within<'v, T>(values: &'v [T], layout: &Layout) -> Result<&'v [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("an optimiser's tensor is not contiguous: {layout:?}"),
    }
}

fn within_mut<'v, T>(values: &'v mut [T], layout: &Layout) -> Result<&'v mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut values[start..end]),
        None => bail!("an optimiser's tensor is not contiguous: {layout:?}"),
    }
}

macro_rules! moment {
    ($self:ident, $moment:expr, $gradient:expr, $real:ty) => {{
        let (decay, new, clip) = ($self.decay as $real, (1.0 - $self.decay) as $real, $self.clip as $real);
        let chunks = $moment.par_chunks_mut(CHUNK).zip($gradient.par_chunks(CHUNK));
        if $self.squared {
            chunks.for_each(|(moments, gradients)| {
                for (moment, gradient) in moments.iter_mut().zip(gradients) {
                    let gradient = gradient * clip;
                    *moment = *moment * decay + gradient * gradient * new;
                }
            });
        } else {
            chunks.for_each(|(moments, gradients)| {
                for (moment, gradient) in moments.iter_mut().zip(gradients) {
                    *moment = *moment * decay + gradient * clip * new;
                }
            });
        }
    }};
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(&self, moment: &mut CpuStorage, l1: &Layout, gradient: &CpuStorage, l2: &Layout) -> Result<()> {
        match (moment, gradient) {
            (CpuStorage::F32(m), CpuStorage::F32(g)) => moment!(self, within_mut(m, l1)?, within(g, l2)?, f32),
            (CpuStorage::F64(m), CpuStorage::F64(g)) => moment!(self, within_mut(m, l1)?, within(g, l2)?, f64),
            _ => bail!("moments are of the gradient's type, f32 or f64"),
        }
        Ok(())
    }
}

macro_rules! weights {
    ($self:ident, $weights:expr, $first:expr, $second:expr, $real:ty) => {{
        let (rate, spread, epsilon) = ($self.rate as $real, $self.spread as $real, $self.epsilon as $real);
        let kept = $self.kept as $real;
        let moments = $first.par_chunks(CHUNK).zip($second.par_chunks(CHUNK));
        $weights.par_chunks_mut(CHUNK).zip(moments).for_each(|(weights, (firsts, seconds))| {
            for (weight, (first, second)) in weights.iter_mut().zip(firsts.iter().zip(seconds)) {
                *weight = *weight * kept - first / (second.sqrt() * spread + epsilon) * rate;
            }
        });
    }};
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-weights"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        l1: &Layout,
        first: &CpuStorage,
        l2: &Layout,
        second: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        match (weights, first, second) {
            (CpuStorage::F32(w), CpuStorage::F32(m), CpuStorage::F32(v)) => {
                weights!(self, within_mut(w, l1)?, within(m, l2)?, within(v, l3)?, f32);
            }
            (CpuStorage::F64(w), CpuStorage::F64(m), CpuStorage::F64(v)) => {
                weights!(self, within_mut(w, l1)?, within(m, l2)?, within(v, l3)?, f64);
            }
            _ => bail!("weights are of their moments' type, f32 or f64"),
        }
        Ok(())
    }
}
