//! What the optimiser remembers of each parameter, and its names in a file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};

use super::in_place;
use crate::error::Result;

const STEPS: &str = "steps";

/// What is remembered of one parameter. Moments and master are written in place: each has a storage of its own.
pub(crate) struct History {
    first_moment: Tensor,
    second_moment: Tensor,
    /// f32 copy of a parameter in half precision, which would lose small updates.
    master: Option<Tensor>,
}

impl History {
    /// Of a parameter that has taken no step.
    pub(crate) fn start(var: &Var) -> Result<Self> {
        let half = matches!(var.dtype(), DType::F16 | DType::BF16);
        let master = half.then(|| var.as_detached_tensor().to_dtype(DType::F32)).transpose()?;
        let zeros = || master.as_ref().unwrap_or(var).zeros_like();
        Ok(Self { first_moment: zeros()?, second_moment: zeros()?, master })
    }

    /// The same with each tensor put through `map`. What comes back must share its storage with nobody.
    pub(crate) fn try_map<E>(&self, mut map: impl FnMut(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        Ok(Self {
            first_moment: map(&self.first_moment)?,
            second_moment: map(&self.second_moment)?,
            master: self.master.as_ref().map(map).transpose()?,
        })
    }

    /// How many numbers it holds.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> usize {
        let tensors = [Some(&self.first_moment), Some(&self.second_moment), self.master.as_ref()];
        tensors.into_iter().flatten().map(Tensor::elem_count).sum()
    }

    /// Moves the parameter by one step.
    pub(super) fn step(&mut self, var: &Var, gradient: &Tensor, update: &in_place::Update) -> Result<()> {
        let weights = self.master.as_ref().unwrap_or(var);
        if in_place::can_update(weights, gradient) {
            in_place::update(weights, gradient, [&self.first_moment, &self.second_moment], update)?;
            if let Some(master) = &self.master {
                var.set(&master.to_dtype(var.dtype())?)?;
            }
            return Ok(());
        }
        let in_place::Update { beta1, beta2, clip, rate, spread, epsilon, kept } = *update;
        let weights = self.master.take().unwrap_or_else(|| var.as_detached_tensor());
        let gradient = (gradient.to_dtype(weights.dtype())? * clip)?;
        self.first_moment = ((&self.first_moment * beta1)? + (&gradient * (1.0 - beta1))?)?;
        self.second_moment = ((&self.second_moment * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        let spread = (self.second_moment.sqrt()? * spread)?.affine(1.0, epsilon)?;
        let moved = ((&self.first_moment / spread)? * rate)?;
        let weights = ((weights * kept)? - moved)?;
        var.set(&weights.to_dtype(var.dtype())?)?;
        self.master = (weights.dtype() != var.dtype()).then_some(weights);
        Ok(())
    }
}

/// An optimiser's whole state: moments, master weights and the step count, by name.
#[derive(Default)]
pub struct State {
    tensors: HashMap<String, Tensor>,
}

impl State {
    pub(crate) fn put(&mut self, name: &str, history: &History) {
        let master = history.master.as_ref();
        let parts = [("first_moment", Some(&history.first_moment)), ("second_moment", Some(&history.second_moment))];
        for (part, tensor) in parts.into_iter().chain([("master", master)]) {
            self.tensors.extend(tensor.map(|tensor| (format!("{part}/{name}"), tensor.clone())));
        }
    }

    pub(crate) fn put_steps(&mut self, steps: u64) -> Result<()> {
        self.tensors.insert(STEPS.to_owned(), Tensor::new(&[steps as i64], &Device::Cpu)?);
        Ok(())
    }

    pub(super) fn take_steps(&mut self) -> Result<u64, String> {
        let like = Tensor::new(&[0i64], &Device::Cpu).map_err(|error| error.to_string())?;
        let steps = self.take_like(STEPS.to_owned(), &like)?.to_vec1::<i64>().map_err(|error| error.to_string())?;
        u64::try_from(steps[0]).map_err(|_| "has a negative step count".to_owned())
    }

    /// The history of a parameter, as copies on its device: what was handed in may be shared by others.
    pub(super) fn take(&mut self, name: &str, var: &Var) -> Result<History, String> {
        let like = History::start(var).map_err(|error| error.to_string())?;
        let mut take = |part: &str, like: &Tensor| self.take_like(format!("{part}/{name}"), like);
        Ok(History {
            first_moment: take("first_moment", &like.first_moment)?,
            second_moment: take("second_moment", &like.second_moment)?,
            master: like.master.as_ref().map(|like| take("master", like)).transpose()?,
        })
    }

    fn take_like(&mut self, name: String, like: &Tensor) -> Result<Tensor, String> {
        let Some(tensor) = self.tensors.remove(&name) else {
            return Err(format!("lacks {name}"));
        };
        if tensor.dims() != like.dims() || tensor.dtype() != like.dtype() {
            let (found, expected) = ((tensor.dims(), tensor.dtype()), (like.dims(), like.dtype()));
            return Err(format!("{name} is {found:?}, the model needs {expected:?}"));
        }
        tensor.to_device(like.device()).and_then(|tensor| tensor.copy()).map_err(|error| error.to_string())
    }

    pub(super) fn expect_empty(&self) -> Result<(), String> {
        match self.tensors.keys().min() {
            Some(foreign) => Err(format!("holds {foreign}, which the model does not have")),
            None => Ok(()),
        }
    }

    /// Writes one safetensors file.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(safetensors::save(&self.tensors, path)?)
    }

    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let tensors = safetensors::load(path, &Device::Cpu).map_err(|error| error.to_string())?;
        Ok(Self { tensors })
    }
}
