//! What a rank calls: the part of an operation that all ranks must agree on, and the words for where they do not.

use std::fmt;

use candle_core::{DType, Tensor};

/// The operations of a [`Communicator`](super::Communicator).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sum over ranks.
    AllReduceSum,
    /// The tensors of all ranks.
    AllGather,
    /// Sum over ranks of one rank's slice.
    ReduceScatterSum,
    /// The tensor of one rank.
    Broadcast,
    /// A meeting point.
    Barrier,
}

impl Operation {
    /// The name of the method.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduceSum => "all_reduce_sum",
            Self::AllGather => "all_gather",
            Self::ReduceScatterSum => "reduce_scatter_sum",
            Self::Broadcast => "broadcast",
            Self::Barrier => "barrier",
        }
    }

    fn is_sum(self) -> bool {
        matches!(self, Self::AllReduceSum | Self::ReduceScatterSum)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One rank's call of an operation. Ranks whose calls are equal do the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is called.
    pub operation: Operation,
    /// The step that the rank had named.
    pub step: u64,
    /// Type of the elements; `U8` for a barrier.
    pub dtype: DType,
    /// Shape of the tensor; empty for a barrier.
    pub shape: Vec<usize>,
    /// The rank whose tensor is broadcast; 0 for other operations.
    pub root: usize,
}

impl Call {
    /// A call with a tensor.
    pub fn with(operation: Operation, step: u64, tensor: &Tensor, root: usize) -> Self {
        Self { operation, step, dtype: tensor.dtype(), shape: tensor.dims().to_vec(), root }
    }

    /// A barrier.
    pub fn barrier(step: u64) -> Self {
        Self { operation: Operation::Barrier, step, dtype: DType::U8, shape: Vec::new(), root: 0 }
    }

    /// Number of elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Shape of what every rank gets.
    pub fn result_shape(&self, world_size: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            match self.operation {
                Operation::AllGather => *first *= world_size,
                Operation::ReduceScatterSum => *first /= world_size,
                Operation::AllReduceSum | Operation::Broadcast | Operation::Barrier => {}
            }
        }
        shape
    }

    /// What this call itself has wrong, in a world of `world_size` ranks.
    pub fn problem(&self, world_size: usize) -> Option<String> {
        let Self { operation, dtype, shape, root, .. } = self;
        if operation.is_sum() && !matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16) {
            return Some(format!("sums are of f64, f32, bf16 or f16, got {dtype:?} {shape:?}; convert the tensor"));
        }
        if matches!(dtype, DType::F8E4M3 | DType::F6E2M3 | DType::F6E3M2 | DType::F4 | DType::F8E8M0) {
            return Some(format!("tensors of {dtype:?} do not travel between ranks; convert to f16 or wider"));
        }
        match operation {
            Operation::AllGather if shape.is_empty() => {
                Some("a scalar has no dimension to gather along; make it one of shape [1]".to_owned())
            }
            Operation::ReduceScatterSum if shape.first().is_none_or(|rows| rows % world_size != 0) => {
                Some(format!("the first dimension of {shape:?} must be a multiple of the {world_size} ranks"))
            }
            Operation::Broadcast if *root >= world_size => {
                Some(format!("root {root} is none of the {world_size} ranks (0 to {})", world_size.saturating_sub(1)))
            }
            _ => None,
        }
    }

    /// How `theirs` differs from this call, in words for rank `reader`; `None` if they agree.
    pub fn difference(&self, rank: usize, theirs: &Call, their_rank: usize, reader: usize) -> Option<String> {
        if self == theirs {
            return None;
        }
        let me = if rank == reader { "this rank".to_owned() } else { format!("rank {rank}") };
        let [mine, other] = if self.operation != theirs.operation || self.step != theirs.step {
            [self, theirs].map(|c| format!("called {} at step {}", c.operation, c.step))
        } else if self.root != theirs.root {
            [self, theirs].map(|c| format!("called {} at step {} of rank {}", c.operation, c.step, c.root))
        } else {
            let place = format!("to {} at step {}", self.operation, self.step);
            [self, theirs].map(|c| format!("brought {} {:?} {place}", c.dtype.as_str(), c.shape))
        };
        Some(format!("rank {their_rank} {other} where {me} {mine}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: Operation, step: u64, dtype: DType, shape: &[usize]) -> Call {
        Call { operation, step, dtype, shape: shape.to_vec(), root: 0 }
    }

    #[test]
    fn differences_name_both_sides() {
        let mine = call(Operation::AllReduceSum, 7, DType::F32, &[2]);
        let theirs = call(Operation::AllGather, 7, DType::F32, &[2]);
        assert_eq!(mine.difference(0, &mine.clone(), 1, 0), None);
        assert_eq!(
            mine.difference(0, &theirs, 1, 0).unwrap(),
            "rank 1 called all_gather at step 7 where this rank called all_reduce_sum at step 7"
        );
        let longer = call(Operation::AllReduceSum, 7, DType::BF16, &[2, 3]);
        assert_eq!(
            mine.difference(0, &longer, 2, 1).unwrap(),
            "rank 2 brought bf16 [2, 3] to all_reduce_sum at step 7 where rank 0 brought f32 [2] to all_reduce_sum \
             at step 7"
        );
    }

    #[test]
    fn calls_that_make_no_sense_say_why() {
        let says = |c: Call| c.problem(3).unwrap_or_default();
        assert!(says(call(Operation::AllReduceSum, 0, DType::U32, &[2])).contains("U32 [2]"));
        assert!(says(call(Operation::AllGather, 0, DType::U32, &[])).contains("shape [1]"));
        assert!(says(call(Operation::ReduceScatterSum, 0, DType::F32, &[4, 2])).contains("[4, 2]"));
        assert!(says(call(Operation::ReduceScatterSum, 0, DType::F32, &[])).contains("multiple"));
        assert!(says(Call { root: 3, ..call(Operation::Broadcast, 0, DType::F32, &[1]) }).contains("root 3"));
        assert_eq!(call(Operation::AllReduceSum, 0, DType::F16, &[]).problem(3), None);
        assert_eq!(call(Operation::ReduceScatterSum, 0, DType::F16, &[0, 2]).problem(3), None);
    }
}
