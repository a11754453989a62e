use candle_core::{Result, Tensor, bail};

use super::launch::{self, Made};
use super::node::{GpuOp, Pass};

pub(crate) struct LayerNormOp {
    pub(crate) epsilon: f64,
}

impl GpuOp for LayerNormOp {
    const NAME: &'static str = "layer_norm";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        let [x, weight, bias] = args else { bail!("layer_norm of {} arguments", args.len()) };
        Ok((launch::layer_norm(x, weight, bias, self.epsilon)?, Vec::new()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(launch::layer_norm_back(&pass.args[0], &pass.args[1], pass.grad, None, self.epsilon)?.map(Some).into())
    }
}
