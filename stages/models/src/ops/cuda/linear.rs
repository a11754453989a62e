use candle_core::{Result, Tensor, bail};

use super::launch::{self, Made};
use super::node::GpuOp;

/// y = x w^T + b.
pub(crate) struct LinearOp;

/// All dimensions but the last in one.
fn rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dims().last().copied().unwrap_or(1);
    x.reshape(((), width))
}

impl GpuOp for LinearOp {
    const NAME: &'static str = "linear";

    fn forward(&self, args: &[Tensor]) -> Result<Made> {
        let [x, w_oi, bias] = args else { bail!("linear of {} arguments", args.len()) };
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = w_oi.dim(0)?;
        }
        launch::add_bias(&rows(x)?.matmul(&w_oi.t()?)?, bias)?.shaped(dims)
    }

    fn backward(&self, args: &[Tensor], needed: &[bool], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, w_oi, grad) = (&args[0], &args[1], rows(grad)?);
        let wanted = |index: usize, gradient: &dyn Fn() -> Result<Tensor>| needed[index].then(gradient).transpose();
        Ok(vec![
            wanted(0, &|| grad.matmul(w_oi)?.reshape(x.dims()))?,
            wanted(1, &|| grad.t()?.matmul(&rows(x)?))?,
            wanted(2, &|| launch::column_sums(&grad))?,
        ])
    }
}
