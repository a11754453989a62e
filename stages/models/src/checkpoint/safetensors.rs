//! Headers of safetensors.

use super::entry::{Entry, Place, Source};
use crate::{ModelError, Result};
use candle_core::DType;
use safetensors::tensor::{Dtype, Metadata};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The bound of the safetensors library itself.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What a file holds; its header alone is read.
pub(super) fn entries(path: &Path) -> Result<Vec<Entry>> {
    let malformed = |reason: String| ModelError::malformed(path, reason);
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let size = file.metadata().map_err(ModelError::io(path))?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(malformed(format!("{size} bytes are no safetensors file")));
    }
    file.read_exact(&mut length).map_err(ModelError::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(size - 8) {
        return Err(malformed(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(ModelError::io(path))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
    let (file, data) = (Arc::from(path), size - 8 - length);
    let mut entries = Vec::new();
    let mut end_of_all = 0;
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        end_of_all = end_of_all.max(end as u64);
        let Ok(dtype) = DType::try_from(info.dtype) else {
            // Masks and the like; a weight of such a type will be reported as missing.
            if info.dtype == Dtype::BOOL {
                continue;
            }
            return Err(malformed(format!("tensor {name} has the type {:?}, which is not supported", info.dtype)));
        };
        let bytes = info.shape.iter().try_fold(dtype.size_in_bytes(), |bytes, &dim| bytes.checked_mul(dim));
        let fits = start <= end && end as u64 <= data && bytes == Some(end - start);
        if !fits {
            return Err(malformed(format!(
                "tensor {name} of shape {:?} is said to lie at bytes {start}..{end} of {data}",
                info.shape
            )));
        }
        let offset = 8 + length + start as u64;
        let place = Place { file: Arc::clone(&file), offset, strides: None, crc32: None };
        entries.push(Entry { name, dtype, shape: info.shape.clone(), source: Source::File(place) });
    }
    if end_of_all != data {
        return Err(malformed(format!("its header speaks of {end_of_all} bytes of tensors, it has {data}")));
    }
    Ok(entries)
}
