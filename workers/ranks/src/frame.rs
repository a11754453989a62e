//! What travels on a connection between two ranks: frames of a fixed head and a bounded body.
//!
//! ```text
//! head  kind u8 · 3 zero bytes · body length u32 · number u64                       (little endian)
//! Call  operation u8 · type u8 · dimensions u8 · zero u8 · root u32 · step u64 · each dimension u64
//! Data  at most CHUNK_BYTES of the tensor of call `number`
//! Note  rank u32: call `number` has waited for this rank for a while
//! Abort text: why the sender ends, naming the rank at fault
//! ```
//! Nothing is allocated by what a head says: a body is read into a buffer of the largest size that its kind may have.

use candle_core::DType;
use training::communicator::call::{Call, Operation};

/// Bytes of a frame's head.
pub(crate) const HEAD_BYTES: usize = 16;
/// Most bytes of a tensor in one frame: large enough that system calls do not count, small enough for the cache.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Most bytes of the bodies that are not data.
pub(crate) const WORDS_BYTES: usize = 1024;
/// Most dimensions of a tensor that travels.
pub(crate) const MAX_DIMENSIONS: usize = 32;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Call = 1,
    Data = 2,
    Note = 3,
    Abort = 4,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) body_bytes: usize,
    /// Which call of the rank, from 1.
    pub(crate) number: u64,
}

impl Head {
    pub(crate) fn write(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0] = self.kind as u8;
        // bodies are bounded by CHUNK_BYTES
        bytes[4..8].copy_from_slice(&(self.body_bytes as u32).to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Reads a head, refusing kinds that do not exist and bodies over the limit of their kind.
    pub(crate) fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self, String> {
        let [kind, zeros @ .., l0, l1, l2, l3, n0, n1, n2, n3, n4, n5, n6, n7] = *bytes;
        let (kind, limit) = match kind {
            1 => (Kind::Call, WORDS_BYTES),
            2 => (Kind::Data, CHUNK_BYTES),
            3 => (Kind::Note, 4),
            4 => (Kind::Abort, WORDS_BYTES),
            other => return Err(format!("a frame of unknown kind {other}")),
        };
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if zeros != [0; 3] || body_bytes > limit {
            return Err(format!("a {kind:?} frame of {body_bytes} bytes, at most {limit} are allowed"));
        }
        Ok(Self { kind, body_bytes, number: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]) })
    }
}

const OPERATIONS: [Operation; 5] = [
    Operation::AllReduceSum,
    Operation::AllGather,
    Operation::ReduceScatterSum,
    Operation::Broadcast,
    Operation::Barrier,
];
const TYPES: [DType; 9] =
    [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64];

/// Body of a call's frame.
pub(crate) fn write_call(call: &Call) -> Result<Vec<u8>, String> {
    let operation = OPERATIONS.iter().position(|&o| o == call.operation);
    let dtype = TYPES.iter().position(|&t| t == call.dtype);
    let (Some(operation), Some(dtype)) = (operation, dtype) else {
        return Err(format!("tensors of {:?} do not travel between ranks", call.dtype));
    };
    if call.shape.len() > MAX_DIMENSIONS {
        return Err(format!("a tensor of {} dimensions, at most {MAX_DIMENSIONS} travel", call.shape.len()));
    }
    let mut body = vec![operation as u8, dtype as u8, call.shape.len() as u8, 0];
    body.extend((call.root as u32).to_le_bytes());
    body.extend(call.step.to_le_bytes());
    call.shape.iter().for_each(|&dimension| body.extend((dimension as u64).to_le_bytes()));
    Ok(body)
}

/// Reads the body of a call's frame.
pub(crate) fn read_call(body: &[u8]) -> Result<Call, String> {
    let broken = || format!("a call of {} bytes that cannot be read", body.len());
    let (head, dimensions) = body.split_first_chunk::<16>().ok_or_else(broken)?;
    let [operation, dtype, count, _, r0, r1, r2, r3, step @ ..] = *head;
    let operation = *OPERATIONS.get(usize::from(operation)).ok_or_else(broken)?;
    let dtype = *TYPES.get(usize::from(dtype)).ok_or_else(broken)?;
    let (dimensions, rest) = dimensions.as_chunks::<8>();
    if dimensions.len() != usize::from(count) || dimensions.len() > MAX_DIMENSIONS || !rest.is_empty() {
        return Err(broken());
    }
    let shape = dimensions.iter().map(|d| u64::from_le_bytes(*d) as usize).collect();
    let root = u32::from_le_bytes([r0, r1, r2, r3]) as usize;
    Ok(Call { operation, step: u64::from_le_bytes(step), dtype, shape, root })
}

/// A text cut to what an abort frame carries.
pub(crate) fn abort_words(words: &str) -> &str {
    &words[..words.floor_char_boundary(WORDS_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_calls_come_back() {
        let head = Head { kind: Kind::Data, body_bytes: CHUNK_BYTES, number: u64::MAX - 1 };
        assert_eq!(Head::read(&head.write()), Ok(head));
        for operation in OPERATIONS {
            for dtype in TYPES {
                let call = Call { operation, step: 1 << 40, dtype, shape: vec![3; MAX_DIMENSIONS], root: 9 };
                assert_eq!(read_call(&write_call(&call).unwrap()), Ok(call));
            }
        }
    }

    #[test]
    fn hostile_heads_and_calls_are_refused() {
        for (at, value) in [(0, 0), (0, 9), (1, 1), (7, 1), (6, 5)] {
            let mut bytes = Head { kind: Kind::Data, body_bytes: 1, number: 1 }.write();
            bytes[at] = value;
            assert!(Head::read(&bytes).is_err(), "byte {at} = {value}");
        }
        let call = Call { operation: Operation::Barrier, step: 1, dtype: DType::U8, shape: vec![2, 3], root: 0 };
        let body = write_call(&call).unwrap();
        for len in 0..body.len() {
            assert!(read_call(&body[..len]).is_err(), "cut to {len}");
        }
        for (at, value) in [(0, 5), (1, 200), (2, 1), (2, 255)] {
            let mut body = body.clone();
            body[at] = value;
            assert!(read_call(&body).is_err(), "byte {at} = {value}");
        }
        assert!(write_call(&Call { shape: vec![1; MAX_DIMENSIONS + 1], ..call }).is_err());
        assert_eq!(abort_words(&"ü".repeat(1000)).len(), WORDS_BYTES);
    }
}
