//! AdamW with parameter groups, clipping by the global norm, f32 master weights and a state that can be saved.

mod in_place;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gradients::Gradients;

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
    /// f32 copy of a parameter in half precision, which would lose small updates.
    master: Option<Tensor>,
    first_moment: Tensor,
    second_moment: Tensor,
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
                let half = matches!(var.dtype(), DType::F16 | DType::BF16);
                let master = half.then(|| var.as_detached_tensor().to_dtype(DType::F32)).transpose()?;
                let zeros = || master.as_ref().unwrap_or(&var).zeros_like();
                // moments are written in place: each has a storage of its own
                let (first_moment, second_moment) = (zeros()?, zeros()?);
                let slot = Slot {
                    var,
                    master,
                    first_moment,
                    second_moment,
                    weight_decay: group.weight_decay,
                    rate_factor: group.rate_factor,
                };
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

    /// One step; returns the global gradient norm before clipping. Parameters without a gradient stay as they are.
    ///
    /// # Errors
    /// A norm that is not finite: nothing has been changed then.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<f64> {
        let norm = self.global_norm(gradients)?;
        if !norm.is_finite() {
            return Err(Error::Numbers {
                what: format!("gradient norm of step {}", self.steps),
                problem: format!("is {norm}; lower the learning rate or the clipping norm, or check the batch"),
            });
        }
        let AdamWSettings { beta1, beta2, epsilon, max_grad_norm, .. } = self.settings;
        let clip = if max_grad_norm > 0.0 && norm > max_grad_norm { max_grad_norm / norm } else { 1.0 };
        self.steps += 1;
        let steps = self.steps as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        for (name, slot) in &mut self.slots {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            let rate = learning_rate * slot.rate_factor;
            let weights = slot.master.as_ref().unwrap_or(&slot.var);
            if in_place::can_update(weights, gradient) {
                let update = in_place::Update {
                    beta1,
                    beta2,
                    clip,
                    rate: rate / correction1,
                    spread: correction2.sqrt().recip(),
                    epsilon,
                    kept: 1.0 - rate * slot.weight_decay,
                };
                in_place::update(weights, gradient, [&slot.first_moment, &slot.second_moment], &update)?;
                if let Some(master) = &slot.master {
                    slot.var.set(&master.to_dtype(slot.var.dtype())?)?;
                }
                continue;
            }
            let weights = slot.master.take().unwrap_or_else(|| slot.var.as_detached_tensor());
            let gradient = (gradient.to_dtype(weights.dtype())? * clip)?;
            slot.first_moment = ((&slot.first_moment * beta1)? + (&gradient * (1.0 - beta1))?)?;
            slot.second_moment = ((&slot.second_moment * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let spread = (slot.second_moment.sqrt()? * correction2.sqrt().recip())?.affine(1.0, epsilon)?;
            let update = ((&slot.first_moment / spread)? * (rate / correction1))?;
            let weights = ((weights * (1.0 - rate * slot.weight_decay))? - update)?;
            slot.var.set(&weights.to_dtype(slot.var.dtype())?)?;
            slot.master = (weights.dtype() != slot.var.dtype()).then_some(weights);
        }
        Ok(norm)
    }

    /// Root of the summed squares of all gradients, with one transfer from the device.
    fn global_norm(&self, gradients: &Gradients) -> Result<f64> {
        let mut squares = Vec::with_capacity(self.slots.len());
        let mut on_host = 0.0;
        for gradient in self.slots.keys().filter_map(|name| gradients.get(name)) {
            if gradient.device().is_cpu() {
                on_host += in_place::sum_of_squares(gradient)?;
                continue;
            }
            squares.push(gradient.sqr()?.sum_all()?);
        }
        if squares.is_empty() {
            return Ok(on_host.sqrt());
        }
        let squares: Vec<f64> = Tensor::stack(&squares, 0)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    /// Moments, master weights and the step count, by name.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        let mut device = Device::Cpu;
        for (name, slot) in &self.slots {
            device = slot.first_moment.device().clone();
            tensors.insert(format!("first_moment/{name}"), slot.first_moment.clone());
            tensors.insert(format!("second_moment/{name}"), slot.second_moment.clone());
            if let Some(master) = &slot.master {
                tensors.insert(format!("master/{name}"), master.clone());
            }
        }
        tensors.insert("steps".to_owned(), Tensor::new(&[self.steps as i64], &device)?);
        Ok(tensors)
    }

    /// Takes up what [`AdamW::state`] gave for the same parameters; on error nothing has changed.
    ///
    /// # Errors
    /// The name of a missing, foreign or differently shaped tensor, with what is wrong with it.
    pub fn set_state(&mut self, mut tensors: BTreeMap<String, Tensor>) -> Result<(), String> {
        let mut take = |name: String, like: &Tensor| {
            let Some(tensor) = tensors.remove(&name) else {
                return Err(format!("lacks {name}"));
            };
            if tensor.dims() != like.dims() || tensor.dtype() != like.dtype() {
                let (found, expected) = ((tensor.dims(), tensor.dtype()), (like.dims(), like.dtype()));
                return Err(format!("{name} is {found:?}, the model needs {expected:?}"));
            }
            tensor.to_device(like.device()).map_err(|error| error.to_string())
        };
        let steps = Tensor::new(&[0i64], &Device::Cpu).map(|like| take("steps".to_owned(), &like));
        let steps = steps.map_err(|error| error.to_string())??.to_vec1::<i64>().map_err(|error| error.to_string())?;
        let mut loaded = Vec::with_capacity(self.slots.len());
        for (name, slot) in &self.slots {
            let first = take(format!("first_moment/{name}"), &slot.first_moment)?;
            let second = take(format!("second_moment/{name}"), &slot.second_moment)?;
            let master = slot.master.as_ref().map(|like| take(format!("master/{name}"), like)).transpose()?;
            loaded.push((first, second, master));
        }
        if let Some(foreign) = tensors.keys().next() {
            return Err(format!("holds {foreign}, which the model does not have"));
        }
        let own = |tensor: &Tensor| tensor.copy().map_err(|error| error.to_string());
        self.steps = u64::try_from(steps[0]).map_err(|_| "has a negative step count".to_owned())?;
        for (slot, (first, second, master)) in self.slots.values_mut().zip(loaded) {
            // copies: what was handed in may be held, or shared, by others
            (slot.first_moment, slot.second_moment) = (own(&first)?, own(&second)?);
            slot.master = master.as_ref().map(own).transpose()?;
        }
        Ok(())
    }

    /// Writes the state as one safetensors file.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> = self.state()?.into_iter().collect();
        Ok(safetensors::save(&tensors, path)?)
    }

    /// Takes up the state that [`AdamW::save`] wrote for the same parameters.
    ///
    /// # Errors
    /// A missing, foreign or differently shaped tensor, named.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let damaged = |problem: String| Error::DamagedCheckpoint { path: path.to_path_buf(), problem };
        let tensors = safetensors::load(path, &Device::Cpu).map_err(|error| damaged(error.to_string()))?;
        self.set_state(tensors.into_iter().collect()).map_err(damaged)
    }
}

#[cfg(test)]
mod tests;
