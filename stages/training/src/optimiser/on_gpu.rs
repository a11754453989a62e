//! AdamW for parameters on a GPU: all of them in few launches.

use candle_core::{DType, Tensor, Var};
use models::ops::{AdamWParameter, AdamWStep, adamw, gpu_kernels};

use super::History;
use super::in_place::Update;
use crate::error::Result;

/// Parameters that kernels move together.
#[derive(Default)]
pub(super) struct Parameters {
    moved: Vec<Moved>,
    update: Option<Update>,
}

/// Handles of one parameter's tensors, which stay where they are.
struct Moved {
    weights: Tensor,
    moments: [Tensor; 2],
    gradient: Tensor,
    copy: Option<Tensor>,
    rate: f64,
    kept: f64,
}

impl Parameters {
    /// Takes a parameter up, if kernels can move it. Updates of one step differ in rate and decay alone.
    pub(super) fn takes(
        &mut self,
        (var, history): (&Var, &History),
        gradient: &Tensor,
        update: &Update,
    ) -> Result<bool> {
        let (weights, moments, copy) = history.tensors(var);
        let in_place = [weights, moments[0], moments[1]].into_iter().chain(copy);
        if !gpu_kernels(weights) || weights.dtype() != DType::F32 || !in_place.clone().all(Tensor::is_contiguous) {
            return Ok(false);
        }
        let narrow = gradient.dtype() == DType::BF16 && copy.is_some_and(|copy| copy.dtype() == DType::BF16);
        let gradient = if narrow { gradient.contiguous()? } else { gradient.to_dtype(DType::F32)?.contiguous()? };
        self.moved.push(Moved {
            weights: weights.clone(),
            moments: moments.map(Tensor::clone),
            gradient,
            copy: copy.cloned(),
            rate: update.rate,
            kept: update.kept,
        });
        self.update = Some(*update);
        Ok(true)
    }

    /// Moves them. Gradients count times the one number in `clip_there` too.
    pub(super) fn step(&self, clip_there: Option<&Tensor>) -> Result<()> {
        let Some(Update { beta1, beta2, clip, spread, epsilon, .. }) = self.update else { return Ok(()) };
        let parameters: Vec<AdamWParameter<'_>> = self
            .moved
            .iter()
            .map(|Moved { weights, moments: [first, second], gradient, copy, rate, kept }| AdamWParameter {
                weights,
                moments: [first, second],
                gradient,
                copy: copy.as_ref(),
                rate: *rate,
                kept: *kept,
            })
            .collect();
        Ok(adamw(&parameters, &AdamWStep { beta1, beta2, clip, clip_there, spread, epsilon })?)
    }
}
