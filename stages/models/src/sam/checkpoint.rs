//! Files and folders that hold a Segment Anything model.

use super::config::{EncoderConfig, SamConfig};
use super::source::Tensors;
use super::torch_archive::TorchArchive;
use super::{Sam, hugging_face, layout};
use crate::parameters::open_safetensors;
use crate::{ModelError, Result};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any configuration or index of shards needs: the bound before reading one.
const MAX_JSON_BYTES: u64 = 16 << 20;

pub(super) fn load(path: &Path, config: Option<&SamConfig>, device: &Device, dtype: DType) -> Result<Sam> {
    let (reader, written) = open(path)?;
    let mut stored = Stored::new(path, reader, device, dtype);
    let config = match (config, written) {
        (Some(config), _) => config.clone(),
        (None, Some(written)) => written,
        (None, None) => layout::config_of(&stored.shapes())
            .map_err(|reason| ModelError::AnotherModel { path: path.to_owned(), reason })?,
    };
    let sam = Sam::assemble(&config, &mut stored, device, dtype)?;
    stored.check_leftovers(&config)?;
    Ok(sam)
}

fn open(path: &Path) -> Result<(Reader, Option<SamConfig>)> {
    if path.is_dir() {
        let config = hugging_face::read_config(&path.join("config.json"))?;
        return Ok((Reader::Safetensors(open_safetensors(&weight_files(path)?)?), Some(config)));
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return Ok((Reader::Safetensors(open_safetensors(&[path])?), None));
    }
    Ok((Reader::Torch(Box::new(TorchArchive::open(path)?)), None))
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// `model.safetensors`, or the shards that its index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let whole = folder.join("model.safetensors");
    let index = folder.join("model.safetensors.index.json");
    if whole.is_file() || !index.is_file() {
        return Ok(vec![whole]);
    }
    let shards: BTreeSet<String> = read_json::<ShardIndex>(&index)?.weight_map.into_values().collect();
    if let Some(name) = shards.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(ModelError::malformed(&index, format!("shard {name} is not in the same folder")));
    }
    Ok(shards.into_iter().map(|name| folder.join(name)).collect())
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
    let mut text = String::new();
    file.take(MAX_JSON_BYTES).read_to_string(&mut text).map_err(ModelError::io(path))?;
    serde_json::from_str(&text).map_err(|error| ModelError::malformed(path, error))
}

enum Reader {
    Safetensors(MmapedSafetensors),
    Torch(Box<TorchArchive>),
}

/// A tensor of the file.
struct Entry {
    /// As the file calls it.
    name: String,
    shape: Vec<usize>,
}

struct Stored<'a> {
    path: &'a Path,
    reader: Reader,
    /// By the original names.
    entries: BTreeMap<String, Entry>,
    used: BTreeSet<String>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Stored<'a> {
    fn new(path: &'a Path, reader: Reader, device: &'a Device, dtype: DType) -> Self {
        let found: Vec<(String, Vec<usize>)> = match &reader {
            Reader::Safetensors(file) => {
                file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
            }
            Reader::Torch(archive) => {
                archive.entries().iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect()
            }
        };
        let is_hugging_face = found.iter().any(|(name, _)| name.starts_with("vision_encoder."));
        let entry = |(name, shape): (String, Vec<usize>)| {
            let ours = if is_hugging_face { hugging_face::original_name(&name)? } else { name.clone() };
            Some((ours, Entry { name, shape }))
        };
        let entries = found.into_iter().filter_map(entry).collect();
        Self { path, reader, entries, used: BTreeSet::new(), device, dtype }
    }

    fn shapes(&self) -> layout::Shapes {
        self.entries.iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect()
    }

    fn check_leftovers(&self, config: &SamConfig) -> Result<()> {
        let is_tiny = matches!(config.encoder, EncoderConfig::TinyVit(_));
        // MobileSAM's checkpoint keeps the classifier that its encoder was trained with.
        let is_known = |name: &str| {
            is_tiny && ["head.", "norm_head."].iter().any(|part| name["image_encoder.".len()..].starts_with(part))
        };
        let is_counter = |name: &str| name.ends_with("num_batches_tracked") || name.ends_with("attention_bias_idxs");
        let leftover = self.entries.iter().find(|(name, _)| {
            let is_classifier = name.starts_with("image_encoder.") && is_known(name);
            !self.used.contains(*name) && !is_classifier && !is_counter(name)
        });
        match leftover {
            None => Ok(()),
            Some((_, entry)) => Err(ModelError::UnexpectedTensor {
                path: self.path.to_owned(),
                name: entry.name.clone(),
                found: entry.shape.clone(),
            }),
        }
    }
}

impl Tensors for Stored<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(ModelError::MissingTensor {
                path: self.path.to_owned(),
                name: name.to_owned(),
                expected: shape.to_vec(),
            });
        };
        if entry.shape != shape {
            return Err(ModelError::WrongShape {
                path: self.path.to_owned(),
                name: entry.name.clone(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let tensor = match &mut self.reader {
            Reader::Safetensors(file) => file.load(&entry.name, &Device::Cpu)?,
            Reader::Torch(archive) => archive.load(&entry.name)?,
        };
        self.used.insert(name.to_owned());
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }
}
