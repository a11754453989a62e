//! Checkpoints of `torch.save`: archives of a pickle and one member of raw bytes per storage.

use super::torch_pickle::{self, TensorEntry};
use crate::{ModelError, Result};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

/// Far more than the names of any network take up.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

pub(super) struct TorchArchive {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// Folder of all members.
    prefix: String,
    entries: BTreeMap<String, TensorEntry>,
}

impl TorchArchive {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let malformed = |reason: String| ModelError::malformed(path, reason);
        let file = BufReader::new(File::open(path).map_err(ModelError::io(path))?);
        let archive = ZipArchive::new(file).map_err(|error| {
            malformed(format!("no archive of torch.save ({error}); files from before PyTorch 1.6 must be saved anew"))
        })?;
        let prefix = |name: &str| name.strip_suffix("data.pkl").map(str::to_owned);
        let pickles: Vec<String> = archive.file_names().filter_map(|name| prefix(&name.ok()?)).collect();
        let [prefix] = pickles.as_slice() else {
            return Err(malformed(format!("{} members data.pkl, one is wanted", pickles.len())));
        };
        let prefix = prefix.clone();
        let mut opened = Self { path: path.to_owned(), archive, prefix, entries: BTreeMap::new() };
        if opened.archive.index_for_name(&format!("{}byteorder", opened.prefix)).is_some()
            && opened.member("byteorder", Some(6))? != b"little"
        {
            return Err(malformed("the numbers are not little-endian".to_owned()));
        }
        let pickle = opened.member("data.pkl", None)?;
        opened.entries = torch_pickle::read(&pickle).map_err(malformed)?;
        Ok(opened)
    }

    pub(super) fn entries(&self) -> &BTreeMap<String, TensorEntry> {
        &self.entries
    }

    /// The tensor called `name`, on the CPU and in the type it was stored in.
    pub(super) fn load(&mut self, name: &str) -> Result<Tensor> {
        let entry = self.entries.get(name).cloned();
        let entry = entry.ok_or_else(|| ModelError::malformed(&self.path, format!("no tensor {name}")))?;
        let size = entry.dtype.size_in_bytes();
        let bytes = (entry.storage_elements as u64).saturating_mul(size as u64);
        let storage = self.member(&format!("data/{}", entry.storage), Some(bytes))?;
        let values = gather(&storage, &entry, size);
        Ok(Tensor::from_raw_buffer(&values, entry.dtype, &entry.shape, &Device::Cpu)?)
    }

    /// The bytes of a member, of which there must be `expected`. Members are stored as they are, so that no member is
    /// larger than the file.
    fn member(&mut self, name: &str, expected: Option<u64>) -> Result<Vec<u8>> {
        let path = self.path.clone();
        let malformed = |reason: String| ModelError::malformed(&path, reason);
        let name = format!("{}{name}", self.prefix);
        let member = self.archive.by_name(&name).map_err(|error| malformed(format!("member {name}: {error}")))?;
        if member.compression() != CompressionMethod::Stored {
            return Err(malformed(format!("member {name} is compressed, which torch.save never does")));
        }
        let size = member.size();
        if expected.is_some_and(|expected| expected != size) || (expected.is_none() && size > MAX_PICKLE_BYTES) {
            return Err(malformed(format!("member {name} has {size} bytes, {expected:?} are wanted")));
        }
        let mut bytes = Vec::new();
        member.take(size).read_to_end(&mut bytes).map_err(|error| malformed(format!("member {name}: {error}")))?;
        if bytes.len() as u64 != size {
            return Err(malformed(format!("member {name} ends after {} of {size} bytes", bytes.len())));
        }
        Ok(bytes)
    }
}

/// Elements of a tensor in row-major order. Its places lie within the storage, which was checked with the pickle.
fn gather(storage: &[u8], entry: &TensorEntry, size: usize) -> Vec<u8> {
    let count: usize = entry.shape.iter().product();
    let mut contiguous = 1;
    let is_contiguous = entry.shape.iter().zip(&entry.strides).rev().all(|(&length, &stride)| {
        let fits = length == 1 || stride == contiguous;
        contiguous *= length;
        fits
    });
    if is_contiguous {
        return storage[entry.offset * size..(entry.offset + count) * size].to_vec();
    }
    let mut values = Vec::new();
    for index in 0..count {
        let (mut rest, mut place) = (index, entry.offset);
        for (&length, &stride) in entry.shape.iter().zip(&entry.strides).rev() {
            place += rest % length * stride;
            rest /= length;
        }
        values.extend_from_slice(&storage[place * size..(place + 1) * size]);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn transposed_tensors_are_put_in_order() {
        let entry = TensorEntry {
            storage: "0".into(),
            dtype: DType::F32,
            storage_elements: 7,
            offset: 1,
            shape: vec![3, 2],
            strides: vec![1, 3],
        };
        assert_eq!(gather(&[9, 0, 1, 2, 3, 4, 5], &entry, 1), [0, 3, 1, 4, 2, 5]);
        let entry = TensorEntry { shape: vec![2, 3], strides: vec![3, 1], ..entry };
        assert_eq!(gather(&[9, 0, 1, 2, 3, 4, 5], &entry, 1), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sam.pth");
        assert!(matches!(TorchArchive::open(&path), Err(ModelError::Io { .. })));
        std::fs::write(&path, b"\x80\x02.").unwrap();
        assert!(matches!(TorchArchive::open(&path), Err(ModelError::Malformed { .. })));
    }
}
