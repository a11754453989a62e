//! How such an operation becomes a node of candle's graph: as [`graph`](super::super::graph) does it on the CPU, with a
//! chain of collectors for the gradients of all arguments but the first.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, TensorId, bail,
};

use super::super::backward::{collect, collects};
use super::launch::Made;

/// An operation on GPU tensors that are contiguous and have no graph.
pub(crate) trait GpuOp: Send + Sync + 'static {
    const NAME: &'static str;

    /// The result, and what the way back wants to see again.
    fn forward(&self, args: &[Tensor]) -> Result<(Made, Vec<Tensor>)>;

    /// One gradient per argument; `None` where `needed` does not ask for it.
    fn backward(&self, pass: Pass<'_>) -> Result<Vec<Option<Tensor>>>;
}

/// What a way back is given.
pub(crate) struct Pass<'a> {
    pub(super) args: &'a [Tensor],
    pub(super) needed: &'a [bool],
    pub(super) saved: &'a [Tensor],
    /// Of the result, contiguous.
    pub(super) grad: &'a Tensor,
}

impl Pass<'_> {
    /// A gradient, if it is needed.
    pub(super) fn wanted(&self, index: usize, gradient: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
        self.needed[index].then(gradient).transpose()
    }
}

/// Runs `op` and hangs it into the graph if any argument wants a gradient.
pub(crate) fn apply<O: GpuOp>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    if let Some(other) = args.iter().find(|arg| arg.dtype() != args[0].dtype()) {
        bail!("{}: arguments differ, {:?} beside {:?}", O::NAME, args[0].dtype(), other.dtype())
    }
    let plain = args.iter().map(|arg| arg.detach().contiguous()).collect::<Result<Vec<_>>>()?;
    let (made, saved) = op.forward(&plain)?;
    let tracked: Vec<usize> = (0..args.len()).filter(|&i| args[i].track_op()).collect();
    let Some((&first, others)) = tracked.split_first() else { return Ok(made.tensor()) };
    let slot = Slot::default();
    let mut chain: Option<Tensor> = None;
    for &index in others {
        let collector = Collector { slot: slot.clone(), index };
        chain = Some(match chain {
            None => args[index].apply_op1(collector)?,
            Some(chain) => args[index].apply_op2(&chain, collector)?,
        });
    }
    let needed = args.iter().map(|arg| arg.track_op()).collect();
    let leaves = others.iter().map(|&index| args[index].is_variable().then(|| (index, args[index].id()))).collect();
    let node = Node { op, args: plain, needed, first, leaves, saved, result: Mutex::new(Some(made.parts())), slot };
    match chain {
        None => args[first].apply_op1(node),
        Some(chain) => args[first].apply_op2(&chain, node),
    }
}

/// Gradients between the way back of a node and those of its collectors, by argument.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Vec<Option<Tensor>>>>);

impl Slot {
    fn put(&self, grads: Vec<Option<Tensor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = grads;
    }

    fn take(&self, index: usize) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index).and_then(Option::take)
    }
}

struct Node<O> {
    op: O,
    args: Vec<Tensor>,
    needed: Vec<bool>,
    /// The argument that candle passes to this node itself.
    first: usize,
    /// The others that want a gradient, if all of them are parameters.
    leaves: Option<Vec<(usize, TensorId)>>,
    saved: Vec<Tensor>,
    /// The way there has run before candle asks for its result.
    result: Mutex<Option<(CudaStorage, Shape)>>,
    slot: Slot,
}

impl<O: GpuOp> Node<O> {
    fn result(&self) -> Result<(CudaStorage, Shape)> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok(result),
            None => bail!("{}: the forward pass of a node runs once", O::NAME),
        }
    }

    /// The gradient of the first argument; those of the others are taken from where they are put.
    fn grads(&self, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let pass = Pass { args: &self.args, needed: &self.needed, saved: &self.saved, grad: &grad };
        let mut grads = self.op.backward(pass)?;
        if grads.len() != self.args.len() {
            bail!("{}: {} gradients of {} arguments", O::NAME, grads.len(), self.args.len())
        }
        let first = grads[self.first].take();
        // candle would add each gradient of a parameter to zeros
        if let Some(leaves) = self.leaves.as_ref().filter(|_| collects()) {
            for &(index, id) in leaves {
                collect(id, grads[index].take())?;
            }
            return Ok(first);
        }
        self.slot.put(grads);
        Ok(first)
    }
}

fn no_cpu<T>(name: &str) -> Result<T> {
    bail!("{name}: a GPU operation was given tensors of the CPU")
}

impl<O: GpuOp> CustomOp1 for Node<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(O::NAME)
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.grads(grad)
    }
}

impl<O: GpuOp> CustomOp2 for Node<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(O::NAME)
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, chain: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.grads(grad)?, Some(chain.zeros_like()?)))
    }
}

struct Collector {
    slot: Slot,
    index: usize,
}

impl Collector {
    const NAME: &'static str = "collector";

    fn scalar(like: &CudaStorage) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from(());
        Ok((like.device().zeros_impl(&shape, DType::F32)?, shape))
    }
}

impl CustomOp1 for Collector {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(Self::NAME)
    }
    fn cuda_fwd(&self, like: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Self::scalar(like)
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.slot.take(self.index))
    }
}

impl CustomOp2 for Collector {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(Self::NAME)
    }
    fn cuda_fwd(&self, like: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Self::scalar(like)
    }
    fn bwd(&self, _: &Tensor, chain: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.slot.take(self.index), Some(chain.zeros_like()?)))
    }
}
