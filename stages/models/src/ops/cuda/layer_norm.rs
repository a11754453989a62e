use candle_core::{Result, Tensor, bail};

use super::launch::{self, Made};
use super::node::GpuOp;

pub(crate) struct LayerNormOp {
    pub(crate) epsilon: f64,
}

impl GpuOp for LayerNormOp {
    const NAME: &'static str = "layer_norm";

    fn forward(&self, args: &[Tensor]) -> Result<Made> {
        let [x, weight, bias] = args else { bail!("layer_norm of {} arguments", args.len()) };
        launch::layer_norm(x, weight, bias, self.epsilon)
    }

    fn backward(&self, args: &[Tensor], _: &[bool], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(launch::layer_norm_back(&args[0], &args[1], grad, self.epsilon)?.map(Some).into())
    }
}
