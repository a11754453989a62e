//! What the optimiser remembers of each parameter, and its names in a file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, safetensors};

use super::in_place;
use crate::error::Result;

const STEPS: &str = "steps";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";
const MASTER: &str = "master";

/// The type in which a parameter is moved.
fn wide(var: &Var) -> DType {
    if matches!(var.dtype(), DType::F16 | DType::BF16) { DType::F32 } else { var.dtype() }
}

/// Names of the tensors that a parameter's history has.
fn parts(var: &Var) -> &'static [&'static str] {
    let all = &[FIRST_MOMENT, SECOND_MOMENT, MASTER];
    if var.dtype() == wide(var) { &all[..2] } else { all }
}

/// What is remembered of one parameter. Moments and master are written in place: each has a storage of its own.
pub(crate) struct History {
    first_moment: Tensor,
    second_moment: Tensor,
    /// f32 copy of a parameter in half precision, which would lose small updates.
    master: Option<Tensor>,
}

/// Whether this rank holds a parameter's history.
pub(crate) enum HeldHistory {
    /// Nowhere: no step was taken yet, and no memory.
    NotYet,
    Here(History),
    /// With another rank.
    Elsewhere,
}

impl History {
    /// Of a parameter that has taken no step.
    pub(crate) fn start(var: &Var) -> Result<Self> {
        let half = var.dtype() != wide(var);
        let master = half.then(|| var.as_detached_tensor().to_dtype(wide(var))).transpose()?;
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

    #[cfg(test)]
    pub(crate) fn first_moment(&self) -> &Tensor {
        &self.first_moment
    }

    /// What kernels move in place: the weights in f32 or f64, both moments, and the parameter in half precision that follows.
    #[cfg(feature = "cuda")]
    pub(super) fn tensors<'s>(&'s self, var: &'s Var) -> (&'s Tensor, [&'s Tensor; 2], Option<&'s Tensor>) {
        let moments = [&self.first_moment, &self.second_moment];
        match &self.master {
            Some(master) => (master, moments, Some(var.as_tensor())),
            None => (var.as_tensor(), moments, None),
        }
    }

    /// Moves the parameter by one step. The gradient counts times the one number in `clip_there` too, which is f32 and lies
    /// where the parameter does.
    pub(super) fn step(
        &mut self,
        var: &Var,
        gradient: &Tensor,
        update: &in_place::Update,
        clip_there: Option<&Tensor>,
    ) -> Result<()> {
        let weights = self.master.as_ref().unwrap_or(var);
        if clip_there.is_none() && in_place::can_update(weights, gradient) {
            in_place::update(weights, gradient, [&self.first_moment, &self.second_moment], update)?;
            if let Some(master) = &self.master {
                var.set(&master.to_dtype(var.dtype())?)?;
            }
            return Ok(());
        }
        let in_place::Update { beta1, beta2, clip, rate, spread, epsilon, kept } = *update;
        let weights = self.master.take().unwrap_or_else(|| var.as_detached_tensor());
        let mut gradient = (gradient.to_dtype(weights.dtype())? * clip)?;
        if let Some(there) = clip_there {
            gradient =
                gradient.flatten_all()?.broadcast_mul(&there.to_dtype(weights.dtype())?)?.reshape(var.shape())?;
        }
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
        let tensors = [Some(&history.first_moment), Some(&history.second_moment), master];
        for (part, tensor) in [FIRST_MOMENT, SECOND_MOMENT, MASTER].into_iter().zip(tensors) {
            self.tensors.extend(tensor.map(|tensor| (format!("{part}/{name}"), tensor.clone())));
        }
    }

    pub(crate) fn put_steps(&mut self, steps: u64) -> Result<()> {
        self.tensors.insert(STEPS.to_owned(), Tensor::new(&[steps as i64], &Device::Cpu)?);
        Ok(())
    }

    pub(crate) fn take_steps(&mut self) -> Result<u64, String> {
        let steps = self.steps()?;
        self.tensors.remove(STEPS);
        Ok(steps)
    }

    fn steps(&self) -> Result<u64, String> {
        let steps = self.get(STEPS, &[1], DType::I64)?.to_vec1::<i64>().map_err(|error| error.to_string())?;
        u64::try_from(steps[0]).map_err(|_| "has a negative step count".to_owned())
    }

    /// Whether it is of these parameters.
    ///
    /// # Errors
    /// The name of a missing, foreign or differently shaped tensor, with what is wrong with it.
    pub(super) fn check<'a>(&self, parameters: impl Iterator<Item = (&'a str, &'a Var)>) -> Result<(), String> {
        self.steps()?;
        let mut known = HashSet::from([STEPS.to_owned()]);
        for (name, var) in parameters {
            for part in parts(var) {
                let name = format!("{part}/{name}");
                self.get(&name, var.dims(), wide(var))?;
                known.insert(name);
            }
        }
        match self.tensors.keys().filter(|name| !known.contains(*name)).min() {
            Some(foreign) => Err(format!("holds {foreign}, which the model does not have")),
            None => Ok(()),
        }
    }

    /// The history of a parameter, as copies on its device: what was handed in may be shared by others.
    pub(crate) fn take(&mut self, name: &str, var: &Var) -> Result<History, String> {
        let mut take = |part: &str| {
            let name = format!("{part}/{name}");
            let own = self.get(&name, var.dims(), wide(var))?.to_device(var.device()).and_then(|tensor| tensor.copy());
            self.tensors.remove(&name);
            own.map_err(|error| error.to_string())
        };
        Ok(History {
            first_moment: take(FIRST_MOMENT)?,
            second_moment: take(SECOND_MOMENT)?,
            master: parts(var).contains(&MASTER).then(|| take(MASTER)).transpose()?,
        })
    }

    fn get(&self, name: &str, dims: &[usize], dtype: DType) -> Result<&Tensor, String> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(format!("lacks {name}"));
        };
        if tensor.dims() != dims || tensor.dtype() != dtype {
            let (found, expected) = ((tensor.dims(), tensor.dtype()), (dims, dtype));
            return Err(format!("{name} is {found:?}, the model needs {expected:?}"));
        }
        Ok(tensor)
    }

    /// The same in storage of its own: histories are written in place.
    pub(crate) fn copied(self) -> Result<Self> {
        let tensors = self.tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?)));
        Ok(Self { tensors: tensors.collect::<Result<_>>()? })
    }

    /// Writes one safetensors file.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        Ok(models::parameters::save_tensors(path, tensors)?)
    }

    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let tensors = safetensors::load(path, &Device::Cpu).map_err(|error| error.to_string())?;
        Ok(Self { tensors })
    }
}
