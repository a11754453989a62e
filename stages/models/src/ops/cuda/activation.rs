use candle_core::{Result, Tensor};

use super::launch::{self, Made};
use super::node::GpuOp;
use crate::ops::Activation;

pub(crate) struct ActivationOp(pub(crate) Activation);

impl ActivationOp {
    fn number(&self) -> i32 {
        match self.0 {
            Activation::QuickGelu => 0,
            Activation::Gelu => 1,
        }
    }
}

impl GpuOp for ActivationOp {
    const NAME: &'static str = "activation";

    fn forward(&self, args: &[Tensor]) -> Result<Made> {
        launch::activation(&args[0], self.number())
    }

    fn backward(&self, args: &[Tensor], _: &[bool], grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(launch::activation_back(&args[0], grad, self.number())?.tensor())])
    }
}
