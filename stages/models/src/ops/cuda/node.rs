//! How such an operation becomes a node of candle's graph.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::launch::Made;

/// An operation on GPU tensors that are contiguous and have no graph.
pub(crate) trait GpuOp: Send + Sync + 'static {
    const NAME: &'static str;

    fn forward(&self, args: &[Tensor]) -> Result<Made>;

    /// One gradient per argument; `None` where `needed` does not ask for it.
    fn backward(&self, args: &[Tensor], needed: &[bool], grad: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

/// Runs `op` on one to three arguments and hangs it into the graph if any of them wants a gradient.
pub(crate) fn apply<O: GpuOp>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    let plain = args.iter().map(|arg| arg.detach().contiguous()).collect::<Result<Vec<_>>>()?;
    let made = op.forward(&plain)?;
    if !args.iter().any(|arg| arg.track_op()) {
        return Ok(made.tensor());
    }
    let needed = args.iter().map(|arg| arg.track_op()).collect();
    let node = Node { op, args: plain, needed, result: Mutex::new(Some(made.parts())) };
    match args {
        [x] => x.apply_op1(node),
        [x, y] => x.apply_op2(y, node),
        [x, y, z] => x.apply_op3(y, z, node),
        _ => bail!("{}: {} arguments, one to three can be differentiated", O::NAME, args.len()),
    }
}

struct Node<O> {
    op: O,
    args: Vec<Tensor>,
    needed: Vec<bool>,
    /// The way there has run before candle asks for its result.
    result: Mutex<Option<(CudaStorage, Shape)>>,
}

impl<O: GpuOp> Node<O> {
    fn result(&self) -> Result<(CudaStorage, Shape)> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok(result),
            None => bail!("{}: the forward pass of a node runs once", O::NAME),
        }
    }

    fn grads<const N: usize>(&self, grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let grads = self.op.backward(&self.args, &self.needed, &grad.contiguous()?)?;
        let count = grads.len();
        <[_; N]>::try_from(grads).or_else(|_| bail!("{}: {count} gradients of {N} arguments", O::NAME))
    }

    fn no_cpu<T>(&self) -> Result<T> {
        bail!("{}: a GPU operation was given tensors of the CPU", O::NAME)
    }
}

impl<O: GpuOp> CustomOp1 for Node<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [x] = self.grads(grad)?;
        Ok(x)
    }
}

impl<O: GpuOp> CustomOp2 for Node<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, y] = self.grads(grad)?;
        Ok((x, y))
    }
}

impl<O: GpuOp> CustomOp3 for Node<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.result()
    }
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, y, z] = self.grads(grad)?;
        Ok((x, y, z))
    }
}
