//! Ranks as processes that talk over TCP, without GPUs; tensors pass through host memory.
//!
//! A sum is scattered and gathered: of W slices, rank r gets slice r from everyone, adds the ranks' numbers in rank
//! order and sends the result to everyone. Each rank so sends and receives 2 (W-1)/W of the tensor, and all ranks get the
//! same bits as `Threads`. Small tensors go to everyone at once and are added everywhere: one message instead of two.

use std::ops::Range;

use bytemuck::Pod;
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use training::communicator::Communicator;
use training::communicator::call::{Call, Operation};
use training::communicator::elements::{Summand, on_host, with_elements};

use crate::frame::CHUNK_BYTES;
use crate::mesh::{Failure, Mesh, Ongoing};
use crate::peer::Outgoing;

/// Largest tensor that goes to everyone at once.
const SMALL_BYTES: usize = 32 << 10;

/// One rank of a world of processes. Dropping it tells the others that this rank is gone.
pub struct Tcp {
    mesh: Mesh,
    /// Why it is not NCCL, if that was asked for.
    because: Option<String>,
}

impl Tcp {
    /// A communicator over these connections.
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh, because: None }
    }

    /// The same, for want of something better.
    pub(crate) fn because(self, why: String) -> Self {
        Self { because: Some(why), ..self }
    }

    #[cfg(feature = "nccl")]
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    #[cfg(feature = "nccl")]
    pub(crate) fn mesh_mut(&mut self) -> &mut Mesh {
        &mut self.mesh
    }

    fn call(&mut self, operation: Operation, tensor: &Tensor, root: usize) -> training::Result<Tensor> {
        let call = Call::with(operation, self.mesh.step(), tensor, root);
        let shape = call.result_shape(self.mesh.world_size());
        let result = self.mesh.together(call, |mesh, ongoing| {
            let host = on_host(tensor).map_err(|e| mesh.unreadable(ongoing, &e))?;
            macro_rules! with_type {
                ($type:ty, $run:ident) => {
                    $run::<$type>(mesh, ongoing, &host).map(|elements| Tensor::from_vec(elements, shape, &Device::Cpu))
                };
            }
            let result = match (operation, host.dtype()) {
                (Operation::AllReduceSum | Operation::ReduceScatterSum, DType::F64) => with_type!(f64, sum),
                (Operation::AllReduceSum | Operation::ReduceScatterSum, DType::F32) => with_type!(f32, sum),
                (Operation::AllReduceSum | Operation::ReduceScatterSum, DType::BF16) => with_type!(bf16, sum),
                (Operation::AllReduceSum | Operation::ReduceScatterSum, DType::F16) => with_type!(f16, sum),
                (_, DType::U8) => with_type!(u8, copy),
                (_, DType::U32) => with_type!(u32, copy),
                (_, DType::I16) => with_type!(i16, copy),
                (_, DType::I32) => with_type!(i32, copy),
                (_, DType::I64) => with_type!(i64, copy),
                (_, DType::BF16) => with_type!(bf16, copy),
                (_, DType::F16) => with_type!(f16, copy),
                (_, DType::F32) => with_type!(f32, copy),
                (_, DType::F64) => with_type!(f64, copy),
                // refused when the call began
                (_, other) => return Err(Failure::from(format!("tensors of {other:?} do not travel between ranks"))),
            }?;
            result.map_err(|e| mesh.unreadable(ongoing, &e.into()))
        })?;
        Ok(result.to_device(tensor.device())?)
    }
}

impl Mesh {
    fn unreadable(&self, ongoing: &Ongoing, error: &training::Error) -> Failure {
        Failure::from(format!(
            "rank {} could not {} at step {}: {error}",
            self.rank(),
            ongoing.call.operation,
            ongoing.call.step
        ))
    }

    /// Sends elements of a host tensor to a rank.
    fn send_elements<T>(&self, ongoing: &Ongoing, to: &crate::peer::Peer, tensor: &Tensor, elements: Range<usize>) {
        let [start, end] = [elements.start, elements.end].map(|at| at * size_of::<T>());
        to.send(Outgoing::Elements { number: ongoing.number, tensor: tensor.clone(), start, end });
    }

    /// Appends elements of a rank.
    fn receive_elements<T: Pod>(&self, ongoing: &Ongoing, from: usize, into: &mut [T]) -> Result<(), Failure> {
        for piece in into.chunks_mut(CHUNK_BYTES / size_of::<T>()) {
            let chunk = self.receive_chunk(from, size_of_val(piece), ongoing)?;
            piece.copy_from_slice(bytemuck::cast_slice(chunk.bytes()));
            self.recycle(from, chunk);
        }
        Ok(())
    }

    /// Receives everyone's part of this rank's slice piece by piece, adds them up, and hands each sum to `done`.
    fn receive_sums<T: Summand>(
        &self,
        ongoing: &Ongoing,
        mine: &[T],
        into: &mut [T],
        mut done: impl FnMut(&[T]),
    ) -> Result<(), Failure> {
        let piece_len = CHUNK_BYTES / size_of::<T>();
        for (mine, into) in mine.chunks(piece_len).zip(into.chunks_mut(piece_len)) {
            let mut chunks = Vec::with_capacity(self.world_size());
            for (rank, _) in self.peers() {
                chunks.push((rank, self.receive_chunk(rank, size_of_val(mine), ongoing)?));
            }
            let mut parts: Vec<&[T]> = chunks.iter().map(|(_, chunk)| bytemuck::cast_slice(chunk.bytes())).collect();
            parts.insert(self.rank(), mine);
            T::sum_in_rank_order(&parts, into);
            done(into);
            chunks.into_iter().for_each(|(rank, chunk)| self.recycle(rank, chunk));
        }
        Ok(())
    }
}

/// The elements of rank `rank`, when `len` are shared out among `world_size` ranks.
fn slice_of(rank: usize, world_size: usize, len: usize) -> Range<usize> {
    // in u128 because the product of any length and rank must not overflow
    let at = |rank: usize| (len as u128 * rank as u128 / world_size as u128) as usize;
    at(rank)..at(rank + 1)
}

/// `all_reduce_sum` and `reduce_scatter_sum`.
fn sum<T: Summand>(mesh: &mut Mesh, ongoing: &Ongoing, host: &Tensor) -> Result<Vec<T>, Failure> {
    let (me, world_size, len) = (mesh.rank(), mesh.world_size(), host.elem_count());
    let only_mine = ongoing.call.operation == Operation::ReduceScatterSum;
    let at_once = !only_mine && len * size_of::<T>() <= SMALL_BYTES;
    let slice = |rank| if at_once { 0..len } else { slice_of(rank, world_size, len) };
    mesh.peers().for_each(|(rank, peer)| mesh.send_elements::<T>(ongoing, peer, host, slice(rank)));
    mesh.await_calls(ongoing)?;
    let mine = slice(me);
    let summed = with_elements::<T, _>(host, |elements| {
        let elements = &elements[mine.clone()];
        if only_mine || at_once {
            let mut sum = vec![T::zeroed(); elements.len()];
            mesh.receive_sums(ongoing, elements, &mut sum, |_| {})?;
            return Ok(sum);
        }
        let mut sum = vec![T::zeroed(); len];
        mesh.receive_sums(ongoing, elements, &mut sum[mine], |piece| {
            let bytes: std::sync::Arc<[u8]> = bytemuck::cast_slice(piece).into();
            let chunk = || Outgoing::Chunk { number: ongoing.number, bytes: bytes.clone() };
            mesh.peers().for_each(|(_, peer)| peer.send(chunk()));
        })?;
        for (rank, _) in mesh.peers() {
            mesh.receive_elements(ongoing, rank, &mut sum[slice(rank)])?;
        }
        Ok(sum)
    });
    summed.map_err(|e| mesh.unreadable(ongoing, &e))?
}

/// `all_gather` and `broadcast`.
fn copy<T: Pod + WithDType>(mesh: &mut Mesh, ongoing: &Ongoing, host: &Tensor) -> Result<Vec<T>, Failure> {
    let (me, world_size, len) = (mesh.rank(), mesh.world_size(), host.elem_count());
    let root = (ongoing.call.operation == Operation::Broadcast).then_some(ongoing.call.root);
    if root.is_none_or(|root| root == me) {
        mesh.peers().for_each(|(_, peer)| mesh.send_elements::<T>(ongoing, peer, host, 0..len));
    }
    mesh.await_calls(ongoing)?;
    let sources = root.map_or(0..world_size, |root| root..root + 1);
    let mut all = vec![T::zeroed(); sources.len() * len];
    for (source, part) in sources.zip(all.chunks_mut(len.max(1))) {
        if source == me {
            with_elements::<T, _>(host, |elements| part.copy_from_slice(elements))
                .map_err(|e| mesh.unreadable(ongoing, &e))?;
        } else {
            mesh.receive_elements(ongoing, source, part)?;
        }
    }
    Ok(all)
}

impl Communicator for Tcp {
    fn way(&self) -> String {
        match &self.because {
            Some(why) => format!("TCP, through host memory: {why}"),
            None => "TCP, through host memory".to_owned(),
        }
    }

    fn rank(&self) -> usize {
        self.mesh.rank()
    }

    fn world_size(&self) -> usize {
        self.mesh.world_size()
    }

    fn at_step(&mut self, step: u64) {
        self.mesh.at_step(step);
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::AllReduceSum, tensor, 0)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::AllGather, tensor, 0)
    }

    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> training::Result<Tensor> {
        self.call(Operation::ReduceScatterSum, tensor, 0)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> training::Result<Tensor> {
        self.call(Operation::Broadcast, tensor, root)
    }

    fn barrier(&mut self) -> training::Result<()> {
        self.mesh.together(Call::barrier(self.mesh.step()), |mesh, ongoing| mesh.await_calls(ongoing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once() {
        for (world_size, len) in [(1, 7), (3, 0), (3, 2), (4, 1001), (5, usize::MAX)] {
            let slices: Vec<_> = (0..world_size).map(|rank| slice_of(rank, world_size, len)).collect();
            assert_eq!((slices[0].start, slices[world_size - 1].end), (0, len));
            assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
