use candle_core::{Result, Tensor, bail};

use super::launch::{self, Made};
use super::node::{GpuOp, Pass};

/// y = x w^T + b.
pub(crate) struct LinearOp;

/// All dimensions but the last in one.
pub(super) fn rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dims().last().copied().unwrap_or(1);
    x.reshape(((), width))
}

impl GpuOp for LinearOp {
    const NAME: &'static str = "linear";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let [x, w_oi, bias] = args else { bail!("linear of {} arguments", args.len()) };
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = w_oi.dim(0)?;
        }
        Ok((launch::add_bias(&rows(x)?.matmul(&w_oi.t()?)?, bias, None)?.shaped(dims)?, Vec::new()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        let (x, w_oi, grad) = (&pass.args[0], &pass.args[1], rows(pass.grad)?);
        Ok(vec![
            pass.wanted(0, || grad.matmul(w_oi)?.reshape(x.dims()))?,
            pass.wanted(1, || grad.t()?.matmul(&rows(x)?))?,
            pass.wanted(2, || launch::column_sums(&grad))?,
        ])
    }
}
