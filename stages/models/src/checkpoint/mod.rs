//! Checkpoints in any layout: tensors by name with shape and type, each read when it is asked for.
//!
//! - [`entry`]: one tensor, and where in a file its elements lie,
//! - [`files`]: which files of a folder hold its weights: one, or the shards of an index,
//! - [`safetensors`]: headers of safetensors,
//! - [`torch`], [`state_dict`]: PyTorch's `.pt`, `.pth` and `.bin`, archives of a pickle and of raw bytes,
//! - [`json`]: configurations, read within a bound.
//!
//! Opening reads descriptions alone. What has been read is not in memory a second time, not even as mapped pages.
//! Nothing here knows a network: name maps lie beside the networks, which ask for tensors by name.

mod entry;
mod files;
mod json;
mod safetensors;
mod state_dict;
#[cfg(test)]
mod tests;
mod torch;
#[cfg(test)]
#[path = "../../tests/support/torch_writer.rs"]
pub(crate) mod torch_writer;

pub(crate) use json::{read_json, write_json};

use crate::{ModelError, Result};
use candle_core::{Device, Tensor};
use entry::{Entry, Source};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors of one or more files.
pub(crate) struct Checkpoint {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens a file: safetensors, or a state dictionary as `torch.save` writes it.
    ///
    /// # Errors
    /// [`ModelError::Io`], and [`ModelError::Malformed`] for a file that is cut off, contradicts itself, or asks for more
    /// than tensors.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        Self::of_files(file, &[file.to_owned()])
    }

    /// Opens the first file of these names that a folder has, or the shards of its index.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ModelError::Malformed`] where there is none.
    pub(crate) fn open_folder(folder: &Path, names: &[&str]) -> Result<Self> {
        Self::of_files(folder, &files::of_folder(folder, names)?)
    }

    fn of_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for file in files {
            let found = if torch::is_torch(file)? { torch::entries(file)? } else { safetensors::entries(file)? };
            entries.extend(found.into_iter().map(|entry| (entry.name.clone(), entry)));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Tensors that are in memory already; `path` is where errors say they come from.
    #[cfg(test)]
    pub(crate) fn from_tensors(tensors: BTreeMap<String, Tensor>, path: &Path) -> Self {
        let entry = |(name, tensor): (String, Tensor)| {
            let (dtype, shape) = (tensor.dtype(), tensor.dims().to_vec());
            (name.clone(), Entry { name, dtype, shape, source: Source::Memory(tensor) })
        };
        Self { path: path.to_owned(), entries: tensors.into_iter().map(entry).collect() }
    }

    /// The same tensors under other names; those without one are left out.
    pub(crate) fn renamed(self, name: impl Fn(&str) -> Option<String>) -> Self {
        let entries = self.entries.into_iter().filter_map(|(old, entry)| Some((name(&old)?, entry)));
        Self { entries: entries.collect(), path: self.path }
    }

    /// Without the `module.` that DistributedDataParallel leaves before the names of what it wraps.
    pub(crate) fn unwrapped(self) -> Self {
        let Self { path, mut entries } = self;
        let wrapped: Vec<String> = entries.keys().filter(|name| name.starts_with(WRAPPER)).cloned().collect();
        for name in wrapped {
            let inner = &name[WRAPPER.len()..];
            if !entries.contains_key(inner)
                && let Some(entry) = entries.remove(&name)
            {
                entries.insert(inner.to_owned(), entry);
            }
        }
        Self { path, entries }
    }

    /// The file or folder that was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes in the order of the names.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The tensor `name`, which must have `shape`; on the CPU and in the type it was stored in.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] and [`ModelError::WrongShape`] with the name that the file has for it, and those of
    /// reading.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.check(name, shape)?;
        self.load(name)
    }

    /// # Errors
    /// As [`tensor`](Self::tensor), which is not read.
    pub(crate) fn check(&self, name: &str, expected: &[usize]) -> Result<()> {
        let (path, expected) = (self.path.clone(), expected.to_vec());
        match self.entries.get(name) {
            None => Err(ModelError::MissingTensor { path, name: name.to_owned(), expected }),
            Some(entry) if entry.shape != expected => {
                let (name, found) = (entry.name.clone(), entry.shape.clone());
                Err(ModelError::WrongShape { path, name, expected, found })
            }
            Some(_) => Ok(()),
        }
    }

    /// The tensor `name`, whatever its shape.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], and those of reading.
    pub(crate) fn load(&self, name: &str) -> Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(ModelError::MissingTensor { path: self.path.clone(), name: name.to_owned(), expected: vec![] });
        };
        match &entry.source {
            Source::File(place) => {
                let bytes = place.read(&entry.name, &entry.shape, entry.dtype)?;
                Ok(Tensor::from_raw_buffer(&bytes, entry.dtype, &entry.shape, &Device::Cpu)?)
            }
            #[cfg(test)]
            Source::Memory(tensor) => Ok(tensor.clone()),
        }
    }

    /// The error of a tensor that the network has no place for.
    pub(crate) fn unexpected(&self, name: &str) -> ModelError {
        let entry = self.entries.get(name);
        ModelError::UnexpectedTensor {
            path: self.path.clone(),
            name: entry.map_or(name, |entry| &entry.name).to_owned(),
            found: entry.map(|entry| entry.shape.clone()).unwrap_or_default(),
        }
    }
}

const WRAPPER: &str = "module.";
