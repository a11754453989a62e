//! Hugging Face's checkpoints, read tensor by tensor.
//!
//! A tensor is read from its place in its file when it is asked for: what has been packed is not in memory a second
//! time, not even as mapped pages.

use super::projection::Projection;
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// More than any configuration or index needs: the bound before reading one.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// The bound of the safetensors library itself.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Named tensors, and where they shall lie.
pub(crate) struct Checkpoint {
    tensors: BTreeMap<String, Stored>,
    path: PathBuf,
    device: Device,
    dtype: DType,
}

enum Stored {
    OnDisk {
        file: PathBuf,
        offset: u64,
        dtype: DType,
        shape: Vec<usize>,
    },
    #[cfg(test)]
    InMemory(Tensor),
}

impl Stored {
    fn shape(&self) -> &[usize] {
        match self {
            Stored::OnDisk { shape, .. } => shape,
            #[cfg(test)]
            Stored::InMemory(tensor) => tensor.dims(),
        }
    }
}

impl Checkpoint {
    /// Opens `model.safetensors` or the shards that `model.safetensors.index.json` names; reads their headers alone.
    pub(crate) fn open(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for file in weight_files(folder)? {
            read_header(&file, &mut tensors)?;
        }
        Ok(Self { tensors, path: folder.to_owned(), device: device.clone(), dtype })
    }

    /// Tensors that are in memory already; `path` is where errors say they come from.
    #[cfg(test)]
    pub(crate) fn from_tensors(tensors: BTreeMap<String, Tensor>, path: &Path, device: &Device, dtype: DType) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Stored::InMemory(tensor))).collect();
        Self { tensors, path: path.to_owned(), device: device.clone(), dtype }
    }

    pub(crate) fn root(&self) -> Weights<'_> {
        Weights { checkpoint: self, prefix: String::new() }
    }

    fn read(&self, name: &str, stored: &Stored) -> Result<Tensor> {
        let tensor = match stored {
            #[cfg(test)]
            Stored::InMemory(tensor) => tensor.clone(),
            Stored::OnDisk { file, offset, dtype, shape } => {
                // `read_header` has compared this size with that of the file.
                let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size_in_bytes()];
                let mut source = File::open(file).map_err(ModelError::io(file))?;
                source.seek(SeekFrom::Start(*offset)).map_err(ModelError::io(file))?;
                source.read_exact(&mut bytes).map_err(ModelError::io(file))?;
                Tensor::from_raw_buffer(&bytes, *dtype, shape, &Device::Cpu)
                    .map_err(|error| ModelError::malformed(file, format!("tensor {name}: {error}")))?
            }
        };
        Ok(tensor.to_dtype(self.dtype)?.to_device(&self.device)?)
    }
}

/// The tensors whose names begin with a prefix.
#[derive(Clone)]
pub(crate) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    prefix: String,
}

impl Weights<'_> {
    /// The tensors below `part`.
    pub(crate) fn at(&self, part: impl std::fmt::Display) -> Self {
        Self { checkpoint: self.checkpoint, prefix: format!("{}{part}.", self.prefix) }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.checkpoint.device
    }

    /// The tensor `name`, which must have `shape`.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let path = self.checkpoint.path.clone();
        let Some(stored) = self.checkpoint.tensors.get(&name) else {
            return Err(ModelError::MissingTensor { path, name, expected: shape.to_vec() });
        };
        if stored.shape() != shape {
            let (expected, found) = (shape.to_vec(), stored.shape().to_vec());
            return Err(ModelError::WrongShape { path, name, expected, found });
        }
        self.checkpoint.read(&name, stored)
    }

    /// The linear map `name`, `[outputs, inputs]`.
    pub(crate) fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Projection> {
        self.stacked(&[(name, outputs)], inputs, bias)
    }

    /// Linear maps of the same input as one, the outputs behind each other in the order of `parts`.
    pub(crate) fn stacked(&self, parts: &[(&str, usize)], inputs: usize, bias: bool) -> Result<Projection> {
        let weights = parts
            .iter()
            .map(|(name, outputs)| self.tensor(&format!("{name}.weight"), &[*outputs, inputs]))
            .collect::<Result<Vec<_>>>()?;
        let biases = parts
            .iter()
            .filter(|_| bias)
            .map(|(name, outputs)| self.tensor(&format!("{name}.bias"), &[*outputs]))
            .collect::<Result<Vec<_>>>()?;
        let bias = if bias { Some(joined(biases)?) } else { None };
        Projection::new(joined(weights)?, bias)
    }
}

fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}

/// `model.safetensors`, or the shards of its index.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let whole = folder.join("model.safetensors");
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let path = folder.join("model.safetensors.index.json");
    if !path.is_file() {
        let reason = "neither model.safetensors nor model.safetensors.index.json; convert other formats first";
        return Err(ModelError::malformed(folder, reason));
    }
    let index: Index = read_json(&path)?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref())) {
        return Err(ModelError::malformed(&path, format!("{shard:?} is not the name of a file beside the index")));
    }
    Ok(shards.iter().map(|shard| folder.join(shard)).collect())
}

fn read_header(path: &Path, tensors: &mut BTreeMap<String, Stored>) -> Result<()> {
    let malformed = |reason: String| ModelError::malformed(path, reason);
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let size = file.metadata().map_err(ModelError::io(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(ModelError::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(size.saturating_sub(8)) {
        return Err(malformed(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(ModelError::io(path))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
    for (name, info) in metadata.tensors() {
        let Ok(dtype) = DType::try_from(info.dtype) else {
            // Masks and the like; a weight of such a type will be reported as missing.
            if info.dtype == Dtype::BOOL {
                continue;
            }
            return Err(malformed(format!("tensor {name} has the type {:?}, which is not supported", info.dtype)));
        };
        let bytes = info.shape.iter().try_fold(dtype.size_in_bytes(), |bytes, &dim| bytes.checked_mul(dim));
        let (start, end) = info.data_offsets;
        let fits = start <= end && end as u64 <= size - 8 - length && bytes == Some(end - start);
        if !fits {
            return Err(malformed(format!(
                "tensor {name} of shape {:?} is said to lie at bytes {start}..{end} of {}",
                info.shape,
                size - 8 - length
            )));
        }
        let (file, offset) = (path.to_owned(), 8 + length + start as u64);
        tensors.insert(name, Stored::OnDisk { file, offset, dtype, shape: info.shape.clone() });
    }
    Ok(())
}

/// Reads a file of bounded size as JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let mut text = Vec::new();
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(ModelError::io(path))?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(ModelError::malformed(path, format!("longer than {MAX_JSON_BYTES} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| ModelError::malformed(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn save(folder: &Path, file: &str, tensors: &[(&str, Vec<usize>)]) {
        let tensors: HashMap<_, _> = tensors
            .iter()
            .map(|(name, shape)| (*name, Tensor::ones(shape.as_slice(), DType::F32, &Device::Cpu).unwrap()))
            .collect();
        candle_core::safetensors::save(&tensors, folder.join(file)).unwrap();
    }

    #[test]
    fn shards_are_one_checkpoint_and_errors_name_both_shapes() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), "a.safetensors", &[("x.weight", vec![2, 3])]);
        save(folder.path(), "b.safetensors", &[("y.weight", vec![4, 3]), ("y.bias", vec![4])]);
        let index = r#"{"weight_map": {"x.weight": "a.safetensors", "y.weight": "b.safetensors"}}"#;
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), &Device::Cpu, DType::F32).unwrap();
        let weights = checkpoint.root();
        assert_eq!(
            weights.at("x").tensor("weight", &[2, 3]).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(),
            6.0
        );
        assert!(weights.stacked(&[("x", 2), ("y", 4)], 3, false).is_ok());
        let wrong = weights.tensor("y.weight", &[3, 4]).unwrap_err().to_string();
        assert!(wrong.contains("y.weight") && wrong.contains("[4, 3]") && wrong.contains("[3, 4]"), "{wrong}");
        let missing = weights.at("z").tensor("weight", &[5]).unwrap_err().to_string();
        assert!(missing.contains("z.weight") && missing.contains("[5]"), "{missing}");
    }

    #[test]
    fn hostile_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Checkpoint::open(folder.path(), &Device::Cpu, DType::F32).map(|_| ()).unwrap_err().to_string();
        assert!(open().contains("neither"));
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map": {"x": "../../etc/passwd"}}"#).unwrap();
        assert!(open().contains("passwd"));
        let path = folder.path().join("model.safetensors");
        let write = |length: u64, header: &str| {
            std::fs::write(&path, [&length.to_le_bytes(), header.as_bytes()].concat()).unwrap();
        };
        write(u64::MAX, "{}");
        assert!(open().contains("header of"));
        let header = r#"{"x":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16]}}"#;
        write(header.len() as u64, header);
        assert!(!open().is_empty());
        let header = r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        write(header.len() as u64, header);
        assert!(open().contains("0..16"), "{}", open());
        std::fs::write(&path, "short").unwrap();
        assert!(!open().is_empty());
    }
}
