//! Makes the state of all ranks that of rank 0.

use candle_core::{DType, Device, Tensor};
use models::parameters::Parameters;

use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::optimiser::{AdamW, History};

/// Gives every rank rank 0's values.
pub(crate) fn share_parameters(parameters: &Parameters, ranks: &mut dyn Communicator) -> Result<()> {
    for (_, var) in parameters.iter() {
        var.set(&ranks.broadcast(&var.as_detached_tensor(), 0)?)?;
    }
    Ok(())
}

/// Gives every rank rank 0's moments of the parameters that it `keeps`; the others' it forgets.
pub(crate) fn share_optimiser(
    optimiser: &mut AdamW,
    keeps: impl Fn(&str) -> bool,
    ranks: &mut dyn Communicator,
) -> Result<()> {
    let mut device = Device::Cpu;
    for (name, var, history) in optimiser.histories() {
        device = var.device().clone();
        let known = match history.take() {
            Some(history) => history,
            None if ranks.rank() > 0 => History::start(var)?,
            None => {
                let problem = format!("of {name} was left with another rank: continue from a checkpoint");
                return Err(Error::argument("optimiser state", problem));
            }
        };
        // copies: ranks of one process may be handed the same storage
        let shared = known.try_map(|tensor| Ok::<_, Error>(ranks.broadcast(tensor, 0)?.copy()?))?;
        *history = keeps(name).then_some(shared);
    }
    let steps = Tensor::new(&[*optimiser.steps() as i64], &Device::Cpu)?.to_device(&device)?;
    let steps: Vec<i64> = ranks.broadcast(&steps, 0)?.to_device(&Device::Cpu)?.to_vec1()?;
    *optimiser.steps() = steps[0].unsigned_abs();
    Ok(())
}

/// Gives every rank rank 0's bytes.
pub(crate) fn share_bytes(bytes: &[u8], device: &Device, ranks: &mut dyn Communicator) -> Result<Vec<u8>> {
    let length = Tensor::new(&[bytes.len() as i64], &Device::Cpu)?.to_device(device)?;
    let length: Vec<i64> = ranks.broadcast(&length, 0)?.to_device(&Device::Cpu)?.to_vec1()?;
    let mut padded = bytes.to_vec();
    padded.resize(length[0].max(0) as usize, 0);
    let padded = Tensor::from_vec(padded, length[0].max(0) as usize, &Device::Cpu)?.to_device(device)?;
    Ok(ranks.broadcast(&padded, 0)?.to_device(&Device::Cpu)?.to_vec1()?)
}

/// The sum over ranks of a few numbers.
pub(crate) fn sum(values: &[f64], device: &Device, ranks: &mut dyn Communicator) -> Result<Vec<f64>> {
    if ranks.world_size() == 1 {
        return Ok(values.to_vec());
    }
    let values = Tensor::from_slice(values, values.len(), &Device::Cpu)?.to_device(device)?;
    Ok(ranks.all_reduce_sum(&values)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}
