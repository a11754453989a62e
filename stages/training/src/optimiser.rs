//! AdamW with parameter groups, clipping by the global norm, f32 master weights and a state that can be saved.

mod history;
mod in_place;
mod norm;
#[cfg(feature = "cuda")]
mod on_gpu;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gradients::Gradients;
pub use history::State;
pub(crate) use history::{HeldHistory, History};
pub(crate) use norm::check_norm;
use norm::{Clip, Norm};

/// Settings of AdamW (Loshchilov & Hutter 2019, as `torch.optim.AdamW` computes it).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay of the parameters that decay (see [`decays`]).
    pub weight_decay: f64,
    /// Gradients with a larger global norm are scaled down to it; 0 = off.
    pub max_grad_norm: f64,
}

impl Default for AdamWSettings {
    /// open_clip's for ViT, with its usual clipping.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.2, max_grad_norm: 1.0 }
    }
}

/// Whether weight decay applies to a parameter: as in open_clip's `main.py` not to biases, norms, the logit scale and
/// whatever has fewer than two dimensions; nor to embeddings, whose rare rows would only shrink.
pub fn decays(name: &str, dims: &[usize]) -> bool {
    let exempt = ["bias", "bn", "ln", "norm", "logit_scale", "embedding"];
    dims.len() >= 2 && !exempt.iter().any(|part| name.contains(part))
}

/// Parameters that share a weight decay and a factor of the learning rate.
pub struct ParameterGroup {
    /// Parameters by name.
    pub parameters: BTreeMap<String, Var>,
    /// Weight decay.
    pub weight_decay: f64,
    /// Factor of the learning rate.
    pub rate_factor: f64,
}

/// Two groups, with and without weight decay (see [`decays`]).
pub fn groups_by_decay(parameters: impl IntoIterator<Item = (String, Var)>, weight_decay: f64) -> Vec<ParameterGroup> {
    let (decayed, exempt) = parameters.into_iter().partition(|(name, var)| decays(name, var.dims()));
    let group = |parameters, weight_decay| ParameterGroup { parameters, weight_decay, rate_factor: 1.0 };
    vec![group(decayed, weight_decay), group(exempt, 0.0)]
}

/// The optimiser of one model.
pub struct AdamW {
    /// In name order, the same in every process: ranks may add up gradients slot by slot.
    slots: BTreeMap<String, Slot>,
    settings: AdamWSettings,
    steps: u64,
}

struct Slot {
    var: Var,
    history: HeldHistory,
    weight_decay: f64,
    rate_factor: f64,
}

impl AdamW {
    /// An optimiser without history.
    ///
    /// # Errors
    /// A parameter that is in two groups.
    pub fn new(groups: Vec<ParameterGroup>, settings: AdamWSettings) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for group in groups {
            for (name, var) in group.parameters {
                let ParameterGroup { weight_decay, rate_factor, .. } = group;
                let slot = Slot { var, history: HeldHistory::NotYet, weight_decay, rate_factor };
                if slots.insert(name.clone(), slot).is_some() {
                    return Err(Error::argument("parameter groups", format!("{name} is in two groups")));
                }
            }
        }
        Ok(Self { slots, settings, steps: 0 })
    }

    /// Parameters in name order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), &slot.var))
    }

    /// Parameters with what is remembered of each, in name order.
    pub(crate) fn histories(&mut self) -> impl Iterator<Item = (&str, &Var, &mut HeldHistory)> {
        self.slots.iter_mut().map(|(name, slot)| (name.as_str(), &slot.var, &mut slot.history))
    }

    /// Steps taken.
    pub(crate) fn steps(&mut self) -> &mut u64 {
        &mut self.steps
    }

    /// One step; returns the global gradient norm before clipping. Parameters without a gradient stay as they are, and
    /// those whose history another rank keeps.
    ///
    /// # Errors
    /// A norm that is not finite: nothing has been changed then.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<f64> {
        let norm = check_norm(self.global_norm(gradients)?.read()?, "gradient norm", self.steps)?;
        let clip = Norm::Known(norm).clip(self.settings.max_grad_norm)?;
        self.move_all(gradients, learning_rate, &clip)?;
        Ok(norm)
    }

    /// The same without waiting for the device: the norm, a scalar in f64, has still to be looked at. Where it is not
    /// finite, neither are the parameters.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn step_unread(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<Tensor> {
        let norm = self.global_norm(gradients)?;
        let clip = norm.clip(self.settings.max_grad_norm)?;
        self.move_all(gradients, learning_rate, &clip)?;
        norm.into_tensor()
    }

    fn global_norm(&self, gradients: &Gradients) -> Result<Norm> {
        Norm::of(self.slots.keys().filter_map(|name| gradients.get(name)))
    }

    fn move_all(&mut self, gradients: &Gradients, learning_rate: f64, clip: &Clip) -> Result<()> {
        let AdamWSettings { beta1, beta2, epsilon, .. } = self.settings;
        self.steps += 1;
        let steps = self.steps as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        #[cfg(feature = "cuda")]
        let mut by_kernel = on_gpu::Parameters::default();
        for (name, Slot { var, history, weight_decay, rate_factor }) in &mut self.slots {
            let Some(gradient) = gradients.get(name) else { continue };
            let history = match history {
                HeldHistory::Elsewhere => continue,
                HeldHistory::Here(history) => history,
                HeldHistory::NotYet => {
                    *history = HeldHistory::Here(History::start(var)?);
                    let HeldHistory::Here(history) = history else { continue };
                    history
                }
            };
            let rate = learning_rate * *rate_factor;
            let update = in_place::Update {
                beta1,
                beta2,
                clip: clip.factor,
                rate: rate / correction1,
                spread: correction2.sqrt().recip(),
                epsilon,
                kept: 1.0 - rate * *weight_decay,
            };
            #[cfg(feature = "cuda")]
            if by_kernel.takes((var, history), gradient, &update)? {
                continue;
            }
            history.step(var, gradient, &update, clip.on_device.as_ref())?;
        }
        #[cfg(feature = "cuda")]
        by_kernel.step(clip.on_device.as_ref())?;
        Ok(())
    }

    /// Moments, master weights and the step count, by name.
    ///
    /// # Errors
    /// A tensor operation's; a history that another rank keeps.
    pub fn state(&self) -> Result<State> {
        let mut state = State::default();
        for (name, slot) in &self.slots {
            match &slot.history {
                HeldHistory::Here(history) => state.put(name, history),
                HeldHistory::NotYet => state.put(name, &History::start(&slot.var)?),
                HeldHistory::Elsewhere => {
                    let problem = format!("of {name} is kept by another rank: gather it first");
                    return Err(Error::argument("optimiser state", problem));
                }
            }
        }
        state.put_steps(self.steps)?;
        Ok(state)
    }

    /// Takes up what [`AdamW::state`] gave for the same parameters; on error nothing has changed.
    ///
    /// # Errors
    /// The name of a missing, foreign or differently shaped tensor, with what is wrong with it.
    pub fn set_state(&mut self, mut state: State) -> Result<(), String> {
        state.check(self.parameters())?;
        let mut loaded = Vec::with_capacity(self.slots.len());
        for (name, slot) in &self.slots {
            loaded.push(state.take(name, &slot.var)?);
        }
        self.steps = state.take_steps()?;
        for (slot, history) in self.slots.values_mut().zip(loaded) {
            slot.history = HeldHistory::Here(history);
        }
        Ok(())
    }

    /// Reads a state that [`AdamW::save`] wrote for the same parameters, without taking it up: it stays in host memory.
    ///
    /// # Errors
    /// A missing, foreign or differently shaped tensor, named.
    pub fn read(&self, path: &Path) -> Result<State> {
        let damaged = |problem: String| Error::DamagedCheckpoint { path: path.to_path_buf(), problem };
        let state = State::load(path).map_err(damaged)?;
        state.check(self.parameters()).map_err(damaged)?;
        Ok(state)
    }

    /// Writes the state as one safetensors file.
    ///
    /// # Errors
    /// The file system's; a history that another rank keeps.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.state()?.save(path)
    }

    /// Takes up the state that [`AdamW::save`] wrote for the same parameters.
    ///
    /// # Errors
    /// A missing, foreign or differently shaped tensor, named.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let damaged = |problem: String| Error::DamagedCheckpoint { path: path.to_path_buf(), problem };
        let state = self.read(path)?;
        self.set_state(state).map_err(damaged)
    }
}

#[cfg(test)]
mod tests;
