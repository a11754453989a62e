//! One step of a training: what moves its parameters.

use candle_core::{DType, Device, Tensor};
use models::clip::Clip;

use super::{LoopContext, SEGMENT_TOWER, Trainer};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::loss::MAX_LOGIT_SCALE;
use crate::objective::StepInfo;
use crate::trainer::LossScale;
use crate::trainer::forward::Networks;
use crate::trainer::loaded::Loaded;
use crate::trainer::step::{Found, differentiate};
use crate::trainer::unread::Numbers;

impl Trainer {
    /// One step. Where towers in f16 overflow nothing is learnt, the norm is infinite and the next step's gradients are
    /// carried back smaller.
    pub(super) fn learn(
        &mut self,
        loaded: &Loaded,
        info: StepInfo,
        learning_rate: f64,
        context: &mut LoopContext,
    ) -> Result<Numbers> {
        let networks = Networks {
            clip: &self.clip,
            segment_tower: self.segment_tower.as_ref().map(|tower| (tower, SEGMENT_TOWER)),
            settings: &self.settings,
            execution: &context.execution,
        };
        // drawn from the step alone: a resumed run drops the same values
        let seed = self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(4 * info.global_step as u64);
        let objective = self.objective.as_mut();
        let (ranks, watch) = (&mut *context.ranks, &mut context.watch);
        let in_f16 = self.clip.dtype() == DType::F16;
        let scale = in_f16.then_some(self.position.loss_scale);
        let factor = scale.map_or(1.0, LossScale::factor);
        if scale.is_some() {
            objective.remember()?;
        }
        let found = differentiate(&networks, objective, loaded, (info, seed, factor), (ranks, watch))?;
        let Found { gradients, own, parts, losses } = found;
        if info.global_step == 0 {
            self.check_reach(&gradients)?;
        }
        // whether a step in f16 counts decides how the next one goes
        let is_checked = in_f16 || context.unread.is_each();
        let stepped = match is_checked {
            true => self.optimiser.step(&gradients, learning_rate).and_then(on_host),
            false => self.optimiser.step_unread(&gradients, learning_rate),
        };
        if let (Err(Error::Numbers { .. }), Some(halved)) = (&stepped, scale.and_then(LossScale::halved)) {
            self.objective.undo()?;
            self.objective.take_norm();
            self.position.loss_scale = halved;
            let norm = on_host(f64::INFINITY)?;
            return Ok(Numbers { parts, losses, norm, is_checked, norm_of_objective: None });
        }
        let norm = stepped?;
        self.objective.learn(&own, info)?;
        if let Some(scale) = scale {
            self.position.loss_scale = scale.after_step();
        }
        if let Some(shards) = &context.shards {
            drop(gradients);
            shards.exchange(&self.optimiser, context.ranks, context.execution.bucket_bytes)?;
        }
        clamp_logit_scale(&self.clip)?;
        if let Some(average) = &self.average {
            let steps = info.global_step as f64;
            // A young average forgets faster, or it would carry the initial weights for long.
            let decay = self.settings.ema_decay.min((1.0 + steps) / (10.0 + steps));
            move_average(average, &self.clip, decay)?;
        }
        context.watch.end(|phases| &mut phases.optimiser)?;
        let norm_of_objective = self.objective.take_norm();
        Ok(Numbers { parts, losses, norm, is_checked, norm_of_objective })
    }

    /// Some of candle's operations have no backward pass and say nothing: a parameter that the loss does not reach
    /// would stay as it was drawn.
    fn check_reach(&self, gradients: &Gradients) -> Result<()> {
        // Not reached by design: the scale by losses without temperature, the segment tower by a batch without segments.
        let may_lack = |name: &str| name == "logit_scale" || name.starts_with(SEGMENT_TOWER);
        match self.optimiser.parameters().find(|(name, _)| gradients.get(name).is_none() && !may_lack(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Numbers {
                what: format!("gradient of {name}"),
                problem: "is missing: an operation between it and the loss cannot be differentiated".to_owned(),
            }),
        }
    }
}

fn on_host(number: f64) -> Result<Tensor> {
    Ok(Tensor::new(number, &Device::Cpu)?)
}

fn clamp_logit_scale(clip: &Clip) -> Result<()> {
    match clip.parameters().get("logit_scale") {
        Some(scale) => Ok(scale.set(&scale.as_detached_tensor().minimum(MAX_LOGIT_SCALE)?)?),
        None => Ok(()),
    }
}

/// average ← decay · average + (1 − decay) · weights
fn move_average(average: &Clip, weights: &Clip, decay: f64) -> Result<()> {
    for ((_, average), (_, weight)) in average.parameters().iter().zip(weights.parameters().iter()) {
        let kept = (average.as_detached_tensor() * decay)?;
        let weight = weight.as_detached_tensor().to_dtype(kept.dtype())?;
        average.set(&(kept + (weight * (1.0 - decay))?)?)?;
    }
    Ok(())
}
