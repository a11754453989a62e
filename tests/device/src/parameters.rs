//! What an optimiser does to all parameters at once, with sizes around the chunks that kernels cut them into.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use training::gradients::Gradients;
use training::optimiser::{AdamW, AdamWSettings, groups_by_decay};

use crate::Result;
use crate::check::Checks;

/// Small, odd, one chunk, beside a chunk, several; and more tensors than one launch takes.
const SIZES: [usize; 8] = [1, 3, 64, 1_000, 16_383, 16_384, 16_385, 100_003];
const TENSORS: usize = 150;
const STEPS: usize = 3;

/// Steps of AdamW with clipping, of parameters in f32 and bf16 together, beside the CPU in f64 on the same rounded numbers.
pub(crate) fn run(device: &Device, seed: u64, checks: &mut Checks) -> Result {
    let found = steps(device, seed, false)?;
    let wanted = steps(&Device::Cpu, seed, true)?;
    for (name, wanted) in &wanted.norms {
        let found = found.norms.get(name).copied().unwrap_or(f64::NAN);
        checks.at_most(&format!("optimiser, norm of {name}"), (found - wanted).abs() / wanted, 1e-5);
    }
    for (kind, bound) in [("f32", 2e-5), ("bf16", 5e-3)] {
        let of_kind = |all: &BTreeMap<String, Tensor>| -> Result<Tensor> {
            let flat = all.iter().filter(|(name, _)| name.ends_with(kind)).map(|(_, tensor)| tensor.flatten_all());
            Ok(Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        checks.close(&format!("optimiser, {kind}"), &of_kind(&found.weights)?, &of_kind(&wanted.weights)?, bound);
    }
    Ok(())
}

struct Moved {
    norms: BTreeMap<String, f64>,
    weights: BTreeMap<String, Tensor>,
}

fn steps(device: &Device, seed: u64, exact: bool) -> Result<Moved> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut random = |count: usize, dtype: DType| -> Result<Tensor> {
        // one more in front: what begins there begins at no multiple of a pack
        let values: Vec<f32> = (0..count + 1).map(|_| rng.random_range(-1.0..1.0)).collect();
        let rounded = Tensor::from_vec(values, count + 1, &Device::Cpu)?.to_dtype(dtype)?;
        let rounded = if exact { rounded.to_dtype(DType::F64)? } else { rounded };
        Ok(rounded.to_device(device)?)
    };
    let kinds: Vec<(String, usize, DType)> = (0..TENSORS)
        .map(|i| {
            let (kind, dtype) = if i % 3 == 0 { ("bf16", DType::BF16) } else { ("f32", DType::F32) };
            (format!("{i:03}.{kind}"), SIZES[i % SIZES.len()], dtype)
        })
        .collect();
    let mut vars = Vec::new();
    for (name, count, dtype) in &kinds {
        vars.push((name.clone(), Var::from_tensor(&random(*count, *dtype)?.narrow(0, 0, *count)?.copy()?)?));
    }
    let settings = AdamWSettings { max_grad_norm: 10.0, weight_decay: 0.1, ..AdamWSettings::default() };
    let mut optimiser = AdamW::new(groups_by_decay(vars.iter().cloned(), settings.weight_decay), settings)?;
    let mut norms = BTreeMap::new();
    for step in 0..STEPS {
        let mut gradients = Gradients::default();
        for (i, (name, count, dtype)) in kinds.iter().enumerate() {
            let gradient = random(*count, *dtype)?;
            gradients.add(name, &gradient.narrow(0, i % 2, *count)?)?;
        }
        let norm = optimiser.step_unread(&gradients, 0.01)?;
        norms.insert(format!("step {step}"), norm.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?);
    }
    let weights = vars.into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    Ok(Moved { norms, weights: weights.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CPU passes in the types of a GPU.
    #[test]
    fn the_cpu_passes() {
        let mut checks = Checks::default();
        run(&Device::Cpu, 3, &mut checks).unwrap();
        checks.finish().unwrap();
    }
}
