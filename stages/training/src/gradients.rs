//! Gradients by parameter name, and their sum over ranks.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use crate::buckets::in_buckets;
use crate::communicator::Communicator;
use crate::error::Result;

/// Gradients by name, in f32 or f64; on a GPU in bf16 until something is added to them, since the optimiser there reads
/// them as they are. The order of names is the same in every process, so ranks add up like with like.
#[derive(Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// The gradient of a parameter, if the loss reached it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name)
    }

    /// Adds to the gradient of a parameter.
    ///
    /// # Errors
    /// Another shape than before.
    pub fn add(&mut self, name: &str, gradient: &Tensor) -> Result<()> {
        let gradient = gradient.detach();
        let sum = match self.by_name.remove(name) {
            Some(before) => (widened(&before)? + widened(&gradient)?)?,
            None if gradient.dtype() == DType::BF16 && gradient.device().is_cuda() => gradient,
            None => widened(&gradient)?,
        };
        self.by_name.insert(name.to_owned(), sum);
        Ok(())
    }

    /// Adds what `store` holds for the parameters; `prefix` goes before their names.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn collect<'a>(
        &mut self,
        store: &GradStore,
        prefix: &str,
        parameters: impl Iterator<Item = (&'a str, &'a Var)>,
    ) -> Result<()> {
        for (name, var) in parameters {
            if let Some(gradient) = store.get(var) {
                self.add(&format!("{prefix}{name}"), gradient)?;
            }
        }
        Ok(())
    }

    /// Gives every parameter that has no gradient one of zeros: ranks must bring the same tensors.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn fill<'a>(&mut self, prefix: &str, parameters: impl Iterator<Item = (&'a str, &'a Var)>) -> Result<()> {
        for (name, var) in parameters {
            let name = format!("{prefix}{name}");
            if !self.by_name.contains_key(&name) {
                self.add(&name, &var.as_detached_tensor().zeros_like()?)?;
            }
        }
        Ok(())
    }

    /// Adds all gradients of `other`: a parameter may be reached by several ways.
    ///
    /// # Errors
    /// Another shape than before.
    pub fn merge(&mut self, other: Gradients) -> Result<()> {
        other.by_name.into_iter().try_for_each(|(name, gradient)| self.add(&name, &gradient))
    }

    /// The same gradients with something before their names.
    pub(crate) fn with_prefix(self, prefix: &str) -> Gradients {
        let named = self.by_name.into_iter().map(|(name, gradient)| (format!("{prefix}{name}"), gradient));
        Gradients { by_name: named.collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// Takes those of these names out.
    pub fn take(&mut self, names: &[String]) -> Gradients {
        let taken = names.iter().filter_map(|name| self.by_name.remove_entry(name));
        Gradients { by_name: taken.collect() }
    }

    /// All gradients times `factor`.
    ///
    /// # Errors
    /// A tensor operation's.
    pub fn scaled(self, factor: f64) -> Result<Gradients> {
        let scaled = self.by_name.into_iter().map(|(name, gradient)| Ok((name, (widened(&gradient)? * factor)?)));
        Ok(Gradients { by_name: scaled.collect::<Result<_>>()? })
    }

    /// Sums over ranks, several tensors at a time: a message of `bucket_bytes` costs hardly more than a small one.
    ///
    /// # Errors
    /// A rank that is gone or brings other tensors.
    pub fn sum_over_ranks(self, ranks: &mut dyn Communicator, bucket_bytes: usize) -> Result<Gradients> {
        if ranks.world_size() == 1 {
            return Ok(self);
        }
        let wide = self.by_name.into_iter().map(|(name, gradient)| Ok((name, widened(&gradient)?)));
        let summed = in_buckets(wide.collect::<Result<Vec<_>>>()?, bucket_bytes, |flat| ranks.all_reduce_sum(flat))?;
        Ok(Gradients { by_name: summed.into_iter().collect() })
    }
}

/// In the type that sums are taken in.
fn widened(gradient: &Tensor) -> Result<Tensor> {
    let wide = if gradient.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(gradient.to_dtype(wide)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn gradients_of_one_name_add_up() {
        let of = |name: &str, value: f64| {
            let mut gradients = Gradients::default();
            gradients.add(name, &Tensor::new(value, &Device::Cpu).unwrap()).unwrap();
            gradients
        };
        let mut all = of("shared", 1.0);
        all.merge(of("shared", 2.0)).unwrap();
        all.merge(of("other", 4.0)).unwrap();
        let value = |name: &str| all.get(name).unwrap().to_scalar::<f64>().unwrap();
        assert_eq!((value("shared"), value("other")), (3.0, 4.0));
    }
}
