//! Makes the state of all ranks that of rank 0.

use candle_core::{DType, Device, Tensor};
use models::parameters::Parameters;
use serde_json::{Value, json};

use crate::checkpoint::first_difference;
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::optimiser::{self, AdamW, HeldHistory, History};

/// Gives every rank rank 0's values.
pub(crate) fn share_parameters(parameters: &Parameters, ranks: &mut dyn Communicator) -> Result<()> {
    for (_, var) in parameters.iter() {
        var.set(&ranks.broadcast(&var.as_detached_tensor(), 0)?)?;
    }
    Ok(())
}

/// Gives every rank rank 0's moments of the parameters that it `keeps`; the others' it forgets. Rank 0 has them in its
/// optimiser, or in the `loaded` state of a checkpoint; a parameter's pass at a time.
pub(crate) fn share_optimiser(
    optimiser: &mut AdamW,
    mut loaded: Option<optimiser::State>,
    keeps: impl Fn(&str) -> bool,
    ranks: &mut dyn Communicator,
) -> Result<()> {
    let of_checkpoint = |problem: String| Error::argument("optimiser state of the checkpoint", problem);
    if let Some(state) = &mut loaded {
        *optimiser.steps() = state.take_steps().map_err(of_checkpoint)?;
    }
    let device = optimiser.parameters().next().map_or(Device::Cpu, |(_, var)| var.device().clone());
    let steps = Tensor::new(&[*optimiser.steps() as i64], &Device::Cpu)?.to_device(&device)?;
    let steps: Vec<i64> = ranks.broadcast(&steps, 0)?.to_device(&Device::Cpu)?.to_vec1()?;
    *optimiser.steps() = steps[0].unsigned_abs();
    for (name, var, kept) in optimiser.histories() {
        let before = std::mem::replace(kept, if keeps(name) { HeldHistory::NotYet } else { HeldHistory::Elsewhere });
        if steps[0] == 0 {
            continue; // rank 0 has nothing to give
        }
        let known = match (&mut loaded, before) {
            (Some(state), _) => state.take(name, var).map_err(of_checkpoint)?,
            (None, HeldHistory::Here(history)) => history,
            (None, HeldHistory::Elsewhere) if ranks.rank() == 0 => {
                let problem = format!("of {name} was left with another rank: continue from a checkpoint");
                return Err(Error::argument("optimiser state", problem));
            }
            (None, HeldHistory::NotYet | HeldHistory::Elsewhere) => History::start(var)?,
        };
        // copies: ranks of one process may be handed the same storage
        let shared = known.try_map(|tensor| Ok::<_, Error>(ranks.broadcast(tensor, 0)?.copy()?))?;
        if keeps(name) {
            *kept = HeldHistory::Here(shared);
        }
    }
    Ok(())
}

/// Gives every rank rank 0's bytes.
pub(crate) fn share_bytes(bytes: &[u8], device: &Device, ranks: &mut dyn Communicator) -> Result<Vec<u8>> {
    let length = Tensor::new(&[bytes.len() as i64], &Device::Cpu)?.to_device(device)?;
    let length: Vec<i64> = ranks.broadcast(&length, 0)?.to_device(&Device::Cpu)?.to_vec1()?;
    let length = length[0].max(0) as usize;
    let mut padded = bytes.to_vec();
    // a GPU holds no tensor without elements
    padded.resize(length.max(1), 0);
    let padded = Tensor::new(padded, &Device::Cpu)?.to_device(device)?;
    let mut shared: Vec<u8> = ranks.broadcast(&padded, 0)?.to_device(&Device::Cpu)?.to_vec1()?;
    shared.truncate(length);
    Ok(shared)
}

/// Refuses to train with ranks of another run: one with a spec of its own, or other tables, would learn other things in
/// every step, and nobody would hear of it. What an objective begins with is shared; its settings are among the run's.
pub(super) fn check_one_run(identity: &Value, device: &Device, ranks: &mut dyn Communicator) -> Result<()> {
    if ranks.world_size() == 1 {
        return Ok(());
    }
    ranks.at_step(0);
    let [model, settings, steps] = ["model", "settings", "steps_per_epoch"].map(|part| &identity[part]);
    let own = json!({ "model": model, "settings": settings, "steps_per_epoch": steps }).to_string();
    let first = share_bytes(own.as_bytes(), device, ranks)?;
    let read = |bytes: &[u8]| {
        serde_json::from_slice::<Value>(bytes).map_err(|error| Error::argument("settings of rank 0", error.to_string()))
    };
    match first_difference("", &read(&first)?, &read(own.as_bytes())?) {
        None => Ok(()),
        Some(difference) => Err(Error::argument(
            "the run",
            format!(
                "is another one on rank {} than on rank 0 ({difference}): give all ranks one spec, and start them while \
                 nobody changes the tables",
                ranks.rank()
            ),
        )),
    }
}

/// The sum over ranks of a few numbers.
pub(crate) fn sum(values: &[f64], device: &Device, ranks: &mut dyn Communicator) -> Result<Vec<f64>> {
    if ranks.world_size() == 1 {
        return Ok(values.to_vec());
    }
    let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_device(device)?;
    Ok(ranks.all_reduce_sum(&values)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}
