//! One step of a training: what moves its parameters.

use candle_core::{DType, Device, Tensor, Var};
use models::dual_encoder::{DualEncoder, LOGIT_SCALE};

use super::{LoopContext, SEGMENT_TOWER, Trainer};
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::StepInfo;
use crate::trainer::LossScale;
use crate::trainer::forward::Networks;
use crate::trainer::grouping::Grouping;
use crate::trainer::loaded::Loaded;
use crate::trainer::step::{Found, differentiate};
use crate::trainer::unread::Numbers;

impl<N: DualEncoder> Trainer<N> {
    /// One step. Where towers in f16 overflow nothing is learnt, the norm is infinite and the next step's gradients are
    /// carried back smaller.
    pub(super) fn learn(
        &mut self,
        loaded: &Loaded,
        info: StepInfo,
        learning_rate: f64,
        context: &mut LoopContext<N>,
    ) -> Result<Numbers> {
        let grouping = match self.network.normalises_groups() {
            false => None,
            true => {
                let place = (context.ranks.rank(), context.ranks.world_size());
                Some(Grouping::new(self.settings.norm_group, loaded.batch.rows(), place)?)
            }
        };
        let networks = Networks {
            network: &self.network,
            segment_tower: self.segment_tower.as_ref().map(|tower| (tower, SEGMENT_TOWER)),
            settings: &self.settings,
            execution: &context.execution,
            tokens: self.objective.tokens(),
            grouping,
        };
        // drawn from the step alone: a resumed run drops the same values
        let seed = self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(4 * info.global_step as u64);
        let objective = self.objective.as_mut();
        let (ranks, watch) = (&mut *context.ranks, &mut context.watch);
        let in_f16 = self.network.dtype() == DType::F16;
        let scale = in_f16.then_some(self.position.loss_scale);
        let factor = scale.map_or(1.0, LossScale::factor);
        if scale.is_some() {
            objective.remember()?;
        }
        let found = differentiate(&networks, objective, loaded, (info, seed, factor), (ranks, watch))?;
        let Found { gradients, own, parts, losses, statistics, pairs } = found;
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
            return Ok(Numbers { parts, losses, pairs, norm, is_checked, norm_of_objective: None });
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
        self.network.fold(&statistics)?;
        self.network.clamp()?;
        if let Some(average) = &self.average {
            let steps = info.global_step as f64;
            // A young average forgets faster, or it would carry the initial weights for long.
            let decay = self.settings.ema_decay.min((1.0 + steps) / (10.0 + steps));
            move_average(average, &self.network, decay)?;
        }
        context.watch.end(|phases| &mut phases.optimiser)?;
        let norm_of_objective = self.objective.take_norm();
        Ok(Numbers { parts, losses, pairs, norm, is_checked, norm_of_objective })
    }

    /// Some of candle's operations have no backward pass and say nothing: a parameter that the loss does not reach
    /// would stay as it was drawn.
    fn check_reach(&self, gradients: &Gradients) -> Result<()> {
        // Not reached by design: the scale by losses without temperature, the segment tower by a batch without segments.
        let may_lack = |name: &str| name == LOGIT_SCALE || name.starts_with(SEGMENT_TOWER);
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

/// average ← decay · average + (1 − decay) · weights; buffers are averages already, and are copied.
fn move_average<N: DualEncoder>(average: &N, network: &N, decay: f64) -> Result<()> {
    let pairs = average.parameters().iter().zip(network.parameters().iter());
    let pairs: Vec<(&Var, &Var)> = pairs.map(|((_, average), (_, weight))| (average, weight)).collect();
    move_averages(&pairs, decay)?;
    for ((_, average), (_, buffer)) in average.buffers().iter().zip(network.buffers().iter()) {
        average.set(&buffer.as_detached_tensor().to_dtype(average.dtype())?)?;
    }
    Ok(())
}

fn move_averages(pairs: &[(&Var, &Var)], decay: f64) -> Result<()> {
    #[cfg(feature = "cuda")]
    {
        let both = || pairs.iter().flat_map(|&(average, weight)| [average, weight]);
        let known = both().all(|tensor| models::ops::gpu_kernels(tensor) && tensor.is_contiguous());
        if known && pairs.iter().all(|(average, _)| average.dtype() == DType::F32) {
            let pairs: Vec<(&Tensor, &Tensor)> = pairs.iter().map(|&(a, w)| (a.as_tensor(), w.as_tensor())).collect();
            return Ok(models::ops::move_averages(&pairs, decay)?);
        }
    }
    for (average, weight) in pairs {
        let kept = (average.as_detached_tensor() * decay)?;
        let weight = weight.as_detached_tensor().to_dtype(kept.dtype())?;
        average.set(&(kept + (weight * (1.0 - decay))?)?)?;
    }
    Ok(())
}
