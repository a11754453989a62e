//! What ranks do together.
//!
//! A training that runs on W ranks asks its [`Communicator`] for four things only: the sum of a tensor over ranks, the
//! tensors of all ranks one after the other, the sum of everyone's slice for me, and a meeting point. Every rank makes
//! the same calls in the same order.

pub mod call;
#[doc(hidden)]
pub mod conformance;
pub mod elements;
mod threads;

use candle_core::Tensor;

use crate::error::Result;
pub use threads::Threads;

/// One rank's end of a group of ranks. A thread owns it, with its device.
///
/// Sums are of f64, f32, bf16 or f16 (half precision is added up in f32). They are added in rank order, and every rank
/// gets the same bits. Gathers take any type. Tensors lie on the rank's own device, before and after.
///
/// # Errors
/// Of every operation: a rank that died, that did not come within the time-out, that called another operation or
/// brought another shape or type. The message names rank, step and operation. After an error nothing else works: the
/// rank ends, and so do all others.
pub trait Communicator: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// What tensors travel through, in words for people.
    fn way(&self) -> String;

    /// Names the step that the following operations belong to, for messages.
    fn at_step(&mut self, step: u64);

    /// Sum over ranks, the same shape on each `[...] -> [...]`.
    ///
    /// # Errors
    /// As for every operation, see [`Communicator`].
    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<Tensor>;

    /// The tensors of all ranks, in rank order along the first dimension `[B, ...] -> [W B, ...]`.
    ///
    /// # Errors
    /// As for every operation, see [`Communicator`].
    fn all_gather(&mut self, tensor: &Tensor) -> Result<Tensor>;

    /// Sum over ranks of the slice that belongs to this rank `[W B, ...] -> [B, ...]`.
    ///
    /// # Errors
    /// As for every operation, see [`Communicator`].
    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> Result<Tensor>;

    /// The tensor of rank `root`, on every rank. The others bring one of the same shape and type.
    ///
    /// # Errors
    /// As for every operation, see [`Communicator`].
    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Tensor>;

    /// Returns when every rank has come here.
    ///
    /// # Errors
    /// As for every operation, see [`Communicator`].
    fn barrier(&mut self) -> Result<()>;
}

/// A world of one rank: everything is already there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn way(&self) -> String {
        "nothing: there is one rank".to_owned()
    }

    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn at_step(&mut self, _: u64) {}

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn broadcast(&mut self, tensor: &Tensor, _: usize) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn barrier(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `rank 1 is`, `ranks 1 and 3 are`: the ranks at fault, before what they did.
pub fn rank_list(ranks: &[usize], one: &str, several: &str) -> String {
    match ranks {
        [] => format!("no rank {one}"),
        [rank] => format!("rank {rank} {one}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(usize::to_string).collect();
            format!("ranks {} and {last} {several}", first.join(", "))
        }
    }
}
