use candle_core::{Result, Tensor, bail};

use super::launch::{self, Made};
use super::node::{GpuOp, Pass};

/// [`add_positions`](crate::ops::add_positions) with its arguments.
pub(crate) struct PositionsOp;

impl GpuOp for PositionsOp {
    const NAME: &'static str = "add_positions";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let (tokens, positions) = match args {
            [tokens, positions] => (tokens.clone(), positions),
            [tokens, positions, class] => {
                let (batch, _, width) = tokens.dims3()?;
                let class = class.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?;
                (Tensor::cat(&[&class.contiguous()?, tokens], 1)?, positions)
            }
            _ => bail!("add_positions of {} arguments", args.len()),
        };
        let (batch, length, width) = tokens.dims3()?;
        let positions = positions.narrow(0, 0, length)?.flatten_all()?;
        let sums = launch::add_bias(&tokens.reshape((batch, length * width))?, &positions, None)?;
        Ok((sums.shaped((batch, length, width))?, Vec::new()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        let (batch, length, width) = pass.grad.dims3()?;
        let class = pass.args.len() - 2;
        let sums = launch::column_sums(&pass.grad.reshape((batch, length * width))?)?.reshape((length, width))?;
        let positions = match pass.args[1].dim(0)? - length {
            0 => sums.clone(),
            unused => {
                let zeros = Tensor::zeros((unused, width), sums.dtype(), sums.device())?;
                Tensor::cat(&[&sums, &zeros], 0)?
            }
        };
        let mut gradients = vec![Some(pass.grad.narrow(1, class, length - class)?), Some(positions)];
        if class == 1 {
            gradients.push(Some(sums.get(0)?));
        }
        Ok(gradients)
    }
}
