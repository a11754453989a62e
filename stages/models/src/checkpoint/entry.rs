//! One tensor of a checkpoint, and where in a file its elements lie.

use crate::{ModelError, Result};
use candle_core::DType;
#[cfg(test)]
use candle_core::Tensor;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// A tensor of a file.
#[derive(Clone)]
pub(super) struct Entry {
    /// What the file calls it.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) source: Source,
}

#[derive(Clone)]
pub(super) enum Source {
    File(Place),
    #[cfg(test)]
    Memory(Tensor),
}

#[derive(Clone)]
pub(super) struct Place {
    pub(super) file: Arc<Path>,
    /// Of the first element, in bytes.
    pub(super) offset: u64,
    /// In elements; `None`: row by row.
    pub(super) strides: Option<Vec<usize>>,
    /// Checksum of the bytes, where the file has one for exactly these.
    pub(super) crc32: Option<u32>,
}

impl Place {
    /// The elements row by row. That they lie within the file was checked when it was opened.
    pub(super) fn read(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Vec<u8>> {
        let size = dtype.size_in_bytes();
        let elements = match &self.strides {
            None => shape.iter().product(),
            Some(strides) => last(shape, strides) + 1,
        };
        let mut bytes = vec![0; elements * size];
        let mut file = File::open(&self.file).map_err(ModelError::io(&self.file))?;
        file.seek(SeekFrom::Start(self.offset)).map_err(ModelError::io(&self.file))?;
        file.read_exact(&mut bytes).map_err(ModelError::io(&self.file))?;
        if self.crc32.is_some_and(|expected| crc32fast::hash(&bytes) != expected) {
            // without them PyTorch writes numbers that are none
            let reason = format!(
                "tensor {name} is damaged (its CRC-32 is another): fetch the file again, or save it anew with CRC-32s \
                 (torch.serialization.set_crc32_options(True))"
            );
            return Err(ModelError::malformed(&self.file, reason));
        }
        Ok(match &self.strides {
            None => bytes,
            Some(strides) => gather(&bytes, shape, strides, size),
        })
    }
}

/// The element that lies furthest back, counted from the first.
fn last(shape: &[usize], strides: &[usize]) -> usize {
    shape.iter().zip(strides).map(|(&length, &stride)| length.saturating_sub(1) * stride).sum()
}

/// Whether the elements lie row by row.
pub(super) fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut contiguous = 1;
    shape.iter().zip(strides).rev().all(|(&length, &stride)| {
        let fits = length == 1 || stride == contiguous;
        contiguous *= length;
        fits
    })
}

/// Elements in row-major order.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut values = Vec::with_capacity(count * size);
    for index in 0..count {
        let (mut rest, mut place) = (index, 0);
        for (&length, &stride) in shape.iter().zip(strides).rev() {
            place += rest % length * stride;
            rest /= length;
        }
        values.extend_from_slice(&bytes[place * size..(place + 1) * size]);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_tensors_are_put_in_order() {
        assert_eq!(gather(&[0, 1, 2, 3, 4, 5], &[3, 2], &[1, 3], 1), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&[0, 1, 2, 3, 4, 5], &[2, 3], &[3, 1], 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(gather(&[7], &[2, 2], &[0, 0], 1), [7, 7, 7, 7]);
        assert!(is_contiguous(&[2, 3], &[3, 1]) && is_contiguous(&[1, 3], &[9, 1]) && is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[3, 2], &[1, 3]) && !is_contiguous(&[2, 2], &[0, 0]));
        assert_eq!((last(&[3, 2], &[1, 3]), last(&[], &[])), (5, 0));
    }
}
