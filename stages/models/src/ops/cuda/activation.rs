use candle_core::{Result, Tensor};

use super::launch::{self, Made};
use super::node::{GpuOp, Pass};
use choices::Activation;

pub(crate) struct ActivationOp(pub(crate) Activation);

/// How the kernels number activations.
pub(super) fn number(kind: Activation) -> i32 {
    match kind {
        Activation::QuickGelu => 0,
        Activation::Gelu => 1,
    }
}

impl GpuOp for ActivationOp {
    const NAME: &'static str = "activation";

    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)> {
        Ok((launch::activation(&args[0], number(self.0))?, Vec::new()))
    }

    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(launch::activation_back(&pass.args[0], pass.grad, number(self.0))?.tensor())])
    }
}
