//! Folders and files that hold a CLIP: finding its configuration, and reading its weights into our names.

use super::config::ClipConfig;
use super::config_files::{self, OPEN_CLIP, OTHERS};
use super::names::Stored;
use super::places::places;
use super::presets;
use crate::checkpoint::Checkpoint;
use crate::parameters::{Declaration, Parameters};
use crate::{ModelError, Result};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// Files of a folder that may hold the weights, the first that is there counts.
const OPEN_CLIP_FILES: &[&str] =
    &["open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin"];
const FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];

/// Opens a folder, or a file of weights with its configuration beside it.
pub(super) fn open(path: &Path) -> Result<(ClipConfig, Checkpoint)> {
    if path.is_file() {
        let checkpoint = Checkpoint::open(path)?.unwrapped();
        let Some(config) = ClipConfig::beside(path)? else {
            let seen = presets::of_checkpoint(&checkpoint)?;
            let reason = format!(
                "its shapes are those of {seen}, but a file of weights does not say which activation they were trained \
                 with, and neither {OPEN_CLIP} nor {OTHERS} lies beside it: put the configuration that came with the \
                 weights there"
            );
            return Err(ModelError::malformed(path, reason));
        };
        return Ok((config, checkpoint));
    }
    let open_clip = path.join(OPEN_CLIP);
    let (config, files) = match open_clip.is_file() {
        true => (config_files::read(&open_clip)?, OPEN_CLIP_FILES),
        false => (config_files::read(&path.join(OTHERS))?, FILES),
    };
    Ok((config, Checkpoint::open_folder(path, files)?.unwrapped()))
}

/// Reads the declared variables from a checkpoint in open_clip's, OpenAI's or Hugging Face's names.
pub(super) fn read(
    checkpoint: &Checkpoint,
    declarations: &[Declaration],
    device: &Device,
    dtype: DType,
) -> Result<Parameters> {
    let stored = places(checkpoint, declarations)?;
    let tensors = declarations.iter().zip(&stored).map(|(declaration, stored)| {
        let tensor = load(checkpoint, stored, device, declaration.dtype(dtype))?;
        Ok((declaration.name.clone(), tensor.reshape(declaration.shape.as_slice())?))
    });
    Parameters::from_tensors(tensors.collect::<Result<Vec<_>>>()?)
}

fn load(checkpoint: &Checkpoint, stored: &Stored, device: &Device, dtype: DType) -> Result<Tensor> {
    let tensor = |name: &str| Ok::<_, ModelError>(checkpoint.load(name)?.to_device(device)?.to_dtype(dtype)?);
    Ok(match stored {
        Stored::AsIs(name) => tensor(name)?,
        Stored::Transposed(name) => tensor(name)?.t()?.contiguous()?,
        Stored::Parts(names) => Tensor::cat(&names.iter().map(|name| tensor(name)).collect::<Result<Vec<_>>>()?, 0)?,
        Stored::Spliced { head, rest, rows } => {
            let head = tensor(head)?;
            match head.dim(0)?.checked_sub(*rows).filter(|left| *left > 0) {
                None => head,
                Some(left) => Tensor::cat(&[head.narrow(0, 0, *rows)?, tensor(rest)?.narrow(0, *rows, left)?], 0)?,
            }
        }
    })
}
