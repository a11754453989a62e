//! Folders and files that hold a CLIP: recognising them, reading them into our names, writing our own.

use super::config::ClipConfig;
use super::{Clip, hugging_face, open_clip};
use crate::parameters::{Declaration, Parameters, open_safetensors};
use crate::{ModelError, Result};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any configuration needs: the bound before reading one.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// `config.json` of our own format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnConfig {
    clip: ClipConfig,
}

pub(super) fn save_folder(clip: &Clip, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let config = OwnConfig { clip: clip.config.clone() };
    write_json(&folder.join("config.json"), &config)?;
    clip.parameters.save_safetensors(&folder.join("model.safetensors"))
}

/// open_clip's configuration, and that of all others.
const CONFIGS: [&str; 2] = ["open_clip_config.json", "config.json"];

/// Recognises who wrote a folder, or a file of weights with its configuration beside it; returns the configuration and
/// the files that hold the weights.
pub(super) fn open(path: &Path) -> Result<(ClipConfig, Vec<PathBuf>)> {
    if path.is_file() {
        let config = config_beside(path)?.ok_or_else(|| {
            let [open_clip, others] = CONFIGS;
            let reason = format!(
                "a file of weights does not say which activation they were trained with, and neither {open_clip} nor \
                 {others} lies beside it: put the configuration that came with the weights there"
            );
            ModelError::malformed(path, reason)
        })?;
        return Ok((config, vec![path.to_owned()]));
    }
    let [open_clip, others] = CONFIGS.map(|name| path.join(name));
    if open_clip.is_file() {
        return Ok((read_config(&open_clip)?, weight_files(path, &["open_clip_model", "model"])?));
    }
    Ok((read_config(&others)?, weight_files(path, &["model"])?))
}

/// The configuration in the folder of a file of weights, if there is one.
pub(super) fn config_beside(file: &Path) -> Result<Option<ClipConfig>> {
    let beside = CONFIGS.map(|name| file.with_file_name(name));
    beside.iter().find(|path| path.is_file()).map(|path| read_config(path)).transpose()
}

fn read_config(path: &Path) -> Result<ClipConfig> {
    if path.ends_with(CONFIGS[0]) {
        return open_clip::read_config(path);
    }
    let json: serde_json::Value = read_json(path)?;
    if json.get("clip").is_none() {
        return hugging_face::read_config(path, json);
    }
    let config = serde_json::from_value::<OwnConfig>(json).map_err(|error| ModelError::malformed(path, error))?.clip;
    config.validate()?;
    Ok(config)
}

/// The weights under one of the names, in one file or in the shards of an index.
fn weight_files(folder: &Path, stems: &[&str]) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    for stem in stems {
        let whole = folder.join(format!("{stem}.safetensors"));
        if whole.is_file() {
            return Ok(vec![whole]);
        }
        let path = folder.join(format!("{stem}.safetensors.index.json"));
        if path.is_file() {
            let index: Index = read_json(&path)?;
            let shards: BTreeSet<String> = index.weight_map.into_values().collect();
            if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref())) {
                return Err(ModelError::malformed(
                    &path,
                    format!("{shard:?} is not the name of a file beside the index"),
                ));
            }
            return Ok(shards.iter().map(|shard| folder.join(shard)).collect());
        }
    }
    Err(ModelError::malformed(
        folder,
        format!("no {}.safetensors; convert other formats to safetensors first", stems[0]),
    ))
}

/// How a variable of ours is stored elsewhere.
pub(super) enum Stored {
    AsIs(String),
    /// `[O, I]` instead of `[I, O]`.
    Transposed(String),
    /// Equal parts of the first dimension, one behind the other.
    Parts(Vec<String>),
}

impl Stored {
    fn names(&self) -> &[String] {
        match self {
            Stored::AsIs(name) | Stored::Transposed(name) => std::slice::from_ref(name),
            Stored::Parts(names) => names,
        }
    }

    fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        match self {
            Stored::AsIs(_) => {}
            Stored::Transposed(_) => stored.reverse(),
            Stored::Parts(names) => stored[0] /= names.len(),
        }
        stored
    }
}

/// Reads the declared variables from files in open_clip's, OpenAI's or Hugging Face's names.
pub(super) fn read(
    files: &[PathBuf],
    declarations: &[Declaration],
    device: &Device,
    dtype: DType,
) -> Result<Parameters> {
    let path = files.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
    let file = open_safetensors(files)?;
    let shapes: BTreeMap<String, Vec<usize>> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
    let naming = Naming::recognise(&shapes);
    let stored: Vec<Stored> =
        declarations.iter().map(|declaration| naming.stored(&declaration.name, &shapes)).collect();

    let wanted: HashSet<&str> = stored.iter().flat_map(Stored::names).map(String::as_str).collect();
    let found = wanted.iter().filter(|name| shapes.contains_key(**name)).count();
    if 2 * found < wanted.len() {
        let example = shapes.keys().next().map_or("nothing", String::as_str);
        return Err(ModelError::AnotherModel {
            path: path.to_owned(),
            reason: format!("{found} of the {} tensors of this CLIP are there; it begins with {example}", wanted.len()),
        });
    }
    for (declaration, stored) in declarations.iter().zip(&stored) {
        check(path, &shapes, stored, &declaration.shape)?;
    }
    if let Some((name, found)) = shapes.iter().find(|(name, _)| !wanted.contains(name.as_str()) && !is_no_weight(name))
    {
        return Err(ModelError::UnexpectedTensor { path: path.to_owned(), name: name.clone(), found: found.clone() });
    }
    let tensors = declarations.iter().zip(&stored).map(|(declaration, stored)| {
        let tensor = load(&file, stored, device, declaration.dtype(dtype))?.reshape(declaration.shape.as_slice())?;
        Ok((declaration.name.clone(), tensor))
    });
    Parameters::from_tensors(tensors.collect::<Result<Vec<_>>>()?)
}

fn check(path: &Path, shapes: &BTreeMap<String, Vec<usize>>, stored: &Stored, shape: &[usize]) -> Result<()> {
    let expected = stored.shape(shape);
    for name in stored.names() {
        let Some(found) = shapes.get(name) else {
            return Err(ModelError::MissingTensor { path: path.to_owned(), name: name.clone(), expected });
        };
        // A scalar is stored as [] or [1].
        if *found != expected && !(expected.is_empty() && found == &[1]) {
            return Err(ModelError::WrongShape {
                path: path.to_owned(),
                name: name.clone(),
                expected,
                found: found.clone(),
            });
        }
    }
    Ok(())
}

fn load(file: &MmapedSafetensors, stored: &Stored, device: &Device, dtype: DType) -> Result<Tensor> {
    let tensor = |name: &String| file.load(name, device)?.to_dtype(dtype);
    Ok(match stored {
        Stored::AsIs(name) => tensor(name)?,
        Stored::Transposed(name) => tensor(name)?.t()?.contiguous()?,
        Stored::Parts(names) => Tensor::cat(&names.iter().map(tensor).collect::<candle_core::Result<Vec<_>>>()?, 0)?,
    })
}

/// Constants that checkpoints carry along: masks, position numbers, and the sizes in OpenAI's files.
fn is_no_weight(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "attn_mask" | "position_ids" | "input_resolution" | "context_length" | "vocab_size")
}

/// Whose names a file uses.
#[derive(Clone, Copy)]
enum Naming {
    OpenClip,
    HuggingFace,
}

impl Naming {
    fn recognise(shapes: &BTreeMap<String, Vec<usize>>) -> Self {
        if shapes.keys().any(|name| name.starts_with("vision_model.") || name.starts_with("text_model.")) {
            Naming::HuggingFace
        } else {
            Naming::OpenClip
        }
    }

    fn stored(self, name: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Stored {
        match self {
            Naming::HuggingFace => hugging_face::stored(name),
            Naming::OpenClip => {
                // `module.` is left behind by DistributedDataParallel, `text.` by open_clip's CustomTextCLIP.
                let spellings = ["", "module.", "text.", "module.text."].map(|prefix| format!("{prefix}{name}"));
                let known = spellings.iter().find(|spelling| shapes.contains_key(*spelling));
                Stored::AsIs(known.unwrap_or(&spellings[0]).clone())
            }
        }
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(ModelError::io(path))?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ModelError::malformed(path, format!("longer than {MAX_CONFIG_BYTES} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| ModelError::malformed(path, error))
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| ModelError::malformed(path, error))?;
    text.push('\n');
    std::fs::write(path, text).map_err(ModelError::io(path))
}
