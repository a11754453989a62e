//! How a CPU kernel becomes a node of candle's graph.
//!
//! candle's custom operations take three arguments at most. Ours take any number: the node itself sees its first
//! argument and one chain of *collectors*, tiny scalar nodes with one further argument each. candle runs the
//! backward pass of the node before that of the collectors (they are its ancestors); the node computes all gradients
//! at once and leaves them in a shared slot, where each collector finds the one of its argument.

use super::real::Real;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};
use std::sync::{Arc, Mutex, PoisonError};

/// A tensor as a kernel sees it: contiguous elements and a shape.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) dims: &'a [usize],
}

/// What a forward pass leaves behind.
pub(crate) struct Forward<T> {
    pub(crate) out: Vec<T>,
    pub(crate) dims: Vec<usize>,
    /// Intermediate results that the backward pass wants to see again; dropped when no gradient is asked for.
    pub(crate) saved: Vec<Vec<T>>,
}

impl<T> Forward<T> {
    pub(crate) fn new(out: Vec<T>, dims: &[usize]) -> Self {
        Self { out, dims: dims.to_vec(), saved: Vec::new() }
    }
}

/// What a backward pass is given.
pub(crate) struct Backward<'a, T> {
    pub(crate) args: &'a [View<'a, T>],
    /// For each argument whether its gradient is asked for.
    pub(crate) needed: &'a [bool],
    pub(crate) saved: &'a [Vec<T>],
    /// Gradient of the output.
    pub(crate) grad: &'a [T],
}

/// A kernel with its exact backward pass.
pub(crate) trait CpuOp: Send + Sync + 'static {
    const NAME: &'static str;

    fn forward<T: Real>(&self, args: &[View<'_, T>]) -> Result<Forward<T>>;

    /// One gradient per argument, `None` where it is not needed.
    fn backward<T: Real>(&self, pass: Backward<'_, T>) -> Result<Vec<Option<Vec<T>>>>;
}

/// Whether the CPU kernels apply; elsewhere the operation is composed of candle's.
pub(crate) fn has_kernel(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64) && super::cpu_kernels()
}

/// Runs `op` and hangs it into the graph if any argument wants a gradient.
pub(crate) fn apply<O: CpuOp>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    match args[0].dtype() {
        DType::F32 => apply_as::<O, f32>(op, args),
        DType::F64 => apply_as::<O, f64>(op, args),
        other => bail!("{}: no CPU kernel for {other:?}", O::NAME),
    }
}

fn apply_as<O: CpuOp, T: Real>(op: O, args: &[&Tensor]) -> Result<Tensor> {
    if let Some(other) = args.iter().find(|arg| arg.dtype() != T::DTYPE || !arg.device().is_cpu()) {
        bail!(
            "{}: arguments differ, {:?} on the CPU beside {:?} on {:?}",
            O::NAME,
            T::DTYPE,
            other.dtype(),
            other.device().location()
        )
    }
    let args = args.iter().map(|arg| arg.contiguous()).collect::<Result<Vec<_>>>()?;
    let Forward { out, dims, saved } = with_views(&args, |views| op.forward::<T>(views))?;
    let tracked: Vec<usize> = (0..args.len()).filter(|&i| args[i].track_op()).collect();
    let Some((&first, others)) = tracked.split_first() else {
        return Tensor::from_vec(out, dims, &Device::Cpu);
    };
    let slot = Slot::default();
    let mut chain: Option<Tensor> = None;
    for &index in others {
        let collector = Collector::<T> { slot: slot.clone(), index, element: std::marker::PhantomData };
        chain = Some(match chain {
            None => args[index].apply_op1(collector)?,
            Some(chain) => args[index].apply_op2(&chain, collector)?,
        });
    }
    let arg = args[first].clone();
    let node = Node {
        op,
        needed: args.iter().map(Tensor::track_op).collect(),
        args,
        first,
        saved,
        result: Mutex::new(Some((out, dims))),
        slot,
    };
    match chain {
        None => arg.apply_op1(node),
        Some(chain) => arg.apply_op2(&chain, node),
    }
}

/// Gradients between the backward pass of a node and those of its collectors, by argument.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Vec<Option<Tensor>>>>);

impl Slot {
    fn put(&self, grads: Vec<Option<Tensor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = grads;
    }

    fn take(&self, index: usize) -> Option<Tensor> {
        let mut grads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grads.get_mut(index).and_then(Option::take)
    }
}

struct Node<O, T> {
    op: O,
    args: Vec<Tensor>,
    needed: Vec<bool>,
    /// The argument that candle passes to this node itself; the others have collectors.
    first: usize,
    saved: Vec<Vec<T>>,
    /// The forward pass has run before candle asks for its result.
    result: Mutex<Option<(Vec<T>, Vec<usize>)>>,
    slot: Slot,
}

impl<O: CpuOp, T: Real> Node<O, T> {
    fn result(&self) -> Result<(CpuStorage, Shape)> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        match result {
            Some((out, dims)) => Ok((T::to_cpu_storage_owned(out), Shape::from(dims))),
            None => bail!("{}: the forward pass of a node runs once", O::NAME),
        }
    }

    fn grads(&self, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = [grad.contiguous()?];
        let grads = with_views::<T, _>(&grad, |grad| {
            with_views(&self.args, |args| {
                self.op.backward(Backward { args, needed: &self.needed, saved: &self.saved, grad: grad[0].data })
            })
        })?;
        let mut tensors = Vec::with_capacity(grads.len());
        for ((grad, arg), &needed) in grads.into_iter().zip(&self.args).zip(&self.needed) {
            tensors.push(match grad {
                Some(grad) if needed => Some(Tensor::from_vec(grad, arg.shape(), &Device::Cpu)?),
                None if needed => bail!("{}: no gradient for an argument of shape {:?}", O::NAME, arg.dims()),
                _ => None,
            });
        }
        let first = tensors[self.first].take();
        self.slot.put(tensors);
        Ok(first)
    }
}

impl<O: CpuOp, T: Real> CustomOp1 for Node<O, T> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.grads(grad)
    }
}

impl<O: CpuOp, T: Real> CustomOp2 for Node<O, T> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.result()
    }
    fn bwd(&self, _: &Tensor, chain: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.grads(grad)?, Some(chain.zeros_like()?)))
    }
}

struct Collector<T> {
    slot: Slot,
    index: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Real> Collector<T> {
    fn scalar() -> Result<(CpuStorage, Shape)> {
        Ok((T::to_cpu_storage_owned(vec![T::zero()]), Shape::from(())))
    }
}

impl<T: Real> CustomOp1 for Collector<T> {
    fn name(&self) -> &'static str {
        "collector"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::scalar()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.slot.take(self.index))
    }
}

impl<T: Real> CustomOp2 for Collector<T> {
    fn name(&self) -> &'static str {
        "collector"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::scalar()
    }
    fn bwd(&self, _: &Tensor, chain: &Tensor, _: &Tensor, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.slot.take(self.index), Some(chain.zeros_like()?)))
    }
}

/// Lends the elements of contiguous CPU tensors to `f`.
pub(crate) fn with_views<T: WithDType, R>(
    tensors: &[Tensor],
    f: impl FnOnce(&[View<'_, T>]) -> Result<R>,
) -> Result<R> {
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (storage, layout) in &guards {
        let Storage::Cpu(storage) = &**storage else { bail!("a CPU kernel was given a tensor of another device") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a CPU kernel was given a tensor with gaps")
        };
        views.push(View { data: &T::cpu_storage_as_slice(storage)?[start..end], dims: layout.dims() });
    }
    f(&views)
}
